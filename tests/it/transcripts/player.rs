//! Holds one conversation with a node: says what the script says, and writes down what comes.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use verbatim::config::{Config, Secret};

use super::shown::{self, answer, bytes, frame, raw};
use super::stored::{Redis, rows};
use super::{Lines, Place, Tape};
use crate::harness::http::{Http, Stream};
use crate::harness::node::TestNode;
use crate::harness::raw::{Raw, masked_frame};
use crate::harness::{PATIENCE, World, services};

/// The first byte of a text frame, and of a close.
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
/// Its answer says that nothing else has come.
const FENCE: &str = r#"{"type":"ping","id":"fence"}"#;

struct Player {
    /// What is still to be said.
    lines: VecDeque<String>,
    tape: Tape,
    world: World,
    node: Option<TestNode>,
    stopping: Option<JoinHandle<()>>,
    addr: SocketAddr,
    redis: Option<Redis>,
    sockets: BTreeMap<String, Raw>,
    web: Option<Http>,
    streams: BTreeMap<String, Stream>,
    /// Frames that leave with the next one.
    frames: Vec<u8>,
    /// Of the next request; without a value: not to be sent.
    headers: Vec<(String, Option<String>)>,
}

pub async fn play(place: Place, script: Lines, tape: Tape) {
    let mut world = match place {
        Place::Sqlite => World::sqlite().await,
        Place::Postgres | Place::Redis => World::postgres().await,
    };
    let settings = script.iter().filter_map(|line| line.strip_prefix("= ")?.split_once(" = "));
    settings.for_each(|(name, value)| set(&mut world.config, name, value));
    let mut redis = None;
    if place == Place::Redis {
        let url = services::redis_url().await;
        redis = Some(Redis::new(&url, &world.config.mirror.prefix).await);
        world.config.mirror.url = Secret(url);
    }
    let node = world.node().await;
    let mut player = Player {
        lines: script.iter().filter(|line| !is_answer(line)).cloned().collect(),
        tape,
        addr: node.addr,
        world,
        node: Some(node),
        stopping: None,
        redis,
        sockets: BTreeMap::new(),
        web: None,
        streams: BTreeMap::new(),
        frames: Vec::new(),
        headers: Vec::new(),
    };
    while let Some(line) = player.lines.pop_front() {
        player.line(&line).await;
    }
    player.nothing_more().await;
}

/// Whether a line is written behind what was asked for, and not read for itself.
fn is_answer(line: &str) -> bool {
    let (who, text) = line.split_once("< ").unwrap_or_default();
    let begins_stream = who.starts_with('s') && text.starts_with(['H', '{']);
    line.starts_with(": ") || who == "h" || begins_stream
}

/// Gives a setting a value, by its name; the secrets stay as they are.
fn set(config: &mut Config, name: &str, value: &str) {
    let mut all = serde_json::to_value(&*config).unwrap();
    let place = all.pointer_mut(&format!("/{}", name.replace('.', "/")));
    *place.unwrap_or_else(|| panic!("no setting {name}")) = serde_json::from_str(value).unwrap();
    let log_url = config.log.url.clone();
    *config = serde_json::from_value(all).unwrap();
    config.log.url = log_url;
}

impl Player {
    async fn line(&mut self, line: &str) {
        let mark = line.find(['>', '<', '|', '!']).filter(|_| !line.starts_with(['#', '=']));
        let (who, text) = line.split_at(mark.unwrap_or(0));
        let mark = text.chars().next().filter(|_| mark.is_some()).unwrap_or('#');
        let text = text.get(1..).unwrap_or_default();
        let text = text.strip_prefix(' ').unwrap_or(text);
        if mark != '<' {
            self.tape.say(line.to_owned());
        }
        match (who.chars().next().unwrap_or('!'), mark) {
            (_, '#') => {}
            ('!', _) => self.command(text).await,
            (_, '|') => self.header(text),
            ('h', '>') => self.ask(text).await,
            ('h', _) => self.ask_raw(text).await,
            ('s', '>') => self.open(who, text).await,
            ('s', _) => {
                let text = self.streams.get_mut(who).expect("no such stream").next_text().await;
                let text = text.unwrap_or_else(|| "the end".to_owned());
                self.tape.say(format!("{who}< {}", shown::text(&text, self.addr)));
            }
            (_, '>') => self.send(who, text).await,
            (_, '!') => {
                let (first, payload) = text.split_once(' ').unwrap_or((text, ""));
                let first = u8::from_str_radix(first, 16).expect("not a byte");
                let sent = masked_frame(first, &raw(payload, self.addr));
                self.socket(who).await.send(sent).await;
            }
            _ => self.receive(who, text.starts_with('~')).await,
        }
    }

    fn tell(&self, begin: &str, lines: &[String]) {
        lines.iter().for_each(|line| self.tape.say(format!("{begin}{line}")));
    }

    async fn command(&mut self, text: &str) {
        let (word, len) = text.split_once(' ').unwrap_or((text, "0"));
        let found = match word {
            "stop" => {
                let node = self.node.take().expect("it has stopped already");
                self.stopping = Some(tokio::spawn(node.stop()));
                return;
            }
            "start" => {
                self.stopping.take().expect("it runs").await.unwrap();
                self.web = None;
                let node = self.world.node().await;
                self.addr = node.addr;
                self.node = Some(node);
                return;
            }
            "rows" => rows(&self.world.config.log).await,
            _ => self.redis.as_mut().expect("no Redis").entries(len.parse().unwrap()).await,
        };
        self.tell(": ", &found);
    }

