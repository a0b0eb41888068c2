//! What a node says of itself at /metrics: histograms, and their percentiles as far as their
//! buckets tell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// A histogram: cumulative counts by upper bound, as Prometheus has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    pub fn of(node: SocketAddr, name: &str) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&node, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let mut buckets = Vec::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name) else { continue };
            let Some(rest) = rest.strip_prefix("_bucket{le=\"") else { continue };
            let (bound, count) = rest.split_once("\"} ").context("a strange bucket")?;
            let bound = bound.parse().unwrap_or(f64::INFINITY);
            buckets.push((bound, count.parse()?));
        }
        anyhow::ensure!(!buckets.is_empty(), "{node} has no {name}");
        Ok(Self(buckets))
    }

    /// What came since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let both = self.0.iter().zip(&before.0);
        Self(both.map(|((bound, now), (_, then))| (*bound, now - then)).collect())
    }

    pub fn add(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0 = other.0.clone();
            return;
        }
        for ((_, count), (_, more)) in self.0.iter_mut().zip(&other.0) {
            *count += more;
        }
    }

    /// In milliseconds: the upper bound of the bucket that the percentile is in.
    pub fn at_most_ms(&self, share: f64) -> f64 {
        let all = self.0.last().map_or(0.0, |(_, count)| *count);
        let bucket = self.0.iter().find(|(_, count)| *count >= all * share);
        bucket.map_or(f64::NAN, |(bound, _)| bound * 1e3)
    }
}
