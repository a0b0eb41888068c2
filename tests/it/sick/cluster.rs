//! Nodes that share a log in which one room is damaged.

use serde_json::json;

use crate::harness::Client;
use crate::harness::proxy::{Pieces, Proxy};
use crate::harness::redis::Redis;
use crate::mirror::cluster::{Cluster, behind, gather, hears, metric, mirror_is, say};

/// What says "bad" is stored as what has no frame.
const SPOIL: &str = "
    create function spoil() returns trigger language plpgsql as $$
    begin
        if new.body = 'bad' then new.data = 'bad'; end if;
        return new;
    end $$;
    create trigger spoil before insert on events for each row execute function spoil();";

/// The node hears through the log alone, and waits for what it cannot read.
#[tokio::test(flavor = "multi_thread")]
async fn live_followers_are_ended_where_what_comes_next_cannot_be_read() {
    let server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    let proxy = Proxy::to(server.port(), Pieces::Values).await;
    let (one, two) = tokio::join!(cluster.node("one"), cluster.node_with("two", behind(&proxy)));
    cluster.sql().await.batch_execute(SPOIL).await.unwrap();
    let [mut from, mut sick] = gather("sick", &[one.addr, two.addr]).await.try_into().ok().unwrap();
    let [_, mut well] = gather("well", &[one.addr, two.addr]).await.try_into().ok().unwrap();
    proxy.cut();
    mirror_is(two.addr, "away").await;
    say(&mut from, "sick", "good").await;
    hears(&mut sick, "good").await;
    say(&mut from, "sick", "bad").await;
    assert_eq!(sick.read_to_close(4000).await, Vec::<serde_json::Value>::new());
    assert_eq!(metric(two.addr, "verbatim_follows_damaged_total").await, 1);

    let mut back = Client::greeted(two.addr).await;
    let resume = json!({"type": "resume", "user_id": "1", "rooms": {"sick": 3, "well": 2}});
    back.send(resume).await;
    let mut answers = [back.next().await, back.next().await];
    answers.sort_by_key(|answer| answer["room"].to_string());
    assert_eq!(answers[0]["code"], "unavailable");
    assert_eq!(answers[1]["type"], "joined");
    back.expect(json!({"type": "resumed", "rooms": {"well": 2}})).await;
    back.send(json!({"type": "join", "user_id": "1", "room": "sick"})).await;
    back.expect(json!({"type": "joined", "room": "sick", "last_seq": 4})).await;
    say(&mut from, "sick", "goes on").await;
    hears(&mut back, "goes on").await;
    say(&mut from, "well", "as ever").await;
    hears(&mut well, "as ever").await;
    hears(&mut back, "as ever").await;
}
