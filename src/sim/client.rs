//! A client that trusts nothing. It reads its socket and checks every event: each room that it
//! follows must arrive as last + 1, byte for byte as committed, and end with its user's leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::truth::{Fact, Truth};
use crate::model::Seq;

/// Shared by its reader, its session, and the schedule.
pub struct Client {
    pub number: usize,
    truth: Arc<Truth>,
    state: Mutex<ClientState>,
}

#[derive(Default)]
pub struct ClientState {
    /// What it has of each room, over all its sockets.
    pub rooms: BTreeMap<usize, Shown>,
    /// As which user it wants to follow which room.
    pub wanted: BTreeMap<usize, usize>,
    /// Rooms that went back while it did not follow them: some of what it has may be lost.
    pub untold: BTreeSet<usize>,
    /// The number of its current socket.
    pub socket: usize,
    pub is_connected: bool,
    /// A `resume` was sent, and its answer is not complete.
    pub is_resuming: bool,
    /// Answers owed to it.
    pub owed: usize,
    /// As which users this socket follows.
    following: BTreeMap<usize, Following>,
    /// What its session has said so far; the wire carries indexes into this.
    said: Vec<Said>,
    /// The beginning of an unfinished frame.
    partial: Vec<u8>,
}

/// A room as a client has it: from `start` on, without a hole.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub start: Seq,
    pub last: Seq,
    /// The numbers of the events above `start`.
    pub numbers: Vec<usize>,
}

#[derive(Default)]
struct Following {
    /// Each with the seq at which they were a member.
    users: Vec<(usize, Seq)>,
    /// Users whose leaves arrived.
    left: BTreeMap<usize, Seq>,
}

/// What a session says besides events. On the wire it is a `#` and an index.
#[derive(Clone, Debug)]
pub enum Said {
    Joined {
        room: usize,
        user: usize,
        /// The user is a member as of this seq.
        as_of: Seq,
        /// A new follower was created, which starts after this seq.
        begins: Option<Seq>,
        is_reset: bool,
        /// The client returned with what it has.
        is_resumed: bool,
    },
    Refused {
        room: usize,
        user: usize,
        /// The user is not a member, or the room does not exist.
        is_stranger: bool,
    },
    /// Each room with the seq that its `joined` named.
    Resumed(Vec<(usize, Seq)>),
}

impl Client {
    pub fn new(number: usize, truth: &Arc<Truth>) -> Arc<Self> {
        Arc::new(Self { number, truth: truth.clone(), state: Mutex::default() })
    }

    pub fn state(&self) -> MutexGuard<'_, ClientState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a new socket. Returns its number.
    pub fn connect(&self) -> usize {
        let mut state = self.state();
        let ClientState { rooms, wanted, untold, socket, .. } = std::mem::take(&mut *state);
        let socket = socket + 1;
        *state = ClientState {
            rooms,
            wanted,
            untold,
            socket,
            is_connected: true,
            ..ClientState::default()
        };
        socket
    }

    /// That socket is gone.
    pub fn disconnected(&self, socket: usize) {
        let mut state = self.state();
        if state.socket == socket {
            state.is_connected = false;
            state.following.clear();
        }
    }

    /// Its session is about to say this; returns the text for the wire.
    pub fn say(&self, socket: usize, said: Said) -> String {
        let mut state = self.state();
        if state.socket != socket {
            return "#".to_owned();
        }
        state.said.push(said);
        format!("#{}", state.said.len() - 1)
    }

    pub fn set_owed(&self, socket: usize, owed: usize) {
        let mut state = self.state();
        if state.socket == socket {
            state.owed = owed;
        }
    }

    /// Bytes arrived on that socket.
    pub fn take(&self, socket: usize, bytes: &[u8]) {
        let mut state = self.state();
        if state.socket != socket || !state.is_connected {
            return;
        }
        state.partial.extend_from_slice(bytes);
        let mut begin = 0;
        while let Some((header, len)) = frame_of(&state.partial[begin..]) {
            let frame = state.partial[begin..begin + header + len].to_vec();
            begin += header + len;
            let taken = match frame[header..].strip_prefix(b"#") {
                Some(number) => state.on_said(number, &self.truth),
                None => state.on_event(&frame, &self.truth),
            };
            if let Err(broken) = taken {
                let number = self.number;
                self.truth.fail(format!("client {number} (socket {socket}): {broken}"));
            }
        }
        state.partial.drain(..begin);
    }

    /// What is still missing, if anything.
    pub fn lacks(&self) -> Option<String> {
        let state = self.state();
        if state.owed > 0 {
            return Some(format!("{} answers", state.owed));
        }
        if let Some(user) = state.missing() {
            return Some(format!("a room that it wants to follow as {user}"));
        }
        for (room, _) in state.following.iter().filter(|(_, it)| !it.users.is_empty()) {
            let (last, wanted) = (state.last(*room), self.truth.last(*room));
            if last != wanted {
                return Some(format!("{last} to {wanted} of room {room}"));
            }
        }
        None
    }

