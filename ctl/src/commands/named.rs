//! `policy list` and `policy show`: the named policies of the node, and how a policy is named for `run` and `register`.

use super::{Place, file_name, read_policy};
use crate::{
    args::Output,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, json, print, table},
};
use failsafe_core::{Policy, discover::is_name};
use failsafe_proto::v1 as pb;
use serde_json::{Value, json};
use std::path::Path;

/// A policy as `run` and `register` send it.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The text of a file, and the file's name.
    pub toml: String,
    pub file: String,
    /// The name of one of the node's, in their place.
    pub name: String,
    /// The policy, where it was read here.
    pub policy: Option<Policy>,
}

impl Asked {
    /// A name has no `/` and does not end with `.toml`: what lies in the current folder never stands for a policy of the node.
    pub fn of(wanted: &Path) -> Result<Asked, Fail> {
        let text = wanted.to_str().unwrap_or_default();
        if is_name(text) && !text.ends_with(".toml") {
            return Ok(Asked { name: text.to_owned(), ..Asked::default() });
        }
        let (toml, policy) = read_policy(wanted)?;
        Ok(Asked { toml, file: file_name(wanted), policy: Some(policy), ..Asked::default() })
    }

    /// A failure to start, with what to do where a file is there that has the name.
    pub fn explain(&self, fail: Fail) -> Fail {
        if fail.exit == Exit::NotFound && !self.name.is_empty() && Path::new(&self.name).is_file() {
            let name = clean(&self.name);
            return fail.advise(format!("for the file of that name in this folder, write --policy ./{name}"));
        }
        fail
    }
}

pub(super) fn list(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.policies().list(pb::ListPoliciesRequest {}).await?.into_inner())
    })?;
    let failed = !answer.error.is_empty();
    print(&if output.json() { json::text(&listed(&answer)) } else { page(&answer) })?;
    Ok(if failed { Exit::Error } else { Exit::Done })
}

fn page(answer: &pb::ListPoliciesResponse) -> String {
    let folder = clean(&answer.folder);
    if !answer.error.is_empty() {
        return format!("the policies in {folder} are not used: {}\n", clean(&answer.error));
    }
    if answer.policies.is_empty() {
        return format!("no policies: there is no NAME.toml in {folder}\n");
    }
    let rows = answer.policies.iter().map(|one| match one.error.as_str() {
        "" => {
            [one.name.clone(), one.policy.clone(), one.rules.to_string(), one.digest.clone(), one.description.clone()]
        }
        why => [one.name.clone(), "NOT USABLE".into(), String::new(), String::new(), why.to_owned()],
    });
    let mut out = table::table(["NAME", "POLICY", "RULES", "DIGEST", "DESCRIPTION"], rows);
    if answer.more > 0 {
        out.push_str(&format!("{} more in {folder}\n", answer.more));
    }
    out
}

fn listed(answer: &pb::ListPoliciesResponse) -> Value {
    json!({
        "folder": answer.folder,
        "error": answer.error,
        "more": answer.more,
        "policies": answer.policies.iter().map(one).collect::<Vec<_>>(),
    })
}

fn one(named: &pb::NamedPolicy) -> Value {
    json!({
        "name": named.name,
        "policy": named.policy,
        "digest": named.digest,
        "rules": named.rules,
        "description": named.description,
        "error": named.error,
    })
}

pub(super) fn show(place: &Place<'_>, name: &str, output: Output) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.policies().show(pb::ShowPolicyRequest { name: name.to_owned() }).await?.into_inner())
    })?;
    let named = answer.policy.unwrap_or_default();
    print(&if output.json() {
        let mut shown = one(&named);
        shown["path"] = json!(answer.path);
        shown["toml"] = json!(answer.toml);
        json::text(&shown)
    } else {
        // The text as it is, so that it can be written to a file; a comment in front says which file this is.
        let text: Vec<String> = answer.toml.lines().map(clean).collect();
        format!("# {}  {}\n{}\n", clean(&answer.path), clean(&named.digest), text.join("\n"))
    })?;
    Ok(Exit::Done)
}
