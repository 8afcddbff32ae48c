//! One pass: read the endpoint, choose, send, and what came of it.

use super::{
    get::{self, Missed},
    owner,
};
use crate::{
    args::{Endpoint, ScrapeArgs},
    commands::report::exchange,
    exit::{Exit, Fail},
    render::clean,
};
use failsafe_intake::{Taken, Value, Why, histogram::Earlier, prometheus};
use jiff::Timestamp;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A pass that ended well.
pub(super) struct Pass {
    /// Size of what was read.
    bytes: usize,
    /// Samples that no `--name` selects.
    not_selected: usize,
    /// What was sent.
    sent: Taken,
    /// What the daemon answered.
    pub answer: Answer,
}

/// `accepted A refused R [REASON]`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub accepted: u64,
    refused: u64,
    reason: Option<String>,
}

impl Answer {
    fn read(line: &str) -> Option<Answer> {
        let mut words = line.splitn(5, ' ');
        let mut number = |word: &str| (words.next() == Some(word)).then(|| words.next()?.parse().ok()).flatten();
        let (accepted, refused) = (number("accepted")?, number("refused")?);
        Some(Answer { accepted, refused, reason: words.next().map(clean) })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accepted {} refused {}", self.accepted, self.refused)?;
        self.reason.iter().try_for_each(|reason| write!(f, " {reason}"))
    }
}

/// The passes before.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// The listening sockets of the port.
    owner: BTreeSet<u64>,
    /// What they answered.
    earlier: Earlier,
}

impl Before {
    /// What these sockets answered before: the counts of another process do not go on.
    fn of(&self, owner: &BTreeSet<u64>) -> Earlier {
        if self.owner == *owner { self.earlier.clone() } else { Earlier::default() }
    }
}

pub(super) fn pass(args: &ScrapeArgs, before: &mut Before) -> Result<Pass, Fail> {
    let Endpoint { address, path } = &args.endpoint;
    let failed = |missed: Missed| match missed {
        Missed::Denied => Fail::new(
            Exit::Denied,
            format!(
                "cannot read {}: the policy of the run refuses the connection, or the run is cut off",
                args.endpoint
            ),
        )
        .advise(allowed(&args.endpoint)),
        Missed::Other(why) => Fail::new(Exit::Error, format!("cannot read {}: {why}", args.endpoint)),
    };
    let owner = owner::of(*address).map_err(|why| failed(why.into()))?;
    let body = get::get(*address, path).map_err(failed)?;
    if owner::of(*address).map_err(|why| failed(why.into()))? != owner {
        return Err(failed("another process took the port".to_owned().into()));
    }
    let wanted = |name: &str| args.names.is_empty() || args.names.iter().any(|pattern| selects(pattern, name));
    let mut earlier = before.of(&owner);
    let (sent, not_selected) = prometheus::selected(&body, &mut earlier, &wanted);
    let line = exchange(&args.metrics_socket, &lines(args.rank.as_deref(), &sent))?;
    // Only now: what did not arrive is part of the next interval.
    *before = Before { owner, earlier };
    let answer = Answer::read(&line)
        .ok_or_else(|| Fail::new(Exit::Error, format!("failsafed closed the connection with `{}`", clean(&line))))?;
    if answer.accepted == 0 && answer.refused > 0 {
        let reason = answer.reason.as_deref().unwrap_or("no reason is given");
        return Err(Fail::new(Exit::Error, format!("failsafed did not accept the values: {reason}")));
    }
    Ok(Pass { bytes: body.len(), not_selected, sent, answer })
}

/// What the policy of a run needs for its scraper.
pub(in crate::commands) fn allowed(Endpoint { address, .. }: &Endpoint) -> String {
    let (ip, port) = (address.ip(), address.port());
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    format!("allow it in [egress]: {{ cidr = \"{ip}/{whole}\", ports = [{port}], protocol = \"tcp\" }}")
}

/// One line of JSON. Its fields are a contract: see `docs/cli.md`.
pub(super) fn json(args: &ScrapeArgs, done: &Result<Pass, Fail>) -> serde_json::Value {
    let (time_ns, endpoint) = (i64::try_from(Timestamp::now().as_nanosecond()).ok(), args.endpoint.to_string());
    match done {
        Err(Fail { message, advice, .. }) => {
            json!({ "time_ns": time_ns, "endpoint": endpoint, "error": clean(message), "advice": advice })
        }
        Ok(Pass { bytes, not_selected, sent, answer }) => json!({
            "time_ns": time_ns,
            "endpoint": endpoint,
            "bytes": bytes,
            "not_selected": not_selected,
            "not_read": not_read(&sent.refused),
            "sent": sent.values.iter().map(value).collect::<Vec<_>>(),
            "accepted": answer.accepted,
            "refused": answer.refused,
            "reason": answer.reason,
        }),
    }
}

