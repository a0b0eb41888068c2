//! A line is told what a server said, and what it counts is looked at.

use super::*;
use crate::bench::dialect::verbatim::Verbatim;
use crate::bench::wire::from_server;

/// A line of one client, and all around it.
struct Stand {
    plan: Plan,
    dialect: Arc<dyn Dialect>,
    board: Board,
    tally: Tally,
    line: Line,
    delivered: u64,
}

impl Stand {
    fn new(arguments: &str) -> Self {
        let plan = Plan::typed(arguments).unwrap();
        let (board, dialect) = (Board::new(plan.rooms.len()), Arc::new(Verbatim::default()));
        board.open_window();
        let line = Line::new(0, 0, Arc::default());
        Self { plan, dialect, board, tally: Tally::default(), line, delivered: 0 }
    }

    /// Up to the answer to the upgrade.
    fn connect(&mut self) {
        let request = self.line.request(&self.plan, &*self.dialect);
        assert!(request.starts_with(b"GET /ws HTTP/1.1\r\nHost: "));
        let outcome = self.read(b"HTTP/1.1 101 Switching Protocols\r\nx: y\r\n\r\n");
        assert_eq!(outcome.reply, b"", "the server greets first");
    }

    fn read(&mut self, bytes: &[u8]) -> Outcome {
        let mut around = Surroundings {
            plan: &self.plan,
            dialect: &*self.dialect,
            board: &self.board,
            tally: &mut self.tally,
            now: self.board.now(),
            delivered: 0,
        };
        let outcome = self.line.read(bytes, &mut around);
        self.delivered += around.delivered;
        assert_eq!(outcome.used, bytes.len());
        outcome
    }

    fn hear(&mut self, text: &str) -> Outcome {
        self.read(&from_server(Opcode::Text, text.as_bytes()))
    }

