//! The harness itself: if these fail, look no further.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_postgres::{Client as Sql, NoTls};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::postgres::Postgres;
use super::process::{Exit, Process};
use super::proxy::{Fate, Pieces, Proxy, Way};
use super::raw::masked_frame;
use super::redis::Redis;
use super::{Client, World, on_both_logs, services};

async fn sql(url: &str) -> Sql {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("cannot connect");
    // It ends with the client, or with the server that a test kills.
    tokio::spawn(connection);
    client
}

async fn count(client: &Sql) -> i64 {
    client.query_one("select count(*) from kept", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_test_has_a_database_of_its_own() {
    let (one, two) = tokio::join!(services::database(), services::database());
    assert_ne!(one, two);
    sql(&one).await.batch_execute("create table kept (n int)").await.unwrap();
    sql(&two).await.batch_execute("create table kept (n int)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_of_ones_own_keeps_its_data_through_kill_and_restart() {
    let mut server = Postgres::start(&["max_connections=20"]).await;
    let url = server.database().await;
    let before = sql(&url).await;
    before.batch_execute("create table kept (n int); insert into kept values (1)").await.unwrap();

    server.kill();
    assert!(before.query_one("select 1", &[]).await.is_err(), "it survived its death");
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err(), "something listens in its place");

    server.restart().await;
    assert_eq!(count(&sql(&url).await).await, 1);
    // And once more, from running.
    server.restart().await;
    assert_eq!(count(&sql(&url).await).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_postgres_answers_only_after_it_is_resumed() {
    let server = Postgres::start(&[]).await;
    let client = sql(&server.url("postgres")).await;
    server.pause();
    let answer = client.query_one("select 1", &[]);
    tokio::pin!(answer);
    // That nothing comes can only be seen by waiting; too short a wait cannot fail falsely.
    assert!(timeout(Duration::from_millis(200), &mut answer).await.is_err(), "it answered");
    server.resume();
    answer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_of_ones_own_can_be_killed_and_restarted() {
    let mut server = Redis::start(&[]).await;
    let addr = ("127.0.0.1", server.port());
    let mut stream = TcpStream::connect(addr).await.unwrap();
    server.kill();
    let ended = stream.read_u8().await.unwrap_err().kind();
    assert!(matches!(ended, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{ended}");
    assert!(TcpStream::connect(addr).await.is_err());
    server.restart().await;
    assert_ne!(services::redis_url().await, server.url(), "the shared one is another");
}

/// A server by hand.
async fn server() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn a_connection_that_is_cut_at_its_answer_has_delivered_the_question() {
    let (listener, port) = server().await;
    let proxy = Proxy::to(port, Pieces::Chunks).await;
    proxy.rule(|way, piece| match (way, piece) {
        (Way::ToServer, b"commit") => Fate::CutAnswer,
        _ => Fate::Pass,
    });
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut said = [0; 6];
    client.write_all(b"begin!").await.unwrap();
    server.read_exact(&mut said).await.unwrap();
    server.write_all(b"begun!").await.unwrap();
    client.read_exact(&mut said).await.unwrap();
    client.write_all(b"commit").await.unwrap();
    server.read_exact(&mut said).await.unwrap();
    assert_eq!((&said, proxy.cuts()), (b"commit", 0));
    server.write_all(b"done").await.unwrap();
    assert_eq!(client.read(&mut said).await.unwrap_or(0), 0, "the answer came through");
    assert_eq!(proxy.cuts(), 1);
}

#[tokio::test]
async fn a_client_that_is_reset_resets_the_server() {
    let (listener, port) = server().await;
    let proxy = Proxy::tight(port).await;
    let client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let ended = server.read_u8().await.unwrap_err().kind();
    assert_eq!(ended, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_waits_in_the_hole_is_counted_and_comes_out_of_it() {
    let (listener, port) = server().await;
    let proxy = Proxy::to(1, Pieces::Chunks).await;
    proxy.retarget(port);
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    proxy.swallow();
    client.write_all(b"!").await.unwrap();
    while proxy.held() == 0 {
        tokio::task::yield_now().await;
    }
    proxy.heal();
    assert_eq!(server.read_u8().await.unwrap(), b'!');
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_serves_and_ends_on_every_signal() {
    let world = World::sqlite().await;
    let mut process = Process::start(world.environment()).await;
    TcpStream::connect(process.addr).await.unwrap();
    process.sigterm();
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());

    let mut process = Process::start(world.environment()).await;
    process.sigint();
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());

    let mut process = Process::start(world.environment()).await;
    process.kill9();
    assert_eq!(process.wait_exit().await, Exit::Signal(9));
}

on_both_logs!(a_node_starts_stops_and_starts_again_on_the_same_log);

async fn a_node_starts_stops_and_starts_again_on_the_same_log(world: World) {
    let node = world.node_with(|config| config.socket.heartbeat_ms = 1000).await;
    TcpStream::connect(node.addr).await.unwrap();
    let node = node.restart().await;
    TcpStream::connect(node.addr).await.unwrap();
    node.stop().await;
}

/// The client against a server of a few lines, so that its own word is not all there is.
#[tokio::test]
async fn a_client_reads_like_the_conversation() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        socket.send(Message::text(r#"{"type":"hello","node":"n"}"#)).await.unwrap();
        socket.send(Message::Ping("are you there".into())).await.unwrap();
        let mut said = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            match message.to_text().unwrap_or_default() {
                r#"{"type":"ping"}"# => {
                    socket.send(Message::text(r#"{"type":"pong"}"#)).await.unwrap();
                }
                "bye" => socket.close(Some(policy())).await.unwrap(),
                _ => said.push(message),
            }
        }
        said
    });
    let mut client = Client::connect(addr).await;
    assert_eq!(client.expect(json!({"type": "hello"})).await["node"], "n");
    client.expect_nothing().await;
    client.send_text(r#"{"type":"ping"}"#).await;
    client.expect_exactly(r#"{"type":"pong"}"#).await;
    client.send_binary(vec![7]).await;
    client.send_text("bye").await;
    client.expect_close(1008).await;
    let said = server.await.unwrap();
    assert!(said.contains(&Message::Pong("are you there".into())), "{said:?}");
    assert!(said.contains(&Message::binary(vec![7])), "{said:?}");

    // What does not go by the script shows the conversation.
    let failed = tokio::spawn(async move { client.expect(json!({"type": "ack"})).await });
    let told = failed.await.unwrap_err().into_panic();
    let told = told.downcast_ref::<String>().unwrap();
    assert!(told.contains("the conversation\n  < {\"type\":\"hello\""), "{told}");
}

fn policy() -> CloseFrame {
    CloseFrame { code: CloseCode::Policy, reason: "enough".into() }
}

#[test]
fn a_frame_by_hand_is_that_of_the_rfc() {
    // RFC 6455, section 5.7: a single-frame masked text message.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(masked_frame(0x81, b"Hello"), hello);
    assert_eq!(masked_frame(0x81, &[0; 126])[1..4], [0xfe, 0, 126]);
    assert_eq!(masked_frame(0x81, &vec![0; 65536])[1..10], [0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
}
