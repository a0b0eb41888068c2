//! Who is online in one room: here, on other nodes, and as far as watchers know.
//!
//! `Presence` holds the rooms.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::{Crowd, Party, Seen, Settle, What};
use crate::model::UserId;

pub(super) struct RoomPresence {
    /// The parties that asked first. The room takes a slot of theirs while anybody asks.
    pub asked_by: Box<[Party]>,
    /// Users who are online through this node: what peers and watchers are told.
    pub here: Crowd,
    /// Users who are seen here and not in `here`, or the reverse, and since when.
    unsettled: BTreeMap<UserId, Instant>,
    /// The time of the last look. `None`: never, so nothing is known about who is here.
    pub seen_at: Option<Instant>,
    /// The cost of that look: followers and their users.
    pub faces: usize,
    /// Users who are online through each peer, and until when that is believed.
    pub there: HashMap<String, (Crowd, Instant)>,
    /// What watchers here were told; `None`: there are none.
    told: Option<Crowd>,
    told_at: Option<Instant>,
    /// Users whom a `who` showed differently from `told`. They are sent once more, even if `told`
    /// is right about them by then.
    ///
    /// A race that this prevents: watchers were told {1}. 2 comes; somebody asks and gets {1, 2}; 2
    /// goes. For the others nothing happened, but the one who asked would believe in 2 forever.
    shown: BTreeSet<UserId>,
    /// A `who` showed another number than `told`, or a number where `told` has names, or the
    /// reverse: a difference to `told` is not enough.
    is_mixed: bool,
    /// Who is online may have changed since watchers were told.
    is_changed: bool,
    pub has_stale: bool,
    watched: bool,
    /// Until when somebody here wants to know, watching or not.
    pub asked_until: Instant,
    /// When peers were last asked.
    pub peers_asked_at: Option<Instant>,
    /// Until when a peer wants to know.
    pub wanted_until: Instant,
    /// `here` has changed since peers were told.
    has_news: bool,
    told_peers_at: Option<Instant>,
}

impl RoomPresence {
    pub fn new(asks: &[Party], now: Instant) -> Self {
        Self {
            asked_by: asks.into(),
            here: Crowd::nobody(),
            unsettled: BTreeMap::new(),
            seen_at: None,
            faces: 0,
            there: HashMap::new(),
            told: None,
            told_at: None,
            shown: BTreeSet::new(),
            is_mixed: false,
            is_changed: false,
            has_stale: false,
            watched: false,
            asked_until: now,
            peers_asked_at: None,
            wanted_until: now,
            has_news: false,
            told_peers_at: None,
        }
    }

    /// Nobody has looked yet: nothing can settle, and there is nothing to send.
    pub fn is_new(&self) -> bool {
        self.seen_at.is_none()
    }

    pub fn is_wanted_here(&self, now: Instant) -> bool {
        self.watched || self.asked_until > now
    }

    pub fn is_wanted(&self, now: Instant) -> bool {
        self.is_wanted_here(now) || self.wanted_until > now
    }

    /// Takes a look: users who differ from `here` begin to settle; users who no longer differ have
    /// never been away.
    pub fn seen(&mut self, Seen { crowd, faces, watched }: Seen, now: Instant) {
        let is_new = self.is_new();
        (self.watched, self.seen_at, self.faces) = (watched, Some(now), faces);
        if !watched {
            (self.told, self.has_stale, self.is_mixed) = (None, false, false);
            self.shown.clear();
        }
        match (&self.here, &crowd) {
            (Crowd::Listed(here), Crowd::Listed(seen)) if !is_new => {
                let differs = |user: &UserId| here.contains(user) != seen.contains(user);
                self.unsettled.retain(|user, _| differs(user));
                for user in here.symmetric_difference(seen) {
                    self.unsettled.entry(user.clone()).or_insert(now);
                }
            }
            // The first look is news for peers even if nobody is here.
            _ if self.here == crowd && !is_new => {}
            // With only a number, there are no users who could settle.
            _ => {
                self.here = crowd;
                self.unsettled.clear();
                (self.is_changed, self.has_news) = (true, true);
            }
        }
    }

    /// Users who have differed for long enough change.
    pub fn settle(&mut self, Settle { coming, going }: Settle, now: Instant) {
        let Crowd::Listed(here) = &mut self.here else { return };
        let settles = |user: &UserId, since: &mut Instant| {
            let after = if here.contains(user) { going } else { coming };
            *since + after <= now
        };
        let settled: Vec<_> = self.unsettled.extract_if(.., settles).collect();
        for (user, _) in settled {
            (self.is_changed, self.has_news) = (true, true);
            if !here.remove(&user) {
                here.insert(user);
            }
        }
    }

    pub fn hear(&mut self, peer: &str, crowd: Crowd, until: Instant) {
        let before = self.there.insert(peer.to_owned(), (crowd, until));
        self.is_changed |= before.map(|(crowd, _)| crowd).as_ref() != Some(&self.there[peer].0);
    }

