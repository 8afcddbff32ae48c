//! What the interface promises of every command and list: request ids, selectors and pages.

use anyhow::{Context, Result, ensure};
use failsafe_proto::v1::{
    Command, ControlRequest, ControlResponse, ListRequest, Verdict, run_service_client::RunServiceClient,
};
use integration::{Launch, NOBODY, Node, on_node, with_channel};
use std::collections::BTreeSet;
use tonic::{Code, Status, transport::Channel};

const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n";

async fn control(channel: &Channel, run: &str, command: Command, id: &str) -> Result<ControlResponse, Status> {
    let (run, reason, request_id) = (run.to_owned(), "test".to_owned(), id.to_owned());
    let request = ControlRequest { run, command: command.into(), reason, request_id, ..Default::default() };
    RunServiceClient::new(channel.clone()).control(request).await.map(tonic::Response::into_inner)
}

fn controls(node: &Node) -> Result<usize> {
    Ok(node.events()?.iter().filter(|entry| entry["body"]["type"] == "control").count())
}

#[test]
fn a_thaw_that_is_sent_again_does_not_lift_a_later_freeze() -> Result<()> {
    on_node("request-id", "", |node| {
        let run = Launch::new("again", POLICY).start(node, ["sleep", "600"])?;
        with_channel(node, |channel| async move {
            let frozen = control(&channel, "again", Command::Freeze, "f-1").await?;
            ensure!(frozen.verdict() == Verdict::Proved, "{frozen:?}");
            let thawed = control(&channel, "again", Command::Thaw, "t-1").await?;
            ensure!(thawed.verdict() == Verdict::Proved && !thawed.nothing_to_do, "{thawed:?}");
            control(&channel, "again", Command::Freeze, "f-2").await?;
            let again = control(&channel, "again", Command::Thaw, "t-1").await?;
            ensure!(again.repeated_from_ns > 0 && thawed.repeated_from_ns == 0, "{again:?}");
            let first = ControlResponse { repeated_from_ns: 0, ..again };
            ensure!(first == thawed, "the answer of the first time: {first:?}");
            let other = control(&channel, "again", Command::Kill, "t-1").await;
            ensure!(other.as_ref().is_err_and(|e| e.code() == Code::InvalidArgument), "{other:?}");
            let bad = control(&channel, "again", Command::Thaw, "a b").await;
            ensure!(bad.as_ref().is_err_and(|e| e.message().starts_with("request_id: ")), "{bad:?}");
            Ok(())
        })?;
        ensure!(node.run("again")?["state"] == "frozen", "{}", node.run("again")?);
        ensure!(controls(node)? == 3, "each command is on record once");
        // Another caller's id is another id.
        let again = node.ctl(["thaw", run.id(), "-r", "test", "--request-id", "t-1"])?.expect(0)?;
        ensure!(again.out.contains("is not carried out again"), "{again:?}");
        let again = node.json(["thaw", run.id(), "-r", "test", "--request-id", "t-1"])?;
        ensure!(again["repeated_from_ns"].as_i64().is_some_and(|at| at > 0), "{again}");
        node.ctl(["thaw", run.id(), "-r", "test", "--request-id", ""])?.expect(2)?;
        ensure!(node.run("again")?["state"] == "frozen", "the same user sent it before");
        node.ctl(["thaw", run.id(), "-r", "test", "--request-id", "t-2"])?.expect(0)?;
        ensure!(node.run("again")?["state"] == "running");
        Ok(())
    })
}

#[test]
fn lists_are_chosen_by_labels_and_given_in_pages() -> Result<()> {
    on_node("pages", "", |node| {
        let runs = (0..5).map(|n| {
            let (name, label) = (format!("r{n}"), if n < 3 { "team=a" } else { "team=b" });
            let run = Launch::new(&name, POLICY).label(label).start(node, ["sleep", "600"])?;
            Ok(run)
        });
        let runs: Vec<_> = runs.collect::<Result<_>>()?;
        let expected: BTreeSet<String> = runs.iter().map(|run| run.id().to_owned()).collect();
        with_channel(node, |channel| async move {
            let mut client = RunServiceClient::new(channel);
            let (mut found, mut sizes, mut page_token) = (Vec::new(), Vec::new(), String::new());
            loop {
                let request = ListRequest { page_size: 2, page_token, ..Default::default() };
                let page = client.list(request).await?.into_inner();
                sizes.push(page.runs.len());
                found.extend(page.runs.into_iter().map(|run| run.id));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            ensure!(sizes == [2, 2, 1], "{sizes:?}");
            ensure!(found.is_sorted() && found.into_iter().collect::<BTreeSet<_>>() == expected);
            let request = ListRequest { selector: "team=b".into(), page_size: 1, ..Default::default() };
            let page = client.list(request.clone()).await?.into_inner();
            ensure!(page.runs.first().is_some_and(|run| run.labels.get("team").is_some_and(|team| team == "b")));
            let rest = ListRequest { page_token: page.next_page_token, ..request };
            let rest = client.list(rest).await?.into_inner();
            ensure!(rest.runs.len() == 1 && rest.next_page_token.is_empty(), "{rest:?}");
            for (field, request) in [
                ("selector", ListRequest { selector: "=".into(), ..Default::default() }),
                ("page_token", ListRequest { page_token: "7".into(), ..Default::default() }),
            ] {
                let refused = client.list(request).await.err().with_context(|| format!("{field} was taken"))?;
                ensure!(refused.code() == Code::InvalidArgument && refused.message().starts_with(field), "{refused:?}");
            }
            Ok(())
        })?;
        let listed = node.ctl(["list", "-l", "team!=b,!user"])?.expect(0)?;
        let names = ["r0", "r1", "r2", "r3", "r4"].map(|name| listed.out.contains(name));
        ensure!(names == [true, true, true, false, false], "{listed:?}");
        let none = node.ctl_as(NOBODY, ["list", "-l", "team=c"])?.expect(0)?;
        ensure!(none.out.is_empty() && none.err.contains("no live runs with these labels"), "{none:?}");
        Ok(())
    })
}