    fn hear_message(&mut self, seq: u64) {
        let mut text = [b'0'; 20];
        Stamp { nanos: self.board.now(), node: 0 }.write(&mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        let (room, rest) = ("bench-x-000000", r#""at":"2026-01-02T03:04:05.678Z""#);
        let (room, user) = (format!(r#""room":"{room}""#), r#""user_id":"o""#);
        let message = format!(r#"{room},{user},"message":"{text}","seq":{seq},{rest}"#);
        self.hear(&format!(r#"{{"type":"message",{message}}}"#));
    }
}

const HELLO: &str = r#"{"type":"hello","server":"verbatim 0.1.0"}"#;
const JOINED: &str =
    r#"{"type":"joined","room":"bench-x-000000","user_id":"u0","last_seq":7,"members":2}"#;

/// What a client's frame says.
fn said(frame: &[u8]) -> String {
    let start = frame.iter().position(|&byte| byte == b'{').unwrap();
    String::from_utf8_lossy(&frame[start..]).into_owned()
}

#[test]
fn a_follower_is_live_when_it_has_joined() {
    let mut stand = Stand::new("fanout");
    stand.connect();
    let outcome = stand.hear(HELLO);
    assert_eq!(said(&outcome.reply), r#"{"room":"bench-x-000000","type":"join","user_id":"u0"}"#);
    assert!(stand.hear(JOINED).is_live);
    assert_eq!(stand.board.live.load(Relaxed), 1);
    assert_eq!(stand.line.stage, Stage::Live);
}

#[test]
fn what_is_doubled_or_skipped_or_short_is_counted() {
    let mut stand = Stand::new("fanout");
    stand.connect();
    stand.hear(HELLO);
    stand.hear(JOINED);
    for seq in [8, 9, 9, 3, 12] {
        stand.hear_message(seq);
    }
    assert_eq!(stand.delivered, 3);
    assert_eq!((stand.tally.duplicates, stand.tally.holes), (2, 2));
    assert_eq!(stand.tally.near.percentiles().count, 3);
    assert_eq!(stand.line.short(&[12]), 0);
    assert_eq!(stand.line.short(&[20]), 8);
    stand.hear(r#"{"type":"join","room":"bench-x-000000","user_id":"u9","seq":13,"at":"2026"}"#);
    assert_eq!((stand.delivered, stand.tally.holes), (3, 2), "an event, and no message");
}

#[test]
fn one_that_is_back_goes_on_from_its_place() {
    let mut stand = Stand::new("jitter --rooms 1");
    stand.connect();
    stand.hear(HELLO);
    stand.hear(JOINED);
    stand.hear_message(8);
    stand.line.end(&stand.board);
    assert_eq!(stand.board.live.load(Relaxed), 0);
    stand.connect();
    let resume = said(&stand.hear(HELLO).reply);
    assert_eq!(resume, r#"{"rooms":{"bench-x-000000":8},"type":"resume","user_id":"u0"}"#);
    assert!(!stand.hear(JOINED).is_live, "its past is still to come");
    stand.hear_message(9);
    let resumed = stand.hear(r#"{"type":"resumed","rooms":{"bench-x-000000":9}}"#);
    assert!(resumed.is_live);
    assert_eq!((stand.delivered, stand.tally.replayed, stand.tally.holes), (2, 1, 0));
}

#[test]
fn acks_and_refusals_answer_the_oldest() {
    let mut stand = Stand::new("write --clients 1 --rooms 1");
    stand.connect();
    assert!(stand.hear(HELLO).is_live, "it follows nothing");
    stand.line.outlet.say(b"", 3, stand.board.now());
    let ack = r#"{"type":"ack","re":"message","room":"bench-x-000000","seq":5,"id":"0","at":"2"}"#;
    assert_eq!(stand.hear(ack).answered, 1);
    let error = r#"{"type":"error","code":"rate_limited","status":429,"re":"message"}"#;
    assert_eq!(stand.hear(error).answered, 1);
    assert_eq!(stand.line.outlet.unanswered(), 1);
    assert_eq!(stand.board.acked.load(Relaxed), 1);
    assert_eq!(stand.board.refused.load(Relaxed), 1);
    assert_eq!(stand.board.rooms[0].top.load(Relaxed), 5);
    assert_eq!(stand.board.trouble().as_deref(), Some(error));
    assert_eq!(stand.tally.acks.percentiles().count, 1);
}

#[test]
fn a_refused_upgrade_and_a_close_are_the_end() {
    let mut stand = Stand::new("fanout");
    stand.line.request(&stand.plan, &*stand.dialect);
    let mut around = Surroundings {
        plan: &stand.plan,
        dialect: &*stand.dialect,
        board: &stand.board,
        tally: &mut stand.tally,
        now: 0,
        delivered: 0,
    };
    let outcome = stand.line.read(b"HTTP/1.1 503 Full\r\n\r\n", &mut around);
    assert!(outcome.is_over);
    assert_eq!(stand.board.trouble().as_deref(), Some("HTTP/1.1 503 Full\r\n\r\n"));

    let mut stand = Stand::new("fanout");
    stand.connect();
    assert!(stand.read(&from_server(Opcode::Close, b"\x03\xe8bye")).is_over);
    assert_eq!(stand.board.trouble().as_deref(), Some("bye"));
}

#[test]
fn a_ping_is_answered_and_a_piece_of_a_frame_is_left() {
    let mut stand = Stand::new("fanout");
    stand.connect();
    let outcome = stand.read(&from_server(Opcode::Ping, b"hi"));
    assert_eq!(outcome.reply, b"\x8a\x82\0\0\0\0hi");
    let mut around = Surroundings {
        plan: &stand.plan,
        dialect: &*stand.dialect,
        board: &stand.board,
        tally: &mut stand.tally,
        now: 0,
        delivered: 0,
    };
    assert_eq!(stand.line.read(b"\x81\x05abc", &mut around).used, 0);
}
