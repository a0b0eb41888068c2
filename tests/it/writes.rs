//! A node whose log answers and takes no commits is not ready, says why, and still reads.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio_postgres::NoTls;

use crate::harness::disk::Disk;
use crate::harness::node::TestNode;
use crate::harness::postgres::Postgres;
use crate::harness::process::Process;
use crate::harness::raw::{get, ready};
use crate::harness::{Client, World};
use crate::mirror::cluster::until;

async fn sql(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("cannot connect");
    // It ends with the client.
    tokio::spawn(connection);
    client
}

async fn founded(addr: SocketAddr) -> Client {
    let mut client = Client::greeted(addr).await;
    client.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
    client
}

/// It says in the end that it takes no writes.
async fn takes_no_writes(addr: SocketAddr) {
    let look = async || {
        let (head, body) = get(addr, "/readyz").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        (head.status, body["log"].clone(), body["writes"].clone())
    };
    let wanted = (503, json!("ok"), json!("unavailable"));
    until("a node that takes no writes", look, |seen| *seen == wanted).await;
}

async fn reads(client: &mut Client) {
    client.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "history", "last": 1})).await;
}

async fn writes(node: &TestNode) {
    ready(node.addr).await;
    let mut client = node.client().await;
    client.send(json!({"type": "create", "user_id": "1", "room": "again"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_has_locked() {
    let world = World::postgres().await;
    let node = world.node().await;
    let mut client = founded(node.addr).await;
    let someone = sql(&world.config.log.url.0).await;
    someone.batch_execute("begin; lock table events in exclusive mode").await.unwrap();
    takes_no_writes(node.addr).await;
    reads(&mut client).await;
    someone.batch_execute("rollback").await.unwrap();
    writes(&node).await;
}

/// As a managed database is made when its disk is nearly full.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_read_only() {
    let world = World::postgres().await.impatient();
    let node = world.node().await;
    let mut client = founded(node.addr).await;
    let someone = sql(&world.config.log.url.0).await;
    let set = "do $$ begin execute format(
                   'alter database %I set default_transaction_read_only = on', current_database());
               end $$";
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()";
    someone.batch_execute(set).await.unwrap();
    someone.batch_execute(kill).await.unwrap();
    takes_no_writes(node.addr).await;
    reads(&mut client).await;
    let message = json!({"type": "message", "user_id": "1", "room": "r", "message": "x"});
    client.send(message).await;
    let refused = client.expect(json!({"type": "error", "code": "unavailable"})).await;
    assert!(refused["error"].as_str().unwrap().contains("nothing was written"), "{refused}");
    someone.batch_execute(&set.replace("= on", "= off")).await.unwrap();
    someone.batch_execute(kill).await.unwrap();
    writes(&node).await;
}

/// Its connections live on, and know it.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_set_to_read_only_under_the_nodes_feet() {
    let postgres = Postgres::start(&[]).await;
    let url = postgres.database().await;
    let world = World::on(&url).impatient();
    let node = world.node().await;
    let mut client = founded(node.addr).await;
    let someone = sql(&url).await;
    // The last commit is no proof any more, and there is a connection that has tried one.
    let tried = async || {
        ready(node.addr).await;
        let tried = "select count(*) from pg_stat_activity
                     where query like '%pg_logical_emit_message%' and pid <> pg_backend_pid()";
        someone.query_one(tried, &[]).await.unwrap().get::<_, i64>(0)
    };
    until("a probe", tried, |tried| *tried > 0).await;
    let set = "alter system set default_transaction_read_only = on";
    someone.batch_execute(set).await.unwrap();
    someone.batch_execute("select pg_reload_conf()").await.unwrap();
    takes_no_writes(node.addr).await;
    reads(&mut client).await;
    let back = "set default_transaction_read_only = off";
    someone.batch_execute(back).await.unwrap();
    someone.batch_execute("alter system reset default_transaction_read_only").await.unwrap();
    someone.batch_execute("select pg_reload_conf()").await.unwrap();
    writes(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_every_commit_waits_for_and_that_is_away() {
    let postgres = Postgres::start(&[]).await;
    let url = postgres.database().await;
    let world = World::on(&format!("{url}?options=-csynchronous_commit%3Don")).impatient();
    let node = world.node().await;
    let mut client = founded(node.addr).await;
    let someone = sql(&url).await;
    let set = "alter system set synchronous_standby_names = 'nobody'";
    someone.batch_execute(set).await.unwrap();
    someone.batch_execute("select pg_reload_conf()").await.unwrap();
    takes_no_writes(node.addr).await;
    reads(&mut client).await;
    someone.batch_execute("alter system reset synchronous_standby_names").await.unwrap();
    someone.batch_execute("select pg_reload_conf()").await.unwrap();
    writes(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_or_hangs() {
    let (world, disk) = (World::sqlite().await, Disk::new());
    let mut environment = world.environment();
    environment.extend(disk.environment());
    let process = Process::start(environment).await;
    let mut client = founded(process.addr).await;
    let faults: [fn(&Disk); 2] = [|disk| disk.fail("-wal"), |disk| disk.hang("-wal")];
    for fault in faults {
        ready(process.addr).await;
        fault(&disk);
        takes_no_writes(process.addr).await;
        reads(&mut client).await;
        disk.heal();
    }
    ready(process.addr).await;
}
