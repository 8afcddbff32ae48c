//! `policy check`: what is wrong with a policy, its digest, and whether this node would take it.

pub(super) mod explain;
pub(super) mod resolve;
pub(super) mod test;
pub(super) mod would;

use super::Place;
use crate::{
    args::PolicyCheckArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, decision, json, print, table},
};
use failsafe_core::{
    Policy,
    decision::Mode,
    policy::{
        Effect,
        diagnostic::{Diagnostic, Diagnostics, Level},
        parse::Checked,
    },
};
use failsafe_proto::v1 as pb;
use resolve::Whole;
use serde_json::{Value, json};
use std::path::Path;

/// Characters of a policy's text that a cell of a table shows at most.
const CELL: usize = 160;

/// What the node answers.
#[derive(Debug)]
enum Node {
    /// It was not asked.
    NotAsked,
    /// It could not be asked.
    Silent(Fail),
    /// It would pin the policy.
    Takes,
    /// It would not, with why.
    Refuses(String),
}

pub(super) fn check(place: &Place<'_>, args: &PolicyCheckArgs) -> Result<Exit, Fail> {
    let Whole { file, text, checked: Checked { policy, warnings } } = match resolve::read(&args.file)? {
        Ok(whole) => whole,
        Err(errors) => {
            if args.output.json() {
                print(&json::text(&invalid(&errors)))?;
            } else {
                note!("{errors}");
            }
            return Ok(Exit::Error);
        }
    };
    if !args.output.json() && !warnings.list.is_empty() {
        note!("{warnings}");
    }
    let digest = policy.digest().to_string();
    let (node, worth) =
        if args.offline { (Node::NotAsked, Vec::new()) } else { ask(place, file.clone(), text, &digest)? };
    if args.node
        && let Node::Silent(fail) = node
    {
        return Err(fail);
    }
    let broken = worth.iter().any(|judged| judged.broken);
    print(&if args.output.json() {
        json::text(&valid(&warnings, &policy, &node, &worth))
    } else {
        let mut text = page(&policy, &node);
        if args.node {
            text.push_str(&worth_page(&worth));
        }
        text
    })?;
    Ok(if args.node && (broken || matches!(node, Node::Refuses(_))) { Exit::Error } else { Exit::Done })
}

/// Prints the schema of policy files.
pub(super) fn schema() -> Result<Exit, Fail> {
    print(&json::text(&failsafe_core::policy::schema::schema()))?;
    Ok(Exit::Done)
}

/// The policy of a file, for a command that needs nothing but it; its mistakes are printed.
fn read_valid(path: &Path) -> Result<Policy, Fail> {
    let whole =
        resolve::read(path)?.map_err(|errors| Fail::new(Exit::Error, format!("the policy is not valid\n{errors}")))?;
    Ok(whole.checked.policy)
}

/// Asks the daemon, which reads the policy with its own eyes: another version may see another policy in the same text.
fn ask(
    place: &Place<'_>,
    policy_file: String,
    policy_toml: String,
    digest: &str,
) -> Result<(Node, Vec<pb::RuleAssurance>), Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.policies().check(pb::CheckRequest { policy_toml, policy_file }).await?.into_inner())
    });
    let answer = match answer {
        Ok(answer) => answer,
        Err(fail) => return Ok((Node::Silent(fail), Vec::new())),
    };
    let node = if !answer.errors.is_empty() {
        Node::Refuses(answer.errors.join("; "))
    } else if answer.digest != digest {
        let theirs = clean(&answer.digest);
        Node::Refuses(format!(
            "the daemon computes another digest ({theirs}): daemon and failsafectl have different versions"
        ))
    } else if answer.refusal.is_empty() {
        Node::Takes
    } else {
        Node::Refuses(answer.refusal)
    };
    Ok((node, answer.assurances))
}

/// What each rule is worth on this node.
fn worth_page(worth: &[pb::RuleAssurance]) -> String {
    if worth.is_empty() {
        return String::new();
    }
    let rows = worth.iter().map(|judged| {
        let kept = if judged.broken { "NOT ENFORCED" } else { "" };
        [judged.rule.clone(), judged.effect.clone(), judged.assurance.clone(), kept.to_owned(), judged.detail.clone()]
    });
    format!("\n{}", table::table(["RULE", "EFFECT", "ON THIS NODE", "", "WHY"], rows))
}

