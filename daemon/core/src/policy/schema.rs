//! The JSON schema of policy files, for editors.
//!
//! Made from the names that the reader knows, so that a new field, signal or event is in it. It accepts every file that the reader
//! accepts. It refuses unknown names, wrong types and missing fields; what only the reader can judge (units, contradictions, names
//! that rules refer to) it does not refuse.

use super::{
    groups,
    raw::{
        ALLOW, BUDGET, CONFIDENCES, DERIVED, DERIVED_SHARES, EGRESS, EXEC, HEAD, INCLUDE, LIMITS, METRICS, MODES,
        OF_EVENTS, ON_BLIND, ON_DEAD, ON_DRIFT, ON_ESCAPE, PHASES, PROTOCOLS, RELATIVE, RULE, SECTIONS, SEVERITIES,
        STATISTICS, SYSCALLS, TEMPLATE, USE, WHEN,
    },
    reference::MANIFEST_SECTIONS,
    tree::MAX_COUNT,
};
use crate::{decision::Action, detect, event::EventKind, signal::Kind};
use serde_json::{Map, Value, json};

const SHA256: &str = "^[0-9a-f]{64}$";
const DURATION: &str = r"^\s*[0-9.]+\s*(us|ms|s|m|min|h|d)(\s*[0-9.]+\s*(us|ms|s|m|min|h|d))*\s*$";

/// The schema, in the form of draft 7, which editors of TOML read.
pub fn schema() -> Value {
    let of_section = |name: &str| match name {
        "include" => {
            let of = |name: &str| {
                Some(if name == "sha256" { json!({ "type": "string", "pattern": SHA256 }) } else { text() })
            };
            json!({ "type": "array", "items": section(INCLUDE, INCLUDE, &of) })
        }
        "policy" => section(HEAD, &["name", "owner"], &head),
        "egress" => section(EGRESS, &["allow"], &egress),
        "exec" => section(EXEC, &["allow"], &|name| match name {
            "mode" => Some(choice(MODES)),
            "allow" => Some(texts()),
            _ => None,
        }),
        "limits" => {
            let count = |_: &str| Some(json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX }));
            with(section(LIMITS, &[], &count), "minProperties", json!(1))
        }
        "syscalls" => section(SYSCALLS, &["watch"], &|_| {
            let names: Vec<&str> = groups::names().collect();
            Some(json!({ "type": "array", "items": { "type": "string", "enum": names } }))
        }),
        "metrics" => section(METRICS, &[], &|_| Some(reference("duration"))),
        "derived" => section(DERIVED, &[], &derived),
        "rule" => json!({ "type": "array", "items": reference("rule") }),
        "template" => json!({ "type": "array", "items": template() }),
        "use" => {
            let of = |name: &str| Some(if name == "with" { json!({ "type": "object" }) } else { text() });
            json!({ "type": "array", "items": section(USE, &["template"], &of) })
        }
        _ => Value::Null,
    };
    let properties: Map<String, Value> = SECTIONS.iter().map(|name| ((*name).to_owned(), of_section(name))).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A policy of failsafe",
        "type": "object",
        "required": ["policy"],
        "properties": properties,
        "additionalProperties": false,
        "definitions": {
            "duration": { "type": "string", "pattern": DURATION },
            "name": { "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" },
            "bound": { "type": ["number", "string"] },
            "pattern": {
                "anyOf": [
                    { "type": ["string", "number"] },
                    { "type": "array", "minItems": 1, "items": { "type": ["string", "number"] } },
                ],
            },
            "signal": signal(),
            "rule": rule(),
            "when": when(),
        },
    })
}

type Of<'a> = &'a dyn Fn(&str) -> Option<Value>;

/// A table with these fields and no other. A field of which nothing is known is null, which the test refuses.
fn section(fields: &[&str], required: &[&str], of: Of<'_>) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|name| ((*name).to_owned(), of(name).unwrap_or_default())).collect();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

fn with(mut schema: Value, name: &str, value: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields.insert(name.to_owned(), value);
    }
    schema
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/definitions/{name}") })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn texts() -> Value {
    json!({ "type": "array", "items": { "type": "string" } })
}

fn choice<T>(choices: &[(&str, T)]) -> Value {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    json!({ "type": "string", "enum": names })
}

fn head(name: &str) -> Option<Value> {
    Some(match name {
        "name" => reference("name"),
        "version" => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
        "owner" | "description" => text(),
        "on_blind" => choice(ON_BLIND),
        "on_escape" => choice(ON_ESCAPE),
        "on_drift" => choice(ON_DRIFT),
        "on_dead_daemon" => choice(ON_DEAD),
        "dead_after" => reference("duration"),
        _ => return None,
    })
}

