//! The wire, recorded: conversations with a node, byte for byte, on both logs.
//!
//! Each `*.txt` beside this file is a conversation. The test says what is said in it and compares
//! what comes with what stands there; for values that differ from run to run there are placeholders
//! (`shown`). After a change that is meant, `BLESS=1 cargo test --test it transcripts` writes down
//! what came, and the diff of the files is what has changed on the wire.
//!
//! ```text
//! = redis                   on PostgreSQL with Redis, instead of on each log without
//! = session.follows_max = 2         a setting of the node
//! a> {"type":"ping"}        socket a, which connects when it is first named, sends a text frame;
//!                           those of lines behind each other leave in one write
//! a*9> {"id":"<n>"}         nine of them, <n> from 1 on; of nine answers eight are left out
//! a! 82 \xff                it sends a frame with that first byte
//! a< {"type":"pong"}        the next frame that comes to it
//! a<~ {"type":"pong"}       the same; the lines of a group may come in any order
//! h| Accept: text/plain     a header of the next request of h; without a value: it is left out
//! h> PUT /path {"a":1}      a request, perhaps with a body; its answer is below it
//! h! GET / HTTP/1.0\r\n\r\n bytes on a connection of their own, and an answer to each request
//! s> GET /path              an event stream
//! s< id: 7⏎event: …         the next block of it, or `the end`
//! ! stop                    the node stops; `start` waits for that and starts one on the same log
//! ! rows                    what is in the tables of the log
//! ! entries 7               what is in Redis' stream and came on its channel, when it is so much
//! ```
//!
//! At its end nothing more may have come to any socket.

mod player;
mod shown;
mod stored;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt, stream};

/// Conversations at once: most of their time they wait.
const AT_ONCE: usize = 8;
/// Lines before a difference that are shown.
const CONTEXT_LEN: usize = 4;

type Lines = Arc<Vec<String>>;

/// What a conversation is held on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Sqlite,
    Postgres,
    Redis,
}

/// What was said and came so far. Clones share it.
#[derive(Clone)]
struct Tape {
    lines: Arc<Mutex<Vec<String>>>,
    /// What it must be; while it is recorded, anything.
    wanted: Option<Lines>,
}

impl Tape {
    /// Ends the conversation if that is not as recorded: it would hardly go on as it should.
    fn say(&self, line: String) {
        let mut lines = self.lines.lock().unwrap();
        let wanted = self.wanted.as_ref().map(|wanted| wanted.get(lines.len()));
        let is_wanted = wanted.is_none_or(|wanted| wanted == Some(&line));
        lines.push(line);
        drop(lines);
        if !is_wanted {
            resume_unwind(Box::new(()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_conversation_is_as_it_was_recorded() {
    let checks = stream::iter(files()).map(check).buffer_unordered(AT_ONCE);
    let differences: Vec<String> = checks.concat().await;
    let hint = "Is that how it should be? BLESS=1 cargo test --test it transcripts";
    assert!(differences.is_empty(), "\n{}\n{hint}\n", differences.join("\n"));
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcripts");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|it| it == "txt")).collect();
    assert!(files.len() > 10, "the transcripts were not found");
    // Those that wait most (for signs, for silence) come to be the first.
    files.sort();
    files.reverse();
    files
}

/// Holds the conversation on each of its logs, and says what is not as recorded.
async fn check(path: PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(&path).unwrap();
    let mut wanted: Lines = Arc::new(text.lines().map(str::to_owned).collect());
    let is_recording = std::env::var_os("BLESS").is_some();
    let is_mirrored = wanted.iter().any(|line| line == "= redis");
    let places = if is_mirrored { &[Place::Redis][..] } else { &[Place::Sqlite, Place::Postgres] };
    let played = join_all(places.iter().map(|it| play(*it, &wanted, is_recording))).await;
    if is_recording && played[0].1.is_none() && played[0].0 != *wanted {
        wanted = Arc::new(played[0].0.clone());
        std::fs::write(&path, wanted.join("\n") + "\n").unwrap();
    }
    let name = path.file_name().unwrap().to_string_lossy();
    let differences = places.iter().zip(&played).filter_map(|(place, (got, failed))| {
        let difference = difference(&wanted, got, failed.as_deref())?;
        Some(format!("{name} on {place:?}, {difference}"))
    });
    differences.collect()
}

/// What was said and came; and why it could not go on, if it could not.
async fn play(place: Place, script: &Lines, is_recording: bool) -> (Vec<String>, Option<String>) {
    let wanted = (!is_recording).then(|| script.clone());
    let tape = Tape { lines: Arc::default(), wanted };
    // Where nothing comes any more the harness panics; the others go on.
    let played = AssertUnwindSafe(player::play(place, script.clone(), tape.clone()));
    let panic = played.catch_unwind().await.err().filter(|panic| !panic.is::<()>());
    let failed = panic.map(|panic| panic.downcast().map_or("it panicked".to_owned(), |it| *it));
    let lines = std::mem::take(&mut *tape.lines.lock().unwrap());
    (lines, failed)
}

/// The first difference, with the lines before it.
fn difference(wanted: &[String], got: &[String], failed: Option<&str>) -> Option<String> {
    let same = wanted.iter().zip(got).take_while(|(wanted, got)| wanted == got).count();
    if failed.is_none() && same == wanted.len() && same == got.len() {
        return None;
    }
    let same = if failed.is_some() { got.len() } else { same };
    let before = got[same.saturating_sub(CONTEXT_LEN)..same].iter();
    let mut lines: Vec<_> = before.map(|line| format!("    {line}")).collect();
    lines.insert(0, format!("line {}:", same + 1));
    lines.extend(wanted.get(same).map(|line| format!("  - {line}")));
    lines.extend(got.get(same).map(|line| format!("  + {line}")));
    lines.extend(failed.map(|why| format!("  ! {why}")));
    Some(lines.join("\n"))
}
