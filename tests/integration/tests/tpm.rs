//! TPM quotes end to end, on a software TPM: statements with a quote, verified without the daemon; nodes without a TPM, and with
//! one that fails.

use anyhow::{Context, Result, ensure};
use integration::{Node, on_node, wait_for_some};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

#[path = "../../../daemon/tpm/tests/swtpm/node.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "another crate's tests use all of it; a panic fails the test"
)]
mod swtpm;
use swtpm::Swtpm;

fn settings(device: &Path) -> String {
    format!("[tpm]\ndevice = {:?}\npcrs = [0, 7, 10]\n", device.display().to_string())
}

/// Attests the node, and returns the file and what was printed.
fn attest(node: &Node, name: &str, more: &[&str]) -> Result<(String, String)> {
    let file = node.file(name).display().to_string();
    let args = ["attest", "node", "-o", &file, "--force"].into_iter().chain(more.iter().copied());
    let printed = node.ctl(args)?.expect(0)?.out;
    Ok((file, printed))
}

/// Verifies a file with `failsafectl` of which the daemon is out of reach: the exit code, JSON, and messages.
fn verify(node: &Node, file: &str, more: &[&str]) -> Result<(i32, Value, String)> {
    let mut command = node.ctl_command(["attest", "verify", "-o", "json", file]);
    let output = integration::CommandOutput::of(command.args(more).env("FAILSAFE_SOCKET", "/nowhere"))?;
    Ok((output.code, output.json().unwrap_or_default(), output.err.clone()))
}

#[test]
fn a_statement_of_a_node_with_a_tpm_has_a_quote_that_is_verified_offline() -> Result<()> {
    let test = "a_statement_of_a_node_with_a_tpm_has_a_quote_that_is_verified_offline";
    let Some(tpm) = Swtpm::start(test) else { return Ok(()) };
    let (extended, text) = tpm.tool("tpm2_pcrextend", &[&format!("10:sha256={}", "11".repeat(32))]);
    ensure!(extended, "{text}");
    on_node("tpm-quote", &settings(&tpm.socket()), |node| {
        let (file, printed) = attest(node, "node.json", &["--nonce", "abcd"])?;
        ensure!(printed.contains("quoted by a TPM"), "{printed}");
        let keys = node.file("keys").display().to_string();
        let listed = node.ctl(["attest", "key", "show"])?.expect(0)?.out;
        fs::write(&keys, &listed)?;
        let (code, answer, _) = verify(node, &file, &["--keys", &keys, "--nonce", "abcd", "--require-tpm"])?;
        ensure!(code == 0 && answer["tpm_quote"]["key_checked"] == true, "{code} {answer:#}");
        let factors = answer["statement"]["predicate"]["factors"].as_array().context("no factors")?.clone();
        let quoted: Vec<&Value> = factors.iter().filter(|factor| factor["assurance"] == "tpm-quoted").collect();
        ensure!(quoted.len() == 3, "{quoted:?}");
        let of_pcr = |pcr: &str| quoted.iter().find(|one| one["path"] == format!("node/tpm/pcr/sha256/{pcr}"));
        let ten = of_pcr("10").context("no PCR 10")?;
        ensure!(ten["value"] == answer["tpm_quote"]["pcrs"]["10"] && ten["value"] != "0".repeat(64), "{ten}");

        // A list without the key of the TPM: the quote is worth nothing, and who demands one gets an error.
        let software: String = listed.lines().filter(|line| !line.contains(" tpm:")).collect::<Vec<_>>().join("\n");
        fs::write(&keys, software)?;
        let (code, answer, _) = verify(node, &file, &["--keys", &keys])?;
        ensure!(code == 0 && answer["tpm_quote"]["key_checked"] == false, "{code} {answer:#}");
        let (code, _, err) = verify(node, &file, &["--keys", &keys, "--require-tpm"])?;
        ensure!(code == 7 && err.contains("is not in a list of allowed keys"), "{code} {err}");

        // Two statements with their quotes exchanged.
        fs::write(&keys, &listed)?;
        let (other, _) = attest(node, "other.json", &["--nonce", "ef"])?;
        let read = |file: &str| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(file)?)?) };
        let (mut one, two) = (read(&file)?, read(&other)?);
        one["tpmQuote"] = two["tpmQuote"].clone();
        fs::write(&file, one.to_string())?;
        let (code, _, err) = verify(node, &file, &["--keys", &keys])?;
        ensure!(code == 7 && err.contains("about another statement or another nonce"), "{code} {err}");
        one.as_object_mut().context("no envelope")?.remove("tpmQuote");
        fs::write(&file, one.to_string())?;
        let (code, _, err) = verify(node, &file, &["--keys", &keys])?;
        ensure!(code == 7 && err.contains("it was removed"), "{code} {err}");
        // The log's keys are read from the same file.
        node.ctl(["log", "checkpoint"])?.expect(0)?;
        Ok(())
    })
}

