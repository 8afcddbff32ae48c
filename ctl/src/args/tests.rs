//! What the command line takes and refuses.

use super::*;
use clap::{CommandFactory, error::ErrorKind};

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(std::iter::once("failsafectl").chain(line.split_whitespace()))
}

fn refused(line: &str) -> ErrorKind {
    parse(line).expect_err(line).kind()
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn run_takes_its_command_after_the_dashes() {
    let args =
        parse("run -p p.toml --label team=nlp --label a=b=c --gpu 0 --gpu all -- python3 -u t.py --policy x").unwrap();
    let Command::Run(run) = args.command else { panic!() };
    assert_eq!(run.command, ["python3", "-u", "t.py", "--policy", "x"]);
    assert_eq!(run.new.labels, [("team".into(), "nlp".into()), ("a".into(), "b=c".into())]);
    assert_eq!((run.new.gpus.as_slice(), run.quiet), (["0".to_owned(), "all".to_owned()].as_slice(), false));
    assert_eq!(refused("run -p p.toml"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("run -- true"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("run -p p.toml --label nlp -- true"), ErrorKind::ValueValidation);
}

#[test]
fn register_takes_exactly_one_target() {
    assert!(parse("register -p p.toml --pid 7").is_ok());
    assert!(parse("register -p p.toml --cgroup a/b").is_ok());
    assert_eq!(refused("register -p p.toml"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("register -p p.toml --pid 7 --cgroup a"), ErrorKind::ArgumentConflict);
}

#[test]
fn acts_need_a_reason_and_a_sane_timeout() {
    for act in ["freeze", "thaw", "kill"] {
        assert_eq!(refused(&format!("{act} r")), ErrorKind::MissingRequiredArgument);
        assert!(parse(&format!("{act} r --dry-run")).is_ok());
        assert!(parse(&format!("{act} r --reason because")).is_ok());
    }
    assert!(Args::try_parse_from(["failsafectl", "freeze", "r", "--reason", "  "]).is_err());
    let timeout = |text: &str| match parse(&format!("kill r --dry-run --timeout {text}")).map(|a| a.command) {
        Ok(Command::Kill(args)) => Some(args.timeout),
        _ => None,
    };
    assert_eq!(timeout("500ms"), Some(Duration::from_millis(500)));
    assert_eq!(timeout("2m"), Some(Duration::from_secs(120)));
    for bad in ["0s", "2h", "soon", "10", "-5s"] {
        assert_eq!(timeout(bad), None, "{bad}");
    }
}

#[test]
fn an_empty_gpu_is_a_usage_error() {
    for line in [
        &["node", "health", "--gpu", ""][..],
        &["node", "health", "--gpu", "0,"],
        &["node", "placeable", "--gpu", ""],
        &["gpu", "describe", ""],
        &["gpu", "cordon", "", "-r", "x"],
        &["run", "-p", "p.toml", "--gpu", "", "--", "true"],
    ] {
        let error = Args::try_parse_from(std::iter::once(&"failsafectl").chain(line)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueValidation, "{line:?}");
        assert!(error.to_string().contains("it is empty"), "{error}");
    }
}

#[test]
fn every_command_that_prints_has_json() {
    for line in [
        "run -p p -o json -- true",
        "register -p p --pid 1 -o json",
        "list -o json",
        "get runs -o json",
        "describe r -o json",
        "freeze r --dry-run -o json",
        "events -o json",
        "incidents -o json",
        "explain r -o json",
        "policy check p -o json",
        "policy explain p r -o json",
        "policy would p connect 10.0.0.9:443 -o json",
        "policy test p.toml -o json",
        "replay r -o json",
        "export r -o f --json",
        "report loss 1 -o json",
        "scrape 127.0.0.1:9400 --json",
        "node status -o json",
        "node usage",
        "doctor -o json",
        "log verify -o json",
        "list --json",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
    assert_eq!(refused("list --json -o wide"), ErrorKind::ArgumentConflict);
}

#[test]
fn a_log_file_is_read_instead_of_the_daemon() {
    for line in
        ["events --file f", "explain r --file f", "incidents --file f --since 2h --run r", "explain r --offline"]
    {
        assert!(parse(line).is_ok(), "{line}");
    }
    assert_eq!(refused("events --file f --follow"), ErrorKind::ArgumentConflict);
    let source = |line: &str| match parse(line).map(|a| a.command) {
        Ok(Command::Explain(args)) => (args.source.offline(), args.source.log(std::path::Path::new("/s"))),
        _ => panic!("{line}"),
    };
    assert_eq!(source("explain r"), (false, "/s/audit/audit.log".into()));
    assert_eq!(source("explain r --file f"), (true, "f".into()));
}

#[test]
fn events_take_an_incident_where_they_take_a_run() {
    let wanted = |line: &str| match parse(line).map(|a| a.command) {
        Ok(Command::Events(args)) => (args.run().map(str::to_owned), args.incident().map(str::to_owned)),
        _ => panic!("{line}"),
    };
    let incident = Some("inc-5f0c9a1b2c3d-1".to_owned());
    assert_eq!(wanted("events --run inc-5f0c9a1b2c3d-1"), (None, incident.clone()));
    assert_eq!(wanted("events --run inc-x --incident inc-5f0c9a1b2c3d-1"), (Some("inc-x".into()), incident));
}

#[test]
fn the_usage_of_acts_shows_the_mandatory_reason() {
    for act in ["freeze", "thaw", "kill"] {
        let usage = Args::command().find_subcommand_mut(act).unwrap().render_usage().to_string();
        assert!(usage.contains(&format!("failsafectl {act} [OPTIONS] <RUN> --reason <TEXT>")), "{usage}");
    }
}

/// The words of a line as a shell would split it, with double quotes only.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (n, part) in line.split('"').enumerate() {
        match n % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

#[test]
fn the_examples_of_every_help_are_valid() {
    fn all(command: &clap::Command, examples: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        examples.extend(help.lines().map(str::trim).filter(|line| line.starts_with("failsafectl ")).map(str::to_owned));
        command.get_subcommands().for_each(|sub| all(sub, examples));
    }
    let mut examples = Vec::new();
    all(&Args::command(), &mut examples);
    assert!(examples.len() >= 20, "{examples:?}");
    for example in examples {
        if let Err(error) = Args::try_parse_from(words(&example)) {
            panic!("{example}: {error}");
        }
    }
}

#[test]
fn metrics_may_be_negative_or_not_finite() {
    let value = |line: &str| match parse(line).map(|a| a.command) {
        Ok(Command::Report(args)) => Some((args.value, args.step)),
        _ => None,
    };
    assert_eq!(value("report loss -2.5e-3 12"), Some((-0.0025, Some(12))));
    assert!(value("report loss nan").unwrap().0.is_nan());
    assert_eq!(value("report loss -inf -o json"), Some((f64::NEG_INFINITY, None)));
    assert_eq!(value("report loss -x"), None);
    assert_eq!(value("report lo$s 1"), None);
}

#[test]
fn paths_come_from_options_too() {
    let args = parse("log verify --state-dir /s --socket /x").unwrap();
    assert_eq!((args.state_dir, args.socket), ("/s".into(), "/x".into()));
}

#[test]
fn ranges_of_gpus_are_written_out() {
    let each = |text: &str| super::each(&text.split(',').map(str::to_owned).collect::<Vec<_>>()).join(",");
    assert_eq!(each("0-2,5"), "0,1,2,5");
    assert_eq!(each("minor:0-1,minor:7"), "minor:0,minor:1,minor:7");
    // A UUID is no range, and neither is one that goes backwards or is too long.
    for as_it_is in ["GPU-00000000-1111", "3-1", "0-4000000000", "MIG-1-2", "-", "pci:0000:1b:00.0"] {
        assert_eq!(each(as_it_is), as_it_is);
    }
}
