//! The result of a run: what was requested, what was measured, and whether anything is missing. As
//! a table for people, and as JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use super::plan::Plan;
use super::process::Usage;
use super::tally::{Latencies, Percentiles, Tally};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub shape: &'static str,
    pub dialect: &'static str,
    pub urls: Vec<String>,
    pub clients: usize,
    pub rooms: usize,
    pub rate: f64,
    pub size: usize,
    pub in_flight: usize,
    /// How long the measurement took.
    pub seconds: f64,
    /// Messages of the whole run, including the warm-up.
    pub sent: u64,
    /// `None`: the dialect has no acks.
    pub acked: Option<u64>,
    pub refused: u64,
    pub unanswered: u64,
    pub delivered: u64,
    /// How many of the delivered messages came with a resume.
    pub replayed: u64,
    /// Events that followers should have received and did not. Must be 0.
    pub missing: u64,
    pub duplicates: u64,
    /// Connections that ended unexpectedly.
    pub lost: u64,
    /// During the measurement.
    pub deliveries_per_s: f64,
    pub acks_per_s: f64,
    /// From when a message was due until a follower had it.
    pub delivery: Percentiles,
    /// The same, only for followers on the sender's node, and only for those on other nodes.
    pub near: Percentiles,
    pub far: Percentiles,
    /// From when a message was due to its ack.
    pub ack: Percentiles,
    /// How late the generator sent messages; part of the latencies above.
    pub late: Percentiles,
    /// From the loss of a connection until everything missed was read.
    pub returns: Percentiles,
    pub server: Option<Server>,
    /// The first thing that went wrong.
    pub trouble: Option<String>,
}

/// What the server's processes used during the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Server {
    pub cpu_percent: f64,
    pub cpu_us_per_delivery: Option<f64>,
    pub user_us_per_delivery: Option<f64>,
    pub system_us_per_delivery: Option<f64>,
    pub cpu_us_per_command: Option<f64>,
    /// CPU microseconds per second.
    pub cpu_us_per_connection_s: f64,
    pub resident_kib: u64,
    /// The memory that each connection added.
    pub kib_per_connection: f64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub nanos: u64,
    pub acked: u64,
    pub delivered: u64,
    pub usage: Usage,
}

/// What a report is made from.
pub struct Measured {
    /// Before the first connection, and when all were open.
    pub empty: Usage,
    pub full: Usage,
    pub from: Sample,
    pub until: Sample,
    pub late: Latencies,
    pub tally: Tally,
    pub sent: u64,
    /// At the very end.
    pub acked: u64,
    pub delivered: u64,
    pub refused: u64,
    pub lost: u64,
    pub trouble: Option<String>,
}

impl Report {
    pub fn new(
        plan: &Plan,
        dialect: &'static str,
        has_acks: bool,
        has_pids: bool,
        run: &Measured,
    ) -> Self {
        let seconds = (run.until.nanos - run.from.nanos) as f64 / 1e9;
        let per_s = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let mut delivery = run.tally.near.clone();
        delivery.add(&run.tally.far);
        Self {
            shape: plan.shape.name(),
            dialect,
            urls: plan.targets.iter().map(|target| target.url.clone()).collect(),
            clients: plan.clients.len(),
            rooms: plan.rooms.len(),
            rate: plan.rate,
            size: plan.size,
            in_flight: plan.in_flight,
            seconds,
            sent: run.sent,
            acked: has_acks.then_some(run.acked),
            refused: run.refused,
            unanswered: if has_acks { run.sent.saturating_sub(run.acked + run.refused) } else { 0 },
            delivered: run.delivered,
            replayed: run.tally.replayed,
            missing: run.tally.holes + run.tally.short,
            duplicates: run.tally.duplicates,
            lost: run.lost,
            deliveries_per_s: per_s(run.until.delivered - run.from.delivered),
            acks_per_s: per_s(run.until.acked - run.from.acked),
            delivery: delivery.percentiles(),
            near: run.tally.near.percentiles(),
            far: run.tally.far.percentiles(),
            ack: run.tally.acks.percentiles(),
            late: run.late.percentiles(),
            returns: run.tally.returns.percentiles(),
            server: has_pids.then(|| Server::new(plan.clients.len(), seconds, run)),
            trouble: run.trouble.clone(),
        }
    }

