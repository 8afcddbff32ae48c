//! `attest preflight`: what will not be reproducible of a command. Nothing is executed, and nobody is asked.

use super::table;
use crate::{
    args::AttestPreflightArgs,
    commands::{manifest, run::add_variables},
    exit::{Exit, Fail},
    render::{Paint, clean, count, fill, json, print},
};
use failsafe_attest::{
    Manifest,
    preflight::{Planned, Warning, warnings},
};
use serde_json::json;
use std::{ffi::OsStr, fmt::Write as _, path::Path, process::Command};

/// Columns of a paragraph.
const WIDTH: usize = 96;

pub(in crate::commands) fn preflight(args: &AttestPreflightArgs) -> Result<Exit, Fail> {
    let mut given = Command::new("env");
    add_variables(&mut given, &args.env)?;
    let set =
        |name: &str| given.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value.map(OsStr::to_owned));
    let variable = |name: &str| Some(set(name).or_else(|| std::env::var_os(name))?.to_string_lossy().into_owned());
    let read = args.manifest.as_deref().map(manifest::read).transpose()?;
    let read = read.map(|bytes| Manifest::from_json(&bytes)).transpose();
    let read = read.map_err(|error| Fail::because("the manifest is not valid", &error))?;
    let last = |word: &std::ffi::OsString| Some(Path::new(word).file_name()?.to_string_lossy().into_owned());
    // The program, and a script that an interpreter is given.
    let programs = args.command.iter().take(2).filter_map(last).collect();
    let planned = Planned { programs, variable: &variable, manifest: read.as_ref() };
    let found = warnings(&table()?.preflight, &planned);
    print(&if args.output.json() { json::text(&json!({ "warnings": found })) } else { page(&found, Paint::stdout()) })?;
    Ok(if found.is_empty() { Exit::Done } else { Exit::NotReproducible })
}

fn page(found: &[Warning], paint: Paint) -> String {
    if found.is_empty() {
        return paint.good("nothing found that is known to make results differ")
            + "\nnot seen: what the program sets for itself, its libraries, and the node (`attest diff` compares them)\n";
    }
    let mut out = paint.warn(&count(found.len(), "warning", "warnings")) + "\n";
    for Warning { found, uses, text, fix, citation } in found {
        let uses = if uses.is_empty() { String::new() } else { format!("  [if it uses {uses}]") };
        let _text = writeln!(out, "\n{}{uses}", paint.head(&clean(found)));
        for line in fill(&format!("{text} ({citation})"), WIDTH) {
            let _text = writeln!(out, "  {}", clean(&line));
        }
        let _text = writeln!(out, "  {} {}", paint.dim("do:"), clean(fix));
    }
    out.push_str("\nnot seen: what the program sets for itself, its libraries, and the node\n");
    out
}
