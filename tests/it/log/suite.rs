//! What every log must do, whatever it is made of. Each function takes a log that may hold other
//! rooms, and keeps to rooms of its own.

use verbatim::log::{Appender, Log, LogError, Member, RoomSummary};
use verbatim::model::{
    ClientId, Event, EventKind, Invalid, Role, RoomName, Seq, Text, Unfit, UserId,
};
use verbatim::protocol::command::Verb;
use verbatim::rules::{Outcome, Reading, Receipt, Refusal, Standing, Write};

use super::appending::Appending;
use super::reading;

pub fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

pub fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

pub fn write(room_name: &str, user_id: &str, id: &str, verb: Verb) -> Write {
    let id = (!id.is_empty()).then(|| ClientId::parse(id).unwrap());
    Write { room: room(room_name), caller: user(user_id), id, verb }
}

pub fn create(room: &str, user: &str) -> Write {
    write(room, user, "", Verb::Create)
}

pub fn join(room: &str, user: &str) -> Write {
    write(room, user, "", Verb::Join)
}

pub fn leave(room: &str, user: &str) -> Write {
    write(room, user, "", Verb::Leave)
}

pub fn say(room: &str, user: &str, id: &str, text: &str) -> Write {
    write(room, user, id, Verb::Message(Text::parse(text, 1 << 20).unwrap()))
}

pub fn committed(outcome: &Outcome) -> &Event {
    outcome.events().next().unwrap_or_else(|| panic!("not committed: {outcome:?}"))
}

pub fn seqs(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.seq.0).collect()
}

/// Everything below, on one log. Boxed: in a debug build all of it together is more than the
/// stack of a test's thread.
pub async fn suite(log: &Log) {
    Box::pin(every_kind_of_event_takes_the_next_seq_and_reads_back_equal(log)).await;
    Box::pin(a_refused_write_costs_its_neighbours_nothing(log)).await;
    Box::pin(an_id_is_committed_once_for_ever(log)).await;
    Box::pin(a_user_whose_name_looks_like_another_does_not_come_in(log)).await;
    Box::pin(leaving_and_joining_within_one_batch_counts_members_right(log)).await;
    Box::pin(pages_meet_without_hole_or_overlap(log)).await;
    Box::pin(a_page_ends_where_its_bytes_end(log)).await;
    Box::pin(lists_are_in_byte_order_and_paged(log)).await;
    Box::pin(every_text_reads_back_as_it_was_written(log)).await;
    Box::pin(a_room_that_is_not_there_is_nowhere(log)).await;
    Box::pin(one_batch_serves_many_rooms(log)).await;
    Box::pin(settling_tells_where_rooms_stand(log)).await;
    Box::pin(appenders_on_the_same_rooms_take_turns(log)).await;
    Box::pin(reading::suite(log)).await;
    log.ping().await.unwrap();
}

async fn every_kind_of_event_takes_the_next_seq_and_reads_back_equal(log: &Log) {
    let mut appender = log.appender();
    let batch = [
        create("kinds", "1"),
        join("kinds", "2"),
        say("kinds", "2", "m1", "hello"),
        leave("kinds", "2"),
        write("kinds", "1", "bye", Verb::Leave),
    ];
    let outcomes = appender.append_all(&batch).await.unwrap();
    let events: Vec<Event> = outcomes.iter().map(|it| committed(it).clone()).collect();
    assert_eq!(seqs(&events), [1, 2, 3, 4, 5]);
    assert_eq!(log.read(&room("kinds"), Seq(0), 100).await.unwrap(), events);
    assert_eq!(events[2].client_id, Some(ClientId::parse("m1").unwrap()));
    let joined = &outcomes[1];
    assert!(matches!(joined, Outcome::Joined { last_seq: Seq(2), members: 2, .. }), "{joined:?}");

    // The next batch goes on from there, and an empty one is nothing.
    assert_eq!(appender.append_all(&[]).await.unwrap(), []);
    let outcomes = appender.append_all(&[join("kinds", "1"), join("kinds", "1")]).await.unwrap();
    assert_eq!(committed(&outcomes[0]).seq, Seq(6));
    let joined = Outcome::Joined { event: None, last_seq: Seq(6), members: 1, messages: 1 };
    assert_eq!(outcomes[1], joined);
}