    /// Every message arrived everywhere, once, and no connection was lost.
    pub fn is_whole(&self) -> bool {
        let wrong = self.missing + self.duplicates + self.refused + self.unanswered + self.lost;
        wrong == 0 && self.trouble.is_none()
    }

    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String does not fail.
            let _ = writeln!(out, "{name:<12} {value}");
        };
        line(
            "shape",
            format!(
                "{}: {} connections, {} rooms, {} bytes, {} for {:.1} s",
                self.shape,
                self.clients,
                self.rooms,
                self.size,
                match self.rate {
                    0.0 => format!("{} in flight each", self.in_flight),
                    rate => format!("{rate} messages/s"),
                },
                self.seconds
            ),
        );
        line("sent", self.sent.to_string());
        if let Some(acked) = self.acked {
            let wrong = format!("{} refused, {} unanswered", self.refused, self.unanswered);
            line("acked", format!("{acked}, {wrong}; {:.0}/s", self.acks_per_s));
        }
        if self.delivered > 0 {
            let rate = self.deliveries_per_s;
            line(
                "delivered",
                format!("{}; {rate:.0}/s; {} replayed", self.delivered, self.replayed),
            );
        }
        line(
            "missing",
            format!("{}, {} doubled, {} lost", self.missing, self.duplicates, self.lost),
        );
        let latencies = [
            ("delivery", &self.delivery),
            ("  own node", &self.near),
            ("  others", &self.far),
            ("ack", &self.ack),
            ("return", &self.returns),
            ("left late", &self.late),
        ];
        let many = self.urls.len() > 1;
        let shown = |name: &str, latency: &Percentiles| {
            latency.count > 0 && (many || !name.starts_with(' '))
        };
        line(
            "latency, ms",
            format!("{:>9}{:>9}{:>9}{:>9}{:>9}", "p50", "p90", "p99", "p99.9", "max"),
        );
        for (name, latency) in latencies {
            if shown(name, latency) {
                line(name, row(latency));
            }
        }
        if let Some(server) = &self.server {
            line("server", server.text());
        }
        if let Some(trouble) = &self.trouble {
            line("trouble", trouble.trim_end().to_owned());
        }
        out
    }
}

fn row(latency: &Percentiles) -> String {
    let Percentiles { p50, p90, p99, p99_9, max, .. } = latency;
    format!("{p50:>9.2}{p90:>9.2}{p99:>9.2}{p99_9:>9.2}{max:>9.2}")
}