fn egress(name: &str) -> Option<Value> {
    let allow = |name: &str| {
        Some(match name {
            "cidr" | "host" => text(),
            "ports" => reference("pattern"),
            "protocol" => choice(PROTOCOLS),
            _ => return None,
        })
    };
    let budget = |name: &str| {
        Some(match name {
            "name" => reference("name"),
            "to" => texts(),
            "bytes" | "rate" => text(),
            _ => return None,
        })
    };
    Some(match name {
        "mode" => choice(MODES),
        "dns_servers" => texts(),
        "allow" => {
            let one = json!([{ "required": ["cidr"] }, { "required": ["host"] }]);
            json!({ "type": "array", "items": with(section(ALLOW, &[], &allow), "oneOf", one) })
        }
        "budget" => {
            let one = json!([{ "required": ["bytes"] }, { "required": ["rate"] }]);
            json!({ "type": "array", "items": with(section(BUDGET, &["name", "to"], &budget), "anyOf", one) })
        }
        _ => return None,
    })
}

fn derived(name: &str) -> Option<Value> {
    let share = |_: &str| Some(json!({ "type": "string", "pattern": "%" }));
    match DERIVED_SHARES.iter().find(|(known, _)| *known == name) {
        Some((_, fields)) => Some(section(fields, &[], &share)),
        None => Some(section(&["over"], &["over"], &|_| Some(reference("duration")))),
    }
}

fn signal() -> Value {
    let names: Vec<String> = Kind::ALL.iter().map(Kind::to_string).collect();
    json!({
        "type": "string",
        "anyOf": [{ "enum": names }, { "pattern": r"^metric\.[A-Za-z0-9_./-]{1,64}$" }],
    })
}

/// A template. What its rules are is known once its parameters are.
fn template() -> Value {
    let of = |name: &str| {
        Some(match name {
            "name" => text(),
            "parameters" => texts(),
            "defaults" => json!({ "type": "object" }),
            "rule" => {
                let any: Map<String, Value> = RULE.iter().map(|name| ((*name).to_owned(), json!(true))).collect();
                let rule = json!({ "type": "object", "properties": any, "additionalProperties": false });
                json!({ "type": "array", "items": rule })
            }
            _ => return None,
        })
    };
    section(TEMPLATE, &["name", "rule"], &of)
}

fn rule() -> Value {
    let of = |name: &str| {
        Some(match name {
            "id" => reference("name"),
            "rationale" => json!({ "type": "string", "minLength": 1 }),
            "owner" | "playbook" => text(),
            "severity" => choice(SEVERITIES),
            "confidence" => choice(CONFIDENCES),
            "labels" => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
            "mode" => choice(MODES),
            "effect" => json!({ "type": "string", "enum": ["observe", "deny", "stop"] }),
            "when" => reference("when"),
            "actions" => {
                let names: Vec<&str> = Action::IN_POLICY.iter().map(|action| action.name()).collect();
                json!({ "type": "array", "minItems": 1, "uniqueItems": true, "items": { "type": "string", "enum": names } })
            }
            "cooldown" => reference("duration"),
            _ => return None,
        })
    };
    section(RULE, &["id", "rationale", "when", "actions"], &of)
}

/// The fields of a condition, and which of them can stand together.
fn when() -> Value {
    let of = |name: &str| {
        Some(match name {
            "signal" => reference("signal"),
            "above" | "below" => json!({ "anyOf": [reference("bound"), relative()] }),
            "clear" => reference("bound"),
            "for" | "grace" | "stale" | "absent" | "within" | "keep_firing_for" => reference("duration"),
            "warm_up" => amount(),
            "over" | "rearm" => text(),
            "detect" => detector(),
            "is" => json!({ "const": "not-finite" }),
            "event" => {
                let names: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
                json!({ "type": "string", "enum": names })
            }
            "all" | "any" | "of" => json!({ "type": "array", "minItems": 1, "items": reference("when") }),
            "not" => reference("when"),
            "at_least" => json!({ "type": "integer", "minimum": 1 }),
            "count" => json!({ "type": "integer", "minimum": 2, "maximum": MAX_COUNT }),
            "phase" => choice(PHASES),
            "confidence" => choice(CONFIDENCES),
            field if OF_EVENTS.contains(&field) => reference("pattern"),
            _ => return None,
        })
    };
    let mut schema = section(WHEN, &[], &of);
    let forms = ["signal", "event", "all", "any", "not", "at_least", "phase"];
    let some: Vec<Value> = forms.iter().map(|name| json!({ "required": [name] })).collect();
    let judged: Vec<Value> =
        ["above", "below", "is", "absent", "detect"].iter().map(|name| json!({ "required": [name] })).collect();
    let mut together = vec![
        json!({ "not": { "required": ["signal", "event"] } }),
        json!({ "if": { "required": ["signal"] }, "then": { "anyOf": judged, "properties": none(OF_EVENTS) } }),
    ];
    together.extend(EventKind::ALL.iter().map(|kind| of_event(*kind)));
    schema = with(schema, "anyOf", Value::Array(some));
    let depends = json!({
        "at_least": ["of"], "of": ["at_least"], "within": ["event"], "count": ["event", "within"],
    });
    schema = with(schema, "dependencies", depends);
    with(schema, "allOf", Value::Array(together))
}

