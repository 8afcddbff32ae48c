//! `policy explain`: each rule of a policy in plain words.

use super::read_valid;
use crate::{
    args::PolicyExplainArgs,
    exit::{Exit, Fail},
    render::{json, policy, print},
};
use failsafe_core::policy::Rule;

pub(in crate::commands) fn explain(args: &PolicyExplainArgs) -> Result<Exit, Fail> {
    let found = read_valid(&args.file)?;
    let rules: Vec<&Rule> = match &args.rule {
        None => found.rules.iter().collect(),
        Some(id) => vec![found.rule(id).ok_or_else(|| unknown(&found, id))?],
    };
    print(&if args.output.json() {
        json::text(&policy::json(&found, &rules))
    } else if args.rule.is_some() {
        rules.iter().map(|rule| policy::rule(&found, rule)).collect()
    } else {
        policy::page(&found, &rules)
    })?;
    Ok(Exit::Done)
}

fn unknown(found: &failsafe_core::Policy, id: &str) -> Fail {
    let ids: Vec<&str> = found.rules.iter().map(|rule| rule.id.as_str()).collect();
    let has = if ids.is_empty() { "it has no rules".to_owned() } else { format!("its rules are {}", ids.join(", ")) };
    Fail::new(Exit::NotFound, format!("policy {} has no rule {id}: {has}", found.name))
}
