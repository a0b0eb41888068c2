//! `/metrics`: a strict reading of its format, the names that are promised, and what they count.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::json;

use super::{header, upgrade};
use crate::harness::http::Http;
use crate::harness::node::TestNode;
use crate::harness::raw::get;
use crate::harness::{PATIENCE, World, on_both_logs};

on_both_logs!(
    metrics_pass_a_strict_reader_and_have_the_promised_names,
    metrics_count_what_happens,
    connections_of_http_are_counted_beside_websockets,
);

/// Every label there may be. None is for a room or a user, so the series do not grow with use.
const LABELS: [&str; 11] = [
    "type", "result", "reason", "code", "source", "kind", "route", "method", "status", "budget",
    "le",
];

struct Family {
    kind: String,
    /// By name and labels as they stand there.
    samples: BTreeMap<String, f64>,
}

/// Reads the OpenMetrics text format (1.0.0) and accepts nothing that the standard does not.
fn read(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let (mut current, mut ended) = (String::new(), false);
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        assert!(!ended, "after # EOF: {line}");
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<_> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["EOF"] => ended = true,
                ["HELP", name, help] => {
                    assert!(!help.is_empty() && !families.contains_key(name), "{line}");
                    name.clone_into(&mut current);
                }
                ["TYPE", name, kind] => {
                    assert_eq!(name, current, "TYPE without its HELP");
                    assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                    let family = Family { kind: kind.to_owned(), samples: BTreeMap::new() };
                    assert!(families.insert(name.to_owned(), family).is_none(), "{line}");
                }
                ["UNIT", name, unit] => {
                    assert!(name == current && name.ends_with(&format!("_{unit}")), "{line}");
                    assert!(["seconds", "bytes"].contains(&unit), "not a base unit: {line}");
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let family = families.get_mut(&current).expect(line);
        let name = series.split('{').next().unwrap();
        let suffixes: &[&str] = match &*family.kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let suffix = name.strip_prefix(&*current).expect(line);
        assert!(suffixes.contains(&suffix), "{line}");
        for label in labels(series) {
            assert!(LABELS.contains(&&*label), "{line}");
        }
        let value: f64 = value.parse().expect(line);
        assert!(family.samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }
    assert!(ended, "no # EOF");
    families.values().for_each(check_histogram);
    families
}

/// The names of a series' labels; none of our values has a comma or a brace.
fn labels(series: &str) -> Vec<String> {
    let Some((_, labels)) = series.split_once('{') else { return Vec::new() };
    let labels = labels.strip_suffix('}').expect(series);
    labels
        .split(',')
        .map(|label| {
            let (name, value) = label.split_once("=\"").expect(series);
            let value = value.strip_suffix('"').expect(series);
            assert!(!value.contains(['"', '\\', '\n']), "{series}");
            name.to_owned()
        })
        .collect()
}

/// Buckets are cumulative, and the last one counts everything.
fn check_histogram(family: &Family) {
    let of = |suffix: &'static str| {
        let samples = family.samples.iter();
        samples.filter(move |(series, _)| series.contains(suffix))
    };
    let le = |series: &str| -> f64 {
        series.split("le=\"").nth(1).unwrap().trim_end_matches("\"}").parse().unwrap()
    };
    let mut buckets: Vec<_> = of("_bucket{").map(|(series, n)| (le(series), *n)).collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(buckets.is_sorted_by_key(|bucket| bucket.1));
    let last = buckets.last().map(|bucket| (bucket.0, Some(bucket.1)));
    let count = of("_count").next().map(|(_, n)| *n);
    assert_eq!(last.unwrap_or((f64::INFINITY, count)), (f64::INFINITY, count));
}

