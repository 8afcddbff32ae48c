//! Series of the notifications.

use super::families::Families;
use crate::notify::{Seen, TargetCounts};
use std::sync::atomic::Ordering;

/// Adds them.
pub fn add(families: &mut Families, seen: &Seen) {
    let flag = |flag: &std::sync::atomic::AtomicBool| f64::from(u8::from(flag.load(Ordering::Relaxed)));
    let reads = "Whether events are read for notifications now.";
    families.gauge("failsafe_gateway_notifications_up", reads, flag(&seen.reads));
    let stores = "Whether notifications are stored on disk. At 0 they are in memory only.";
    families.gauge("failsafe_gateway_notifications_stored", stores, flag(&seen.stores));
    let forgotten = seen.forgotten.load(Ordering::Relaxed) as f64;
    let help = "Open incidents that were forgotten because there were too many.";
    families.counter("failsafe_gateway_notifications_forgotten_incidents_total", help, forgotten);
    let all: Vec<TargetCounts<'_>> = seen.targets().collect();
    type Count = fn(&TargetCounts<'_>) -> f64;
    let counters: [(&str, &str, Count); 4] = [
        ("failsafe_gateway_notifications_sent_total", "Messages that the target took.", |it| it.sent as f64),
        ("failsafe_gateway_notifications_failed_total", "Attempts that failed.", |it| it.failed as f64),
        ("failsafe_gateway_notifications_refused_total", "Messages that the target refused for ever.", |it| {
            it.refused as f64
        }),
        ("failsafe_gateway_notifications_dropped_total", "Messages that were lost: queue full, or too old.", |it| {
            it.dropped as f64
        }),
    ];
    for (name, help, count) in counters {
        let mut family = families.counters(name, help);
        all.iter().for_each(|it| family.with(&[("target", it.name)], count(it)));
    }
    let gauges: [(&str, &str, Count); 2] = [
        ("failsafe_gateway_notifications_queued", "Messages that wait.", |it| it.queued as f64),
        ("failsafe_gateway_notifications_oldest_age_seconds", "Age of the oldest message that waits; 0: none.", |it| {
            it.oldest_s
        }),
    ];
    for (name, help, count) in gauges {
        let mut family = families.gauges(name, help);
        all.iter().for_each(|it| family.with(&[("target", it.name)], count(it)));
    }
}
