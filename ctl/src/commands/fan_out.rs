//! `--hosts`: one command, asked of several nodes.
//!
//! For each node this program starts itself with `--host NODE`, so that every command works on many nodes as it does on one.
//!
//! Invariants: the output of a node is printed whole, each line with the node's name, as soon as the node is done; a node that
//! does not answer in time, or cannot be asked, holds up no other; all nodes are asked even if nobody reads the output any more; the exit
//! code is the worst of all nodes.

use crate::{
    args::NodesArgs,
    commands::print,
    exit::{Exit, Fail},
    remote::{Address, list},
    text::clean,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncReadExt, process::Command, task::JoinSet};

/// Output of one node that is kept, in bytes. The rest is left out, and the command counts as partly done.
const OUTPUT: u64 = 16 << 20;
/// Nodes that the summary names for each exit code.
const NAMED: usize = 8;

/// What one node answered.
struct Answer {
    node: Address,
    exit: u8,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Asks all nodes of `--hosts`.
///
/// # Errors
/// The list of nodes has a mistake, or this program cannot be started.
pub(super) fn fan_out(nodes: &str, args: &NodesArgs) -> Result<u8, Fail> {
    let nodes = list(nodes)?;
    let words = without_hosts(std::env::args_os().skip(1));
    let json = is_json(&words);
    let program = std::env::current_exe().map_err(|error| Fail::because("cannot find this program", &error))?;
    let progress = progress(nodes.len());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fail::because("cannot start the event loop", &error))?;
    let mut exits: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    let mut unread: Option<Fail> = None;
    runtime.block_on(async {
        let mut waiting = nodes.into_iter();
        let mut asked = JoinSet::new();
        loop {
            while asked.len() < usize::from(args.fanout)
                && let Some(node) = waiting.next()
            {
                asked.spawn(ask(program.clone().into_os_string(), words.clone(), node, args.node_timeout));
            }
            let Some(answer) = asked.join_next().await else { break };
            let answer = answer.map_err(|error| Fail::because("a node was not asked", &error))?;
            if unread.is_none() {
                unread = progress.suspend(|| show(&answer, json)).err();
            }
            progress.inc(1);
            exits.entry(answer.exit).or_default().push(answer.node.to_string());
        }
        Ok::<(), Fail>(())
    })?;
    progress.finish_and_clear();
    note!("{}", summary(&exits));
    if let Some(fail) = unread {
        return Err(fail);
    }
    Ok(exits.keys().copied().max_by_key(|exit| severity(*exit)).unwrap_or(Exit::Error as u8))
}

/// Options of the list of nodes. Each has a value.
const OF_LIST: [&str; 3] = ["--hosts", "--fanout", "--node-timeout"];

/// The words of this command line without the options of the list of nodes.
fn without_hosts(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, mut words) = (Vec::new(), words);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if word == "--" {
            kept.push(word);
            kept.extend(words);
            return kept;
        }
        if OF_LIST.contains(&&*text) {
            words.next();
        } else if !text.split_once('=').is_some_and(|(option, _)| OF_LIST.contains(&option)) {
            kept.push(word);
        }
    }
    kept
}

/// Whether the command's output is JSON.
fn is_json(words: &[OsString]) -> bool {
    let words = || words.iter().map(|word| word.to_string_lossy());
    let one = words().any(|word| matches!(&*word, "--json" | "-ojson" | "-o=json" | "--output=json"));
    one || words()
        .zip(words().skip(1))
        .any(|(option, format)| matches!(&*option, "-o" | "--output") && format == "json")
}

/// Asks one node. After `limit` the program that asks it is killed.
async fn ask(program: OsString, words: Vec<OsString>, node: Address, limit: Duration) -> Answer {
    let (exit, why) = match tokio::time::timeout(limit, answer(program, words, &node)).await {
        Ok(Ok(answer)) => return answer,
        Ok(Err(error)) => (Exit::Error, format!("cannot ask {node}: {error}")),
        Err(_) => (Exit::Timeout, format!("{node}: no answer within {limit:?} (--node-timeout)")),
    };
    Answer { node, exit: exit as u8, stdout: Vec::new(), stderr: format!("failsafectl: {why}\n").into_bytes() }
}

async fn answer(program: OsString, words: Vec<OsString>, node: &Address) -> std::io::Result<Answer> {
    let mut command = Command::new(program);
    command.args([OsStr::new("--host"), OsStr::new(&node.to_string())]).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(read(stdout), read(stderr))?;
    let status = child.wait().await?;
    let mut exit = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(Exit::Error as u8);
    let is_cut = stdout.len() as u64 > OUTPUT || stderr.len() as u64 > OUTPUT;
    if is_cut && exit == 0 {
        exit = Exit::Partial as u8;
    }
    Ok(Answer { node: node.clone(), exit, stdout, stderr })
}

/// Reads to the end, and keeps what has room.
async fn read(from: Option<impl tokio::io::AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        (&mut from).take(OUTPUT + 1).read_to_end(&mut bytes).await?;
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

fn show(answer: &Answer, json: bool) -> Result<(), Fail> {
    let (stdout, stderr) = (text(&answer.stdout), text(&answer.stderr));
    if json {
        // A command prints one value, or one on each line.
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&stdout).into_iter().collect();
        let output = match values {
            Ok(mut values) if values.len() == 1 => values.remove(0),
            Ok(values) => Value::Array(values),
            Err(_) => Value::String(stdout),
        };
        let line = json!({"node": answer.node.to_string(), "exit": answer.exit, "output": output, "errors": stderr});
        return Ok(print(&format!("{line}\n"))?);
    }
    print(&prefixed(&answer.node, &stdout))?;
    if !stderr.is_empty() {
        note!("{}", prefixed(&answer.node, &stderr).trim_end());
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    let kept = &bytes[..bytes.len().min(usize::try_from(OUTPUT).unwrap_or(usize::MAX))];
    let mut text = String::from_utf8_lossy(kept).into_owned();
    if kept.len() < bytes.len() {
        text.push_str("\nthe rest of the output is left out\n");
    }
    text
}

fn prefixed(node: &Address, text: &str) -> String {
    text.lines().map(|line| format!("{node}: {}\n", clean(line))).collect()
}

fn progress(nodes: usize) -> ProgressBar {
    let bar = ProgressBar::new(nodes as u64);
    let style =
        ProgressStyle::with_template("{pos} of {len} nodes {bar:30}").unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style)
}

