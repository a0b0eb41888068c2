//! The checker is checked end to end: real clients, a real node, and between them a proxy that
//! lies. Each lie must be called by its name. (That each rule finds what it is for, without a
//! server, is shown in the checker's own tests.)

mod proxy;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::time::timeout;
use verbatim_checker::{Limits, Rule, check};
use verbatim_tools::verify::plan::Shape;
use verbatim_tools::verify::{Run, Settings, Target};

use self::proxy::{Deed, Frame, Saboteur, every};
use crate::harness::proxy::Way;
use crate::harness::{PATIENCE, World};

/// Lies of one run. One alone may be told to a client that is about to hang up, who never notices.
const LIES: usize = 12;

/// Runs the workload on a node behind that rule until it has lied often enough, and then to its
/// end without lies. What the checker calls it.
async fn called(rule: impl FnMut(&Frame<'_>) -> Deed + Send + 'static) -> BTreeMap<Rule, usize> {
    let world = World::sqlite().await;
    let node = world.node().await;
    let saboteur = Saboteur::before(node.addr, rule).await;
    let settings = Settings {
        targets: vec![Target::parse(&format!("ws://{}", saboteur.addr)).unwrap()],
        seed: 4,
        shape: Shape { clients: 24, rooms: 2, rate: 200, message_bytes_max: 400 },
        name: "lies".to_owned(),
        limits: Limits { heal: 20_000_000_000, ..Limits::default() },
    };
    let mut run = Run::begin(settings).await.unwrap();
    let lies = timeout(2 * PATIENCE, saboteur.has_lied(LIES)).await;
    lies.expect("there was not enough to lie about");
    saboteur.repent();
    run.healed();
    run.hush().await;
    run.end().await;
    let history = run.over().await;
    let report = check(&history);
    for violation in &report.violations {
        let context = violation.context(&history);
        assert!(context.lines().count() > 1, "nothing to look at: {context}");
    }
    assert!(report.counts.deliveries > 100, "{:?}", report.counts);
    report.totals
}

async fn assert_called(name: Rule, rule: impl FnMut(&Frame<'_>) -> Deed + Send + 'static) {
    let totals = called(rule).await;
    assert!(totals.contains_key(&name), "wanted {name}, found {totals:?}");
}

/// A deed for one in so many of the frames that it fits.
fn some(
    count: usize,
    fits: impl Fn(&Frame<'_>) -> bool,
    deed: impl Fn(&Frame<'_>) -> Deed,
) -> impl FnMut(&Frame<'_>) -> Deed {
    let mut is_due = every(count);
    move |frame| if fits(frame) && is_due() { deed(frame) } else { Deed::Pass }
}

fn is_event(frame: &Frame<'_>) -> bool {
    frame.way == Way::ToClient && frame.json["type"] == "message"
}

fn is_answer(frame: &Frame<'_>, kind: &str) -> bool {
    frame.way == Way::ToClient && frame.json["type"] == kind
}

/// A message on its way to the server.
fn is_command(frame: &Frame<'_>, has_id: bool) -> bool {
    frame.way == Way::ToServer
        && frame.json["type"] == "message"
        && frame.json["id"].is_string() == has_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_changes_nothing_is_not_noticed() {
    // It says the same instead of what it heard, so that it counts.
    let honest = |frame: &Frame<'_>| Deed::Instead(frame.text.to_owned());
    let totals = called(some(20, is_event, honest)).await;
    assert!(totals.is_empty(), "{totals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_events_are_a_hole() {
    assert_called(Rule::DeliveredWithHole, some(25, is_event, |_| Deed::Drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doubled_events_are_delivered_twice() {
    assert_called(Rule::DeliveredTwice, some(25, is_event, |_| Deed::Twice)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_overtake_each_other_are_out_of_order() {
    assert_called(Rule::DeliveredOutOfOrder, some(25, is_event, |_| Deed::Later)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_one_more_word_is_not_what_is_stored() {
    let alter = |frame: &Frame<'_>| {
        Deed::Instead(frame.text.replacen(r#""message":""#, r#""message":"not "#, 1))
    };
    assert_called(Rule::DeliveredOtherwiseThanStored, some(25, is_event, alter)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_room_is_unasked() {
    let forge = |frame: &Frame<'_>| {
        let room = format!(r#""room":{}"#, frame.json["room"]);
        Deed::And(frame.text.replacen(&room, r#""room":"elsewhere""#, 1))
    };
    assert_called(Rule::DeliveredUnasked, some(25, is_event, forge)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_swallowed_and_acked_is_not_stored() {
    let forge = |frame: &Frame<'_>| {
        let (room, id) = (&frame.json["room"], &frame.json["id"]);
        let at = "2026-01-02T03:04:05.678Z";
        let ack =
            json!({"type": "ack", "re": "message", "room": room, "seq": 7, "id": id, "at": at});
        Deed::Answer(ack.to_string())
    };
    let is_fit = |frame: &Frame<'_>| is_command(frame, true);
    assert_called(Rule::AckedNotStored, some(5, is_fit, forge)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_of_the_next_seq_is_at_the_wrong_seq() {
    let alter = |frame: &Frame<'_>| {
        let seq = frame.json["seq"].as_u64().unwrap();
        Deed::Instead(frame.text.replacen(
            &format!(r#""seq":{seq}"#),
            &format!(r#""seq":{}"#, seq + 1),
            1,
        ))
    };
    assert_called(Rule::AckedAtWrongSeq, some(5, |frame| is_answer(frame, "ack"), alter)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_that_says_it_is_the_first_is_one_too_many() {
    let is_fit = |frame: &Frame<'_>| is_answer(frame, "ack") && frame.json["duplicate"] == true;
    let alter =
        |frame: &Frame<'_>| Deed::Instead(frame.text.replacen(r#","duplicate":true"#, "", 1));
    assert_called(Rule::TwoFirstAcks, some(1, is_fit, alter)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_passed_over_in_silence_was_skipped() {
    let is_fit = |frame: &Frame<'_>| is_answer(frame, "ack");
    assert_called(Rule::AnswerSkipped, some(9, is_fit, |_| Deed::Drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_altered_on_its_way_in_is_not_what_was_sent() {
    let alter = |frame: &Frame<'_>| {
        Deed::Instead(frame.text.replacen(r#""message":""#, r#""message":"not "#, 1))
    };
    let is_fit = |frame: &Frame<'_>| is_command(frame, true);
    assert_called(Rule::StoredOtherwiseThanSent, some(5, is_fit, alter)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_an_id_that_goes_in_twice_is_stored_more_than_sent() {
    let is_fit = |frame: &Frame<'_>| is_command(frame, false);
    assert_called(Rule::StoredMoreThanSent, some(2, is_fit, |_| Deed::Twice)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_said_was_never_sent() {
    let forge = |frame: &Frame<'_>| {
        let mut forged: Value = frame.json.clone();
        forged["message"] = "what nobody said".into();
        Deed::And(forged.to_string())
    };
    let is_fit = |frame: &Frame<'_>| is_command(frame, false);
    assert_called(Rule::StoredNeverSent, some(2, is_fit, forge)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_one_of_its_events_is_out_of_range() {
    let is_fit = |frame: &Frame<'_>| {
        is_answer(frame, "history")
            && frame.json["events"].as_array().is_some_and(|it| it.len() > 2)
    };
    let alter = |frame: &Frame<'_>| {
        let mut page = frame.json.clone();
        page["events"].as_array_mut().unwrap().remove(1);
        Deed::Instead(page.to_string())
    };
    assert_called(Rule::PageOutOfRange, some(1, is_fit, alter)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_ends_before_what_was_acked_is_stale() {
    // Its reader was acked what it asks for; the page is one that was true a moment ago.
    let is_fit = |frame: &Frame<'_>| {
        is_answer(frame, "history")
            && frame.json["events"].as_array().is_some_and(|it| it.len() > 2)
    };
    let alter = |frame: &Frame<'_>| {
        let mut page = frame.json.clone();
        page["events"].as_array_mut().unwrap().pop();
        Deed::Instead(page.to_string())
    };
    assert_called(Rule::StaleRead, some(1, is_fit, alter)).await;
}
