//! `LogService` as a program uses it: pages, checkpoint, proofs, following; and who may have what.

use anyhow::{Context, Result, ensure};
use failsafe_proto::{ErrorReason, v1};
use failsafe_tlog::{Checkpoint, Keys, VerifierKey, leaf_hash, proof::verify_consistency, proof::verify_inclusion};
use integration::{Caller, Launch, NOBODY, Node, on_node, wait_for_answer, with_channel};
use tonic::{Code, transport::Channel};
use v1::log_service_client::LogServiceClient;

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
const SIGNS_OFTEN: &str = "[audit_log]\ncheckpoint = \"1s\"\nheartbeat = \"1s\"\n";

fn on_channel<F: Future<Output = Result<()>>>(
    node: &Node,
    work: impl FnOnce(LogServiceClient<Channel>) -> F,
) -> Result<()> {
    with_channel(node, |channel| work(LogServiceClient::new(channel)))
}

/// The latest checkpoint, when it covers `entries`.
async fn checkpoint(client: &mut LogServiceClient<Channel>, entries: u64) -> Result<v1::GetCheckpointResponse> {
    wait_for_answer("a checkpoint covers the entries", async || {
        match client.get_checkpoint(v1::GetCheckpointRequest {}).await {
            Ok(found) if found.get_ref().entries >= entries => Ok(Some(found.into_inner())),
            Ok(_) => Ok(None),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    })
    .await
}

fn hashes(hashes: &[Vec<u8>]) -> Result<Vec<[u8; 32]>> {
    hashes.iter().map(|hash| hash.as_slice().try_into().context("a hash of 32 bytes")).collect()
}

#[test]
fn entries_are_paged_and_proved_and_each_checkpoint_extends_the_last() -> Result<()> {
    on_node("log-service", SIGNS_OFTEN, |node| {
        let _run = Launch::new("paged", PLAIN).start(node, ["sleep", "600"])?;
        let events = node.events()?;
        on_channel(node, |mut client| async move {
            let (mut from, mut seen) = (0, Vec::new());
            loop {
                let request = v1::ListEntriesRequest { from, limit: 2, ..Default::default() };
                let page = client.list_entries(request).await?.into_inner();
                ensure!(page.entries.len() <= 2 && page.next >= from, "{page:?}");
                seen.extend(page.entries);
                from = page.next;
                if page.end {
                    break;
                }
            }
            for (at, event) in events.iter().enumerate() {
                ensure!(seen[at].index == at as u64 && event["index"] == at as u64, "{event}");
            }
            let request =
                v1::ListEntriesRequest { run: "paged".into(), kinds: vec!["run".into()], ..Default::default() };
            let page = client.list_entries(request).await?.into_inner();
            ensure!(
                page.end && page.entries.iter().all(|entry| entry.kind == "run" && !entry.run_id.is_empty()),
                "{page:?}"
            );

            let old = checkpoint(&mut client, events.len() as u64).await?;
            let read = Checkpoint::unverified(&old.checkpoint)?;
            for entry in [0, read.size - 1] {
                let proof = client.prove_inclusion(v1::ProveInclusionRequest { entry }).await?.into_inner();
                let of = Checkpoint::unverified(&proof.checkpoint)?;
                let leaf = leaf_hash(&proof.entry);
                verify_inclusion(proof.leaf, of.size, &leaf, &hashes(&proof.hashes)?, &of.root)?;
                ensure!(seen.get(usize::try_from(entry)?).is_none_or(|seen| seen.entry == proof.entry));
            }
            // A heartbeat is written each second.
            let new = checkpoint(&mut client, old.entries + 1).await?;
            let request = v1::ProveConsistencyRequest {
                old_checkpoint: old.checkpoint.clone(),
                new_checkpoint: new.checkpoint.clone(),
            };
            let proof = client.prove_consistency(request).await?.into_inner();
            let later = Checkpoint::unverified(&proof.new_checkpoint)?;
            verify_consistency((read.size, &read.root), (later.size, &later.root), &hashes(&proof.hashes)?)?;

            let refused = |old: &[u8], new: &[u8]| {
                let request =
                    v1::ProveConsistencyRequest { old_checkpoint: old.to_vec(), new_checkpoint: new.to_vec() };
                let mut client = client.clone();
                async move {
                    let status = client.prove_consistency(request).await.err().context("it was proved")?;
                    ErrorReason::of(&status).with_context(|| format!("no reason: {status:?}"))
                }
            };
            let stale = refused(&new.checkpoint, &old.checkpoint).await?;
            ensure!(stale == ErrorReason::CheckpointStale, "{stale:?}");
            let other = String::from_utf8(old.checkpoint.clone())?.replacen("failsafe/log/", "failsafe/log/0", 1);
            let other = refused(other.as_bytes(), &new.checkpoint).await?;
            ensure!(other == ErrorReason::OtherLog, "{other:?}");
            let none = refused(b"", b"").await?;
            ensure!(none == ErrorReason::InvalidRequest, "{none:?}");
            let none = client.prove_inclusion(v1::ProveInclusionRequest { entry: u64::MAX }).await;
            ensure!(none.is_err_and(|status| status.code() == Code::NotFound));

            let mut follow =
                client.follow(v1::FollowRequest { from: old.entries, run: String::new() }).await?.into_inner();
            for index in old.entries..old.entries + 2 {
                ensure!(follow.message().await?.is_some_and(|entry| entry.index == index), "entry {index}");
            }
            Ok(())
        })?;
        // It is signed by the key that the command line names.
        let key = node.ctl(["log", "checkpoint", "--json"])?.expect(0)?.json()?["key"]
            .as_str()
            .map(VerifierKey::parse)
            .context("a key")??;
        on_channel(node, |mut client| async move {
            let note = checkpoint(&mut client, 1).await?.checkpoint;
            Checkpoint::open(&note, &Keys::of(vec![key]))?;
            Ok(())
        })
    })
}

#[test]
fn another_user_reads_and_proves_the_entries_of_own_runs_only() -> Result<()> {
    on_node("log-service-owner", SIGNS_OFTEN, |node| {
        let own_run = Launch::new("own", PLAIN).called_by(NOBODY).start(node, ["sleep", "600"])?;
        let other_run = Launch::new("roots", PLAIN).user("root").start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "own", "--reason", "an entry behind those of the other run"])?.expect(0)?;
        let lines = node.ctl_as(NOBODY, ["events", "-o", "json"])?.expect(0)?.out;
        let own: Vec<u64> = lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line)?["index"].as_u64().context("an index"))
            .collect::<Result<_>>()?;
        let events = node.events()?;
        let of = |run: &str| events.iter().find(|event| event["run"] == run).context("an entry about the run");
        let (mine, theirs) = (of(own_run.id())?["index"].clone(), of(other_run.id())?["index"].clone());

        let mut caller = Caller::new(node, NOBODY)?;
        let (mut listed, mut from) = (Vec::new(), 0);
        loop {
            let page = caller.ask(&format!("entries {from} 3"))?;
            let words: Vec<&str> = page.split(' ').collect();
            let ["Ok", indices, "next", next, "end", end] = words[..] else { anyhow::bail!("{page}") };
            listed.extend(indices.split(',').filter(|index| !index.is_empty()).map(str::to_owned));
            from = next.parse()?;
            if end == "true" {
                break;
            }
        }
        let wanted: Vec<String> = own.iter().map(u64::to_string).collect();
        ensure!(listed.starts_with(&wanted), "events has {wanted:?}, the pages {listed:?}");
        ensure!(!listed.contains(&theirs.to_string()), "{listed:?}");

        integration::wait_for("a checkpoint", || Ok(caller.ask("checkpoint")?.starts_with("Ok ")))?;
        integration::wait_for("the own entry is covered", || {
            Ok(caller.ask(&format!("prove {mine}"))? == format!("Ok {mine}"))
        })?;
        for hidden in [theirs.to_string(), "0".to_owned(), "99999".to_owned()] {
            let refused = caller.ask(&format!("prove {hidden}"))?;
            ensure!(refused == format!("NotFound there is no entry {hidden}"), "{refused}");
        }
        let refused = caller.ask("extends")?;
        ensure!(refused.starts_with("PermissionDenied"), "{refused}");
        let mut root = Caller::new(node, 0)?;
        ensure!(root.ask("extends")?.starts_with("Ok "), "root may");
        Ok(())
    })
}

