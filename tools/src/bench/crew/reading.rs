//! A crew's sockets: opened without waiting, written when the kernel has room, and read when bytes
//! have arrived.

use std::io::{ErrorKind, Read};
use std::sync::Arc;

use mio::{Interest, Token};

use super::Loop;
use crate::bench::dial::dial;
use crate::bench::line::{Stage, Surroundings};

/// Bytes read at once from one line. Each read is a system call, and a catch-up is a lot to read.
/// An idle line uses none of the buffer.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;
/// The most that the buffer grows to, for servers that send everything that waits as one frame.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
impl Loop {
    pub(super) fn open(&mut self, index: usize) {
        let line = &mut self.crew.lines[index];
        let client = &self.crew.plan.clients[line.client];
        let target = &self.crew.plan.targets[line.target];
        let dialed = dial(target, line.client, client.is_slow).and_then(|mut stream| {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(index), both)?;
            Ok(Arc::new(stream))
        });
        line.stage = Stage::Connecting;
        self.opening += 1;
        match dialed {
            Ok(stream) => {
                line.outlet.open(stream.clone());
                self.ports[index].stream = Some(stream);
            }
            Err(err) => self.fail(index, &err.to_string()),
        }
    }

    pub(super) fn on_writable(&mut self, index: usize) {
        let line = &mut self.crew.lines[index];
        if line.stage == Stage::Connecting {
            let request = line.request(&self.crew.plan, &*self.crew.dialect);
            line.outlet.write(&request);
        } else {
            line.outlet.flush();
        }
    }

    /// Reads all that has arrived. Returns how many messages were delivered.
    pub(super) fn on_readable(&mut self, index: usize, is_at_end: bool) -> u64 {
        let mut delivered = 0;
        if self.crew.lines[index].stage == Stage::Connecting {
            return 0;
        }
        while let Some(stream) = self.ports[index].stream.clone() {
            if !self.is_settled && self.is_slow(index) && self.is_live(index) {
                break;
            }
            let tail = std::mem::take(&mut self.ports[index].tail);
            self.buffer[..tail.len()].copy_from_slice(&tail);
            let read = (&*stream).read(&mut self.buffer[tail.len()..]);
            let count = match read {
                Ok(0) => {
                    self.fail(index, "the server ended the connection without closing it");
                    break;
                }
                Ok(count) => count,
                Err(err) => {
                    self.ports[index].tail = tail;
                    match err.kind() {
                        ErrorKind::WouldBlock => break,
                        ErrorKind::Interrupted => continue,
                        _ => {
                            self.fail(index, &err.to_string());
                            break;
                        }
                    }
                }
            };
            let (len, room) = (tail.len() + count, self.buffer.len());
            delivered += self.on_bytes(index, len);
            // Less than there was room for, so this was all. The kernel reports when there is more,
            // except for the end of the stream, which it has already reported.
            if len < room && !is_at_end {
                break;
            }
        }
        delivered
    }

    /// Handles the first `len` bytes of the buffer.
    fn on_bytes(&mut self, index: usize, len: usize) -> u64 {
        let crew = &mut self.crew;
        let mut around = Surroundings {
            plan: &crew.plan,
            dialect: &*crew.dialect,
            board: &crew.board,
            tally: &mut crew.tally,
            now: crew.board.now(),
            delivered: 0,
        };
        let line = &mut crew.lines[index];
        let outcome = line.read(&self.buffer[..len], &mut around);
        let delivered = around.delivered;
        if !outcome.reply.is_empty() {
            line.outlet.write(&outcome.reply);
        }
        self.ports[index].tail.extend_from_slice(&self.buffer[outcome.used..len]);
        self.act(index, &outcome);
        if self.ports[index].tail.len() == self.buffer.len() {
            if self.buffer.len() < FRAME_BYTES_MAX {
                self.buffer.resize(self.buffer.len() * 2, 0);
            } else {
                self.fail(
                    index,
                    "the server sent a frame that is longer than the generator can read",
                );
            }
        }
        delivered
    }
}