fn not_read(refused: &BTreeMap<Why, u64>) -> BTreeMap<&'static str, u64> {
    refused.iter().map(|(why, count)| (why.word(), *count)).collect()
}

fn value(value: &Value) -> serde_json::Value {
    // JSON has no number for NaN and infinities.
    let number = if value.value.is_finite() { json!(value.value) } else { json!(value.value.to_string()) };
    json!({ "name": value.name, "value": number, "step": value.step, "rank": value.rank })
}

fn lines(rank: Option<&str>, taken: &Taken) -> String {
    let rank = rank.map(|rank| format!("!rank {rank}\n")).unwrap_or_default();
    format!("{rank}{}?\n", taken.lines())
}

/// Ends of the names of what a histogram or a summary becomes.
const PARTS: [&str; 6] = [".p50", ".p90", ".p99", ".sample", "_sum", "_count"];

fn selects(pattern: &str, name: &str) -> bool {
    let is_it = |rest: &str| rest.is_empty() || rest.starts_with('/');
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        // Labels are a part of the name.
        None => name
            .strip_prefix(pattern)
            .is_some_and(|rest| is_it(rest) || PARTS.iter().filter_map(|part| rest.strip_prefix(part)).any(is_it)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;

    fn args() -> ScrapeArgs {
        match Args::try_parse_from(["failsafectl", "scrape", "127.0.0.1:9400", "--json"]).unwrap().command {
            Command::Scrape(args) => args,
            _ => panic!("not scrape"),
        }
    }

    #[test]
    fn a_name_selects_its_series_and_a_star_all_with_its_beginning() {
        assert!(selects("loss", "loss") && selects("loss", "loss/split/eval") && selects("lo*", "loss"));
        for part in ["t_sum", "t_count/op/x", "t.p99", "t.sample/op/x"] {
            assert!(selects("t", part), "{part}");
        }
        assert!(selects("t.p99", "t.p99/op/x") && !selects("t.p99", "t.p90") && !selects("t", "t.p999"));
        assert!(!selects("loss", "loss_total") && !selects("loss", "los") && !selects("a*", "loss"));
        let taken = prometheus::text(b"loss 2.5\nlo$s 1\n", &mut Earlier::default());
        assert_eq!(lines(Some("3"), &taken), "!rank 3\n!refused 1 name\nloss 2.5e0\n?\n");
    }

    #[test]
    fn another_process_at_the_port_begins_anew() {
        let served = |count: u64| format!("t_bucket{{le=\"1\"}} {count}\nt_bucket{{le=\"+Inf\"}} {count}\n");
        let values = |before: &Before, owner: u64| {
            let mut earlier = before.of(&[owner].into());
            prometheus::text(served(5).as_bytes(), &mut earlier).values.len()
        };
        let mut earlier = Earlier::default();
        prometheus::text(served(4).as_bytes(), &mut earlier);
        let before = Before { owner: [7].into(), earlier };
        assert_eq!((values(&before, 7), values(&before, 8)), (4, 0));
    }

    #[test]
    fn the_answer_of_the_daemon_is_read_with_its_reason() {
        let answer = Answer::read("accepted 3 refused 2 the name is too long").unwrap();
        assert_eq!((answer.accepted, answer.refused), (3, 2));
        assert_eq!(answer.to_string(), "accepted 3 refused 2 the name is too long");
        assert_eq!(Answer::read("accepted 3 refused 0").unwrap().to_string(), "accepted 3 refused 0");
        for bad in ["", "accepted", "accepted x refused 0", "refused 0 accepted 1", "accepted 1"] {
            assert_eq!(Answer::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_pass_is_one_line_of_json_with_what_was_read_and_sent() {
        let sent = prometheus::text(b"loss{step=\"7\",rank=\"0\"} 2.5\nacc NaN\nlo$s 1\n", &mut Earlier::default());
        let answer = Answer { accepted: 2, refused: 1, reason: Some("the name".into()) };
        let shown = json(&args(), &Ok(Pass { bytes: 40, not_selected: 1, sent, answer }));
        assert!(shown["time_ns"].as_i64().unwrap() > 0, "{shown}");
        assert_eq!(shown["sent"][0], json!({ "name": "loss", "value": 2.5, "step": 7, "rank": "0" }));
        assert_eq!(shown["sent"][1], json!({ "name": "acc", "value": "NaN", "step": null, "rank": null }));
        assert_eq!(shown["not_read"], json!({ "name": 1 }));
        let counts = ["bytes", "not_selected", "accepted", "refused"].map(|key| shown[key].as_u64().unwrap());
        assert_eq!(counts, [40, 1, 2, 1]);
        assert!(!shown.to_string().contains('\n'), "{shown}");
        let failed = json(&args(), &Err(Fail::new(Exit::Error, "nobody listens there")));
        assert_eq!(failed["error"], "nobody listens there");
        assert_eq!(failed["endpoint"], "http://127.0.0.1:9400/metrics");
    }
}