/// `failsafectl` as root, with a state folder that has nothing: all that it knows comes from the daemon.
fn from_daemon(node: &Node, args: &[&str]) -> Result<integration::CommandOutput> {
    let nowhere = node.file("nowhere");
    let args = args.iter().copied().chain(["--from-daemon"]);
    integration::CommandOutput::of(node.ctl_command(args).env("FAILSAFE_STATE_DIR", nowhere))
}

#[test]
fn the_log_commands_ask_the_daemon_and_agree_with_the_files() -> Result<()> {
    on_node("log-from-daemon", SIGNS_OFTEN, |node| {
        let keys = node.file("keys").display().to_string();
        std::fs::write(&keys, node.ctl(["attest", "key", "show"])?.expect(0)?.out)?;
        let file = |name: &str| node.file(name).display().to_string();
        let (old, proof, extended) = (file("old.checkpoint"), file("proof"), file("extended"));
        // The daemon signs at its interval.
        integration::wait_for_some("a checkpoint is signed", || {
            let said = from_daemon(node, &["log", "checkpoint", "-o", &old])?;
            Ok((said.code == 0).then_some(()))
        })?;
        let shown = from_daemon(node, &["log", "checkpoint", "--keys", &keys, "--json"])?.expect(0)?.json()?;
        let by_files = node.ctl(["log", "checkpoint", "--json"])?.expect(0)?.json()?;
        ensure!(shown["origin"] == by_files["origin"] && shown["key_id"] == by_files["key_id"], "{shown} {by_files}");

        from_daemon(node, &["log", "prove", "0", "-o", &proof])?.expect(0)?;
        node.ctl(["log", "verify-proof", &proof, "--keys", &keys])?.expect(0)?;
        let none = from_daemon(node, &["log", "prove", "99999999"])?;
        ensure!(none.code == 6 && none.err.contains("there is no entry 99999999"), "{} {}", none.code, none.err);

        from_daemon(node, &["log", "consistency", &old, "-o", &extended])?.expect(0)?;
        node.ctl(["log", "consistency", &old, "--proof", &extended, "--keys", &keys])?.expect(0)?;
        // The log goes on: a heartbeat is written each second.
        let newer = file("newer.checkpoint");
        integration::wait_for_some("a later checkpoint is signed", || {
            from_daemon(node, &["log", "checkpoint", "-o", &newer, "--force"])?.expect(0)?;
            Ok((std::fs::read(&newer)? != std::fs::read(&old)?).then_some(()))
        })?;
        from_daemon(node, &["log", "consistency", &old, &newer])?.expect(0)?;
        let stale = from_daemon(node, &["log", "consistency", &newer, &old, "--json"])?.expect(27)?.json()?;
        ensure!(stale["verdict"] == "stale" && stale["claimed_by_daemon"] == true, "{stale}");
        Ok(())
    })
}