async fn a_refused_write_costs_its_neighbours_nothing(log: &Log) {
    let mut appender = log.appender();
    let batch = [
        say("refusals", "1", "", "too early"),
        create("refusals", "1"),
        create("refusals", "2"),
        say("refusals", "2", "", "not a member"),
        leave("refusals", "2"),
        join("refusals, another", "2"),
        say("refusals", "1", "", "welcome"),
    ];
    let outcomes = appender.append_all(&batch).await.unwrap();
    let refused = |refusal| Outcome::Refused(refusal);
    assert_eq!(outcomes[0], refused(Refusal::RoomNotFound));
    assert_eq!(committed(&outcomes[1]).seq, Seq(1));
    assert_eq!(outcomes[2], refused(Refusal::RoomExists));
    assert_eq!(outcomes[3], refused(Refusal::NotMember));
    assert_eq!(outcomes[4], refused(Refusal::NotMember));
    assert_eq!(outcomes[5], refused(Refusal::RoomNotFound));
    assert_eq!(committed(&outcomes[6]).seq, Seq(2));
    let all_refused = [create("refusals", "1"), say("nowhere", "1", "", "x")];
    let outcomes = appender.append_all(&all_refused).await.unwrap();
    assert_eq!(outcomes, [refused(Refusal::RoomExists), refused(Refusal::RoomNotFound)]);
    assert_eq!(log.last_seq(&room("refusals")).await.unwrap(), Some(Seq(2)));
}

async fn an_id_is_committed_once_for_ever(log: &Log) {
    let (mut appender, mut another) = (log.appender(), log.appender());
    let batch = [
        write("ids", "1", "same", Verb::Create),
        say("ids", "1", "same", "the id of the create"),
        say("ids", "1", "m", "first"),
        say("ids", "1", "m", "second"),
        join("ids", "2"),
        say("ids", "2", "m", "another user's"),
        write("ids", "3", "j", Verb::Join),
        write("ids", "3", "j", Verb::Leave),
    ];
    let outcomes = appender.append_all(&batch).await.unwrap();
    let receipt = |event: &Event| {
        let kind = event.kind.name().to_owned().into();
        Outcome::Duplicate(Receipt { kind, seq: event.seq, at: event.at })
    };
    let reused = |first: &'static str| Outcome::Refused(Refusal::IdReused { first: first.into() });
    assert_eq!(outcomes[1], reused("create"));
    assert_eq!(outcomes[3], receipt(committed(&outcomes[2])));
    assert_eq!(committed(&outcomes[5]).seq, Seq(4));
    assert_eq!(committed(&outcomes[6]).client_id, None, "the id of a join is no key");
    assert_eq!(committed(&outcomes[7]).seq, Seq(6));

    // Later, elsewhere, and although the user could not do it any more.
    let later = [leave("ids", "1"), say("ids", "1", "m", "third"), batch[0].clone()];
    let again = another.append_all(&later).await.unwrap();
    assert_eq!(again[1..], [receipt(committed(&outcomes[2])), receipt(committed(&outcomes[0]))]);
    // For another command neither, whatever else would be said of that one.
    let others = [
        say("ids", "1", "same", "the id of the create"),
        write("ids", "1", "same", Verb::Leave),
        write("ids", "1", "m", Verb::Create),
        write("ids", "1", "m", Verb::Leave),
        say("ids", "3", "j", "the id of the leave"),
    ];
    let wanted = ["create", "create", "message", "message", "leave"].map(reused);
    assert_eq!(another.append_all(&others).await.unwrap(), wanted);
    let joined = another.append_all(&[write("ids", "1", "m", Verb::Join)]).await.unwrap();
    assert_eq!(committed(&joined[0]).seq, Seq(8), "the id of a join names nothing");
    assert_eq!(log.last_seq(&room("ids")).await.unwrap(), Some(Seq(8)));
}

