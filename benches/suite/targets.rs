//! The aims, and whether they are met.

use crate::results::Results;
use crate::rig::Server::{Embedded, Floor, Nats, Postgres, SocketIo};

pub struct Target {
    pub what: &'static str,
    /// `None`: it was not measured.
    pub value: Option<f64>,
    /// Behind the numbers, such as " ms".
    pub unit: &'static str,
    pub target: f64,
    pub stretch: Option<f64>,
    pub is_at_most: bool,
}

impl Target {
    pub fn is_met(&self) -> Option<bool> {
        self.value.map(|value| self.holds(value, self.target))
    }

    pub fn is_stretch_met(&self) -> Option<bool> {
        Some(self.holds(self.value?, self.stretch?))
    }

    pub fn verdict(&self) -> &'static str {
        match (self.value, self.is_met()) {
            (Some(_), _) if self.is_stretch_met() == Some(true) => "met, and the stretch",
            (_, Some(true)) => "met",
            (_, Some(false)) => "**missed**",
            (_, None) => "not measured",
        }
    }

    fn holds(&self, value: f64, limit: f64) -> bool {
        if self.is_at_most { value <= limit } else { value >= limit }
    }
}

pub const CPU: &str = "/server/cpu_us_per_delivery";
const USER: &str = "/server/user_us_per_delivery";

/// In the order of the issue that set them.
pub fn all(results: &Results) -> Vec<Target> {
    let at_most = |what, value, unit, target, stretch| Target {
        what,
        value,
        unit,
        target,
        stretch,
        is_at_most: true,
    };
    let at_least = |what, value, target, stretch| Target {
        what,
        value,
        unit: "/s",
        target,
        stretch: Some(stretch),
        is_at_most: false,
    };
    let versus = |load, peer| results.ratio((load, Embedded), (load, peer), CPU);
    let ours = |load, path| results.median(load, Embedded, path);
    let one = |load, path| results.median(load, Postgres(1), path);
    let three = |load, path| results.median(load, Postgres(3), path);
    let slow = results.ratio(("slow-1", Embedded), ("slow-0", Embedded), "/delivery/p99");
    let seconds = |ms: Option<f64>| ms.map(|ms| ms / 1e3);
    let (s20, s300) = ("fanout-20", "fanout-300");
    vec![
        at_most(
            "CPU a delivery at 20/s, to nats-server's",
            versus(s20, Nats),
            "",
            0.55,
            Some(0.45),
        ),
        at_most(
            "CPU a delivery at 300/s, to nats-server's",
            versus(s300, Nats),
            "",
            0.85,
            Some(0.75),
        ),
        at_most("CPU a delivery at 20/s, to the floor's", versus(s20, Floor), "", 1.3, Some(1.1)),
        at_most("CPU a delivery at 300/s, to the floor's", versus(s300, Floor), "", 1.3, Some(1.1)),
        at_most("user CPU a delivery at 20/s", ours(s20, USER), " µs", 1.5, Some(0.7)),
        at_most(
            "CPU a delivery at 20/s, to Socket.IO's",
            versus(s20, SocketIo),
            "",
            0.5,
            Some(0.43),
        ),
        at_most(
            "memory of an idle joined connection, of 15,000",
            ours("idle-15000", "/server/kib_per_connection"),
            " KiB",
            4.0,
            Some(2.0),
        ),
        at_most(
            "CPU of an idle connection, pings and all",
            ours("idle-pings", "/server/cpu_us_per_connection_s"),
            " µs/s",
            2.0,
            Some(0.7),
        ),
        at_least(
            "acked messages, PostgreSQL, 64 rooms",
            one("write-64", "/acks_per_s"),
            12e3,
            20e3,
        ),
        at_least("acked messages, PostgreSQL, one room", one("write-1", "/acks_per_s"), 12e3, 25e3),
        at_most("ack at 500/s, PostgreSQL, p50", one("ack-500", "/ack/p50"), " ms", 2.0, None),
        at_most(
            "ack at 500/s, PostgreSQL, p99",
            one("ack-500", "/ack/p99"),
            " ms",
            10.0,
            Some(5.0),
        ),
        at_most(
            "commit to delivery on other nodes at 500/s, p50",
            three("cross-500", "/commit_far/p50"),
            " ms",
            1.5,
            None,
        ),
        at_most(
            "commit to delivery on other nodes at 500/s, p99",
            three("cross-500", "/commit_far/p99"),
            " ms",
            10.0,
            None,
        ),
        at_most(
            "commit to delivery on other nodes at 1,000/s, p50",
            three("cross-1000-all", "/commit_far/p50"),
            " ms",
            5.0,
            None,
        ),
        at_most(
            "commit to delivery on other nodes at 1,000/s, p99",
            three("cross-1000-all", "/commit_far/p99"),
            " ms",
            50.0,
            None,
        ),
        at_most(
            "storm of 10,000, PostgreSQL, all back and whole",
            one("storm", "/seconds"),
            " s",
            10.0,
            Some(4.0),
        ),
        at_most(
            "kill -9 of one of 3 nodes, 5,000 clients, all back and whole",
            seconds(three("kill", "/returns/max")),
            " s",
            5.0,
            Some(1.5),
        ),
        at_most("p99 with 1 % of followers stuck, to none stuck", slow, "", 1.1, None),
        at_least("acked messages, SQLite", ours("write-64", "/acks_per_s"), 20e3, 50e3),
    ]
}
