//! The promise as a pure function: what clients sent, were told and were shown, against what the
//! log holds, and out comes every word that was broken.
//!
//! It talks to no server and knows no clock. The rules: an acked command is in the log, at the seq
//! it was told; an id is there at most once; seqs have no hole; who follows sees last + 1 and
//! nothing but what the log holds, the same at every follower; counters and members are what the
//! events say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use serde_json::Value;

/// An event, as the log holds it or as a client was shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub room: String,
    pub seq: u64,
    pub kind: String,
    pub user: String,
    pub id: Option<String>,
    pub text: Option<String>,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// What makes a command the same when it is sent again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub room: String,
    pub user: String,
    pub id: String,
}

/// An `ack`: the server's word that the command is in the log.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub key: Key,
    /// The type of the command.
    pub re: String,
    pub seq: u64,
    pub at_ms: u64,
    pub duplicate: bool,
}

/// What one follower was shown of one room, in the order it came, over all its connections.
#[derive(Clone, Debug)]
pub struct View {
    pub who: String,
    pub room: String,
    /// It asked for everything above this seq.
    pub after: u64,
    /// It had to be shown everything up to here.
    pub until: u64,
    pub events: Vec<Event>,
}

/// What those who took part sent, were told and were shown.
#[derive(Default)]
pub struct Story {
    /// Commands with an id, each of them sent once or more often.
    pub sent: BTreeSet<Key>,
    /// Commands that the rules refused, which must therefore not be there.
    pub refused: BTreeSet<Key>,
    pub receipts: Vec<Receipt>,
    /// Messages without an id, each with a text of its own and sent once; with the seq, where one
    /// was told.
    pub unkeyed: BTreeMap<String, Option<u64>>,
    pub views: Vec<View>,
}

/// What the log holds.
#[derive(Default)]
pub struct Stored {
    pub rooms: BTreeMap<String, StoredRoom>,
}

#[derive(Clone, Default)]
pub struct StoredRoom {
    pub last_seq: u64,
    pub message_count: u64,
    pub member_count: u64,
    pub members: BTreeSet<String>,
    /// Ascending by seq.
    pub events: Vec<Event>,
}

impl Event {
    /// `None`: the frame is not an event.
    pub fn of_frame(frame: &Value) -> Option<Self> {
        let text = |key: &str| frame[key].as_str().map(str::to_owned);
        let kind = text("type").filter(|kind| EVENT_TYPES.contains(&&**kind))?;
        Some(Self {
            room: text("room")?,
            seq: frame["seq"].as_u64()?,
            kind,
            user: text("user_id")?,
            id: text("client_id"),
            text: text("message"),
            at_ms: at_ms(frame)?,
        })
    }
}

impl Receipt {
    /// `None`: the frame is not an ack.
    pub fn of_frame(key: Key, frame: &Value) -> Option<Self> {
        if frame["type"] != "ack" || frame["room"] != *key.room || frame["id"] != *key.id {
            return None;
        }
        let (re, seq) = (frame["re"].as_str()?.to_owned(), frame["seq"].as_u64()?);
        Some(Self { key, re, seq, at_ms: at_ms(frame)?, duplicate: frame["duplicate"] == true })
    }
}

const EVENT_TYPES: [&str; 4] = ["create", "join", "leave", "message"];

/// The `at` of a frame.
fn at_ms(frame: &Value) -> Option<u64> {
    let at = humantime::parse_rfc3339(frame["at"].as_str()?).ok()?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// Everything that is not as it was promised; empty on a good day, and on a bad one.
pub fn verdict(story: &Story, stored: &Stored) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, room) in &stored.rooms {
        broken.extend(judge_room(name, room));
    }
    let by_key = by_key(stored, &mut broken);
    judge_receipts(story, &by_key, &mut broken);
    judge_unkeyed(story, stored, &mut broken);
    for view in &story.views {
        judge_view(view, stored, &mut broken);
    }
    broken
}

/// A room by itself: no hole, and counters and members that follow from its events.
fn judge_room(name: &str, room: &StoredRoom) -> Vec<String> {
    let mut broken = Vec::new();
    for (event, wanted) in room.events.iter().zip(1..) {
        if event.seq != wanted {
            broken.push(format!("{name}: a hole or a double at {wanted}: {event:?}"));
            break;
        }
    }
    let mut members = BTreeSet::new();
    let mut messages = 0;
    for event in &room.events {
        let fits = match event.kind.as_str() {
            "create" => event.seq == 1 && members.insert(event.user.clone()),
            "join" => members.insert(event.user.clone()),
            "leave" => members.remove(&event.user),
            _ => {
                messages += 1;
                members.contains(&event.user)
            }
        };
        if !fits {
            broken.push(format!("{name}: against the rules: {event:?}"));
        }
    }
    let facts = (room.events.len() as u64, messages, members.len() as u64);
    let counters = (room.last_seq, room.message_count, room.member_count);
    if facts != counters {
        broken.push(format!("{name}: (last_seq, messages, members): {counters:?} for {facts:?}"));
    }
    if members != room.members {
        broken.push(format!("{name}: members {:?}, by its events {members:?}", room.members));
    }
    broken
}