/// `14 of 16 nodes: exit 0; exit 6: n03, n04`
fn summary(exits: &BTreeMap<u8, Vec<String>>) -> String {
    let all: usize = exits.values().map(Vec::len).sum();
    let done = exits.get(&0).map_or(0, Vec::len);
    let mut text = format!("failsafectl: {done} of {all} nodes: exit code 0");
    for (exit, nodes) in exits.iter().filter(|(exit, _)| **exit != 0) {
        let mut nodes = nodes.clone();
        nodes.sort_unstable();
        let more = nodes.len().saturating_sub(NAMED);
        nodes.truncate(NAMED);
        text.push_str(&format!("; {exit}: {}", nodes.join(", ")));
        if more > 0 {
            text.push_str(&format!(" and {more} more"));
        }
    }
    text
}

/// Which of two exit codes is worse: an answer that could not be had is worse than any answer, and a higher code of an answer
/// (10 and more) is worse than a lower one.
fn severity(exit: u8) -> (u8, u8) {
    const ORDER: [Exit; 8] = [
        Exit::Partial,
        Exit::NotFound,
        Exit::Usage,
        Exit::Denied,
        Exit::Timeout,
        Exit::Unknown,
        Exit::Error,
        Exit::Tampered,
    ];
    match ORDER.iter().position(|it| *it as u8 == exit) {
        _ if exit == 0 => (0, 0),
        None => (1, exit),
        Some(at) => (2, u8::try_from(at).unwrap_or(u8::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let kept = without_hosts(line.split_whitespace().map(OsString::from));
        kept.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn the_options_of_the_list_are_left_out_of_the_command_of_one_node() {
        assert_eq!(words("--hosts n[1-2] freeze r --fanout 4 --reason x"), ["freeze", "r", "--reason", "x"]);
        assert_eq!(words("list --hosts=a,b --fanout=2 -o json"), ["list", "-o", "json"]);
        assert_eq!(words("list -- --hosts a"), ["list", "--", "--hosts", "a"]);
        assert_eq!(words("--node-timeout 5s --hosts=a list --node-timeout=1m"), ["list"]);
        assert_eq!(words("freeze r --timeout 5s --reason a=b"), ["freeze", "r", "--timeout", "5s", "--reason", "a=b"]);
    }

    #[test]
    fn a_node_that_cannot_be_asked_is_an_answer_with_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limit = Duration::from_secs(3_600);
        let answer = runtime.block_on(ask("/nowhere/failsafectl".into(), vec![], Address::parse("n1").unwrap(), limit));
        assert_eq!(answer.exit, Exit::Error as u8);
        assert!(text(&answer.stderr).starts_with("failsafectl: cannot ask n1: "), "{}", text(&answer.stderr));
    }

    #[test]
    fn a_node_that_does_not_answer_in_time_is_an_answer_with_exit_code_5() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("failsafectl");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limit = Duration::from_millis(50);
        let answer = runtime.block_on(ask(program.into(), vec![], Address::parse("n1").unwrap(), limit));
        assert_eq!((answer.exit, answer.stdout.len()), (Exit::Timeout as u8, 0));
        assert_eq!(text(&answer.stderr), "failsafectl: n1: no answer within 50ms (--node-timeout)\n");
    }

    #[test]
    fn the_worst_exit_code_is_that_of_a_node_that_gave_no_answer() {
        let worst = |exits: &[u8]| exits.iter().copied().max_by_key(|exit| severity(*exit)).unwrap();
        assert_eq!(worst(&[0, 10, 12]), 12);
        assert_eq!(worst(&[0, 13, 1]), 1);
        assert_eq!(worst(&[5, 14, 13]), 13, "no daemon answers there");
        assert_eq!(worst(&[0, 6, 3]), 6);
        assert_eq!(worst(&[4, 5, 1]), 1);
        assert_eq!(worst(&[0, 0]), 0);
    }

    #[test]
    fn the_summary_names_the_nodes_of_each_exit_code() {
        let some = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let exits = BTreeMap::from([(0, some(&["a", "b"])), (6, some(&["d", "c"]))]);
        assert_eq!(summary(&exits), "failsafectl: 2 of 4 nodes: exit code 0; 6: c, d");
        let many: Vec<String> = (10..20).map(|n| format!("n{n}")).collect();
        let text = summary(&BTreeMap::from([(1, many)]));
        assert!(text.ends_with("1: n10, n11, n12, n13, n14, n15, n16, n17 and 2 more"), "{text}");
    }

    #[test]
    fn each_line_has_the_name_of_its_node_and_no_control_characters() {
        let node = Address::parse("n1").unwrap();
        assert_eq!(prefixed(&node, "a\nb\u{1b}[2J\n"), format!("n1: a\nn1: {}\n", clean("b\u{1b}[2J")));
        assert!(!prefixed(&node, "\u{1b}").contains('\u{1b}'));
    }
}
