//! Read marks on their way to the log: only the last one per user and room, many in one statement.
//!
//! A mark is sent to others when it is stored, not before. If the node dies within that second, the
//! mark is lost, and the user has a few messages unread that they have seen.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Party;
use crate::log::{Mark, Marked, Marker};
use crate::model::{RoomName, Seq, UserId};
use crate::share::Shares;
use crate::tasks::Tasks;

/// Marks per statement.
const BATCH_LEN: usize = 500;
/// Least time between two writes, even if somebody waits for the second. Each write waits for a
/// disk, and a client that alternates between marking and asking would cause one each time.
const HURRY_PAUSE: Duration = Duration::from_millis(50);

/// One per node.
pub struct Marks {
    /// Bounded by `signals.read_len_max`.
    state: Mutex<State>,
    /// Notified when marks wait.
    waiting: Notify,
    /// Notified when somebody waits for them to be stored.
    hurry: Notify,
    /// Counts writes.
    written: watch::Sender<u64>,
}

struct State {
    waiting: Waiting,
    /// Taken and not known to be stored, with the address that sent them.
    writing: HashMap<UserId, HashMap<RoomName, IpAddr>>,
}

/// The last mark per user and room, with the address that sent the first one waiting.
#[derive(Debug)]
struct Waiting {
    users: HashMap<UserId, HashMap<RoomName, (Seq, IpAddr)>>,
    /// How many slots each party has.
    shares: Shares<Party>,
}

/// The parties whose slot a mark takes.
fn parties(user: &UserId, from: IpAddr) -> [Party; 2] {
    [Party::Address(from), Party::User(user.clone())]
}

impl Waiting {
    fn new(len_max: usize) -> Self {
        Self { users: HashMap::new(), shares: Shares::new(len_max) }
    }

    fn len(&self) -> usize {
        self.shares.taken()
    }

    /// Keeps the higher of two marks. `false`: there is no free slot.
    fn put(&mut self, mark: &Mark, from: IpAddr) -> bool {
        let known = self.users.get_mut(&mark.user).and_then(|rooms| rooms.get_mut(&mark.room));
        if let Some((known, _)) = known {
            *known = mark.seq.max(*known);
            return true;
        }
        if !self.shares.take(&parties(&mark.user, from), 1) {
            return false;
        }
        let rooms = self.users.entry(mark.user.clone()).or_default();
        rooms.insert(mark.room.clone(), (mark.seq, from));
        true
    }

    fn take(&mut self, len_max: usize) -> Vec<(Mark, IpAddr)> {
        let mut taken = Vec::new();
        self.users.retain(|user, rooms| {
            let room_for = len_max - taken.len();
            let mut room_for = room_for.min(rooms.len());
            rooms.retain(|room, (seq, from)| {
                let stays = room_for == 0;
                if !stays {
                    room_for -= 1;
                    let mark = Mark { room: room.clone(), user: user.clone(), seq: *seq };
                    self.shares.give_back(&parties(user, *from), 1);
                    taken.push((mark, *from));
                }
                stays
            });
            !rooms.is_empty()
        });
        if self.users.is_empty() {
            self.users = HashMap::new();
        }
        taken
    }
}

impl Marks {
    pub fn new(len_max: usize) -> Self {
        let (waiting, hurry) = (Notify::new(), Notify::new());
        let written = watch::Sender::new(0);
        let state = State { waiting: Waiting::new(len_max), writing: HashMap::new() };
        Self { state: Mutex::new(state), waiting, hurry, written }
    }

    /// Nothing under this lock can panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: too many marks wait.
    pub fn put(&self, mark: &Mark, from: IpAddr) -> bool {
        let put = self.state().waiting.put(mark, from);
        self.waiting.notify_one();
        put
    }

