//! A run that continues another: what the daemon compares before the command is executed, and what the caller sees of it.
//!
//! Invariant: the command is executed only after the daemon answered that the differences are judged. A run that is held is frozen
//! before that answer, and reads it when somebody thaws it.

use super::environment;
use crate::{
    client::{Client, Target},
    exit::{Exit, Fail},
    render::clean,
};
use failsafe_attest::Table;
use failsafe_proto::v1 as pb;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
    process::Command,
    time::Duration,
};
use tonic::Code;

/// How often, and how far apart, a daemon that was restarted meanwhile is asked.
const TRIES: u32 = 10;
const BETWEEN: Duration = Duration::from_secs(1);

/// Most bytes that a start without a lineage says of its command; the daemon keeps no more.
const MOST: usize = 64 << 10;
/// Variables that a shell or failsafe sets anew.
const SET_ANEW: [&str; 6] = ["_", "SHLVL", "PWD", "OLDPWD", "FAILSAFE_RUN_ID", "FAILSAFE_METRICS_SOCKET"];

/// With what a run is started.
pub(super) struct With<'a> {
    /// The lineage that it continues.
    pub lineage: Option<&'a str>,
    /// The command with its arguments.
    pub words: &'a [OsString],
    /// Where it is executed.
    pub directory: &'a Path,
    /// Its variables, where they are not those of the caller and of the command.
    pub only: Option<&'a BTreeMap<String, OsString>>,
    /// It runs as another user than the caller.
    pub other: bool,
}

/// What a start says of its command. Of variables, only values that can change results are sent, and the names of all.
///
/// # Errors
/// The built-in table of factors is broken.
pub(super) fn request(with: &With<'_>, command: &Command) -> Result<pb::StartRequest, Fail> {
    let table = Table::built_in().map_err(|error| Fail::new(Exit::Error, error.to_string()))?;
    let mut all: BTreeMap<OsString, OsString> = match with.only {
        Some(only) => only.iter().map(|(name, value)| (name.into(), value.clone())).collect(),
        None => {
            let passes = |name: &OsString| !with.other || name.to_str().is_some_and(environment::is_kept);
            std::env::vars_os().filter(|(name, _)| passes(name)).collect()
        }
    };
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => drop(all.insert(name.to_owned(), value.to_owned())),
            None => drop(all.remove(name)),
        }
    }
    let text = |text: &OsStr| text.to_string_lossy().into_owned();
    let named = table.environment().filter_map(|name| Some((name.to_owned(), text(all.get(OsStr::new(name))?))));
    let request = pb::StartRequest {
        lineage: with.lineage.unwrap_or_default().to_owned(),
        command: with.words.iter().map(|word| text(word)).collect(),
        environment: named.collect(),
        directory: text(with.directory.as_os_str()),
        variables: all.keys().map(|name| text(name)).filter(|name| !SET_ANEW.contains(&name.as_str())).collect(),
        ..pb::StartRequest::default()
    };
    let variables = request.environment.iter().flat_map(|(name, value)| [name, value]).chain(&request.variables);
    let bytes: usize = request.command.iter().chain(variables).map(String::len).sum();
    Ok(match with.lineage {
        // A request has a limit, and nobody needs it: the run only cannot be started again by `rerun`.
        None if bytes > MOST => pb::StartRequest::default(),
        _ => request,
    })
}

/// Shows how a restart differs, and waits until the command may be executed.
///
/// # Errors
/// The daemon did not judge the differences, or could not freeze the run.
pub(super) async fn begin(daemon: &Target, client: &Client, run: &pb::Run, json: bool) -> Result<(), Fail> {
    if run.drift.is_empty() {
        return Ok(());
    }
    if !json {
        note!("{}", text(run).trim_end());
    }
    let mut answer = ask(client, run).await;
    // The daemon may have been restarted while this process was frozen.
    for _ in 0..TRIES {
        let Err(Refused::Gone(_)) = answer else { break };
        tokio::time::sleep(BETWEEN).await;
        answer = match Client::connect(daemon).await {
            Ok(client) => ask(&client, run).await,
            Err(fail) => Err(Refused::Gone(fail)),
        };
    }
    answer.map_err(|refused| {
        let (Refused::Gone(fail) | Refused::Judged(fail)) = refused;
        let message = format!("the command was not executed: {}", fail.message);
        Fail { message, ..fail }
    })
}

/// Why there is no leave to execute the command.
enum Refused {
    /// There is no daemon at the other end.
    Gone(Fail),
    /// The daemon says so.
    Judged(Fail),
}

async fn ask(client: &Client, run: &pb::Run) -> Result<(), Refused> {
    let asked = client.runs().begin(pb::BeginRequest { run: run.id.clone() }).await;
    asked.map(|_| ()).map_err(|status| match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => Refused::Gone(status.into()),
        _ => Refused::Judged(status.into()),
    })
}

fn text(run: &pb::Run) -> String {
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "absent".to_owned(), clean);
    let mut out = format!(
        "failsafectl: run {} continues run {} and differs from it:\n",
        clean(&run.name),
        clean(&run.predecessor)
    );
    for change in &run.drift {
        let (old, new) = (value(&change.old), value(&change.new));
        out += &format!("failsafectl:   {}  {old} -> {new}  [{}]\n", clean(&change.path), clean(&change.class));
    }
    if run.holds {
        out += &format!(
            "failsafectl: its policy holds such a run: it is frozen, and the command is not executed. To execute it: \
             `failsafectl thaw {} --reason ...`; to give it up: `failsafectl kill {} --reason ...`\n",
            run.id, run.id
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_both_values_and_what_to_do() {
        let change = |path: &str, old: Option<&str>, new: Option<&str>| pb::FactorChange {
            path: path.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            class: "result".to_owned(),
        };
        let mut run = pb::Run {
            id: "01".into(),
            name: "tue".into(),
            predecessor: "00".into(),
            drift: vec![
                change("run/env/OMP_NUM_THREADS", Some("1"), Some("2")),
                change("run/env/X", None, Some("a\u{1b}b")),
            ],
            ..pb::Run::default()
        };
        let shown = text(&run);
        assert!(
            shown.contains("tue continues run 00") && shown.contains("run/env/OMP_NUM_THREADS  1 -> 2  [result]"),
            "{shown}"
        );
        assert!(shown.contains("absent -> ") && !shown.contains('\u{1b}') && !shown.contains("thaw"), "{shown}");
        run.holds = true;
        assert!(text(&run).contains("failsafectl thaw 01 --reason"), "{}", text(&run));
    }
}