fn page(policy: &Policy, node: &Node) -> String {
    let mode = |mode| if mode == Mode::Observe { "observe" } else { "enforce" };
    let rules = policy.rules.iter().map(|r| {
        // An effect is more than the mode, which it implies.
        let mode = if r.effect == Effect::Observe { mode(r.mode) } else { r.effect.name() };
        [r.id.clone(), mode.to_owned(), short(&r.when.to_string()), decision::actions(&r.actions), short(&r.owner)]
    });
    let node = match node {
        Node::NotAsked => String::new(),
        Node::Takes => "this node accepts the policy".to_owned(),
        Node::Refuses(why) => format!("NOT ACCEPTED by this node: {why}"),
        Node::Silent(fail) => format!("not checked on this node: {}", fail.message),
    };
    let egress = policy.egress.as_ref().map(|e| format!("{} allowed destinations, {}", e.allow.len(), mode(e.mode)));
    let exec = policy.exec.as_ref().map(|e| format!("{} allowed paths, {}", e.allow.len(), mode(e.mode)));
    let watch: Vec<&str> = policy.watch.iter().map(String::as_str).collect();
    let mut out = table::pairs(
        "",
        [
            ("policy", format!("{} version {}", policy.name, policy.version)),
            ("digest", policy.digest().to_string()),
            ("owner", short(&policy.owner)),
            ("egress", egress.unwrap_or_default()),
            ("exec", exec.unwrap_or_default()),
            ("watches", watch.join(", ")),
            ("node", node),
        ],
    );
    if !policy.rules.is_empty() {
        out.push('\n');
        out.push_str(&table::table(["RULE", "MODE", "WHEN", "ACTIONS", "OWNER"], rules));
    }
    out
}

/// Text of a policy in a table: its beginning, where it is long. `-o json` and the file itself have all of it.
fn short(text: &str) -> String {
    let mut shown: String = text.chars().take(CELL).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

fn valid(warnings: &Diagnostics, policy: &Policy, node: &Node, worth: &[pb::RuleAssurance]) -> Value {
    let (asked, takes, refusal) = match node {
        Node::NotAsked => (false, Value::Null, Value::Null),
        Node::Silent(fail) => (false, Value::Null, json!(fail.message)),
        Node::Takes => (true, json!(true), Value::Null),
        Node::Refuses(why) => (true, json!(false), json!(why)),
    };
    let worth = worth.iter().map(|judged| {
        json!({
            "rule": judged.rule,
            "effect": judged.effect,
            "assurance": judged.assurance,
            "broken": judged.broken,
            "detail": judged.detail,
        })
    });
    json!({
        "file": warnings.file,
        "valid": true,
        "name": policy.name,
        "version": policy.version,
        "digest": policy.digest().to_string(),
        "errors": [],
        "warnings": warnings.list.iter().map(diagnostic).collect::<Vec<_>>(),
        "node": { "answered": asked, "takes": takes, "why": refusal, "rules": worth.collect::<Vec<_>>() },
    })
}

fn invalid(errors: &Diagnostics) -> Value {
    let of = |level| errors.list.iter().filter(|d| d.level == level).map(diagnostic).collect::<Vec<_>>();
    json!({
        "file": errors.file,
        "valid": false,
        "name": null,
        "version": null,
        "digest": null,
        "errors": of(Level::Error),
        "warnings": of(Level::Warning),
        "node": { "answered": false, "takes": null, "why": null, "rules": [] },
    })
}

fn diagnostic(d: &Diagnostic) -> Value {
    json!({
        "file": d.file,
        "line": d.line,
        "column": d.column,
        "field": d.field,
        "message": d.message,
        "help": d.help,
        "excerpt": clean(&d.excerpt),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::policy::parse::parse;

    const POLICY: &str = r#"
[policy]
name = "trainer"
version = 3
owner = "safety@example.org"

[egress]
allow = [{ cidr = "10.0.0.0/8" }]

[[rule]]
id = "no-tracing"
rationale = "a trainer traces nobody"
when = { event = "syscall", name = "ptrace" }
actions = ["notify", "freeze"]
"#;

    #[test]
    fn a_good_policy_is_summed_up() {
        let policy = parse("p.toml", POLICY).unwrap();
        insta::assert_snapshot!(page(&policy, &Node::Refuses("ebpf is blind".into())));
    }

    #[test]
    fn a_long_condition_does_not_fill_the_screen() {
        let names = "\"ptrace\", ".repeat(3_000);
        let policy = parse("p.toml", &POLICY.replace("\"ptrace\"", &format!("[{names}]"))).unwrap();
        assert!(page(&policy, &Node::NotAsked).lines().all(|line| line.chars().count() < 400));
    }

    #[test]
    fn diagnostics_reach_programs_whole() {
        let errors = parse("p.toml", &POLICY.replace("rationale", "rationle")).unwrap_err();
        insta::assert_snapshot!(json::text(&invalid(&errors)));
    }
}