impl Server {
    fn new(clients: usize, seconds: f64, run: &Measured) -> Self {
        let (from, until) = (&run.from, &run.until);
        let user = (until.usage.user_us - from.usage.user_us) as f64;
        let system = (until.usage.system_us - from.usage.system_us) as f64;
        let per = |what: f64, count: u64| (count > 0).then(|| what / count as f64);
        let deliveries = until.delivered - from.delivered;
        let grown = run.full.resident_kib as f64 - run.empty.resident_kib as f64;
        let seconds = seconds.max(1e-9);
        Self {
            cpu_percent: (user + system) / 1e4 / seconds,
            cpu_us_per_delivery: per(user + system, deliveries),
            user_us_per_delivery: per(user, deliveries),
            system_us_per_delivery: per(system, deliveries),
            cpu_us_per_command: per(user + system, until.acked - from.acked),
            cpu_us_per_connection_s: (user + system) / clients as f64 / seconds,
            resident_kib: until.usage.resident_kib,
            kib_per_connection: grown / clients as f64,
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{:.0} % CPU", self.cpu_percent);
        let us = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        if self.cpu_us_per_delivery.is_some() {
            text.push_str(&format!(
                ", {} us a delivery (user {}, system {})",
                us(self.cpu_us_per_delivery),
                us(self.user_us_per_delivery),
                us(self.system_us_per_delivery)
            ));
        }
        if self.cpu_us_per_command.is_some() {
            text.push_str(&format!(", {} us a command", us(self.cpu_us_per_command)));
        }
        text.push_str(&format!(
            "\n{:13}{} KiB resident, {:.1} KiB a connection, {:.2} us/s CPU a connection",
            "", self.resident_kib, self.kib_per_connection, self.cpu_us_per_connection_s
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Ten seconds in which 100 connections had 200 messages and 20,000 deliveries, and the server
    /// used 3 s of user time and 1 s of system time.
    fn measured() -> Measured {
        let usage = |user_us, system_us, resident_kib| Usage { user_us, system_us, resident_kib };
        let mut tally = Tally::default();
        for ms in 1..=100 {
            tally.near.record(ms * SECOND / 1000);
        }
        Measured {
            empty: usage(0, 0, 10_000),
            full: usage(0, 0, 10_500),
            from: Sample { nanos: SECOND, acked: 40, delivered: 4000, usage: usage(7, 8, 1) },
            until: Sample {
                nanos: 11 * SECOND,
                acked: 240,
                delivered: 24_000,
                usage: usage(3_000_007, 1_000_008, 12_000),
            },
            late: Latencies::default(),
            tally,
            sent: 250,
            acked: 250,
            delivered: 25_000,
            refused: 0,
            lost: 0,
            trouble: None,
        }
    }

    fn report(run: &Measured) -> Report {
        let plan = Plan::typed("fanout --clients 99").unwrap();
        Report::new(&plan, "verbatim", true, true, run)
    }

    fn near(value: f64, wanted: f64) {
        assert!((value / wanted - 1.0).abs() < 0.001, "{value} is not {wanted}");
    }

    #[test]
    fn what_a_delivery_costs_is_counted_within_the_window() {
        let report = report(&measured());
        assert_eq!(report.clients, 100, "99 followers and a sender");
        near(report.seconds, 10.0);
        near(report.deliveries_per_s, 2000.0);
        near(report.acks_per_s, 20.0);
        let server = report.server.unwrap();
        near(server.cpu_percent, 40.0);
        near(server.cpu_us_per_delivery.unwrap(), 200.0);
        near(server.user_us_per_delivery.unwrap(), 150.0);
        near(server.system_us_per_delivery.unwrap(), 50.0);
        near(server.cpu_us_per_command.unwrap(), 20_000.0);
        near(server.cpu_us_per_connection_s, 4000.0);
        near(server.kib_per_connection, 5.0);
        assert_eq!(server.resident_kib, 12_000);
    }

    #[test]
    fn percentiles_are_of_the_waits() {
        let delivery = report(&measured()).delivery;
        assert_eq!(delivery.count, 100);
        for (value, wanted) in [
            (delivery.p50, 50.0),
            (delivery.p90, 90.0),
            (delivery.p99, 99.0),
            (delivery.p99_9, 100.0),
            (delivery.max, 100.0),
        ] {
            near(value, wanted);
        }
    }

    #[test]
    fn nothing_delivered_costs_nothing_a_delivery() {
        let mut run = measured();
        (run.until.delivered, run.until.acked) = (run.from.delivered, run.from.acked);
        let server = report(&run).server.unwrap();
        assert_eq!((server.cpu_us_per_delivery, server.cpu_us_per_command), (None, None));
    }

    #[test]
    fn whatever_is_wrong_makes_it_not_whole() {
        assert!(report(&measured()).is_whole());
        let wrongs: [fn(&mut Measured); 7] = [
            |run| run.tally.holes = 1,
            |run| run.tally.short = 1,
            |run| run.tally.duplicates = 1,
            |run| run.acked -= 1,
            |run| (run.acked, run.refused) = (249, 1),
            |run| run.lost = 1,
            |run| run.trouble = Some("x".to_owned()),
        ];
        for (index, wrong) in wrongs.into_iter().enumerate() {
            let mut run = measured();
            wrong(&mut run);
            assert!(!report(&run).is_whole(), "wrong {index}");
        }
        let mut run = measured();
        (run.tally.holes, run.tally.short) = (2, 3);
        assert_eq!(report(&run).missing, 5);
    }

    #[test]
    fn the_table_says_what_there_is() {
        let table = report(&measured()).table();
        assert!(table.contains("missing      0, 0 doubled, 0 lost\n"), "{table}");
        assert!(table.contains("200.00 us a delivery (user 150.00, system 50.00)"), "{table}");
        assert!(!table.contains("own node"), "there is one node only: {table}");
    }
}
