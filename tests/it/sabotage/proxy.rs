//! A WebSocket proxy between real clients and a real node, that lies.
//!
//! It knows frames, and one rule that says what becomes of each. It is as good as its word: what
//! the rule lets pass, passes as it is and in order.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::harness::proxy::Way;

/// What becomes of a frame. Every deed but the first is a lie.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    Pass,
    Drop,
    Twice,
    Instead(String),
    /// It comes behind the next frame of its room.
    Later,
    /// It passes, and this comes behind it.
    And(String),
    /// It does not reach the server; the client is answered with this.
    Answer(String),
}

/// A frame on its way.
pub struct Frame<'a> {
    pub way: Way,
    pub text: &'a str,
    pub json: Value,
}

type Rule = Box<dyn FnMut(&Frame<'_>) -> Deed + Send>;

/// Dropping it ends all connections.
pub struct Saboteur {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    server: SocketAddr,
    /// `None`: it is honest from now on.
    rule: Mutex<Option<Rule>>,
    /// Lies so far.
    deeds: watch::Sender<usize>,
    /// Connections that were made before the count was raised end.
    generation: watch::Sender<usize>,
}

impl Saboteur {
    pub async fn before(
        server: SocketAddr,
        rule: impl FnMut(&Frame<'_>) -> Deed + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            server,
            rule: Mutex::new(Some(Box::new(rule))),
            deeds: watch::channel(0).0,
            generation: watch::channel(0).0,
        });
        let addr = listener.local_addr().unwrap();
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { addr, shared, accepting }
    }

    /// Resolves when it has lied so many times.
    pub async fn has_lied(&self, times: usize) {
        let mut deeds = self.shared.deeds.subscribe();
        deeds.wait_for(|deeds| *deeds >= times).await.unwrap();
    }

    /// It lies no more, and who was lied to begins anew: what was dropped is asked for again.
    pub fn repent(&self) {
        *self.shared.rule.lock().unwrap() = None;
        self.hang_up();
    }

    fn hang_up(&self) {
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        self.accepting.abort();
        self.hang_up();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut generation = shared.generation.subscribe();
            generation.mark_unchanged();
            tokio::select! {
                // `None`: either side has gone.
                _ = relay(&shared, client) => {}
                _ = generation.changed() => {}
            }
        });
    }
}

/// Ends when either side hangs up, which ends the other.
async fn relay(shared: &Shared, client: TcpStream) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let server = TcpStream::connect(shared.server).await.ok()?;
    server.set_nodelay(true).ok()?;
    let mut client = accept_async(client).await.ok()?;
    let (mut server, _) = client_async(format!("ws://{}/ws", shared.server), server).await.ok()?;
    // Held back, with its room.
    let mut later: Option<(Value, String)> = None;
    loop {
        let (way, message) = tokio::select! {
            message = client.next() => (Way::ToServer, message?.ok()?),
            message = server.next() => (Way::ToClient, message?.ok()?),
        };
        let Message::Text(text) = message else { continue };
        let json = serde_json::from_str(&text).unwrap_or_default();
        let frame = Frame { way, text: &text, json };
        let (to_server, to_client) = shared.fates(&frame, &mut later);
        send(&mut server, to_server).await?;
        send(&mut client, to_client).await?;
    }
}

async fn send(socket: &mut WebSocketStream<TcpStream>, texts: Vec<String>) -> Option<()> {
    for text in texts {
        socket.send(Message::text(text)).await.ok()?;
    }
    Some(())
}

impl Shared {
    /// What goes to the server and what to the client for this frame.
    fn fates(
        &self,
        frame: &Frame<'_>,
        later: &mut Option<(Value, String)>,
    ) -> (Vec<String>, Vec<String>) {
        let deed = self.rule.lock().unwrap().as_mut().map_or(Deed::Pass, |rule| rule(frame));
        if deed != Deed::Pass {
            self.deeds.send_modify(|deeds| *deeds += 1);
        }
        let text = frame.text.to_owned();
        let mut texts = match deed {
            Deed::Pass => vec![text],
            Deed::Drop => vec![],
            Deed::Twice => vec![text.clone(), text],
            Deed::Instead(other) => vec![other],
            Deed::And(more) => vec![text, more],
            Deed::Answer(answer) => return (vec![], vec![answer]),
            Deed::Later => {
                let room = frame.json["room"].clone();
                // One at a time: whatever waited already has waited long enough.
                later.replace((room, text)).into_iter().map(|(_, text)| text).collect()
            }
        };
        if later
            .as_ref()
            .is_some_and(|(room, text)| *room == frame.json["room"] && text != frame.text)
        {
            texts.extend(later.take().map(|(_, text)| text));
        }
        match frame.way {
            Way::ToServer => (texts, vec![]),
            Way::ToClient => (vec![], texts),
        }
    }
}

/// One in so many of what comes by.
pub fn every(count: usize) -> impl FnMut() -> bool + Send {
    let seen = AtomicUsize::new(0);
    move || (seen.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(count)
}
