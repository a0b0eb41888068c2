//! The echo that conformance suites are run against (`examples/echo.rs`): that it still echoes.
//! What such a suite finds is found by hand; that it finds a server is found here.

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::wire::soon;

#[path = "../../../examples/echo.rs"]
#[allow(dead_code, reason = "its main is for the command line")]
mod example;

#[tokio::test]
async fn the_example_sends_back_what_it_gets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        example::serve(stream).await;
    });
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut client, _) = client_async(format!("ws://{addr}/"), stream).await.unwrap();
    for message in [
        Message::text(""),
        Message::text("Hello World!"),
        Message::binary(vec![0, 255, 7]),
        // More than the socket reads or queues at once.
        Message::binary(vec![1; 1024 * 1024]),
    ] {
        client.send(message.clone()).await.unwrap();
        assert_eq!(soon(client.next()).await.unwrap().unwrap(), message);
    }
    client.close(None).await.unwrap();
    assert!(soon(client.next()).await.unwrap().unwrap().is_close());
    soon(server).await.unwrap();
}