    /// A peer that stops is believed at most until then.
    pub fn grace(&mut self, peer: &str, until: Instant) {
        if let Some((_, believed)) = self.there.get_mut(peer) {
            *believed = until.min(*believed);
        }
    }

    pub fn expire(&mut self, now: Instant) {
        let len = self.there.len();
        self.there.retain(|_, (_, until)| *until > now);
        self.is_changed |= self.there.len() < len;
    }

    /// Everyone, on all nodes. A user on two nodes counts once, unless some are only counted.
    fn everyone(&self, listed_max: usize) -> Crowd {
        let crowds = || self.there.values().map(|(crowd, _)| crowd).chain([&self.here]);
        let mut users = BTreeSet::new();
        // Saturating, because anybody can publish any number.
        let mut counted: u64 = 0;
        for crowd in crowds() {
            match crowd {
                Crowd::Listed(listed) => users.extend(listed.iter().cloned()),
                Crowd::Counted(count) => counted = counted.saturating_add(*count),
            }
        }
        match counted {
            0 => Crowd::of(users, listed_max),
            _ => Crowd::Counted(counted.saturating_add(users.len() as u64)),
        }
    }

    pub fn snapshot(&mut self, asks: Option<&UserId>, listed_max: usize) -> Crowd {
        if let (Some(user), Crowd::Listed(here)) = (asks, &mut self.here) {
            // The last look may be from before this user came.
            self.unsettled.remove(user);
            if here.insert(user.clone()) {
                (self.is_changed, self.has_news) = (true, true);
            }
        }
        let everyone = self.everyone(listed_max);
        match (&self.told, &everyone) {
            (Some(Crowd::Listed(told)), Crowd::Listed(everyone)) => {
                self.shown.extend(everyone.symmetric_difference(told).cloned());
                self.is_changed |= !self.shown.is_empty();
            }
            (None, _) => self.told = Some(everyone.clone()),
            (Some(told), _) if *told == everyone => {}
            (Some(_), _) => (self.is_mixed, self.is_changed) = (true, true),
        }
        everyone
    }

    /// What watchers are to be sent now, and everyone who is online then.
    pub fn tell(
        &mut self,
        pause: Duration,
        listed_max: usize,
        now: Instant,
    ) -> Option<(What, Crowd)> {
        let is_due = self.told_at.is_none_or(|at| at + pause <= now);
        if !self.watched || !is_due || !(self.is_changed || self.has_stale) {
            return None;
        }
        // A room that just fell below the limit may exceed it again by one user: names are listed
        // again only when a tenth of the limit is free.
        let again = listed_max - listed_max / 10;
        let mut everyone = self.everyone(listed_max);
        let told = self.told.take();
        let what = match (&told, &everyone) {
            (Some(Crowd::Listed(told)), Crowd::Listed(everyone)) if !self.is_mixed => {
                self.difference(told, everyone)
            }
            (Some(Crowd::Counted(_)), Crowd::Listed(users)) if users.len() > again => {
                everyone = Crowd::Counted(users.len() as u64);
                What::Count
            }
            (_, Crowd::Counted(_)) => What::Count,
            (_, Crowd::Listed(_)) => What::Whole,
        };
        let is_same = !self.is_mixed
            && told.as_ref() == Some(&everyone)
            && !matches!(what, What::Difference { .. });
        let what = if is_same { What::Nothing } else { what };
        self.told = Some(everyone.clone());
        (self.is_changed, self.is_mixed) = (false, false);
        self.shown.clear();
        if what == What::Nothing && !self.has_stale {
            return None;
        }
        self.has_stale = false;
        self.told_at = Some(now);
        Some((what, everyone))
    }

    fn difference(&self, told: &BTreeSet<UserId>, everyone: &BTreeSet<UserId>) -> What {
        let differing = told.symmetric_difference(everyone).cloned().collect::<BTreeSet<_>>();
        let (online, offline): (Vec<_>, Vec<_>) =
            differing.union(&self.shown).cloned().partition(|user| everyone.contains(user));
        match online.is_empty() && offline.is_empty() {
            true => What::Nothing,
            false => What::Difference { online, offline },
        }
    }

    /// Who is online here, if peers want to know and were not told yet.
    pub fn news(&mut self, pause: Duration, now: Instant) -> Option<Crowd> {
        let is_due = self.told_peers_at.is_none_or(|at| at + pause <= now);
        if !self.has_news || !is_due || self.wanted_until <= now {
            return None;
        }
        self.for_peers(now)
    }

    /// Who is online here, to be sent to peers. `None`: not known yet. A peer that got an empty
    /// list would take it for the answer and not ask again.
    pub fn for_peers(&mut self, now: Instant) -> Option<Crowd> {
        if self.is_new() {
            return None;
        }
        self.has_news = false;
        self.told_peers_at = Some(now);
        Some(self.here.clone())
    }
}