fn by_key<'a>(stored: &'a Stored, broken: &mut Vec<String>) -> HashMap<Key, &'a Event> {
    let mut by_key = HashMap::new();
    for event in stored.rooms.values().flat_map(|room| &room.events) {
        let Some(id) = event.id.clone() else { continue };
        let key = Key { room: event.room.clone(), user: event.user.clone(), id };
        if let Some(first) = by_key.insert(key, event) {
            broken.push(format!("stored twice: {first:?} and {event:?}"));
        }
    }
    by_key
}

fn judge_receipts(story: &Story, by_key: &HashMap<Key, &Event>, broken: &mut Vec<String>) {
    let mut firsts: HashMap<&Key, usize> = HashMap::new();
    for receipt in &story.receipts {
        match by_key.get(&receipt.key) {
            None => broken.push(format!("acked and not stored: {receipt:?}")),
            Some(event)
                if (event.seq, event.at_ms, &event.kind)
                    != (receipt.seq, receipt.at_ms, &receipt.re) =>
            {
                broken.push(format!("acked otherwise than stored: {receipt:?}, {event:?}"));
            }
            Some(_) => {}
        }
        if !receipt.duplicate {
            *firsts.entry(&receipt.key).or_default() += 1;
        }
    }
    for (key, count) in firsts.into_iter().filter(|(_, count)| *count > 1) {
        broken.push(format!("{count} acks say that they were the first: {key:?}"));
    }
    let acked: BTreeSet<&Key> = story.receipts.iter().map(|receipt| &receipt.key).collect();
    for key in &story.sent {
        if !acked.contains(key) && !story.refused.contains(key) {
            broken.push(format!("sent and never answered: {key:?}"));
        }
        if story.refused.contains(key) && by_key.contains_key(key) {
            broken.push(format!("refused and stored: {key:?}"));
        }
    }
    for key in by_key.keys().filter(|key| !story.sent.contains(key)) {
        broken.push(format!("stored and never sent: {key:?}"));
    }
}

/// Whoever gives no id gets no second chance, and no second copy either.
fn judge_unkeyed(story: &Story, stored: &Stored, broken: &mut Vec<String>) {
    let mut seqs: HashMap<&str, u64> = HashMap::new();
    for event in stored.rooms.values().flat_map(|room| &room.events) {
        let (None, Some(text)) = (&event.id, &event.text) else { continue };
        if seqs.insert(text, event.seq).is_some() {
            broken.push(format!("sent once and stored twice: {event:?}"));
        }
        if !story.unkeyed.contains_key(text) {
            broken.push(format!("stored and never sent: {event:?}"));
        }
    }
    for (text, told) in &story.unkeyed {
        if told.is_some() && *told != seqs.get(&**text).copied() {
            broken.push(format!("acked at {told:?} and not stored there: {text:?}"));
        }
    }
}

