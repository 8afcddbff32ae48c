//! `manifest` and `checkpoint`: what an owner claims about a run.

use super::Place;
use crate::{
    args::{CheckpointArgs, ManifestHashArgs, ManifestSetArgs, ManifestShowArgs},
    client::{Client, block_on},
    digest,
    exit::{Exit, Fail},
    render::{clean, count, json, print, time},
};
use failsafe_attest::{Fact, Manifest, manifest::MAX_BYTES};
use failsafe_proto::v1 as pb;
use serde_json::{Value, json};
use std::{fmt::Write as _, fs::File, io::Read, path::Path};

pub(super) fn set(place: &Place<'_>, args: &ManifestSetArgs) -> Result<Exit, Fail> {
    let manifest = read(&args.file)?;
    let answer = block_on(async {
        let request = pb::SetManifestRequest { run: args.run.clone(), manifest };
        Ok(Client::connect(place.daemon).await?.attestation().set_manifest(request).await?.into_inner())
    })?;
    let pb::SetManifestResponse { run_id, run_name, digest, redacted } = answer;
    if args.output.json() {
        let all = json!({ "run_id": run_id, "run_name": run_name, "digest": digest, "redacted": redacted });
        print(&json::text(&all))?;
        return Ok(Exit::Done);
    }
    print(&format!("run {} {run_id}: manifest set, {digest}\n", clean(&run_name)))?;
    if redacted > 0 {
        let texts = count(usize::try_from(redacted).unwrap_or(usize::MAX), "text", "texts");
        note!("failsafectl: warning: {texts} of the manifest looked like secrets and were replaced by [redacted]");
    }
    Ok(Exit::Done)
}

/// Reads a manifest's file for the daemon, which checks it again.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Fail> {
    let shown = clean(&file.display().to_string());
    let failed = |error| Fail::because(format!("cannot read the manifest {shown}"), &error);
    let mut text = String::new();
    File::open(file).map_err(failed)?.take(MAX_BYTES as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    let wrong = |errors: &dyn std::fmt::Display| Fail::usage(format!("the manifest is not valid\n{errors}"));
    let manifest = Manifest::parse(&shown, &text).map_err(|errors| wrong(&errors))?;
    Ok(manifest.canonical().map_err(|error| wrong(&error))?.into_bytes())
}

pub(super) fn show(place: &Place<'_>, args: &ManifestShowArgs) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let request = pb::GetManifestRequest { run: args.run.clone() };
        Ok(Client::connect(place.daemon).await?.attestation().get_manifest(request).await?.into_inner())
    })?;
    let manifest = (!answer.manifest.is_empty()).then(|| Manifest::from_json(&answer.manifest)).transpose();
    let manifest = manifest.map_err(|error| Fail::because("the daemon sent a broken manifest", &error))?;
    if args.output.json() {
        let stored: Option<Value> = serde_json::from_slice(&answer.manifest).ok();
        let checkpoint = |it: &pb::Checkpoint| {
            let pb::Checkpoint { path, step, good, digest, bytes, announced_ns } = it;
            json!({ "path": path, "step": step, "good": good, "digest": digest, "bytes": bytes, "announced_ns": announced_ns })
        };
        print(&json::text(&json!({
            "run_id": answer.run_id,
            "run_name": answer.run_name,
            "manifest": stored,
            "set_ns": manifest.as_ref().map(|_| answer.set_ns),
            "checkpoints": answer.checkpoints.iter().map(checkpoint).collect::<Vec<_>>(),
        })))?;
        return Ok(Exit::Done);
    }
    let at = |ns: i64| time::wall(i128::from(ns), &place.zone);
    let mut out = format!("run {} {}\n", clean(&answer.run_name), answer.run_id);
    match &manifest {
        None => out.push_str("no manifest was set\n"),
        Some(manifest) => {
            // Writing to a text does not fail.
            let _text = writeln!(out, "manifest of {}; claimed, not measured", at(answer.set_ns));
            for Fact { path, value, .. } in manifest.facts().iter().skip(1) {
                let value = value.as_ref().map_or_else(|_| String::new(), shown);
                let _text = writeln!(out, "  {}  {}", clean(path.trim_start_matches("run/manifest/")), clean(&value));
            }
        }
    }
    if !answer.checkpoints.is_empty() {
        out.push_str("checkpoints, oldest first\n");
    }
    for pb::Checkpoint { path, step, good, digest, bytes, announced_ns } in &answer.checkpoints {
        let step = step.map_or_else(String::new, |step| format!("step {step}, "));
        let good = if *good { "good, " } else { "" };
        let _text = writeln!(out, "  {}  {step}{good}{bytes} bytes\n    {} {digest}", at(*announced_ns), clean(path));
    }
    print(&out)?;
    Ok(Exit::Done)
}

fn shown(value: &failsafe_attest::Json) -> String {
    value.text().map_or_else(|| value.canonical(), str::to_owned)
}

pub(super) fn hash(args: &ManifestHashArgs) -> Result<Exit, Fail> {
    let own = || args.path.canonicalize().ok()?.file_name()?.to_str().map(str::to_owned);
    let name = args.name.clone().or_else(own);
    let name = name.ok_or_else(|| Fail::usage("the path has no name").advise("give one with --name"))?;
    let digest = digest::of(&args.path)?;
    let quoted = |text: &str| Value::from(text).to_string();
    let version = args.version.iter().map(|version| format!("version = {}\n", quoted(version))).collect::<String>();
    print(&format!(
        "# {} in {}\n[data.{}]\n{version}digest = \"{}\"\n",
        count(digest.files, "file", "files"),
        clean(&digest::absolute(&args.path)?),
        quoted(&name),
        digest.text
    ))?;
    Ok(Exit::Done)
}

pub(super) fn checkpoint(place: &Place<'_>, args: &CheckpointArgs) -> Result<Exit, Fail> {
    let path = digest::absolute(&args.path)?;
    let digest::Digest { text: digest, files, bytes } = digest::of(&args.path)?;
    let checkpoint =
        pb::Checkpoint { path, step: args.step, good: args.good, digest: digest.clone(), bytes, announced_ns: 0 };
    let request = pb::AddCheckpointRequest { run: args.run.clone(), checkpoint: Some(checkpoint) };
    let pb::AddCheckpointResponse { run_id, run_name } = block_on(async {
        Ok(Client::connect(place.daemon).await?.attestation().add_checkpoint(request).await?.into_inner())
    })?;
    print(&if args.output.json() {
        json::text(&json!({ "run_id": run_id, "run_name": run_name, "digest": digest, "files": files, "bytes": bytes }))
    } else {
        format!("run {} {run_id}: checkpoint announced, {digest}\n", clean(&run_name))
    })?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_refused_with_file_line_and_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.toml");
        std::fs::write(&file, "[seeds]\ntorch = 1\n[code]\ncomit = \"x\"\n").unwrap();
        let fail = read(&file).unwrap_err();
        assert!(fail.exit == Exit::Usage && fail.message.contains("m.toml:4:1"), "{}", fail.message);
        std::fs::write(&file, "[seeds]\ntorch = 1\n").unwrap();
        assert_eq!(read(&file).unwrap(), b"{\"seeds\":{\"torch\":1}}");
        assert!(read(&dir.path().join("none")).unwrap_err().message.contains("cannot read the manifest"));
    }
}
