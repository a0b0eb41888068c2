//! The result of a run, as text for people.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Verified;
use super::recorder::Recorder;

/// Violations that are shown with the events around them. The first are the most useful.
const SHOWN_MAX: usize = 5;

/// The progress line of a running test.
pub fn progress(recorder: &Recorder, elapsed: Duration, planned: Duration) -> String {
    let counters = &recorder.counters;
    let count = |counter: &std::sync::atomic::AtomicU64| thousands(counter.load(Ordering::Relaxed));
    format!(
        "{} of {} s: {} acked, {} unavailable, {} deliveries, {} reconnects",
        elapsed.as_secs().min(planned.as_secs()),
        planned.as_secs(),
        count(&counters.acked),
        count(&counters.unavailable),
        count(&counters.deliveries),
        count(&counters.reconnects),
    )
}

/// The table at the end, and the violations.
pub fn table(verified: &Verified) -> String {
    let Verified { history, report, reconnects, troubles } = verified;
    let counts = &report.counts;
    let heal = Duration::from_nanos(counts.heal);
    let rows = [
        ("rooms", thousands(counts.rooms as u64)),
        ("connections", thousands(counts.connections as u64)),
        ("commands sent", thousands(counts.commands as u64)),
        ("  of which acked", thousands(counts.acked as u64)),
        ("  of which unknown", thousands(counts.indeterminate as u64)),
        ("events in the log", thousands(counts.events as u64)),
        ("deliveries checked", thousands(counts.deliveries as u64)),
        ("pages of history checked", thousands(counts.pages as u64)),
        ("reconnects", thousands(*reconnects)),
        ("until everybody had everything", format!("{} ms", heal.as_millis())),
        ("violations", thousands((report.total() + troubles.len()) as u64)),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "  {name:<32} {value:>12}");
    }
    for (rule, count) in &report.totals {
        let _ = writeln!(text, "    {rule:<30} {count:>12}");
    }
    for trouble in troubles {
        let _ = writeln!(text, "    {trouble}");
    }
    for violation in report.violations.iter().take(SHOWN_MAX) {
        let _ = write!(text, "\n{}", violation.context(history));
    }
    text
}

/// 1234567 as 1,234,567.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let check = |number, text: &str| assert_eq!(thousands(number), text);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(1_234_567, "1,234,567");
    }
}
