//! Nanoseconds a call, measured in batches: the median batch says what a call costs, the fastest what it costs
//! undisturbed.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Repeats `call` in batches for `length` and says what one call took, as a JSON object with `calls`, `seconds`, `ns_median`
/// and `ns_min`.
pub fn measure(length: Duration, batch: u32, mut call: impl FnMut()) -> Value {
    let batch = batch.max(1);
    let mut per_call: Vec<f64> = Vec::new();
    let start = Instant::now();
    while per_call.is_empty() || start.elapsed() < length {
        let begin = Instant::now();
        for _ in 0..batch {
            call();
        }
        per_call.push(begin.elapsed().as_nanos() as f64 / f64::from(batch));
    }
    let seconds = start.elapsed().as_secs_f64();
    per_call.sort_by(f64::total_cmp);
    json!({
        "calls": per_call.len() as u64 * u64::from(batch),
        "seconds": seconds,
        "ns_median": per_call[per_call.len() / 2],
        "ns_min": per_call[0],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted() {
        let mut n = 0u64;
        let timing = measure(Duration::from_millis(5), 10, || n += 1);
        assert_eq!(timing["calls"], n);
        assert!(n >= 10 && timing["ns_min"].as_f64() <= timing["ns_median"].as_f64());
    }
}
