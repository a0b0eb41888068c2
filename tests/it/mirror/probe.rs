//! `verbatim check` tries Redis out, and leaves nothing behind.

use crate::harness::process::{Exit, Run, run};
use crate::harness::redis::Redis;
use crate::harness::services;

async fn check(redis: &str) -> Run {
    let database = services::database().await;
    let run = run(&["check"], &[("DATABASE_URL", &database), ("REDIS_URL", redis)], &[]).await;
    assert!(!format!("{run:?}").contains("s3cret"), "{run:?}");
    run
}

/// The line about the mirror, of a check that must fail.
async fn failed(redis: &str) -> String {
    let run = check(redis).await;
    assert_eq!(run.exit, Exit::Code(1), "{run:?}");
    assert!(run.stdout.contains("log: postgres answers\n"), "{run:?}");
    let line = run.stdout.lines().find_map(|line| line.strip_prefix("mirror: FAILED: "));
    line.unwrap_or_else(|| panic!("{run:?}")).to_owned()
}

async fn keys(url: &str) -> Vec<String> {
    let mut redis = super::cluster::redis(url).await;
    redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_redis_does_and_leaves_nothing() {
    let server = Redis::start(&[]).await;
    for database in ["/0", "/3"] {
        let url = server.url().replace("/0", database);
        let run = check(&url).await;
        assert_eq!(run.exit, Exit::Code(0), "{run:?}");
        let line = run.stdout.lines().find(|line| line.starts_with("mirror: ")).unwrap();
        assert!(
            line.starts_with("mirror: Redis ") || line.starts_with("mirror: Valkey "),
            "{line}"
        );
        assert!(line.ends_with(" answers, and does what a node needs"), "{line}");
        assert_eq!(keys(&url).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_redis_refuses_and_leaves_nothing() {
    let user = |name: &str, rules: &str| {
        let rules = format!("on >s3cret ~* &* +@all {rules}");
        let rules: Vec<_> = rules.split_whitespace().map(str::to_owned).collect();
        ["--user".to_owned(), name.to_owned()].into_iter().chain(rules).collect::<Vec<_>>()
    };
    let users = [
        user("all", ""),
        user("channels", "resetchannels &other:*"),
        user("streams", "-xgroup"),
        user("adds", "-xadd"),
        user("keys", "resetkeys ~other:*"),
        user("scripts", "-eval -evalsha"),
        user("publishes", "-publish"),
        user("untold", "-info"),
    ]
    .concat();
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    let server = Redis::start(&users).await;
    let url = |user: &str| server.url().replace("redis://", &format!("redis://{user}:s3cret@"));
    for (user, told) in [
        ("nobody", "refused the user, the password"),
        ("channels", "does not let a node subscribe to channels"),
        ("streams", "does not let a node use streams"),
        ("adds", "does not take events from a script"),
        ("keys", "does not let a node have its name"),
        ("scripts", "does not let a node have its name"),
        ("publishes", "does not take events from a script"),
    ] {
        let line = failed(&url(user)).await;
        assert!(line.starts_with("Redis ") && line.contains(told), "{user}: {line}");
        assert_eq!(
            line.ends_with("; give the user of mirror.url permission"),
            user != "nobody",
            "{line}"
        );
        assert_eq!(keys(&server.url()).await, [""; 0], "{user}");
    }
    assert_eq!(check(&url("all")).await.exit, Exit::Code(0));
    let untold = check(&url("untold")).await;
    assert_eq!(untold.exit, Exit::Code(0), "{untold:?}");
    assert!(untold.stdout.contains("does not say its version"), "{untold:?}");
    assert_eq!(keys(&server.url()).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_redis_is_not_there_or_only_reads() {
    let mut server = Redis::start(&[]).await;
    let mut redis = super::cluster::redis(&server.url()).await;
    let replica = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(server.port()).clone();
    replica.query_async::<()>(&mut redis).await.unwrap();
    let line = failed(&server.url()).await;
    assert!(
        line.contains("read only replica") && line.ends_with("set mirror.url to the master"),
        "{line}"
    );
    server.kill();
    let line = failed(&server.url()).await;
    assert!(line.starts_with("Redis cannot be reached ("), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_the_url_that_nobody_would_obey_are_named() {
    for (url, told) in [
        ("rediss://ann:s3cret@127.0.0.1:9/0#insecure", "mirror.url has #insecure, which "),
        ("redis://ann:s3cret@127.0.0.1:9/0?db=3", "mirror.url has db, which "),
        ("redis://ann:s3cret@127.0.0.1:9/x", "mirror.url (REDIS_URL) is not a Redis URL"),
    ] {
        let line = failed(url).await;
        assert!(line.contains(told), "{line}");
    }
    for (url, told) in [
        ("redis+sentinel://127.0.0.1:26379/main", "Sentinel is not supported"),
        ("memcached://127.0.0.1:11211", "must be empty or begin with redis:// or rediss://"),
    ] {
        let run = check(url).await;
        assert_eq!(run.exit, Exit::Code(64), "{run:?}");
        assert!(run.stderr.contains("mirror.url = ") && run.stderr.contains(told), "{run:?}");
    }
}
