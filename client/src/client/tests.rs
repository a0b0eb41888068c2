//! When a client gives up. What it does on a server is in tests/it/client.rs.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::*;

/// A server that closes every connection with 1008: the first `answered` ones after that frame, and
/// the others at once. Returns the connections that it saw until the client gave up.
async fn connections_until_the_end(answered: usize, frame: &str) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings::new(&format!("ws://{}", listener.local_addr().unwrap()), "ada");
    let backoff = Backoff { first: Duration::ZERO, longest: Duration::ZERO };
    let (client, mut updates) = Client::start(Settings { backoff, ..settings.unwrap() });
    let serve = async {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            let mut frames = vec![r#"{"type":"hello","node":"n"}"#];
            if number < answered {
                frames.push(frame);
            }
            for frame in frames {
                socket.send(Message::text(frame)).await.unwrap();
            }
            let close = CloseFrame { code: 1008.into(), reason: "no".into() };
            socket.close(Some(close)).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
            SEEN.with(|seen| seen.set(number + 1));
        }
    };
    let end = async { while updates.next().await.is_some() {} };
    tokio::select! {
        () = serve => {}
        () = end => {}
        () = sleep(Duration::from_secs(20)) => panic!("it goes on"),
    }
    drop(client);
    SEEN.with(std::cell::Cell::take)
}

thread_local! {
    static SEEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[tokio::test]
async fn it_gives_up_when_it_is_thrown_out_twice_and_nothing_was_answered_between() {
    for (answered, connections) in [(0, 2), (1, 2), (3, 4)] {
        let seen = connections_until_the_end(answered, r#"{"type":"pong"}"#).await;
        // The last one may not have been counted.
        assert!((connections - 1..=connections).contains(&seen), "{answered}: {seen}");
    }
}

/// A server refuses some commands before it closes a connection for too many of them.
#[tokio::test]
async fn refusals_before_a_close_are_no_reason_to_try_again() {
    let refusal = r#"{"type":"error","code":"rate_limited","status":429,"error":"x"}"#;
    assert!(connections_until_the_end(9, refusal).await <= 2);
}