/// But who is in already, by an older version, is taken.
async fn a_user_whose_name_looks_like_another_does_not_come_in(log: &Log) {
    let mut appender = log.appender();
    let batch = [
        create("alike", "admin "),
        join("alike", "admin "),
        join("alike", "admin\u{A0}"),
        say("alike", "admin ", "", "who am I"),
        leave("alike", "admin "),
        join("alike", "admin "),
        join("alike", "admin"),
    ];
    let outcomes = appender.append_all(&batch).await.unwrap();
    let refused = |why| Outcome::Refused(Refusal::UserName(why));
    let joined = |event: Option<Event>, last_seq| {
        let last_seq = Seq(last_seq);
        Outcome::Joined { event, last_seq, members: 1, messages: u64::from(last_seq > Seq(1)) }
    };
    assert_eq!(outcomes[1], joined(None, 1));
    assert_eq!(outcomes[2], refused(Invalid::Unfit('\u{A0}', Unfit::Space)));
    assert_eq!(committed(&outcomes[3]).seq, Seq(2));
    assert_eq!(outcomes[5], refused(Invalid::Edge), "who left comes in anew");
    assert_eq!(outcomes[6], joined(Some(committed(&outcomes[6]).clone()), 4));
}

async fn leaving_and_joining_within_one_batch_counts_members_right(log: &Log) {
    let mut appender = log.appender();
    appender.append_all(&[create("turns", "owner"), join("turns", "a")]).await.unwrap();
    let batch = [
        leave("turns", "a"),
        join("turns", "a"),
        leave("turns", "owner"),
        join("turns", "owner"),
        join("turns", "b"),
        leave("turns", "b"),
        join("turns", "c"),
    ];
    let outcomes = appender.append_all(&batch).await.unwrap();
    assert_eq!(committed(&outcomes[6]).seq, Seq(9));
    let member = |id, role| Member { user: user(id), role };
    assert_eq!(
        log.members(&room("turns"), None, 10).await.unwrap(),
        [member("a", Role::Member), member("c", Role::Member), member("owner", Role::Owner)]
    );
    let standing = |member: Option<(Role, u64)>| {
        let (role, joined) = member.unzip();
        let reading = joined.map(|seq| Reading { read: Seq(seq), unread: 0 });
        Some(Standing { last_seq: Seq(9), members: 3, messages: 0, role, reading })
    };
    let of = async |id| log.standing(&room("turns"), &user(id)).await.unwrap();
    assert_eq!(of("owner").await, standing(Some((Role::Owner, 6))));
    assert_eq!(of("a").await, standing(Some((Role::Member, 4))));
    assert_eq!(of("b").await, standing(None));
}

async fn pages_meet_without_hole_or_overlap(log: &Log) {
    let mut appender = log.appender();
    let mut batch = vec![create("pages", "1")];
    batch.extend((2..=9).map(|n| say("pages", "1", "", &n.to_string())));
    appender.append_all(&batch).await.unwrap();
    let all: Vec<u64> = (1..=9).collect();
    for edge in 0..12 {
        for limit in 0..11 {
            let after: Vec<u64> = all.iter().copied().filter(|n| *n > edge).take(limit).collect();
            let page = log.read(&room("pages"), Seq(edge), limit).await.unwrap();
            assert_eq!(seqs(&page), after, "after {edge}, limit {limit}");

            let mut before: Vec<u64> = all.iter().copied().filter(|n| *n < edge).collect();
            before.drain(..before.len().saturating_sub(limit));
            let edge = Some(Seq(edge));
            let page = log.read_before(&room("pages"), edge, limit, usize::MAX).await.unwrap();
            assert_eq!(seqs(&page), before, "before {edge:?}, limit {limit}");
        }
    }
    let newest = log.read_before(&room("pages"), None, 2, usize::MAX).await.unwrap();
    assert_eq!(seqs(&newest), [8, 9]);
    let all_above = log.read(&room("pages"), Seq(u64::MAX), usize::MAX).await.unwrap();
    assert_eq!(all_above, []);
}

