//! Events of types that this version does not know: a newer node wrote them into the same log, as
//! in every rolling upgrade. They are carried as they are, and nothing around them stops.

use serde_json::json;

use crate::harness::http::{Http, Stream};
use crate::harness::{Client, World, on_both_logs};
use crate::mirror::cluster::{Cluster, gather, hears, say};
use crate::sick::harm::run;

on_both_logs!(
    a_room_with_events_of_newer_types_is_read_by_every_door,
    a_node_goes_on_behind_what_a_newer_one_wrote_beside_it,
);

/// The next event of the room "r", as a newer node writes it; `{at}` is the time of the last.
const POLL: &str = r#"
    insert into events (room_id, seq, type, user_id, client_id, body, data, messages, at)
    select r.id, r.last_seq + 1, 'poll', '9', 'p' || r.last_seq, 'a or b?',
           '"target":1,"of":{"a": [1.50],"b":"\n"}', r.message_count, e.at
    from rooms r join events e on e.room_id = r.id and e.seq = r.last_seq
    where r.name = 'r';
    update rooms set last_seq = last_seq + 1 where name = 'r';"#;

/// Of its outbox, where there is one.
const ANNOUNCE: &str = "
    insert into outbox (room_id, first_seq, last_seq, at)
    select id, last_seq, last_seq, clock_timestamp() from rooms where name = 'r';";

/// What everybody is shown of it. `at` is the time of the event before it.
fn poll(seq: u64, at: &str) -> String {
    let begin = r#"{"type":"poll","room":"r","user_id":"9","message":"a or b?","target":1,"#;
    let data = r#""of":{"a": [1.50],"b":"\n"}"#;
    let id = seq - 1;
    format!(r#"{begin}{data},"seq":{seq},"at":"{at}","client_id":"p{id}"}}"#)
}

async fn a_room_with_events_of_newer_types_is_read_by_every_door(world: World) {
    let node = world.node().await;
    let mut writer = node.client().await;
    writer.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    let at = writer.expect(json!({"type": "ack"})).await["at"].as_str().unwrap().to_owned();
    run(&world, POLL).await;
    // A message behind it, and its own writer is shown both.
    writer.send(json!({"type": "join", "user_id": "1", "room": "r", "since": 1})).await;
    writer.expect(json!({"type": "joined", "last_seq": 2})).await;
    writer.expect_exactly(&poll(2, &at)).await;
    writer.send(json!({"type": "message", "user_id": "1", "room": "r", "message": "b"})).await;
    writer.expect(json!({"type": "message", "seq": 3})).await;

    let mut reader = node.client().await;
    reader.send(json!({"type": "join", "user_id": "2", "room": "r", "since": 0})).await;
    reader.expect(json!({"type": "joined"})).await;
    reader.expect(json!({"type": "create", "seq": 1})).await;
    reader.expect_exactly(&poll(2, &at)).await;
    reader.expect(json!({"type": "message", "seq": 3})).await;
    reader.expect(json!({"type": "join", "seq": 4})).await;
    reader.send(json!({"type": "history", "user_id": "2", "room": "r"})).await;
    let page = reader.next_text().await;
    assert!(page.contains(&poll(2, &at)), "{page}");
    reader.send(json!({"type": "rooms", "user_id": "2"})).await;
    let rooms = reader.next().await;
    assert_eq!(rooms["rooms"][0]["unread"], 0, "{rooms}");

    let mut http = Http::connect(node.addr).await;
    let page = http.ask("GET /api/rooms/r/events?user_id=2", &[], None).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains(&poll(2, &at)), "{}", page.body);
    let path = "/api/rooms/r/stream?user_id=2&after=1";
    let mut stream = Stream::open(node.addr, path, &[]).await;
    let shown = stream.expect(2).await;
    assert_eq!(shown, serde_json::from_str::<serde_json::Value>(&poll(2, &at)).unwrap());
    stream.expect(3).await;
    node.stop().await;
}

/// It is noticed with what this node writes next: that stands behind a hole.
async fn a_node_goes_on_behind_what_a_newer_one_wrote_beside_it(world: World) {
    let node = world.node().await;
    let [mut one, mut two] = gather("r", &[node.addr; 2]).await.try_into().ok().unwrap();
    for seq in [3, 5, 7] {
        run(&world, POLL).await;
        say(&mut one, "r", "behind it").await;
        assert_eq!(two.expect(json!({"type": "poll"})).await["seq"], seq);
        hears(&mut two, "behind it").await;
    }
    // Its id is a name that is taken, and it ended nobody's membership.
    let command =
        json!({"type": "message", "user_id": "9", "room": "r", "message": "x", "id": "p2"});
    one.send(command).await;
    let error = one.read_until(json!({"type": "error"})).await.pop().unwrap();
    assert_eq!(error["code"], "id_reused", "{error}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_node_wrote_reaches_all_nodes_and_the_stream_unchanged() {
    let cluster = Cluster::shared().await;
    let nodes = cluster.three_nodes().await;
    let addrs = nodes.each_ref().map(|node| node.addr);
    let mut clients = gather("r", &addrs).await;
    for seq in 4..9 {
        cluster.sql().await.batch_execute(&[POLL, ANNOUNCE].concat()).await.unwrap();
        let mut texts = Vec::new();
        for client in &mut clients {
            texts.push(client.next_text().await);
        }
        let shown: serde_json::Value = serde_json::from_str(&texts[0]).unwrap();
        let wanted = poll(seq, shown["at"].as_str().unwrap());
        assert!(texts.iter().all(|text| *text == wanted), "{texts:?}");
    }
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 8).await;
    let mut late = Client::greeted(addrs[2]).await;
    late.send(json!({"type": "resume", "user_id": "2", "rooms": {"r": 3}})).await;
    late.expect(json!({"type": "joined", "last_seq": 8})).await;
    for seq in 4..9 {
        assert_eq!(late.expect(json!({"type": "poll"})).await["seq"], seq);
    }
    for node in nodes {
        node.stop().await;
    }
}
