//! The kernel and the network of a test: a few bytes on their way to a client that reads when it
//! likes. A link on a pipe needs no socket, and no clock but tokio's.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::link::Link;
use super::outlet::Outlet;
use super::queue::Queues;

/// Both ends. Clones are the same.
#[derive(Clone, Debug)]
pub struct Pipe(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    bytes_max: usize,
    /// The client is not reading.
    is_idle: bool,
    /// The client is gone, or the link is.
    is_closed: bool,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

/// What the owner of a link must know, for a test that plays the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub has_drained: bool,
    pub is_broken: bool,
}

impl Pipe {
    /// `bytes_max`: how much may be under way.
    pub fn new(bytes_max: usize) -> Self {
        let (is_idle, is_closed, writer, reader) = (false, false, None, None);
        let bytes = Vec::new();
        let state = State { bytes, bytes_max, is_idle, is_closed, writer, reader };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state();
        if state.is_closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let before = state.bytes.len();
        for slice in slices {
            let room = state.bytes_max - state.bytes.len();
            state.bytes.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let written = state.bytes.len() - before;
        if written == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        wake(state, |state| &mut state.reader);
        Ok(written)
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if state.is_closed {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if state.bytes.len() < state.bytes_max {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What has arrived, up to `bytes_max`, as soon as there is some and the client reads. `None`:
    /// it is over.
    pub async fn read(&self, bytes_max: usize) -> Option<Vec<u8>> {
        poll_fn(|cx| {
            let mut state = self.state();
            if !state.is_idle && !state.bytes.is_empty() {
                let len = bytes_max.min(state.bytes.len());
                let bytes = state.bytes.drain(..len).collect();
                wake(state, |state| &mut state.writer);
                return Poll::Ready(Some(bytes));
            }
            if state.is_closed {
                return Poll::Ready(None);
            }
            state.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// From here on the client stops reading, or reads again.
    pub fn set_idle(&self, is_idle: bool) {
        let mut state = self.state();
        state.is_idle = is_idle;
        wake(state, |state| &mut state.reader);
    }

    /// One of the two ends is gone.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let writer = state.writer.take();
        wake(state, |state| &mut state.reader);
        writer.into_iter().for_each(Waker::wake);
    }
}

/// Wakes a waiting end after releasing the lock.
fn wake(mut state: MutexGuard<'_, State>, who: impl Fn(&mut State) -> &mut Option<Waker>) {
    let waker = who(&mut state).take();
    drop(state);
    waker.into_iter().for_each(Waker::wake);
}

impl Link {
    pub fn on_pipe(pipe: &Pipe, queue_bytes_max: usize, queues: &Arc<Queues>) -> Arc<Self> {
        Self::new(Outlet::Pipe(pipe.clone()), queue_bytes_max, queues)
    }

    /// What a socket does with its link in each turn.
    pub fn poll_turn(&self, cx: &mut Context<'_>) -> Turn {
        let flow = self.poll_flush(cx);
        Turn { has_drained: flow.has_drained, is_broken: flow.is_broken }
    }

    /// What a socket does with its link when it is dropped.
    pub fn cut(&self) {
        self.end();
    }
}