    /// Checks that what it has of the rooms it follows is what exists.
    pub fn compare(&self) {
        let state = self.state();
        for (room, _) in state.following.iter().filter(|(_, it)| !it.users.is_empty()) {
            let Some(shown) = state.rooms.get(room) else { continue };
            let stored = self.truth.numbers(*room);
            if stored.get(shown.start.0 as usize..) != Some(&shown.numbers) {
                let (number, start) = (self.number, shown.start);
                let shown = &shown.numbers;
                let what = format!(
                    "client {number} has of room {room} from {start} on {shown:?}, of {stored:?}"
                );
                self.truth.fail(what);
            }
        }
    }

    /// The room went back. What this client has of it need not be what it will be told, unless the
    /// node knows what it had.
    pub fn went_back(&self, room: usize, to: Seq) {
        let mut state = self.state();
        let follows = state.following.get(&room).is_some_and(|it| !it.users.is_empty());
        let is_told = state.is_connected && follows;
        if !is_told && state.last(room) > to {
            state.untold.insert(room);
        }
    }
}

impl ClientState {
    /// As which user it wants to follow a room that it does not follow.
    pub fn missing(&self) -> Option<usize> {
        let follows = |room| self.following.get(room).is_some_and(|it| !it.users.is_empty());
        self.wanted.iter().find(|(room, _)| !follows(*room)).map(|(_, user)| *user)
    }

    pub fn last(&self, room: usize) -> Seq {
        self.rooms.get(&room).map_or(Seq(0), |shown| shown.last)
    }

    fn on_said(&mut self, number: &[u8], truth: &Truth) -> Result<(), String> {
        let number = std::str::from_utf8(number).ok().and_then(|text| text.parse::<usize>().ok());
        let said = number.and_then(|number| self.said.get(number)).cloned();
        match said.ok_or("an unknown frame")? {
            Said::Joined { room, user, as_of, begins, is_reset, is_resumed } => {
                if let Some(position) = begins {
                    // A client that does not say what it has is not told that it is lost.
                    let is_untold = self.untold.remove(&room) || !is_resumed;
                    let is_new = is_reset || (is_untold && truth.has_gone_back(room));
                    self.begin(room, position, is_new);
                    self.following.insert(room, Following::default());
                }
                let following = self.following.entry(room).or_default();
                if following.left.get(&user).is_none_or(|left| *left <= as_of) {
                    match following.users.iter_mut().find(|(known, _)| *known == user) {
                        Some(known) => known.1 = known.1.max(as_of),
                        None => following.users.push((user, as_of)),
                    }
                }
            }
            Said::Refused { room, user, is_stranger } => {
                if is_stranger && self.wanted.get(&room) == Some(&user) {
                    self.wanted.remove(&room);
                }
            }
            Said::Resumed(rooms) => {
                self.is_resuming = false;
                for (room, seq) in rooms {
                    let follows = self.following.get(&room).is_some_and(|it| !it.users.is_empty());
                    if follows && self.last(room) < seq && !truth.has_gone_back(room) {
                        let last = self.last(room);
                        return Err(format!("resumed room {room} at {last}, which was at {seq}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A new follower starts there.
    fn begin(&mut self, room: usize, position: Seq, is_new: bool) {
        let shown = self.rooms.entry(room).or_default();
        if is_new || shown.last != position {
            *shown = Shown { start: position, last: position, numbers: Vec::new() };
        }
    }

    fn on_event(&mut self, frame: &[u8], truth: &Truth) -> Result<(), String> {
        let fact = truth.fact(frame).ok_or_else(|| {
            let text = String::from_utf8_lossy(frame);
            format!("was shown what is not committed, or other bytes: {text}")
        })?;
        let Fact { room, seq, left, number, before } = fact;
        let following = self.following.get_mut(&room).filter(|it| !it.users.is_empty());
        let following = following.ok_or(format!("was shown {seq} of {room} unasked"))?;
        let shown = self.rooms.entry(room).or_default();
        if seq != shown.last.next() {
            return Err(format!("was shown {seq} of room {room} after {}", shown.last));
        }
        let is_other = shown.numbers.last().is_some_and(|last| *last != before);
        if is_other && !truth.has_gone_back(room) {
            return Err(format!("was shown {seq} of room {room}, which follows on another"));
        }
        truth.shown();
        shown.last = seq;
        shown.numbers.push(number);
        if let Some(left) = left {
            following.left.insert(left, seq);
            following.users.retain(|(user, as_of)| *user != left || *as_of >= seq);
            if following.users.is_empty() && self.wanted.get(&room) == Some(&left) {
                self.wanted.remove(&room);
            }
        }
        Ok(())
    }
}

/// The lengths of the first frame's header and payload, if it is whole.
fn frame_of(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, len) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        len => (2, usize::from(len)),
    };
    (bytes.len() >= header + len).then_some((header, len))
}
