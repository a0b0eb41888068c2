//! The Rust client against a real node, on connections that break: what it sends is written once,
//! and what it is told is everything, once and in order.

use std::time::Duration;

use tokio::time::timeout;
use verbatim_client::{Backoff, Client, Error, Event, Settings, Start, Update, Updates};

use crate::harness::node::TestNode;
use crate::harness::proxy::{Fate, Pieces, Proxy};
use crate::harness::{PATIENCE, World};

/// The example of `client/`, as it stands there.
#[path = "../../client/examples/echo_bot.rs"]
#[allow(dead_code)]
mod echo;

/// Of a client that returns within milliseconds.
fn settings(port: u16, user: &str) -> Settings {
    let settings = Settings::new(&format!("ws://127.0.0.1:{port}/ws"), user).unwrap();
    let (first, longest) = (Duration::from_millis(10), Duration::from_millis(50));
    Settings { backoff: Backoff { first, longest }, ..settings }
}

async fn next(updates: &mut Updates) -> Update {
    let update = timeout(PATIENCE, updates.next()).await.expect("no update came");
    update.expect("the client has ended")
}

async fn next_event(updates: &mut Updates) -> Event {
    loop {
        if let Update::Event(event) = next(updates).await {
            return event;
        }
    }
}

/// A room of `owner`.
async fn room(node: &TestNode) -> Client {
    let (client, _) = Client::start(settings(node.addr.port(), "owner"));
    assert_eq!(timeout(PATIENCE, client.create("r")).await.unwrap().unwrap(), 1);
    client
}