/// A time, or steps.
fn amount() -> Value {
    json!({ "anyOf": [reference("duration"), { "type": "string", "pattern": r"^\s*[0-9]+\s*steps?\s*$" }] })
}

/// A number of a run's manifest.
fn manifest_key() -> String {
    format!("^({})\\.[^/]{{1,128}}$", MANIFEST_SECTIONS.join("|"))
}

/// A bound that moves.
fn relative() -> Value {
    let of = |name: &str| {
        Some(match name {
            "first" => amount(),
            "statistic" => choice(STATISTICS),
            "signal" => reference("signal"),
            "manifest" => json!({ "type": "string", "pattern": manifest_key() }),
            "factor" => json!({ "type": "number", "exclusiveMinimum": 0 }),
            "offset" => reference("bound"),
            _ => return None,
        })
    };
    let one = json!([{ "required": ["first"] }, { "required": ["signal"] }, { "required": ["manifest"] }]);
    with(section(RELATIVE, &[], &of), "oneOf", one)
}

/// A method, or a table of it and its parameters.
fn detector() -> Value {
    let names: Vec<&str> = detect::ALL.iter().map(|spec| spec.name).collect();
    let method = json!({ "type": "string", "enum": names });
    let required = |spec: &detect::Spec| -> Vec<&str> {
        let without_default = spec.params.iter().filter(|param| param.shown_default().is_none());
        without_default.map(|param| param.name).collect()
    };
    let (mut alone, mut needs) = (Vec::new(), Vec::new());
    for spec in detect::ALL {
        match required(spec) {
            required if required.is_empty() => alone.push(spec.name),
            required => needs.push(json!({
                "if": { "properties": { "method": { "const": spec.name } } }, "then": { "required": required },
            })),
        }
    }
    let alone = json!({ "type": "string", "enum": alone });
    let params = detect::ALL.iter().flat_map(|spec| spec.params).map(|param| param.name);
    let mut properties: Map<String, Value> = params.map(|name| (name.to_owned(), reference("bound"))).collect();
    properties.insert("method".to_owned(), method);
    let table = json!({
        "type": "object", "required": ["method"], "properties": properties, "additionalProperties": false, "allOf": needs,
    });
    json!({ "anyOf": [alone, table] })
}

/// What can stand beside an event of a kind.
fn of_event(kind: EventKind) -> Value {
    let mut properties = Map::new();
    for name in OF_EVENTS {
        match kind.fields().iter().find(|field| field.name() == *name) {
            None => drop(properties.insert((*name).to_owned(), json!(false))),
            Some(field) => {
                let names = kind.closed_names(*field);
                if !names.is_empty() {
                    let one = json!({ "enum": names });
                    let many = json!({ "type": "array", "minItems": 1, "items": one });
                    properties.insert((*name).to_owned(), json!({ "anyOf": [one, many] }));
                }
            }
        }
    }
    for name in ["above", "below", "clear", "is", "for", "over", "absent", "detect"] {
        properties.insert(name.to_owned(), json!(false));
    }
    let is = json!({ "required": ["event"], "properties": { "event": { "const": kind.name() } } });
    json!({ "if": is, "then": { "properties": properties } })
}

fn none(names: &[&str]) -> Map<String, Value> {
    names.iter().map(|name| ((*name).to_owned(), json!(false))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field that the reader knows has a form; null is one that nobody thought of.
    #[test]
    fn every_field_of_the_reader_has_a_form() {
        fn nulls(value: &Value, path: &str, out: &mut Vec<String>) {
            match value {
                Value::Null => out.push(path.to_owned()),
                Value::Object(fields) => {
                    fields.iter().for_each(|(name, value)| nulls(value, &format!("{path}.{name}"), out))
                }
                Value::Array(items) => items.iter().for_each(|value| nulls(value, path, out)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        nulls(&schema(), "", &mut found);
        assert_eq!(found, Vec::<String>::new());
    }
}
