//! A connection pooler such as PgBouncer between a node and PostgreSQL is refused at the start.

use super::postgres::{open, refusal};
use super::private_postgres::settings;
use crate::harness::pooler::{Pooler, Pooling};
use crate::harness::process::{Exit, run};
use crate::harness::services;

/// A new database of the shared PostgreSQL, by way of that pooler.
async fn behind(pooling: Pooling) -> (Pooler, String) {
    let port = services::postgres().await.port();
    let pooler = Pooler::to(port, pooling).await;
    let url = services::database().await;
    let url = url.replace(&format!(":{port}/"), &format!(":{}/", pooler.port()));
    (pooler, url)
}

async fn is_refused(pooling: Pooling, why: &str) {
    let (_pooler, url) = behind(pooling).await;
    let said = refusal(&settings(&url)).await;
    let wanted = format!(
        "log.url leads to a pooler such as PgBouncer, which keeps no session ({why}); set log.url \
         to PostgreSQL itself"
    );
    assert_eq!(said, wanted, "{pooling:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_drops_the_options_is_refused() {
    let why = "it dropped statement_timeout=20000; the session has 0";
    is_refused(Pooling::NoOptions, why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_refuses_the_options_is_told_from_a_server_that_is_away() {
    for told in [
        "unsupported startup parameter: options",
        "unsupported startup parameter in options: default_transaction_isolation",
        "unsupported options startup parameter: only '-c config=val' is allowed",
    ] {
        is_refused(Pooling::Refuses(told), &format!("it says: {told}")).await;
    }
}

/// Whether it has idle sessions to choose from, or none, and however it chooses.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_gives_each_transaction_another_session_is_refused() {
    const SHARED: &str = "two connections had one session";
    const MOVED: &str = "one connection had two sessions";
    for (in_turn, sessions, why) in [
        (false, 0, SHARED),
        (false, 4, SHARED),
        (true, 1, SHARED),
        (true, 2, MOVED),
        (true, 5, MOVED),
    ] {
        is_refused(Pooling::ByTransaction { in_turn, sessions }, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_itself_is_no_pooler() {
    for _ in 0..8 {
        open(&settings(&services::database().await)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_pooler() {
    let (_pooler, url) = behind(Pooling::NoOptions).await;
    let run = run(&["check"], &[("DATABASE_URL", &url)], &[]).await;
    assert_eq!(run.exit, Exit::Code(1), "{run:?}");
    assert!(run.stdout.contains("log: FAILED: log.url leads to a pooler"), "{run:?}");
}
