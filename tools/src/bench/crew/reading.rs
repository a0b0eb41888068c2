//! A crew's sockets: opened without waiting, written to when the kernel has room, read when there
//! is something.

use std::io::{ErrorKind, Read};
use std::sync::Arc;

use mio::{Interest, Token};

use super::Loop;
use crate::bench::dial::dial;
use crate::bench::line::{Stage, Surroundings};

/// Bytes read at once, of one line. Each read is a system call, and in a catch-up there is a lot to
/// read; an idle line holds none of it.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;
/// What the buffer grows to, for servers that send everything that waits as one frame.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
impl Loop {
    pub(super) fn open(&mut self, place: usize) {
        let line = &mut self.crew.lines[place];
        let client = &self.crew.plan.clients[line.client];
        let target = &self.crew.plan.targets[line.target];
        let dialed = dial(target, line.client, client.is_slow).and_then(|mut stream| {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(place), both)?;
            Ok(Arc::new(stream))
        });
        line.stage = Stage::Connecting;
        self.opening += 1;
        match dialed {
            Ok(stream) => {
                line.outlet.open(stream.clone());
                self.ports[place].stream = Some(stream);
            }
            Err(err) => self.fail(place, &err.to_string()),
        }
    }

    pub(super) fn on_writable(&mut self, place: usize) {
        let line = &mut self.crew.lines[place];
        if line.stage == Stage::Connecting {
            let request = line.request(&self.crew.plan, &*self.crew.dialect);
            line.outlet.write(&request);
        } else {
            line.outlet.flush();
        }
    }

    /// Reads all that there is. Returns how many messages that were.
    pub(super) fn on_readable(&mut self, place: usize, is_at_end: bool) -> u64 {
        let mut delivered = 0;
        if self.crew.lines[place].stage == Stage::Connecting {
            return 0;
        }
        while let Some(stream) = self.ports[place].stream.clone() {
            if !self.is_settled && self.is_slow(place) && self.is_live(place) {
                break;
            }
            let tail = std::mem::take(&mut self.ports[place].tail);
            self.buffer[..tail.len()].copy_from_slice(&tail);
            let read = (&*stream).read(&mut self.buffer[tail.len()..]);
            let count = match read {
                Ok(0) => {
                    self.fail(place, "the server hung up");
                    break;
                }
                Ok(count) => count,
                Err(err) => {
                    self.ports[place].tail = tail;
                    match err.kind() {
                        ErrorKind::WouldBlock => break,
                        ErrorKind::Interrupted => continue,
                        _ => {
                            self.fail(place, &err.to_string());
                            break;
                        }
                    }
                }
            };
            let (len, room) = (tail.len() + count, self.buffer.len());
            delivered += self.on_bytes(place, len);
            // Less than there was room for: it was all. The kernel tells when there is more, except
            // for the end of the stream, which it has told already.
            if len < room && !is_at_end {
                break;
            }
        }
        delivered
    }

    /// So many bytes are in the buffer.
    fn on_bytes(&mut self, place: usize, len: usize) -> u64 {
        let crew = &mut self.crew;
        let mut around = Surroundings {
            plan: &crew.plan,
            dialect: &*crew.dialect,
            board: &crew.board,
            tally: &mut crew.tally,
            now: crew.board.now(),
            delivered: 0,
        };
        let line = &mut crew.lines[place];
        let outcome = line.read(&self.buffer[..len], &mut around);
        let delivered = around.delivered;
        if !outcome.reply.is_empty() {
            line.outlet.write(&outcome.reply);
        }
        self.ports[place].tail.extend_from_slice(&self.buffer[outcome.used..len]);
        self.act(place, &outcome);
        if self.ports[place].tail.len() == self.buffer.len() {
            if self.buffer.len() < FRAME_BYTES_MAX {
                self.buffer.resize(self.buffer.len() * 2, 0);
            } else {
                self.fail(place, "a frame is longer than the generator can read");
            }
        }
        delivered
    }
}