fn judge_view(view: &View, stored: &Stored, broken: &mut Vec<String>) {
    let View { who, room, after, until, events } = view;
    let nothing = StoredRoom::default();
    let stored = &stored.rooms.get(room).unwrap_or(&nothing).events;
    let mut last = *after;
    for event in events {
        if event.seq != last + 1 {
            broken.push(format!("{who} in {room}: was at {last} and was shown {event:?}"));
            return;
        }
        last = event.seq;
        // Its own place in the log is its seq, or `judge_room` has found the hole.
        if stored.get(last as usize - 1) != Some(event) {
            let held = stored.get(last as usize - 1);
            broken.push(format!("{who} in {room}: was shown {event:?}, the log has {held:?}"));
        }
    }
    if last < *until {
        broken.push(format!("{who} in {room}: was shown up to {last} of {until}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, kind: &str, user: &str, id: Option<&str>) -> Event {
        let (room, kind, user) = ("r".to_owned(), kind.to_owned(), user.to_owned());
        let text = (kind == "message").then(|| "hi".to_owned());
        Event { room, seq, kind, user, id: id.map(str::to_owned), text, at_ms: 5 }
    }

    fn key(user: &str, id: &str) -> Key {
        Key { room: "r".to_owned(), user: user.to_owned(), id: id.to_owned() }
    }

    /// Two users, a word of each, one follower: all as it should be.
    fn good() -> (Story, Stored) {
        let events = vec![
            event(1, "create", "1", Some("c")),
            event(2, "join", "2", None),
            event(3, "message", "1", Some("m")),
            event(4, "message", "2", Some("m")),
            event(5, "leave", "1", Some("l")),
            Event { text: Some("ho".to_owned()), ..event(6, "message", "2", None) },
        ];
        let receipt = |key: Key, re: &str, seq, duplicate| {
            let re = re.to_owned();
            Receipt { key, re, seq, at_ms: 5, duplicate }
        };
        let receipts = vec![
            receipt(key("1", "c"), "create", 1, false),
            receipt(key("1", "m"), "message", 3, false),
            receipt(key("1", "m"), "message", 3, true),
            receipt(key("2", "m"), "message", 4, true),
            receipt(key("1", "l"), "leave", 5, false),
        ];
        let (who, room) = ("2".to_owned(), "r".to_owned());
        let view =
            View { who, room: room.clone(), after: 1, until: 6, events: events[1..].to_vec() };
        let mut sent: BTreeSet<Key> = receipts.iter().map(|it| it.key.clone()).collect();
        sent.insert(key("3", "x"));
        let refused = BTreeSet::from([key("3", "x")]);
        let stored = StoredRoom {
            last_seq: 6,
            message_count: 3,
            member_count: 1,
            members: BTreeSet::from(["2".to_owned()]),
            events,
        };
        let rooms = BTreeMap::from([(room, stored)]);
        let unkeyed = BTreeMap::from([("ho".to_owned(), Some(6)), ("lost".to_owned(), None)]);
        (Story { sent, refused, receipts, unkeyed, views: vec![view] }, Stored { rooms })
    }

    /// After this change, one of the broken words says so.
    fn check(change: impl FnOnce(&mut Story, &mut StoredRoom), wanted: &str) {
        let (mut story, mut stored) = good();
        change(&mut story, stored.rooms.get_mut("r").unwrap());
        let broken = verdict(&story, &stored);
        assert!(broken.iter().any(|word| word.contains(wanted)), "{wanted}: {broken:#?}");
    }

    #[test]
    fn a_story_that_is_as_promised_breaks_no_word() {
        let (story, stored) = good();
        assert_eq!(verdict(&story, &stored), Vec::<String>::new());
    }

    #[test]
    fn a_log_that_is_not_whole_is_caught() {
        check(|_, room| drop(room.events.remove(2)), "a hole or a double at 3");
        check(|_, room| room.events[3].seq = 3, "a hole or a double at 4");
        check(|_, room| room.events[3].user = "9".to_owned(), "against the rules");
        check(|_, room| room.events[1].kind = "create".to_owned(), "against the rules");
        check(|_, room| room.last_seq = 7, "(last_seq, messages, members): (7, 3, 1)");
        check(|_, room| room.message_count = 1, "(last_seq, messages, members): (6, 1, 1)");
        check(|_, room| room.members.extend(["1".to_owned()]), "members {\"1\", \"2\"}");
        check(|_, room| room.events[4].id = Some("m".to_owned()), "stored twice");
    }

    #[test]
    fn an_answer_that_is_not_true_is_caught() {
        check(|_, room| drop(room.events.remove(4)), "acked and not stored");
        check(|story, _| story.receipts[1].seq = 4, "acked otherwise than stored");
        check(|story, _| story.receipts[1].at_ms = 4, "acked otherwise than stored");
        check(|story, _| story.receipts[1].re = "leave".to_owned(), "acked otherwise than stored");
        check(
            |story, _| story.receipts[2].duplicate = false,
            "2 acks say that they were the first",
        );
        check(|story, _| drop(story.receipts.pop()), "sent and never answered");
        check(|story, _| story.sent.retain(|it| *it != key("1", "l")), "stored and never sent");
        check(|story, _| story.refused.extend([key("1", "l")]), "refused and stored");
    }

    #[test]
    fn a_message_without_an_id_that_is_there_twice_or_not_at_all_is_caught() {
        let ho = || Some("ho".to_owned());
        check(
            |_, room| (room.events[2].id, room.events[2].text) = (None, ho()),
            "and stored twice",
        );
        check(|_, room| room.events[5].text = None, "acked at Some(6) and not stored there");
        check(|story, _| story.unkeyed.clear(), "stored and never sent: Event");
    }

    #[test]
    fn a_view_with_a_hole_a_double_or_a_lie_is_caught() {
        let drop_one = |at: usize| {
            move |story: &mut Story, _: &mut StoredRoom| {
                story.views[0].events.remove(at);
            }
        };
        check(drop_one(0), "was at 1 and was shown");
        check(drop_one(1), "was at 2 and was shown");
        check(drop_one(4), "was shown up to 5 of 6");
        check(
            |story, _| {
                let twice = story.views[0].events[1].clone();
                story.views[0].events.insert(1, twice);
            },
            "was at 3 and was shown",
        );
        check(|story, _| story.views[0].events[1].text = Some("ho".to_owned()), "was shown Event");
        check(
            |story, _| {
                story.views[0].events.push(event(7, "message", "2", None));
            },
            "the log has None",
        );
    }
}