#[test]
fn a_user_who_cannot_read_the_files_gets_checkpoint_and_own_proofs_from_the_daemon() -> Result<()> {
    on_node("log-from-daemon-owner", SIGNS_OFTEN, |node| {
        let own_run = Launch::new("mine", PLAIN).called_by(NOBODY).start(node, ["sleep", "600"])?;
        let events = node.events()?;
        let of = |run: &str| events.iter().find(|event| event["run"] == run).context("an entry about the run");
        let mine = of(own_run.id())?["index"].as_u64().context("an index")?;
        let as_nobody = |args: &[&str]| node.ctl_as(NOBODY, args.iter().copied().chain(["--from-daemon"]));
        // The state folder of the test is a named one: this daemon's log may be another.
        let refused = node.ctl_as(NOBODY, ["log", "checkpoint"])?;
        ensure!(refused.code == 4 && refused.err.contains("--from-daemon"), "{} {}", refused.code, refused.err);
        integration::wait_for_some("a checkpoint covers the entry of the run", || {
            let said = as_nobody(&["log", "checkpoint", "--json"])?;
            Ok((said.code == 0 && said.json()?["entries"].as_u64() > Some(mine)).then_some(()))
        })?;
        let proved = as_nobody(&["log", "prove", &mine.to_string()])?.expect(0)?.out;
        let proof = node.file("mine.proof");
        std::fs::write(&proof, proved)?;
        node.ctl(["log", "verify-proof", &proof.display().to_string()])?.expect(0)?;
        let other = events.iter().find(|event| event["run"].is_null()).context("an entry about the node")?;
        let refused = as_nobody(&["log", "prove", &other["index"].to_string()])?;
        ensure!(refused.code == 6 && refused.err.contains("there is no entry"), "{} {}", refused.code, refused.err);
        Ok(())
    })
}