#[test]
fn a_pcr_that_differs_from_its_reference_value_is_named_and_has_an_exit_code() -> Result<()> {
    let test = "a_pcr_that_differs_from_its_reference_value_is_named_and_has_an_exit_code";
    let Some(tpm) = Swtpm::start(test) else { return Ok(()) };
    on_node("tpm-expect", &settings(&tpm.socket()), |node| {
        let keys = node.file("keys").display().to_string();
        let listed = node.ctl(["attest", "key", "show"])?.expect(0)?.out;
        fs::write(&keys, &listed)?;
        let (good, _) = attest(node, "good.json", &[])?;
        let expected = node.file("expected.json").display().to_string();
        let ignored = ["--ignore", "node/memory", "--ignore", "node/failsafe/**"];
        let args = ["attest", "expect", &good, "--keys", &keys, "-o", &expected].into_iter().chain(ignored);
        let printed = node.ctl(args)?.expect(0)?.out;
        ensure!(printed.contains("PCRs 0, 7, 10"), "{printed}");

        let against = ["--keys", &keys, "--expect", &expected];
        let (code, answer, err) = verify(node, &good, &against)?;
        ensure!(code == 0 && answer["expected"]["pcrs"]["verdict"] == "equal", "{code} {answer:#} {err}");
        // Anybody can make a statement and a quote that equal the file.
        let (code, answer, _) = verify(node, &good, &["--expect", &expected])?;
        ensure!(code == 22 && answer["expected"]["pcrs"]["verdict"] == "cannot-know", "{code} {answer:#}");
        let page = node.ctl(["attest", "verify", &good, "--expect", &expected])?.expect(22)?.out;
        ensure!(!page.contains("as expected") && page.contains("anybody may have signed"), "{page}");
        let page = node.ctl(["attest", "verify", &good, "--keys", &keys])?.expect(0)?.out;
        ensure!(page.contains("no reference values were given (--expect)"), "{page}");

        // The boot of the node changes: PCR 7 gets another value.
        node.stop()?;
        let (extended, text) = tpm.tool("tpm2_pcrextend", &[&format!("7:sha256={}", "22".repeat(32))]);
        ensure!(extended, "{text}");
        node.restart()?;
        let (other, _) = attest(node, "other.json", &[])?;
        let (code, answer, _) = verify(node, &other, &against)?;
        let findings = answer["expected"]["pcrs"]["findings"].as_array().context("no findings")?;
        let differs: Vec<&Value> = findings.iter().filter(|one| one["state"] == "differs").collect();
        ensure!(code == 28 && differs.len() == 1 && differs[0]["pcr"] == 7, "{code} {answer:#}");
        let page = node.ctl(["attest", "verify", &other, "--keys", &keys, "--expect", &expected])?.expect(28)?.out;
        ensure!(page.contains("PCR 7 (SHA-256) differs") && !page.contains("PCR 0 (SHA-256)"), "{page}");

        // A quote by a key that is not on the list shows nothing of the PCRs.
        let software: String = listed.lines().filter(|line| !line.contains(" tpm:")).collect::<Vec<_>>().join("\n");
        fs::write(&keys, software)?;
        let (code, answer, _) = verify(node, &good, &against)?;
        ensure!(code == 22 && answer["expected"]["pcrs"]["verdict"] == "cannot-know", "{code} {answer:#}");

        // So reference values that are made with this list have no PCRs, and a comparison with them compares none.
        let without = node.file("without.json").display().to_string();
        let args = ["attest", "expect", &good, "--keys", &keys, "-o", &without, "--require-pcrs"];
        let refused = node.ctl(args)?.expect(22)?;
        ensure!(refused.err.contains("no PCRs") && !Path::new(&without).exists(), "{}", refused.err);
        node.ctl(args[..7].iter().copied().chain(ignored))?.expect(0)?;
        let against = ["--keys", &keys, "--expect", &without];
        let (code, answer, _) = verify(node, &good, &against)?;
        ensure!(code == 0 && answer["expected"]["pcrs"]["verdict"] == "no-reference", "{code} {answer:#}");
        let (code, _, _) = verify(node, &good, &[&against[..], &["--require-pcrs"]].concat())?;
        ensure!(code == 22, "{code}");
        Ok(())
    })
}

