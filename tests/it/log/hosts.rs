//! A URL with several hosts, of which only one is the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use verbatim::log::LogError;
use verbatim::model::Seq;

use super::appending::Appending;
use super::postgres::open;
use super::postgres_faults::at_last;
use super::private_postgres::settings;
use super::suite::{create, room};
use crate::harness::postgres::Postgres;
use crate::harness::services;

/// Takes every connection and never says a word, as a machine whose PostgreSQL is frozen.
struct Frozen {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Frozen {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                kept.push(listener.accept().await.unwrap());
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, connections }
    }
}

/// The same database, behind these ports of this machine first.
fn behind(ports: &[u16], url: &str) -> String {
    let before: String = ports.iter().map(|port| format!("127.0.0.1:{port},")).collect();
    url.replace("127.0.0.1:", &format!("{before}127.0.0.1:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_accepts_and_never_answers_does_not_keep_us_from_the_next() {
    let frozen = Frozen::start().await;
    let log = open(&settings(&behind(&[frozen.port], &services::database().await))).await;
    let made = log.appender().append_all(&[create("r", "1")]).await;
    assert!(made.is_ok(), "{made:?}");
    assert_eq!(log.last_seq(&room("r")).await.unwrap(), Some(Seq(1)));
    // Its time was lost once, and not by every connection.
    assert_eq!(frozen.connections.load(Ordering::SeqCst), 1);
}

/// A standby is behind: what it says of a room would be taken for the room's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_reads_is_not_read_from_and_not_kept_to() {
    let (mut old, new) = tokio::join!(Postgres::start(&[]), Postgres::start(&[]));
    let mut alone = settings(&old.database().await);
    open(&alone).await.appender().append_all(&[create("r", "1")]).await.unwrap();
    (alone.read_timeout_ms, alone.append_timeout_ms) = (1000, 1000);
    let log = open(&alone).await;
    let last_seq = at_last(async || log.last_seq(&room("r")).await).await;
    assert_eq!(last_seq, Some(Seq(1)));

    old.make_standby();
    old.restart().await;
    for _ in 0..3 {
        let read = log.last_seq(&room("r")).await;
        assert!(matches!(read, Err(LogError::Unavailable(_))), "{read:?}");
    }
    let written = log.appender().append_all(&[create("s", "1")]).await;
    assert!(matches!(written, Err(LogError::Unavailable(_))), "{written:?}");

    // Who knows of the other one uses that.
    let log = open(&settings(&behind(&[old.port()], &new.database().await))).await;
    let made = log.appender().append_all(&[create("r", "1")]).await;
    assert!(made.is_ok(), "{made:?}");
    assert_eq!(log.last_seq(&room("r")).await.unwrap(), Some(Seq(1)));
}
