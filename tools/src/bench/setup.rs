//! Creates the rooms and memberships that a run needs, before anything is measured.
//!
//! Every client is a user of its own, and a member before it follows. Otherwise each join would be
//! an event for all who already follow, and a thousand clients joining one room would cause half a
//! million deliveries.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use memchr::memmem;
use serde_json::json;

use super::plan::{Plan, Target};
use super::wire;

/// Commands per connection. As many as a server accepts in a burst, and few enough that the answers
/// fit into the kernel's buffers.
const COMMANDS_PER_CONNECTION: usize = 250;
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot connect to {url}: {source}")]
    Connect { url: String, source: std::io::Error },
    #[error("{url} does not answer: {source}")]
    Read { url: String, source: std::io::Error },
    #[error("{url} refused to create the rooms and members: {answer}")]
    Refused { url: String, answer: String },
}

/// `done` is called with the share that is done, from 0 to 1.
pub fn prepare(plan: &Plan, done: &mut dyn FnMut(f64)) -> Result<(), SetupError> {
    let command = |kind, user: &str, room| {
        json!({"type": kind, "user_id": user, "room": plan.rooms.name(room)}).to_string()
    };
    let rooms = 0..plan.rooms.len() as u32;
    let mut commands: Vec<_> = rooms.map(|room| command("create", plan.owner(), room)).collect();
    let memberships = plan.memberships();
    commands.extend(memberships.iter().map(|&(room, user)| command("join", user, room)));
    let target = &plan.targets[0];
    for (turn, chunk) in commands.chunks(COMMANDS_PER_CONNECTION).enumerate() {
        Conversation::open(target)?.say(chunk)?;
        done((turn * COMMANDS_PER_CONNECTION) as f64 / commands.len() as f64);
    }
    Ok(())
}

/// A connection that waits for its answers.
struct Conversation<'a> {
    target: &'a Target,
    stream: TcpStream,
    read: Vec<u8>,
}

impl<'a> Conversation<'a> {
    fn open(target: &'a Target) -> Result<Self, SetupError> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&target.address, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let failed = |source| SetupError::Connect { url: target.url.clone(), source };
        let stream = connect().map_err(failed)?;
        let mut conversation = Self { target, stream, read: Vec::new() };
        let path = if target.path.is_empty() { "/ws" } else { &target.path };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dmVyYmF0aW0gYmVuY2ghIQ==\r\n\r\n",
            target.host
        );
        conversation.write(request.as_bytes())?;
        let end = loop {
            if let Some(end) = memmem::find(&conversation.read, b"\r\n\r\n") {
                break end + 4;
            }
            conversation.read_more()?;
        };
        if !conversation.read.starts_with(b"HTTP/1.1 101 ") {
            return Err(conversation.refused(&conversation.read[..end]));
        }
        conversation.read.drain(..end);
        Ok(conversation)
    }

    /// Sends all commands, and waits until all are answered.
    fn say(mut self, commands: &[String]) -> Result<(), SetupError> {
        let frames: Vec<u8> = commands.iter().flat_map(|command| wire::text(command)).collect();
        self.write(&frames)?;
        let mut answered = 0;
        while answered < commands.len() {
            let mut used = 0;
            while let Some(frame) = wire::split(&self.read[used..]) {
                used += frame.len;
                let is = |start: &str| frame.payload.starts_with(start.as_bytes());
                if is(r#"{"type":"ack""#) || is(r#"{"type":"joined""#) {
                    answered += 1;
                } else if is(r#"{"type":"error""#) {
                    return Err(self.refused(frame.payload));
                }
            }
            self.read.drain(..used);
            if answered < commands.len() {
                self.read_more()?;
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SetupError> {
        self.stream.write_all(bytes).map_err(|source| self.silent(source))
    }

    fn read_more(&mut self) -> Result<(), SetupError> {
        let mut space = [0; 16 * 1024];
        match self.stream.read(&mut space) {
            Ok(0) => Err(self.silent(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.read.extend_from_slice(&space[..count]);
                Ok(())
            }
            Err(source) => Err(self.silent(source)),
        }
    }

    fn silent(&self, source: std::io::Error) -> SetupError {
        SetupError::Read { url: self.target.url.clone(), source }
    }

    fn refused(&self, answer: &[u8]) -> SetupError {
        let answer = String::from_utf8_lossy(answer);
        let answer = answer.lines().next().unwrap_or_default().to_owned();
        SetupError::Refused { url: self.target.url.clone(), answer }
    }
}
