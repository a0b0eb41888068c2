//! A room's events as Server-Sent Events: from a seq on, without a hole, for as long as the client
//! reads.
//!
//! It has no queue and stands in no list of followers. hyper asks for bytes when the connection has
//! room for them, and only then a page is taken: from the room's ring, else from the log. At the
//! room's edge the stream waits until the edge moves. So a reader is only ever given last + 1, and
//! one that is slow costs its place and the page that is on its way.
//!
//! ```text
//! hyper asks ──▶ above my place? ── ring, else log ──▶ the next events
//!                    │ nothing
//!                    └──▶ wait: the edge moved │ a heartbeat is due │ the node stops, or the
//!                                                                     client goes: the end
//! ```

use std::future::Future;
use std::io::Write;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;

use super::Visitor;
use super::reply::Refusal;
use crate::desk::follow::Follow;
use crate::desk::{Desk, Joined};
use crate::hub::{BATCH_BYTES_MAX, Batch, NextPage, Room};
use crate::log::LogError;
use crate::model::{RoomName, Seq, UserId};
use crate::protocol::frame;
use crate::server::admission::Streaming;
use crate::server::answer::Pieces;

type Page = Result<Option<Arc<Batch>>, LogError>;

/// What an event has beyond its JSON: the names of its lines, a seq, a type.
const EVENT_OVERHEAD_BYTES: usize = 64;

/// A comment: it says that the connection lives, and nothing else.
const HEARTBEAT: &[u8] = b":\n\n";

/// One open stream; owned by the body that hyper reads.
struct Reading {
    desk: Arc<Desk>,
    /// Held, so that the hub keeps it in use.
    room: Arc<Room>,
    user: UserId,
    address: IpAddr,
    /// When the user was known to be a member: a `leave` above it ends the stream, one below was
    /// followed by a `join`.
    as_of: Seq,
    /// The highest seq that was handed to hyper; it gets `last + 1` next, and nothing else.
    last: Seq,
    /// What is said before any event.
    opening: Option<Bytes>,
    /// The page that is being read from the log. Kept, because a heartbeat may come first.
    page: Option<Pin<Box<dyn Future<Output = Page> + Send>>>,
    /// Empty pages in a row.
    empty_pages: u8,
    /// When the next heartbeat is due.
    due: Instant,
    /// The node stops, or the client has gone. One for the whole stream: to register anew at each
    /// wait would take a lock that all streams share.
    ending: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Nothing comes any more: the user has left, or the log lost what it had.
    is_over: bool,
    _place: Streaming,
}

/// Opens a stream for one who may follow the room.
pub fn open(desk: &Arc<Desk>, follow: Follow, visitor: &Visitor<'_>) -> Result<Pieces, Refusal> {
    let (address, peer) = (visitor.address, visitor.peer.clone());
    let place = visitor.permit.stream(visitor.client).map_err(Refusal::Full)?;
    let Follow { joined: Joined { asked, last_seq, .. }, room, position, reset } = follow;

    desk.metrics.streams.inc();
    let tasks = desk.tasks.clone();
    let reading = Reading {
        opening: Some(opening(desk.config.server.reconnect_ms, &asked.room, position, reset)),
        desk: desk.clone(),
        room,
        user: asked.user,
        as_of: last_seq,
        last: position,
        page: None,
        empty_pages: 0,
        address,
        due: Instant::now(),
        ending: Box::pin(async move {
            tokio::select! {
                () = tasks.stopping() => {}
                () = peer.gone() => {}
            }
        }),
        is_over: false,
        _place: place,
    };
    let chunks = stream::unfold(reading, async |mut reading| {
        let bytes = reading.next().await?;
        Some((Ok(bytes), reading))
    });
    Ok(Box::pin(chunks))
}

/// How long to wait before coming back, and from where on: a client that loses its connection
/// before the first event comes back to the right place, too. An `id` without `data` is no event.
fn opening(reconnect_ms: u64, room: &RoomName, last: Seq, is_reset: bool) -> Bytes {
    let mut out = format!("retry: {reconnect_ms}\nid: {last}\n\n").into_bytes();
    if is_reset {
        // The log is behind the client: it must forget its position.
        out.extend_from_slice(b"event: reset\ndata: ");
        out.extend_from_slice(frame::reset(room, last).payload());
        out.extend_from_slice(b"\n\n");
    }
    out.into()
}

impl Reading {
    /// The next bytes; `None` ends the stream in order. Not polled while the client takes nothing.
    async fn next(&mut self) -> Option<Bytes> {
        let chunk = match self.opening.take() {
            Some(opening) => Some(opening),
            None => self.advance().await,
        };
        let heartbeat = Duration::from_millis(self.desk.config.socket.heartbeat_ms);
        self.due = Instant::now() + heartbeat;
        chunk
    }