    fn header(&mut self, text: &str) {
        let (name, value) = text.split_once(": ").map_or((text, None), |(k, v)| (k, Some(v)));
        let value = value.map(|value| String::from_utf8(bytes(value, self.addr)).unwrap());
        self.headers.push((name.to_owned(), value));
    }

    async fn ask(&mut self, text: &str) {
        let mut words = text.splitn(3, ' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let body = words.next().map(|body| bytes(body, self.addr));
        // What it needs, unless something else was said.
        let mut headers = vec![("Host".to_owned(), Some(self.addr.to_string()))];
        if let Some(body) = &body {
            headers.push(("Content-Type".to_owned(), Some("application/json".to_owned())));
            headers.push(("Content-Length".to_owned(), Some(body.len().to_string())));
        }
        headers.retain(|(name, _)| self.headers.iter().all(|(said, _)| said != name));
        headers.append(&mut self.headers);
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in headers {
            head += &value.map_or(String::new(), |value| format!("{name}: {value}\r\n"));
        }
        let mut web = match self.web.take() {
            Some(web) => web,
            None => Http::connect(self.addr).await,
        };
        let request = [head.as_bytes(), b"\r\n", &body.unwrap_or_default()].concat();
        let deadline = Instant::now() + PATIENCE;
        let reply = loop {
            web.send(&request).await;
            let reply = web.read(method == "HEAD").await;
            // A log that has not answered for a second counts as away: the machine stood still.
            if target != "/readyz" || reply.status != 503 || Instant::now() > deadline {
                break reply;
            }
        };
        let is_over = reply.status == 101 || reply.header("connection") == Some("close");
        self.web = Some(web).filter(|_| !is_over);
        self.tell("h< ", &answer(&reply, self.addr));
    }

    async fn ask_raw(&mut self, text: &str) {
        let mut web = Http::connect(self.addr).await;
        web.send(raw(text, self.addr)).await;
        let mut lines = Vec::new();
        for _ in 0..text.matches(" HTTP/1").count().max(1) {
            let reply = web.try_read(false).await;
            lines.extend(reply.map_or(vec!["the end".to_owned()], |it| answer(&it, self.addr)));
        }
        self.tell("h< ", &lines);
    }

    async fn open(&mut self, who: &str, text: &str) {
        let headers = std::mem::take(&mut self.headers);
        let headers = headers.iter().filter_map(|(name, value)| Some((&**name, value.as_deref()?)));
        let path = text.strip_prefix("GET ").expect("a stream is got");
        let stream = Stream::open(self.addr, path, &headers.collect::<Vec<_>>()).await;
        let lines = answer(&stream.head, self.addr);
        self.tell(&format!("{who}< "), &lines);
        self.streams.insert(who.to_owned(), stream);
    }

    async fn socket(&mut self, who: &str) -> &mut Raw {
        if !self.sockets.contains_key(who) {
            self.sockets.insert(who.to_owned(), Raw::upgrade(self.addr).await);
        }
        self.sockets.get_mut(who).unwrap()
    }

    async fn send(&mut self, who: &str, text: &str) {
        let (who, count) = who.split_once('*').unwrap_or((who, "1"));
        let count: usize = count.parse().unwrap();
        for n in 1..=count {
            let text = bytes(&text.replace("<n>", &n.to_string()), self.addr);
            self.frames.extend(masked_frame(TEXT, &text));
        }
        let next = format!("{who}> ");
        if count == 1 && self.lines.front().is_some_and(|line| line.starts_with(&next)) {
            return;
        }
        let frames = std::mem::take(&mut self.frames);
        self.socket(who).await.send(frames).await;
        for _ in 1..count {
            self.read(who).await;
        }
    }

    async fn receive(&mut self, who: &str, is_group: bool) {
        let begin = if is_group { format!("{who}<~ ") } else { format!("{who}< ") };
        let mut came = vec![self.read(who).await];
        while is_group && self.lines.front().is_some_and(|it| it.starts_with(begin.trim_end())) {
            self.lines.pop_front();
            came.push(self.read(who).await);
        }
        came.sort();
        self.tell(&begin, &came);
    }

    /// The next frame. A close is answered, and ends the socket.
    async fn read(&mut self, who: &str) -> String {
        let addr = self.addr;
        let socket = self.socket(who).await;
        let got = socket.read_frame().await;
        if got.first == CLOSE {
            // Where it is itself an answer, the server may have hung up.
            let _ = socket.try_send(masked_frame(CLOSE, got.payload.get(..2).unwrap_or(&[]))).await;
            socket.expect_end().await;
            self.sockets.remove(who);
        }
        frame(&got, addr)
    }

    async fn nothing_more(&mut self) {
        for who in self.sockets.keys().cloned().collect::<Vec<_>>() {
            self.socket(&who).await.send_frame(TEXT, FENCE.as_bytes()).await;
            while self.sockets.contains_key(&who) {
                let text = self.read(&who).await;
                if text.contains(r#""id":"fence""#) {
                    break;
                }
                self.tape.say(format!("{who}< {text}"));
            }
        }
    }
}