/// A shell script on this TPM, in a folder: what docs/attestation.md tells an administrator to type.
fn shell(tpm: &Swtpm, folder: &Path, script: &str) -> Result<String> {
    let tcti = format!("swtpm:path={}", tpm.socket().display());
    let mut command = std::process::Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(folder).env("TPM2TOOLS_TCTI", tcti);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{script}: {text}");
    Ok(text)
}

/// The blocks of shell commands in the section "Enrol the key with its EK certificate".
fn enrolment() -> Result<Vec<String>> {
    let text = include_str!("../../../docs/attestation.md");
    let (_, section) = text.split_once("### Enrol the key with its EK certificate").context("no such section")?;
    let section = section.split("\n### ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    Ok(blocks.map(str::to_owned).collect())
}

/// The daemon decrypts the verifier's secret for administrators, and nothing else for anybody.
fn activated(node: &Node, folder: &Path) -> Result<()> {
    let path = |name: &str| folder.join(name).display().to_string();
    let (credential, answer) = (path("credential"), path("answer-of-the-daemon"));
    let activate = ["attest", "key", "activate", &credential, "-o", &answer];
    let of_nobody = node.ctl_as(integration::NOBODY, activate)?;
    ensure!(of_nobody.code != 0 && !Path::new(&answer).exists(), "{}", of_nobody.err);
    let said = node.ctl(activate)?.expect(0)?.out;
    ensure!(said.ends_with("answer-of-the-daemon: the secret, 32 bytes; the verifier compares it\n"), "{said}");
    ensure!(fs::read(folder.join("secret"))? == fs::read(&answer)?, "another secret");
    // A secret for another key, and what is no credential.
    let mut bytes = fs::read(&credential)?;
    *bytes.last_mut().context("an empty credential")? ^= 1;
    fs::write(path("altered"), &bytes)?;
    fs::write(path("cut"), &bytes[..100])?;
    for (file, expected) in [("altered", "the TPM refuses TPM2_ActivateCredential"), ("cut", "credential: ")] {
        let refused = node.ctl(["attest", "key", "activate", &path(file), "-o", &path("none")])?;
        ensure!(refused.code != 0 && refused.err.contains(expected), "{file}: {} {}", refused.code, refused.err);
    }
    // A refusal leaves the TPM as it was.
    let (_, printed) = attest(node, "after.json", &[])?;
    ensure!(printed.contains("quoted by a TPM"), "{printed}");
    node.ctl(["attest", "key", "activate", &credential, "-o", &answer, "--force"])?.expect(0).map(drop)
}

#[test]
fn a_tpm_key_is_enrolled_by_credential_activation_as_documented_and_its_maker_is_verified() -> Result<()> {
    let test = "a_tpm_key_is_enrolled_by_credential_activation_as_documented_and_its_maker_is_verified";
    let Some(tpm) = Swtpm::manufactured(test) else { return Ok(()) };
    on_node("tpm-endorsement", &settings(&tpm.socket()), |node| {
        let keys = node.file("keys").display().to_string();
        let listed = node.ctl(["attest", "key", "show"])?.expect(0)?.out;
        ensure!(listed.contains(" ek:") && listed.contains("EK certificate, RSA 2048"), "{listed}");
        fs::write(&keys, &listed)?;
        let (file, _) = attest(node, "node.json", &[])?;
        // Other local users do not get what identifies the node.
        let of_nobody = node.ctl_as(integration::NOBODY, ["attest", "key", "show"])?.expect(0)?.out;
        ensure!(!of_nobody.contains(" ek:") && of_nobody.contains("# no EK certificate: only root"), "{of_nobody}");

        // Before the activation, the certificate may be a copy of another TPM's.
        let roots = tpm.folder().join("ca/issuercert.pem").display().to_string();
        let (code, answer, err) = verify(node, &file, &["--keys", &keys, "--tpm-roots", &roots])?;
        let endorsement = &answer["endorsement"];
        ensure!(code == 22 && endorsement["key_in_tpm"] == "not proved", "{code} {answer:#} {err}");
        let page = node.ctl(["attest", "verify", &file, "--keys", &keys, "--tpm-roots", &roots])?.expect(22)?.out;
        ensure!(page.contains("the key is not proved to be in this TPM"), "{page}");
        // The root of that CA did not sign the certificate itself.
        let root = tpm.folder().join("ca/swtpm-localca-rootca-cert.pem").display().to_string();
        let (code, _, err) = verify(node, &file, &["--keys", &keys, "--tpm-roots", &root])?;
        ensure!(code == 7 && err.contains("none of the CAs signed it"), "{code} {err}");
        // A list without the certificate.
        let plain: Vec<&str> = listed.lines().filter(|line| !line.contains(" ek:")).collect();
        let without = node.file("without").display().to_string();
        fs::write(&without, plain.join("\n"))?;
        let (code, _, err) = verify(node, &file, &["--keys", &without, "--tpm-roots", &roots])?;
        ensure!(code == 22 && err.contains("has no EK certificate of TPM key"), "{code} {err}");

        let folder = node.file("enrolment");
        fs::create_dir(&folder)?;
        fs::copy(&keys, folder.join("keys"))?;
        fs::copy(&roots, folder.join("manufacturers.pem"))?;
        let blocks = enrolment()?;
        ensure!(blocks.len() == 3, "{blocks:?}");
        let (verifier, others) = blocks.split_first().context("no blocks")?;
        shell(&tpm, &folder, verifier)?;
        activated(node, &folder)?;

        // The same with tpm2-tools, where no daemon runs.
        node.stop()?;
        for block in others {
            // The kernel's resource manager unloads keys between two commands. A software TPM has none.
            let unload = |text: String, next: &str| text.replacen(next, &format!("tpm2_flushcontext -t\n   {next}"), 1);
            shell(&tpm, &folder, &["tpm2_createek", "tpm2_startauthsession"].into_iter().fold(block.clone(), unload))?;
        }
        ensure!(fs::read(folder.join("secret"))? == fs::read(folder.join("answer"))?, "another secret");
        let allowed = folder.join("allowed").display().to_string();
        let (code, answer, err) = verify(node, &file, &["--keys", &allowed, "--tpm-roots", &roots])?;
        let valid = answer["endorsement"]["valid"].as_array().context("no certificates")?;
        ensure!(code == 0 && valid.len() == 1 && valid[0]["activated"] == true, "{code} {answer:#} {err}");
        ensure!(valid[0]["model"] == "swtpm" && valid[0]["manufacturer"] == "id:00001014", "{answer:#}");
        let page = node.ctl(["attest", "verify", &file, "--keys", &allowed, "--tpm-roots", &roots])?.expect(0)?.out;
        ensure!(page.contains("EK certificate valid: TPM by id:00001014, model swtpm"), "{page}");
        Ok(())
    })
}

#[test]
fn a_list_of_ima_is_replayed_against_the_quoted_pcr_10() -> Result<()> {
    let test = "a_list_of_ima_is_replayed_against_the_quoted_pcr_10";
    let Some(tpm) = Swtpm::start(test) else { return Ok(()) };
    let list = include_str!("../../fixtures/ima/ascii_runtime_measurements");
    let hashes = include_str!("../../fixtures/ima/ascii_runtime_measurements_sha256");
    // What the kernel does with each entry.
    for line in hashes.lines() {
        let hash = line.split(' ').nth(1).context("no hash")?;
        let hash = if hash.bytes().all(|digit| digit == b'0') { "ff".repeat(32) } else { hash.to_owned() };
        let (extended, text) = tpm.tool("tpm2_pcrextend", &[&format!("10:sha256={hash}")]);
        ensure!(extended, "{text}");
    }
    on_node("tpm-ima", &settings(&tpm.socket()), |node| {
        let keys = node.file("keys").display().to_string();
        fs::write(&keys, node.ctl(["attest", "key", "show"])?.expect(0)?.out)?;
        let (file, _) = attest(node, "node.json", &[])?;
        let write = |name: &str, text: &[u8]| -> Result<String> {
            fs::write(node.file(name), text)?;
            Ok(node.file(name).display().to_string())
        };
        let first = list.lines().next().context("an entry")?;
        let good = write("ima", format!("{list}{first}\n").as_bytes())?;
        let (code, answer, err) = verify(node, &file, &["--keys", &keys, "--ima", &good])?;
        let expected = serde_json::json!({ "file": good, "entries": 8, "later": 1, "other_pcrs": 0, "violations": 1 });
        ensure!(code == 0 && answer["ima"] == expected, "{code} {answer:#} {err}");
        let page = node.ctl(["attest", "verify", &file, "--keys", &keys, "--ima", &good])?.expect(0)?.out;
        ensure!(page.contains("IMA list agrees with the quote: PCR 10 covers 8 entries"), "{page}");

        let binary = write("binary", include_bytes!("../../fixtures/ima/binary_runtime_measurements"))?;
        let (code, answer, err) = verify(node, &file, &["--keys", &keys, "--ima", &binary])?;
        ensure!(code == 0 && answer["ima"]["entries"] == 8, "{code} {answer:#} {err}");

        let (code, _, err) = verify(node, &file, &["--ima", &good])?;
        ensure!(code == 2 && err.contains("--keys"), "{code} {err}");
        let end = list[..list.len() / 2].rfind('\n').context("a line")?;
        let cut = write("cut", &list.as_bytes()[..end])?;
        let (code, _, err) = verify(node, &file, &["--keys", &keys, "--ima", &cut])?;
        ensure!(code == 28 && err.contains("PCR 10 has the quoted value"), "{code} {err}");
        let altered = write("altered", list.replacen("/usr/bin/curl", "/usr/bin/card", 1).as_bytes())?;
        let (code, _, err) = verify(node, &file, &["--keys", &keys, "--ima", &altered])?;
        ensure!(code == 28 && err.contains("the line was altered"), "{code} {err}");
        let other = write("other", b"no list\n")?;
        let (code, _, err) = verify(node, &file, &["--keys", &keys, "--ima", &other])?;
        ensure!(code == 2 && err.contains("line 1: expected `PCR TEMPLATE-HASH TEMPLATE DATA`"), "{code} {err}");
        Ok(())
    })
}

#[test]
fn a_node_without_a_tpm_states_that_it_has_none() -> Result<()> {
    on_node("tpm-absent", &settings(Path::new("/nowhere/tpmrm0")), |node| {
        let (file, printed) = attest(node, "node.json", &[])?;
        ensure!(printed.contains("no TPM quote (the node has no TPM: /nowhere/tpmrm0 does not exist)"), "{printed}");
        let (_, answer, _) = verify(node, &file, &[])?;
        let predicate = &answer["statement"]["predicate"];
        ensure!(predicate["tpm"]["status"] == "absent" && answer["tpm_quote"]["status"] == "none", "{answer:#}");
        ensure!(predicate["digests"]["result"]["unknown"] == 0, "{answer:#}");
        // Whether IMA is on is known only where securityfs is mounted. Everything else is, the TPM too.
        let factors = predicate["factors"].as_array().context("no factors")?;
        let of_ima = |one: &&Value| one["path"].as_str().is_some_and(|path| path.starts_with("node/ima/"));
        let unknown = factors.iter().filter(of_ima).filter(|one| one["status"] != "ok").count();
        ensure!(predicate["digests"]["full"]["unknown"] == unknown, "{answer:#}");
        let listed = node.ctl(["attest", "key", "show"])?.expect(0)?.out;
        ensure!(listed.contains("# no TPM key: the node has no TPM"), "{listed}");
        Ok(())
    })
}

#[test]
fn a_tpm_that_refuses_leaves_a_statement_by_the_software_key_with_the_reason() -> Result<()> {
    let test = "a_tpm_that_refuses_leaves_a_statement_by_the_software_key_with_the_reason";
    let Some(tpm) = Swtpm::start(test) else { return Ok(()) };
    let (changed, text) = tpm.tool("tpm2_changeauth", &["-c", "e", "secret"]);
    ensure!(changed, "{text}");
    on_node("tpm-refuses", &settings(&tpm.socket()), |node| {
        let (file, printed) = attest(node, "node.json", &[])?;
        ensure!(printed.contains("no TPM quote (the TPM refuses TPM2_CreatePrimary"), "{printed}");
        let (code, answer, _) = verify(node, &file, &[])?;
        ensure!(code == 15 && answer["statement"]["predicate"]["tpm"]["status"] == "failed", "{answer:#}");
        Ok(())
    })
}

/// The value of the counter that the log states last, as the daemon answers.
fn counted(node: &Node) -> Result<Option<u64>> {
    Ok(node
        .events()?
        .iter()
        .rev()
        .find(|entry| entry["kind"] == "counter")
        .and_then(|entry| entry["body"]["value"].as_u64()))
}

/// The check of the counter by `failsafectl doctor`.
fn counter_check(node: &Node) -> Result<Value> {
    let checks = node.ctl(["doctor", "-o", "json"])?.json()?;
    let all = checks["checks"].as_array().context("no checks")?;
    all.iter().find(|check| check["name"] == "TPM counter").cloned().with_context(|| format!("{checks:#}"))
}

/// Everything that a copy of the disk has: the state folder, and the second head, which a reboot removes.
fn files_of(node: &Node) -> Result<(Vec<PathBuf>, PathBuf)> {
    let heads = fs::read_dir(node.file("."))?.filter_map(|entry| Some(entry.ok()?.path()));
    let heads = heads.filter(|path| path.display().to_string().contains("audit-head-")).collect();
    Ok((heads, node.state_dir().to_owned()))
}

#[test]
fn a_state_folder_that_is_rolled_back_is_found_by_the_counter_of_a_tpm_that_appeared_late() -> Result<()> {
    let test = "a_state_folder_that_is_rolled_back_is_found_by_the_counter_of_a_tpm_that_appeared_late";
    let Some(tpm) = Swtpm::start(test) else { return Ok(()) };
    let device = tpm.folder().join("tpmrm0");
    on_node("tpm-rollback", &settings(&device), |node| {
        // The driver of the TPM is not loaded yet.
        node.stop()?;
        let older = node.file("older");
        let (_, state) = files_of(node)?;
        copy(&state, &older)?;
        node.restart()?;
        let absent = |node: &Node| Ok::<_, anyhow::Error>(counter_check(node)?["detail"].to_string());
        wait_for_some("doctor names the missing TPM", || {
            Ok(absent(node)?.contains("the node has no TPM").then_some(()))
        })?;
        ensure!(counter_check(node)?["state"] == "works", "{}", counter_check(node)?);
        symlink(tpm.socket(), &device)?;
        let value = wait_for_some("the TPM that appeared counts", || counted(node))?;
        node.stop()?;
        node.log_is_whole()?;

        // Without a TPM a rollback would not be found.
        fs::remove_file(&device)?;
        node.restart()?;
        let missing = wait_for_some("doctor shows that the TPM is missing", || {
            Ok(Some(counter_check(node)?).filter(|check| check["state"] == "degraded"))
        })?;
        let detail = missing["detail"].as_str().context("no detail")?;
        ensure!(detail.starts_with(&format!("the log states {value} for the counter of the TPM")), "{missing}");
        node.stop()?;
        symlink(tpm.socket(), &device)?;

        let (heads, _) = files_of(node)?;
        ensure!(!heads.is_empty(), "no second head is removed");
        heads.iter().try_for_each(fs::remove_file)?;
        fs::remove_dir_all(&state)?;
        copy(&older, &state)?;
        node.restart()?;
        node.wait_for_event("the finding", |entry| {
            entry["kind"] == "gap"
                && entry["body"]["cause"] == "integrity"
                && entry["body"]["what"].as_str().is_some_and(|what| what.contains(&format!("TPM has {value}")))
        })?;
        let report = node.ctl(["log", "verify", "-o", "json"])?.expect(3)?.json()?;
        ensure!(report["verdict"] == "incomplete", "{report}");
        Ok(())
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "cp -a {} {}: {copied}", from.display(), to.display());
    Ok(())
}

/// The words, without those that differ from one run to another: digests, numbers, the name of the host.
fn shape(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let next = words.iter().skip(1).chain([&""]);
    let shape = words.iter().zip(next).map(|(word, next)| {
        let varies = word.contains(|c: char| c.is_ascii_digit()) || (word.starts_with('(') && *next == "TPM");
        if varies { "N" } else { word }
    });
    shape.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_quote_in_the_documentation_has_the_form_of_a_real_one() -> Result<()> {
    let test = "the_quote_in_the_documentation_has_the_form_of_a_real_one";
    let Some(tpm) = Swtpm::start(test) else { return Ok(()) };
    let docs = include_str!("../../../docs/attestation.md");
    let (_, sample) = docs.split_once("--require-tpm\n").context("the documentation has no sample")?;
    let (sample, _) = sample.split_once("...\n").context("the sample has no end")?;
    let (_, sample) = sample.split_once("  taken ").context("the sample has no time")?;
    let device = format!("[tpm]\ndevice = {:?}\n", tpm.socket().display().to_string());
    on_node("tpm-sample", &device, |node| {
        let (file, _) = attest(node, "node.json", &["--nonce", "5f0c9a1b"])?;
        let keys = node.file("keys").display().to_string();
        fs::write(&keys, node.ctl(["attest", "key", "show"])?.expect(0)?.out)?;
        let args = ["attest", "verify", &file, "--keys", &keys, "--nonce", "5f0c9a1b", "--require-tpm"];
        let printed = node.ctl(args)?.expect(0)?.out;
        eprintln!("{printed}");
        let (found, expected) = (shape(&printed), shape(sample));
        ensure!(found.contains(&expected), "docs/attestation.md:\n{expected}\nfound:\n{found}");
        Ok(())
    })
}