    async fn advance(&mut self) -> Option<Bytes> {
        // A stopping node has said everything that cannot be said elsewhere: the client comes back
        // to another node, or to this one, with the seq that it has.
        while !self.is_over && !self.desk.tasks.is_stopping() {
            let room = self.room.clone();
            // First this, then the look: an event between the two is not missed.
            let moved = room.moved();
            match room.page_after(self.last, BATCH_BYTES_MAX) {
                NextPage::Ring(batch) => return Some(self.take(&batch)),
                // The room was let go, which is done to one that is held only for damage, or
                // because the log went back.
                NextPage::Closed => {
                    if self.desk.relay.sick.ahead_of(room.name(), self.last).is_some() {
                        self.desk.metrics.follows_damaged.inc();
                    }
                    return None;
                }
                NextPage::Live => tokio::select! {
                    () = moved => {}
                    () = tokio::time::sleep_until(self.due.into()) => return Some(heartbeat()),
                    () = &mut self.ending => return None,
                },
                NextPage::Log => {
                    let page = self
                        .page
                        .get_or_insert_with(|| page(&self.desk, &room, self.last, self.address));
                    tokio::select! {
                        read = page => {
                            self.page = None;
                            if let Some(chunk) = self.on_page(read) {
                                return Some(chunk);
                            }
                        }
                        () = tokio::time::sleep_until(self.due.into()) => return Some(heartbeat()),
                        () = &mut self.ending => return None,
                    }
                }
            }
        }
        None
    }

    fn on_page(&mut self, page: Page) -> Option<Bytes> {
        match page {
            Ok(Some(batch)) if batch.first() <= self.last.next() => {
                self.empty_pages = 0;
                return Some(self.take(&batch));
            }
            // The log has a hole, which no log of ours has: it was changed by hand.
            Ok(Some(_)) => self.is_over = true,
            // A page may be a moment older than the question (see `Replay::page`), a second one
            // may not: then the log lacks what was there before. The client comes back, and is
            // told where the room stands.
            Ok(None) => {
                self.empty_pages += 1;
                self.is_over = self.empty_pages > 1 && self.room.edge() > Some(self.last);
            }
            // The client comes back, and is refused for as long as it cannot go on.
            Err(LogError::Damaged(_)) => {
                self.desk.relay.sick.note(self.room.name(), self.last);
                self.desk.metrics.follows_damaged.inc();
                self.is_over = true;
            }
            // `Replay` has waited between its attempts.
            Err(err) => tracing::debug!(room = %self.room.name(), %err, "a stream must wait"),
        }
        None
    }

    /// The events of a page above our place, up to the `leave` that ends the stream, if one does.
    fn take(&mut self, batch: &Batch) -> Bytes {
        let mut leaves = batch.leaves_after(self.last.max(self.as_of));
        let ends_at = leaves.find(|(_, user)| *user == self.user).map(|(seq, _)| *seq);
        let count = batch.last().0.saturating_sub(self.last.0) as usize;
        let len = batch.slice(self.last, batch.last()).len() + count * EVENT_OVERHEAD_BYTES;
        let mut out = Vec::with_capacity(len);
        let before = self.last;
        for (seq, payload) in batch.payloads_after(before) {
            put_event(&mut out, seq, payload);
            self.last = seq;
            if ends_at == Some(seq) {
                self.is_over = true;
                break;
            }
        }
        self.desk.metrics.deliveries.inc_by(self.last.0 - before.0);
        self.desk.budgets.unsent.hold(out.capacity()).keep(out)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.desk.metrics.streams.dec();
        // The room lingers, as it does when a follower goes: the client may be right back.
        self.room.touch(tokio::time::Instant::now());
    }
}

fn page(
    desk: &Arc<Desk>,
    room: &Arc<Room>,
    last: Seq,
    address: IpAddr,
) -> Pin<Box<dyn Future<Output = Page> + Send>> {
    let (desk, room) = (desk.clone(), room.clone());
    Box::pin(async move {
        // Who has had many pages waits for the next.
        while let Some(wait) = desk.pace.page_wait(address, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
        desk.replay.page_patiently(room.name(), last).await
    })
}

fn heartbeat() -> Bytes {
    Bytes::from_static(HEARTBEAT)
}

/// One event. Its JSON has no line break: control characters are always escaped.
fn put_event(out: &mut Vec<u8>, seq: Seq, payload: &[u8]) {
    let kind = frame::type_of(payload);
    // Writing into a vector cannot fail.
    let _ = write!(out, "id: {seq}\nevent: {kind}\ndata: ");
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\n\n");
}
