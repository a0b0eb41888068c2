//! What one thread of a run has counted and measured.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Durations in nanoseconds, with three significant digits.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

/// In milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// When a message reached a follower.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub room: u32,
    pub seq: u64,
    pub from: u8,
    pub to: u8,
    /// Nanoseconds since the beginning.
    pub sent: u64,
    pub arrived: u64,
}

#[derive(Default)]
pub struct Tally {
    /// From when a message was due until a follower on the sender's node had it, or one on another.
    pub near: Latencies,
    pub far: Latencies,
    /// From when a message was due to its ack.
    pub acks: Latencies,
    /// From the loss of a connection, or from `Order::Return`, until everything missed was read.
    pub returns: Latencies,
    /// Messages that came with a resume.
    pub replayed: u64,
    pub duplicates: u64,
    /// Events that were skipped.
    pub holes: u64,
    /// Events that followers lacked at the end.
    pub short: u64,
    /// Kept only with `--arrivals`.
    pub arrivals: Option<Vec<Arrival>>,
}

impl Default for Latencies {
    fn default() -> Self {
        /// An hour; longer durations count as an hour.
        const NANOS_MAX: u64 = 3_600_000_000_000;
        let histogram = Histogram::new_with_bounds(1000, NANOS_MAX, 3);
        Self(histogram.expect("bounds and digits are constants that it accepts"))
    }
}

impl Latencies {
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub fn percentiles(&self) -> Percentiles {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        Percentiles {
            count: self.0.len(),
            p50: ms(self.0.value_at_quantile(0.5)),
            p90: ms(self.0.value_at_quantile(0.9)),
            p99: ms(self.0.value_at_quantile(0.99)),
            p99_9: ms(self.0.value_at_quantile(0.999)),
            max: ms(self.0.max()),
        }
    }
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.near.add(&other.near);
        self.far.add(&other.far);
        self.acks.add(&other.acks);
        self.returns.add(&other.returns);
        self.replayed += other.replayed;
        self.duplicates += other.duplicates;
        self.holes += other.holes;
        self.short += other.short;
        if let Some(arrivals) = other.arrivals {
            self.arrivals.get_or_insert_default().extend(arrivals);
        }
    }
}