/// From either end; but an event that is longer than a page is one.
async fn a_page_ends_where_its_bytes_end(log: &Log) {
    let lens = [0, 0, 3, 4, 20, 1, 9, 10, 2, 0, 2, 11];
    let mut batch = vec![create("bytes", "1"), join("bytes", "2")];
    batch.extend(lens[2..].iter().map(|len| match len {
        0 => join("bytes", "3"),
        // Bytes, not characters.
        2 => say("bytes", "1", "", "é"),
        len => say("bytes", "1", "", &"x".repeat(*len)),
    }));
    log.appender().append_all(&batch).await.unwrap();
    let fits = |seqs: &mut dyn Iterator<Item = u64>, limit: usize, bytes_max: usize| {
        let (mut page, mut bytes) = (Vec::new(), 0);
        for seq in seqs.take(limit) {
            bytes += lens[seq as usize - 1];
            if bytes > bytes_max && !page.is_empty() {
                break;
            }
            page.push(seq);
        }
        page
    };
    let last = lens.len() as u64;
    for edge in 0..=last {
        for (limit, bytes_max) in [(99, 0), (99, 3), (99, 12), (3, 12), (99, 30), (5, 30), (7, 99)]
        {
            let page = log.read_page(&room("bytes"), Seq(edge), limit, bytes_max).await.unwrap();
            let oldest = fits(&mut (edge + 1..=last), limit, bytes_max);
            assert_eq!(seqs(&page), oldest, "after {edge}, limit {limit}, {bytes_max} bytes");
            let page = log.read_before(&room("bytes"), Some(Seq(edge)), limit, bytes_max).await;
            let mut newest = fits(&mut (1..edge).rev(), limit, bytes_max);
            newest.reverse();
            let page = seqs(&page.unwrap());
            assert_eq!(page, newest, "before {edge}, limit {limit}, {bytes_max} bytes");
        }
    }
}

async fn lists_are_in_byte_order_and_paged(log: &Log) {
    // In byte order, which no locale has.
    let names = ["list A", "list Z", "list a", "list b", "list ä", "list 雑", "list 🦀"];
    let mut appender = log.appender();
    let creates: Vec<Write> = names.iter().rev().map(|name| create(name, "1")).collect();
    appender.append_all(&creates).await.unwrap();
    let (mut listed, mut after) = (Vec::new(), room("list"));
    loop {
        let page = log.rooms(None, Some(&after), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.room.clone();
        listed.extend(page);
    }
    listed.retain(|summary: &RoomSummary| summary.room.as_str().starts_with("list "));
    let summary =
        |name: &&str| RoomSummary { room: room(name), last_seq: Seq(1), members: 1, reading: None };
    assert_eq!(listed, names.iter().map(summary).collect::<Vec<_>>());
    assert!(log.rooms(None, None, 1000).await.unwrap().is_sorted_by_key(|it| it.room.clone()));

    let ids = ["1", "10", "2", "A", "a", "ä", "🦀"];
    let joins: Vec<Write> = ids.iter().rev().map(|id| join("list A", id)).collect();
    appender.append_all(&joins).await.unwrap();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = log.members(&room("list A"), after.as_ref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.user.clone());
        listed.extend(page.into_iter().map(|member| member.user.to_string()));
    }
    assert_eq!(listed, ids);
}

