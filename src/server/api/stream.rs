//! A room's events as Server-Sent Events: from a seq on, without holes, while the client reads.
//!
//! A stream has no queue and is in no list of followers. When its connection has room, hyper asks
//! for bytes, and only then a page is taken: from the room's ring, or else from the log. At the
//! room's edge, the stream waits until the edge moves. So a reader is only ever given last + 1, and
//! a slow one costs its position and the page on its way.
//!
//! ```text
//! hyper asks ──▶ above my position? ── ring, else log ──▶ the next events
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

type PageRead = Result<Option<Arc<Batch>>, LogError>;

/// Size of an event beyond its JSON: field names, a seq, a type.
const EVENT_OVERHEAD_BYTES: usize = 64;

/// An SSE comment, which only shows that the connection lives.
const HEARTBEAT: &[u8] = b":\n\n";

/// One open stream; owned by the body that hyper reads.
struct Reading {
    desk: Arc<Desk>,
    /// Kept, so that the hub keeps the room in use.
    room: Arc<Room>,
    user: UserId,
    address: IpAddr,
    /// The seq at which the user was known to be a member. A later `leave` ends the stream; an
    /// earlier one was followed by a `join`.
    as_of: Seq,
    /// The highest seq handed to hyper. `last + 1` comes next, and nothing else.
    last: Seq,
    /// Sent before any event.
    opening: Option<Bytes>,
    /// The page that is being read from the log. Stored, because a heartbeat may come first.
    page: Option<Pin<Box<dyn Future<Output = PageRead> + Send>>>,
    /// Empty pages in a row.
    empty_pages: u8,
    /// When the next heartbeat is due.
    due: Instant,
    /// Resolves when the node stops or the client is gone. One future for the whole stream: to
    /// register anew at each wait would take a lock that all streams share.
    ending: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// No more events: the user has left, or the log lost what it had.
    is_over: bool,
    _place: Streaming,
}

/// Opens a stream for a user who may follow the room.
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

/// The reconnect delay and the position, so that a client that loses its connection before the
/// first event resumes at the right place. An `id` without `data` is not an event.
fn opening(reconnect_ms: u64, room: &RoomName, last: Seq, is_reset: bool) -> Bytes {
    let mut out = format!("retry: {reconnect_ms}\nid: {last}\n\n").into_bytes();
    if is_reset {
        // The log is behind the client, which must forget its position.
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
        // A stopping node sends no more: the client reconnects, here or elsewhere, with the seq
        // that it has.
        while !self.is_over && !self.desk.tasks.is_stopping() {
            let room = self.room.clone();
            // Registered before looking, so that an event in between is not missed.
            let moved = room.moved();
            match room.page_after(self.last, BATCH_BYTES_MAX) {
                NextPage::Ring(batch) => return Some(self.take(&batch)),
                // The room was let go. A room in use is let go only because of damage, or because
                // the log went back.
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

    fn on_page(&mut self, page: PageRead) -> Option<Bytes> {
        match page {
            Ok(Some(batch)) if batch.first() <= self.last.next() => {
                self.empty_pages = 0;
                return Some(self.take(&batch));
            }
            // The log has a hole. Our logs have none, so it was changed by hand.
            Ok(Some(_)) => self.is_over = true,
            // A page may be a moment older than the question (see `Replay::page`). A second empty
            // one means that the log lacks what it had. The client reconnects and is told the
            // room's last seq.
            Ok(None) => {
                self.empty_pages += 1;
                self.is_over = self.empty_pages > 1 && self.room.edge() > Some(self.last);
            }
            // The client reconnects, and is refused while it cannot continue.
            Err(LogError::Damaged(_)) => {
                self.desk.relay.sick.note(self.room.name(), self.last);
                self.desk.metrics.follows_damaged.inc();
                self.is_over = true;
            }
            // `Replay` has paused between its attempts.
            Err(err) => {
                let room = self.room.name();
                tracing::debug!(%room, %err, "a stream cannot read the log and waits");
            }
        }
        None
    }

    /// The events of a page above `last`, up to the `leave` that ends the stream, if there is one.
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
        // The room lingers, as after a follower: the client may be right back.
        self.room.touch(tokio::time::Instant::now());
    }
}

fn page(
    desk: &Arc<Desk>,
    room: &Arc<Room>,
    last: Seq,
    address: IpAddr,
) -> Pin<Box<dyn Future<Output = PageRead> + Send>> {
    let (desk, room) = (desk.clone(), room.clone());
    Box::pin(async move {
        // An address that has read many pages waits for the next one.
        while let Some(wait) = desk.pace.page_wait(address, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
        desk.replay.page_patiently(room.name(), last).await
    })
}

fn heartbeat() -> Bytes {
    Bytes::from_static(HEARTBEAT)
}

/// One event. Its JSON has no line breaks, because control characters are always escaped.
fn put_event(out: &mut Vec<u8>, seq: Seq, payload: &[u8]) {
    let kind = frame::type_of(payload);
    // Writing into a vector cannot fail.
    let _ = write!(out, "id: {seq}\nevent: {kind}\ndata: ");
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\n\n");
}