/// One in so many pieces is the last of its connection, now on its way there and now on its way
/// back. So some commands are lost, and some answers.
fn break_now_and_then(proxy: &Proxy) {
    const PIECES_PER_BREAK: usize = 12;
    let mut pieces = 0;
    proxy.rule(move |_, _| {
        pieces += 1;
        match pieces % (2 * PIECES_PER_BREAK) {
            0 => Fate::Cut,
            PIECES_PER_BREAK => Fate::CutAnswer,
            _ => Fate::Pass,
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_written_once_and_told_once_in_order_though_connections_break() {
    const MESSAGES: usize = 300;
    let world = World::sqlite().await;
    let node = world.node().await;
    let owner = room(&node).await;
    let proxy = Proxy::to(node.addr.port(), Pieces::Chunks).await;
    break_now_and_then(&proxy);
    // Fewer places than messages: some must wait for one.
    let narrow = Settings { outbox_len_max: 16, ..settings(proxy.port(), "ada") };
    let (writer, _) = Client::start(narrow);
    let (reader, mut updates) = Client::start(settings(proxy.port(), "bob"));
    let joined =
        async { tokio::join!(writer.join("r", Start::Last(0)), reader.join("r", Start::After(0))) };
    let (one, two) = timeout(PATIENCE, joined).await.unwrap();
    one.and(two).unwrap();

    let sending = tokio::spawn(async move {
        let mut receipts = Vec::new();
        for number in 0..MESSAGES {
            receipts.push(writer.post("r", &format!("message {number}")).await?);
        }
        let mut seqs = Vec::new();
        for receipt in receipts {
            seqs.push(receipt.seq().await?);
        }
        Ok::<_, Error>(seqs)
    });
    let mut told = Vec::new();
    let last = format!("message {}", MESSAGES - 1);
    while told.last().is_none_or(|event: &Event| event.message.as_deref() != Some(&last)) {
        told.push(next_event(&mut updates).await);
    }
    let seqs = timeout(PATIENCE, sending).await.unwrap().unwrap().unwrap();

    assert!(proxy.cuts() > 10, "only {} connections broke", proxy.cuts());
    assert!(told.iter().map(|event| event.seq).eq(1..=told.len() as u64), "from 1 without a hole");
    let messages = told.iter().filter(|event| event.kind == "message");
    let (texts, at): (Vec<_>, Vec<_>) =
        messages.map(|event| (event.message.clone().unwrap(), event.seq)).unzip();
    let wanted: Vec<_> = (0..MESSAGES).map(|number| format!("message {number}")).collect();
    assert_eq!(texts, wanted, "each once, in the order of the calls");
    assert_eq!(at, seqs, "where the receipts say");
    // And in the log, read by another way.
    let page = owner.history("r", None, Some(told.len() as u64 - 100), 200).await.unwrap();
    assert_eq!((page.events.as_slice(), page.more), (&told[told.len() - 100..], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_answers_while_updates_wait_for_it_gets_both() {
    const MESSAGES: usize = 12;
    let world = World::sqlite().await;
    let node = world.node().await;
    let owner = room(&node).await;
    let slow = Settings { updates_len_max: 4, ..settings(node.addr.port(), "ada") };
    let (client, mut updates) = Client::start(slow);
    client.join("r", Start::After(0)).await.unwrap();
    for number in 0..MESSAGES {
        drop(owner.post("r", &number.to_string()).await.unwrap());
    }
    // There are more events by now than places, and each answer stands behind them.
    let mut seen = Vec::new();
    while seen.len() < MESSAGES {
        let event = next_event(&mut updates).await;
        if let (Some("owner"), Some(text)) = (event.user_id.as_deref(), event.message) {
            timeout(PATIENCE, client.send("r", "seen")).await.expect("it is stuck").unwrap();
            seen.push(text);
        }
    }
    let wanted: Vec<_> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(seen, wanted);
}

/// Rooms of `owner`, each with so many events.
async fn rooms(node: &TestNode, names: &[&str], len: usize) -> Client {
    let (client, _) = Client::start(settings(node.addr.port(), "owner"));
    for name in names {
        client.create(name).await.unwrap();
        for number in 1..len {
            client.send(name, &number.to_string()).await.unwrap();
        }
    }
    client
}

/// The seqs of the next events of those rooms.
async fn take(updates: &mut Updates, rooms: &[&str], len: usize) -> Vec<Vec<u64>> {
    let mut seqs = vec![Vec::new(); rooms.len()];
    for _ in 0..len {
        let event = next_event(updates).await;
        seqs[rooms.iter().position(|room| *room == event.room).unwrap()].push(event.seq);
    }
    seqs
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_with_more_events_than_places_are_joined_before_any_is_taken() {
    const LEN: usize = 30;
    let world = World::sqlite().await;
    let node = world.node().await;
    let names = ["a", "b", "c"];
    let _owner = rooms(&node, &names, LEN).await;
    let few = Settings { updates_len_max: 4, ..settings(node.addr.port(), "ada") };
    let (client, mut updates) = Client::start(few);
    for name in names {
        let joined = timeout(PATIENCE, client.join(name, Start::After(0))).await;
        assert_eq!(joined.expect("it is stuck").unwrap(), LEN as u64 + 1);
    }
    // With the user's own `join` each.
    let seqs = take(&mut updates, &names, names.len() * (LEN + 1)).await;
    assert!(seqs.iter().all(|seqs| seqs.iter().copied().eq(1..=LEN as u64 + 1)), "{seqs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_updates_may_wait_for_a_join_and_for_a_leave_meanwhile() {
    const LEN: u64 = 20;
    let world = World::sqlite().await;
    let node = world.node().await;
    let _owner = rooms(&node, &["a", "b"], LEN as usize).await;
    let few = Settings { updates_len_max: 4, ..settings(node.addr.port(), "ada") };
    let (client, mut updates) = Client::start(few);
    client.join("a", Start::After(0)).await.unwrap();
    assert_eq!(next_event(&mut updates).await.seq, 1);
    let work = async {
        client.leave("a").await?;
        client.join("a", Start::Last(0)).await?;
        client.join("b", Start::After(0)).await
    };
    timeout(PATIENCE, work).await.expect("it is stuck").unwrap();
    // In `a` the user's `join`, `leave` and `join` as well.
    let seqs = take(&mut updates, &["a", "b"], 2 * LEN as usize + 3).await;
    assert_eq!(seqs, [(2..=LEN + 3).collect::<Vec<_>>(), (1..=LEN + 1).collect()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_on_is_written_though_nobody_is_left() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let _owner = room(&node).await;
    let (client, updates) = Client::start(settings(node.addr.port(), "owner"));
    drop(updates);
    let receipt = client.post("r", "my last words").await.unwrap();
    drop(client);
    assert_eq!(timeout(PATIENCE, receipt.seq()).await.unwrap().unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_last_command_is_answered_by_itself_ends() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let (client, mut updates) = Client::start(settings(node.addr.port(), "ada"));
    let receipt = client.post("r", &"x".repeat(100_000)).await.unwrap();
    drop(client);
    assert!(timeout(PATIENCE, receipt.seq()).await.unwrap().is_err(), "too large");
    let end = async { while updates.next().await.is_some() {} };
    timeout(PATIENCE, end).await.expect("it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lets_fewer_rooms_be_followed_costs_only_the_others() {
    let names = ["a", "b", "c", "d", "e"];
    let world = World::sqlite().await;
    let node = world.node().await;
    let proxy = Proxy::to(node.addr.port(), Pieces::Chunks).await;
    drop(rooms(&node, &names, 1).await);
    let (client, mut updates) = Client::start(settings(proxy.port(), "owner"));
    for name in names {
        client.join(name, Start::After(0)).await.unwrap();
        assert_eq!(next_event(&mut updates).await.room, name);
    }
    node.stop().await;
    let node = world.node_with(|config| config.session.follows_max = 2).await;
    proxy.retarget(node.addr.port());
    let mut lost = Vec::new();
    while lost.len() < 3 {
        if let Update::Left { room, error } = next(&mut updates).await {
            assert_eq!(error.unwrap().code, "bad_request");
            lost.push(room);
        }
    }
    for name in names.into_iter().filter(|name| !lost.contains(&(*name).to_owned())) {
        client.send(name, "hi").await.unwrap();
        assert_eq!(next_event(&mut updates).await.room, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_an_error_with_its_code() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let owner = room(&node).await;
    let (client, mut updates) = Client::start(settings(node.addr.port(), "ada"));
    let code = |error: Error| match error {
        Error::Refused(refused) => refused.code,
        Error::Closed => "closed".to_owned(),
    };
    assert_eq!(code(client.send("r", "hi").await.unwrap_err()), "not_member");
    assert_eq!(code(client.create("r").await.unwrap_err()), "room_exists");
    let long = client.send("r", &"x".repeat(100_000)).await;
    assert_eq!(code(long.unwrap_err()), "too_large", "and the connection stands");
    let nowhere = client.join("nowhere", Start::Last(0)).await;
    assert_eq!(code(nowhere.unwrap_err()), "room_not_found");
    client.join("r", Start::Last(0)).await.unwrap();
    client.leave("r").await.unwrap();
    drop(owner.post("r", "nobody hears it").await.unwrap());
    let mut told = Vec::new();
    while !matches!(told.last(), Some(Update::Left { .. })) {
        told.push(next(&mut updates).await);
    }
    assert!(matches!(&told[0], Update::Connected { node } if node == "test"), "{told:?}");
    assert!(matches!(told.last(), Some(Update::Left { error: None, .. })), "{told:?}");
    drop(client);
    assert_eq!(timeout(PATIENCE, updates.next()).await.unwrap(), None, "it ends with its handles");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_says_what_others_say() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let owner = room(&node).await;
    let url = format!("ws://{}/ws", node.addr);
    let bot =
        tokio::spawn(async move { echo::echo(&url, "r").await.map_err(|err| err.to_string()) });
    let (client, mut updates) = Client::start(settings(node.addr.port(), "ada"));
    client.join("r", Start::After(0)).await.unwrap();
    while next_event(&mut updates).await.user_id.as_deref() != Some("echo") {}
    owner.send("r", "Is there anybody?").await.unwrap();
    let mut said = Vec::new();
    while said.len() < 2 {
        let event = next_event(&mut updates).await;
        said.extend(event.message.map(|text| (event.user_id.unwrap(), text)));
    }
    let by = |user: &str| (user.to_owned(), "Is there anybody?".to_owned());
    assert_eq!(said, [by("owner"), by("echo")]);
    bot.abort();
}