async fn every_text_reads_back_as_it_was_written(log: &Log) {
    let texts = [
        "Hello World!".to_owned(),
        "雑談 🦀 e\u{301} ❤\u{FE0F} \u{202E}rtl\r\n\t\u{1}".to_owned(),
        r#"'; drop table events; -- {"a":[1,NULL]} \0 {} "quoted", \N"#.to_owned(),
        "NULL".to_owned(),
        "x".repeat(16 * 1024),
        "🦀".repeat(4 * 1024),
    ];
    let (name, speaker) = ("texts 'of', {all} \"kinds\" \\", "ü🦀 NULL");
    let mut appender = log.appender();
    let mut batch = vec![create(name, speaker)];
    batch.extend(texts.iter().map(|text| say(name, speaker, "", text)));
    batch.push(say(name, speaker, r#"{"id",'\N'} ~"#, "an odd id"));
    let outcomes = appender.append_all(&batch).await.unwrap();
    let events: Vec<Event> = outcomes.iter().map(|it| committed(it).clone()).collect();
    let stored = log.read(&room(name), Seq(0), 100).await.unwrap();
    assert_eq!(stored, events, "times included");
    for (event, text) in stored[1..].iter().zip(&texts) {
        assert!(event.is_message());
        assert_eq!(event.text, Some(Text::parse(text, 1 << 20).unwrap()));
    }
    let again = appender.append_all(&batch[batch.len() - 1..]).await.unwrap();
    assert!(matches!(again[..], [Outcome::Duplicate(_)]), "{again:?}");
}

async fn a_room_that_is_not_there_is_nowhere(log: &Log) {
    let missing = room("missing");
    assert_eq!(log.read(&missing, Seq(0), 10).await.unwrap(), []);
    assert_eq!(log.read_before(&missing, None, 10, 10).await.unwrap(), []);
    assert_eq!(log.standing(&missing, &user("1")).await.unwrap(), None);
    assert_eq!(log.last_seq(&missing).await.unwrap(), None);
    assert_eq!(log.members(&missing, None, 10).await.unwrap(), []);
}

async fn one_batch_serves_many_rooms(log: &Log) {
    let name = |n: usize| format!("many {n}");
    let mut batch: Vec<Write> = (0..100).map(|n| create(&name(n), "1")).collect();
    batch.extend((0..300).map(|n| say(&name(n % 100), "1", &format!("m{n}"), "x")));
    let outcomes = log.appender().append_all(&batch).await.unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        let event = committed(outcome);
        let place = (name(n % 100), 1 + n as u64 / 100);
        assert_eq!((event.room.to_string(), event.seq.0), place);
    }
    for n in [0, 42, 99] {
        assert_eq!(seqs(&log.read(&room(&name(n)), Seq(0), 9).await.unwrap()), [1, 2, 3, 4]);
    }
}

async fn settling_tells_where_rooms_stand(log: &Log) {
    let mut appender: Appender = log.appender();
    appender.append_all(&[create("settled", "1"), say("settled", "1", "", "x")]).await.unwrap();
    let asked = [room("unsettled"), room("settled"), room("settled")];
    let mut seqs: Vec<(RoomName, Seq)> = log.appender().settled(&asked).await.unwrap();
    seqs.dedup();
    assert_eq!(seqs, [(room("settled"), Seq(2))]);
    assert_eq!(log.last_seq(&room("unsettled")).await.unwrap(), None);
    assert_eq!(appender.settled(&[]).await.unwrap(), []);
}

/// Four lanes, the same rooms, some of them made by whoever comes first.
async fn appenders_on_the_same_rooms_take_turns(log: &Log) {
    let lanes = (0..4).map(|lane| {
        let mut appender = log.appender();
        tokio::spawn(async move {
            let me = format!("lane {lane}");
            for n in 0..25 {
                let name = |k: usize| format!("turns {}", (n + k) % 30);
                let mut batch: Vec<Write> = (0..3).map(|k| create(&name(k), &me)).collect();
                batch.extend((0..3).map(|k| join(&name(k), &me)));
                batch.extend((0..3).map(|k| say(&name(k), &me, &format!("{n} {k}"), "x")));
                let outcomes: Result<Vec<Outcome>, LogError> = appender.append_all(&batch).await;
                assert!(outcomes.unwrap()[6..].iter().all(|outcome| outcome.events().count() == 1));
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.unwrap();
    }
    let mut messages = 0;
    for n in 0..27 {
        let events = log.read(&room(&format!("turns {n}")), Seq(0), 1000).await.unwrap();
        assert_eq!(seqs(&events), (1..=events.len() as u64).collect::<Vec<_>>());
        assert_eq!(events[0].kind, EventKind::Create);
        messages += events.iter().filter(|event| event.is_message()).count();
    }
    assert_eq!(messages, 4 * 25 * 3);
}
