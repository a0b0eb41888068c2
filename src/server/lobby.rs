//! Connections that wait for their clients, by what they wait for and since when: the order in
//! which they give up their slots when others need them.
//!
//! It counts and closes nothing. A connection is in at most one list, and only while it is the
//! client's turn. Whoever needs a slot calls the first connection of a list. The call removes it
//! from the list; the connection notices when it looks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A client that took some of its answer within this time is not stuck.
const TAKING_PATIENCE: Duration = Duration::from_secs(1);

/// What a connection waits for. Connections within the limits come first, then those beyond a
/// limit, which are admitted for one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The next request of a client that has asked before.
    Idle,
    /// The first byte.
    Silent,
    /// The rest of a request's head.
    Head,
    /// The rest of a body.
    Body,
    /// The client to take its answer.
    Taking,
    BeyondTotal,
    BeyondAddress,
}

const LISTS: usize = 7;

/// An entry in a list.
#[derive(Debug)]
pub struct Ticket {
    list: List,
    number: u64,
}

#[derive(Default)]
pub struct Lobby {
    /// By number, so in order of arrival.
    lists: [BTreeMap<u64, Guest>; LISTS],
    next: u64,
}

struct Guest {
    since: Instant,
    call: Arc<Notify>,
}

impl Lobby {
    pub fn enter(&mut self, list: List, call: Arc<Notify>, now: Instant) -> Ticket {
        let number = self.next;
        self.next += 1;
        self.lists[list as usize].insert(number, Guest { since: now, call });
        Ticket { list, number }
    }

    /// `false`: it was called before it left.
    pub fn leave(&mut self, ticket: &Ticket) -> bool {
        self.lists[ticket.list as usize].remove(&ticket.number).is_some()
    }

    /// Whether the connection is still in its list, that is, not called.
    pub fn holds(&self, ticket: &Ticket) -> bool {
        self.lists[ticket.list as usize].contains_key(&ticket.number)
    }

    /// Goes through the lists in order. In the first that has a connection that may go, calls the
    /// one that has waited longest. Returns that list.
    pub fn call_first(&mut self, lists: &[List], now: Instant) -> Option<List> {
        let may_go = |list: List, guest: &Guest| {
            list != List::Taking || now.saturating_duration_since(guest.since) >= TAKING_PATIENCE
        };
        lists.iter().copied().find(|&list| {
            let first = self.lists[list as usize].first_entry();
            let called = first.filter(|first| may_go(list, first.get()));
            called.map(|first| first.remove().call.notify_one()).is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn was_called(call: &Notify) -> bool {
        call.notified().now_or_never().is_some()
    }

    #[test]
    fn the_first_of_the_first_list_is_called_and_knows_it() {
        let (mut lobby, now) = (Lobby::default(), Instant::now());
        let calls: Vec<Arc<Notify>> = (0..4).map(|_| Arc::default()).collect();
        let mut enter = |list, index: usize| lobby.enter(list, calls[index].clone(), now);
        let silent = enter(List::Silent, 0);
        let idle = [enter(List::Idle, 1), enter(List::Idle, 2)];
        let head = enter(List::Head, 3);
        let lists = [List::Idle, List::Silent];
        assert_eq!(lobby.call_first(&lists, now), Some(List::Idle));
        assert!(was_called(&calls[1]) && !was_called(&calls[2]));
        assert!(!lobby.leave(&idle[0]) && lobby.holds(&idle[1]) && lobby.leave(&idle[1]));
        assert_eq!(lobby.call_first(&lists, now), Some(List::Silent));
        assert!(was_called(&calls[0]) && !lobby.holds(&silent));
        assert_eq!(lobby.call_first(&lists, now), None);
        assert!(lobby.holds(&head) && !was_called(&calls[3]));
    }

    #[test]
    fn who_took_some_just_now_is_not_stuck() {
        let (mut lobby, begin) = (Lobby::default(), Instant::now());
        let call: Arc<Notify> = Arc::default();
        let _ticket = lobby.enter(List::Taking, call.clone(), begin);
        let (soon, later) = (begin + TAKING_PATIENCE / 2, begin + TAKING_PATIENCE);
        assert_eq!(lobby.call_first(&[List::Taking], soon), None);
        assert_eq!(lobby.call_first(&[List::Taking], later), Some(List::Taking));
        assert!(was_called(&call));
    }
}