async fn scrape(node: &TestNode) -> BTreeMap<String, Family> {
    let (head, body) = get(node.addr, "/metrics").await;
    assert_eq!(head.status, 200);
    let kind = header(&head, "content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    read(&body)
}

/// Makes everything happen that can be made to happen without a fault.
async fn use_it(node: &TestNode) {
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    for command in [
        json!({"type": "create", "user_id": "secret-user", "room": "secret-room", "id": "c1"}),
        json!({"type": "create", "user_id": "secret-user", "room": "secret-room", "id": "c1"}),
        json!({"type": "message", "user_id": "secret-user", "room": "secret-room", "message": "x"}),
        json!({"type": "message", "user_id": "secret-user", "room": "none", "message": "x"}),
        json!({"type": "nonsense of the client"}),
    ] {
        ann.send(command).await;
        ann.next().await;
    }
    let join = json!({"type": "join", "user_id": "secret-user", "room": "secret-room", "since": 0});
    bob.send(join).await;
    bob.read_until(json!({"type": "message"})).await;
    bob.send(json!({"type": "message", "user_id": "secret-user", "room": "secret-room",
        "message": "live"}))
        .await;
    bob.expect(json!({"type": "message"})).await;
    ann.send_binary(vec![0]).await;
    ann.expect_close(1003).await;
    upgrade(node.addr, "Origin: https://foreign.example\r\n").await;
    // Whatever is counted behind an answer is counted by the time of the next.
    bob.expect_nothing().await;
}

async fn metrics_pass_a_strict_reader_and_have_the_promised_names(world: World) {
    let node = world.node().await;
    scrape(&node).await;
    use_it(&node).await;
    let families = scrape(&node).await;
    let names: BTreeSet<_> = families.keys().map(String::as_str).collect();
    for (name, kind) in [
        ("verbatim_connections", "gauge"),
        ("verbatim_connections_admitted", "gauge"),
        ("verbatim_connections_refused", "counter"),
        ("verbatim_sockets_closed", "counter"),
        ("verbatim_follows", "gauge"),
        ("verbatim_rooms_followed", "gauge"),
        ("verbatim_commands", "counter"),
        ("verbatim_commit_batch_size", "histogram"),
        ("verbatim_commit_duration_seconds", "histogram"),
        ("verbatim_commit_to_delivery_seconds", "histogram"),
        ("verbatim_deliveries", "counter"),
        ("verbatim_catch_ups", "counter"),
        ("verbatim_queue_bytes", "gauge"),
        ("verbatim_budget_bytes", "gauge"),
        ("verbatim_budget_max_bytes", "gauge"),
        ("verbatim_evicted", "counter"),
        ("verbatim_presence_rooms", "gauge"),
        ("verbatim_signals_skipped", "counter"),
        ("verbatim_signals_lost", "counter"),
        ("verbatim_read_marks", "counter"),
    ] {
        assert_eq!(families.get(name).map(|family| &*family.kind), Some(kind), "{name}: {names:?}");
    }
    assert!(names.iter().all(|name| name.starts_with("verbatim_")), "{names:?}");
    let (_, text) = get(node.addr, "/metrics").await;
    for secret in ["secret-room", "secret-user", "nonsense of the client"] {
        assert!(!text.contains(secret), "{secret} is in the metrics");
    }
}

async fn metrics_count_what_happens(world: World) {
    let node = world.node().await;
    let _idle = node.client().await;
    use_it(&node).await;
    let mut bob = node.client().await;
    bob.send(json!({"type": "join", "user_id": "secret-user", "room": "secret-room"})).await;
    bob.expect(json!({"type": "joined"})).await;
    bob.expect_nothing().await;
    let families = scrape(&node).await;
    let sample = |series: &str| {
        let all = families.values().find_map(|family| family.samples.get(series));
        *all.unwrap_or_else(|| panic!("no {series}"))
    };
    for (series, value) in [
        (r#"verbatim_commands_total{type="create",result="ok"}"#, 1.0),
        (r#"verbatim_commands_total{type="create",result="duplicate"}"#, 1.0),
        (r#"verbatim_commands_total{type="message",result="ok"}"#, 2.0),
        (r#"verbatim_commands_total{type="message",result="room_not_found"}"#, 1.0),
        (r#"verbatim_commands_total{type="unknown",result="unknown_type"}"#, 1.0),
        (r#"verbatim_commands_total{type="join",result="ok"}"#, 2.0),
        (r#"verbatim_sockets_closed_total{code="1003"}"#, 1.0),
        (r#"verbatim_connections_refused_total{reason="origin"}"#, 1.0),
        ("verbatim_rooms_followed", 1.0),
        ("verbatim_queue_bytes", 0.0),
        // One create, two messages to a room that is there.
        ("verbatim_commit_to_delivery_seconds_count", 1.0),
    ] {
        assert_eq!(sample(series), value, "{series}");
    }
    assert!(sample("verbatim_connections") >= 2.0);
    assert!(sample("verbatim_follows") >= 1.0);
    assert!(sample("verbatim_deliveries_total") >= 1.0);
    assert!(sample("verbatim_commit_duration_seconds_sum") > 0.0);
}

/// WebSockets, all connections, and those of HTTP, until they are as many as that.
async fn await_counts(node: &TestNode, wanted: [f64; 3]) {
    const NAMES: [&str; 3] =
        ["verbatim_connections", "verbatim_connections_admitted", "verbatim_http_connections"];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let families = read(&get(node.addr, "/metrics").await.1);
        let counts = NAMES.map(|name| families[name].samples[name]);
        if counts == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{counts:?}");
    }
}

/// The limit counts both, so whoever watches it must see both.
async fn connections_of_http_are_counted_beside_websockets(world: World) {
    let node = world.node_with(|config| config.server.connections_max = 3).await;
    // Whoever looks is one of them.
    await_counts(&node, [0.0, 1.0, 1.0]).await;
    let mut idle = Http::connect(node.addr).await;
    assert_eq!(idle.ask("GET /healthz", &[], None).await.status, 200);
    let _first = node.client().await;
    await_counts(&node, [1.0, 3.0, 2.0]).await;
    let (_second, third) = (node.client().await, node.client().await);
    // It gave up its place, and who looks from here on is beyond the limit.
    idle.expect_end().await;
    await_counts(&node, [3.0, 3.0, 0.0]).await;
    let metrics = get(node.addr, "/metrics").await.1;
    assert!(metrics.contains("\nverbatim_connections_displaced_total 1\n"), "{metrics}");
    drop(third);
    await_counts(&node, [2.0, 3.0, 1.0]).await;
}
