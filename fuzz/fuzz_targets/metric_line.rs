//! Datagrams and lines with metrics of runs, as the daemon reads them from its socket.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parse::{Line, MAX_LINES, parse};

fuzz_target!(|bytes: &[u8]| {
    let (lines, _refused) = parse(bytes);
    assert!(lines.len() <= MAX_LINES);
    for line in lines {
        let Line { name, value, step, rank } = &line;
        assert!(failsafe_core::signal::metric_name(name), "{line:?}");
        let step = step.map_or_else(String::new, |step| format!(" {step}"));
        let rank = rank.as_ref().map_or_else(String::new, |rank| format!(" rank={}", label(rank)));
        let written = format!("{name} {value}{step}{rank}");
        let again = parse::line(&written).expect("a line that was read is read again");
        assert_eq!(format!("{again:?}"), format!("{line:?}"));
    }
});

fn label(series: &failsafe_core::signal::Series) -> &str {
    match series {
        failsafe_core::signal::Series::Rank(label) => label,
        other => panic!("a line names {other:?}"),
    }
}

#[expect(dead_code, reason = "the daemon reads datagrams of that size at most")]
#[path = "../../daemon/src/sensors/metrics/parse.rs"]
mod parse;