    /// Waits until no mark of the user waits, but not beyond `until`: if it takes that long the log
    /// is away, and the caller will notice.
    pub async fn stored(&self, user: &UserId, until: Instant) {
        let mut written = self.written.subscribe();
        let waits = || {
            let state = self.state();
            state.waiting.users.contains_key(user) || state.writing.contains_key(user)
        };
        // It is not known how many writes that takes: the current one may have begun before, more
        // may wait than fit into the next, and a mark whose row is locked waits for another.
        while waits() {
            self.hurry.notify_one();
            if timeout_at(until, written.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Stores waiting marks at intervals until the last session has ended. `told` gets those that
    /// moved.
    pub async fn run(
        &self,
        mut marker: Marker,
        pause: Duration,
        tasks: &Tasks,
        told: impl Fn(Vec<Mark>),
    ) {
        let mut ended = std::pin::pin!(tasks.sessions_ended());
        let mut rested = Instant::now();
        loop {
            tokio::select! {
                () = self.due(pause, rested) => {}
                () = &mut ended => break,
            }
            self.write_all(&mut marker, &told).await;
            rested = Instant::now() + HURRY_PAUSE;
        }
        self.write_all(&mut marker, &told).await;
    }

    /// Waits until something waits, and then for `pause`; if somebody waits for it to be stored,
    /// only until `rested`.
    async fn due(&self, pause: Duration, rested: Instant) {
        self.waiting.notified().await;
        let due = Instant::now() + pause;
        tokio::select! {
            () = sleep_until(due) => {}
            () = self.hurry.notified() => sleep_until(due.min(rested)).await,
        }
    }

    /// Writes once what waits now. What could not be written waits again.
    async fn write_all(&self, marker: &mut Marker, told: &impl Fn(Vec<Mark>)) {
        let mut left = self.state().waiting.len();
        while left > 0 {
            let batch = self.take(left.min(BATCH_LEN));
            left -= batch.len().clamp(1, left);
            let result = marker.mark(&batch).await;
            let (moved, again, failed) = match result {
                Ok(Marked { moved, busy }) => (moved, busy, false),
                Err(err) => {
                    tracing::debug!(%err, "read marks wait for the log");
                    (Vec::new(), batch, true)
                }
            };
            self.put_back(&again);
            if !moved.is_empty() {
                told(moved);
            }
            if failed {
                return;
            }
        }
    }

    fn take(&self, len: usize) -> Vec<Mark> {
        let mut state = self.state();
        let taken = state.waiting.take(len);
        for (mark, from) in &taken {
            let rooms = state.writing.entry(mark.user.clone()).or_default();
            rooms.insert(mark.room.clone(), *from);
        }
        taken.into_iter().map(|(mark, _)| mark).collect()
    }

    /// Ends a write. A mark to be written again may have been replaced by a later one, which is as
    /// good, or may find no slot, and is lost.
    fn put_back(&self, again: &[Mark]) {
        let mut state = self.state();
        let writing = std::mem::take(&mut state.writing);
        for mark in again {
            let from = writing.get(&mark.user).and_then(|rooms| rooms.get(&mark.room));
            from.map(|from| state.waiting.put(mark, *from));
        }
        drop(state);
        if !again.is_empty() {
            self.waiting.notify_one();
        }
        self.written.send_modify(|written| *written += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn mark(user: usize, room: usize, seq: u64) -> Mark {
        let (user, room) = (user.to_string(), room.to_string());
        Mark { room: RoomName::stored(&room), user: UserId::stored(&user), seq: Seq(seq) }
    }

    /// Each user has an address of their own.
    fn put(waiting: &mut Waiting, mark: &Mark) -> bool {
        let number: u32 = mark.user.as_str().parse().unwrap();
        waiting.put(mark, Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn of_each_user_and_room_the_highest_mark_waits_and_no_more_than_fit() {
        let mut waiting = Waiting::new(4);
        for seq in [3, 9, 5] {
            assert!(put(&mut waiting, &mark(1, 1, seq)));
        }
        assert!(put(&mut waiting, &mark(1, 2, 1)));
        assert!(!put(&mut waiting, &mark(1, 3, 1)), "that user has half of the places");
        assert!(put(&mut waiting, &mark(1, 2, 4)), "that one has its place");
        assert!(put(&mut waiting, &mark(2, 1, 1)) && put(&mut waiting, &mark(3, 1, 1)));
        assert!(!put(&mut waiting, &mark(4, 1, 1)), "there is no place");
        let mut taken: Vec<_> = waiting.take(10).into_iter().map(|(mark, _)| mark).collect();
        taken.sort_by_key(|mark| (mark.user.clone(), mark.room.clone()));
        assert_eq!(taken, [mark(1, 1, 9), mark(1, 2, 4), mark(2, 1, 1), mark(3, 1, 1)]);
        assert_eq!((waiting.len(), waiting.users.capacity()), (0, 0));
    }

    #[tokio::test]
    async fn whoever_asks_waits_for_all_that_they_said_in_however_many_writes() {
        let marks = Marks::new(usize::MAX);
        for room in 0..3 * BATCH_LEN {
            assert!(marks.put(&mark(1, room, 1), Ipv4Addr::LOCALHOST.into()));
        }
        let (user, until) = (UserId::stored("1"), Instant::now() + Duration::from_secs(3600));
        let mut stored = std::pin::pin!(marks.stored(&user, until));
        // One of the first is locked and takes another write.
        for busy in [1, 0, 0, 0] {
            assert!(futures_util::poll!(stored.as_mut()).is_pending());
            let taken = marks.take(BATCH_LEN);
            marks.put_back(&taken[..busy]);
        }
        stored.await;
    }

    #[test]
    fn batches_take_every_mark_once() {
        let mut waiting = Waiting::new(1000);
        for n in 0..100 {
            put(&mut waiting, &mark(n % 7, n, n as u64));
        }
        let mut taken = Vec::new();
        while waiting.len() > 0 {
            let batch = waiting.take(9);
            assert!(batch.len() == 9 || waiting.len() == 0);
            taken.extend(batch.into_iter().map(|(mark, _)| mark));
        }
        taken.sort_by_key(|mark| mark.seq);
        assert!(taken.into_iter().eq((0..100).map(|n| mark(n % 7, n, n as u64))));
    }
}
