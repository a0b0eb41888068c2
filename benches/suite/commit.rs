//! How long a message takes from its commit to the followers, on its own node and on the others.
//!
//! The time of the commit is PostgreSQL's own (`track_commit_timestamp`), taken before it flushes
//! its log; so what is counted holds the fsync as well, and is an upper bound. All clocks are one
//! machine's. The nodes' own metric is put beside it: that one begins, for events of other nodes,
//! when Redis has brought them, and ends with the last write of a fan-out.

use std::collections::HashMap;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::generator;
use crate::metrics::Buckets;
use crate::rig::Running;

const METRIC: &str = "verbatim_commit_to_delivery_seconds";

/// The generator's report, with `commit_near`, `commit_far` and `commit_metric` in it.
pub async fn run(arguments: &str, running: &Running) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("arrivals");
    let before = metric(running)?;
    let mut report = generator::run(arguments, "verbatim", running, Some(&path)).await?;
    let metric = metric(running)?.since(&before);
    let commits = commits(running.database.as_deref().context("it is not on PostgreSQL")?).await?;
    let (near, far) = since_commit(&std::fs::read_to_string(&path)?, &commits)?;
    report["commit_near"] = percentiles(&near);
    report["commit_far"] = percentiles(&far);
    report["commit_metric"] =
        json!({"p50": metric.at_most_ms(0.5), "p99": metric.at_most_ms(0.99)});
    Ok(report)
}

/// In milliseconds.
fn percentiles(micros: &Histogram<u64>) -> Value {
    let ms = |share| micros.value_at_quantile(share) as f64 / 1e3;
    json!({"count": micros.len(), "p50": ms(0.5), "p99": ms(0.99), "max": ms(1.0)})
}

/// Of all nodes together.
fn metric(running: &Running) -> Result<Buckets> {
    let mut all = Buckets::default();
    for node in &running.nodes {
        all.add(&Buckets::of(node.addr, METRIC)?);
    }
    Ok(all)
}

/// When each message was committed, by room and seq, in microseconds since 1970.
async fn commits(database: &str) -> Result<HashMap<(u32, u64), i64>> {
    let (client, connection) = tokio_postgres::connect(database, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let query = "select r.name, e.seq, \
                 (extract(epoch from pg_xact_commit_timestamp(e.xmin)) * 1000000)::bigint \
                 from events e join rooms r on r.id = e.room_id where e.type = 'message'";
    let mut commits = HashMap::new();
    for row in client.query(query, &[]).await? {
        let name: &str = row.get(0);
        let room = name.rsplit('-').next().context("a room of somebody else")?.parse()?;
        commits.insert((room, row.get::<_, i64>(1) as u64), row.get(2));
    }
    drop(client);
    connection.await??;
    Ok(commits)
}

/// From the commit to each delivery, in microseconds: on the sender's node, and on others.
fn since_commit(
    arrivals: &str,
    commits: &HashMap<(u32, u64), i64>,
) -> Result<(Histogram<u64>, Histogram<u64>)> {
    let (mut near, mut far) = (Histogram::new(3)?, Histogram::new(3)?);
    for line in arrivals.lines() {
        let fields: Vec<i64> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let [room, seq, from, to, _, arrived] = fields[..] else {
            anyhow::bail!("not an arrival: {line}")
        };
        let commit = commits.get(&(room as u32, seq as u64)).context("it is not in the log")?;
        let histogram = if from == to { &mut near } else { &mut far };
        histogram.record(u64::try_from(arrived - commit).unwrap_or(0))?;
    }
    Ok((near, far))
}
