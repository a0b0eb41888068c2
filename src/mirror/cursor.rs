//! The node's consumer group on the stream: its durable cursor, and what Redis knows of it.
//!
//! It keeps no state itself. The group is read with NOACK, so nothing is ever pending in it. It
//! exists for its `last-delivered-id`, which survives the node and is visible in RedisInsight.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError, Value, cmd, pipe};

use super::event::{Found, StreamId};
use super::seal::Seal;

/// The most entries read in one round trip, and about the most bytes of their events.
const PAGE_LEN_MAX: usize = 512;
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The only consumer of a node's group.
const CONSUMER: &str = "node";

/// A position in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamPosition {
    pub id: StreamId,
    /// How many entries the stream had been given when its last one was `id`.
    pub read: u64,
}

/// How many entries to read at once.
///
/// The length of entries is unknown before they are read, and a page that does not arrive within
/// `mirror.timeout_ms` is read again: on a slow network, forever. So pages start short, grow with
/// each that arrives, are much shorter after one that did not, and do not become that long again.
/// Nor do they grow beyond the bytes that the node wants to hold at once, estimated from earlier
/// pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageLen {
    now: usize,
    max: usize,
}

impl Default for PageLen {
    fn default() -> Self {
        Self { now: 64, max: PAGE_LEN_MAX }
    }
}

impl PageLen {
    /// A page with `len` entries and `bytes` bytes of events has arrived.
    pub fn arrived(&mut self, len: usize, bytes: usize) {
        let fit = PAGE_BYTES_MAX.saturating_mul(len).checked_div(bytes).unwrap_or(PAGE_LEN_MAX);
        self.now = (self.now * 2).min(self.max).min(fit.max(1));
    }

    pub fn was_lost(&mut self) {
        self.max = (self.now / 2).max(1);
        self.now = (self.now / 8).max(1);
    }
}

/// Entries read at once.
pub(super) struct StreamPage {
    pub entries: Vec<(StreamId, Found)>,
    /// The stream's end, if the page reaches it.
    pub end: Option<StreamPosition>,
}

/// The answer to an XINFO.
type Info = HashMap<String, Value>;

#[derive(Clone)]
pub(super) struct Cursor {
    pub stream: String,
    pub group: String,
    pub seal: Seal,
}

impl Cursor {
    /// The stream's end: the last ID given out, and how many were given out in all. `None`: there
    /// is no stream.
    pub async fn end(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> Result<Option<StreamPosition>, RedisError> {
        let info = cmd("XINFO").arg("STREAM").arg(&self.stream).query_async(redis).await;
        let info: Info = match info {
            Err(err) if is_missing(&err) => return Ok(None),
            info => info?,
        };
        Ok(Some(end(&info)))
    }

    /// The group's position; `None`: there is no group. The count is 0 if Redis does not know it.
    pub async fn group(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> Result<Option<StreamPosition>, RedisError> {
        let groups = self.groups(redis).await?;
        Ok(groups.into_iter().find(|(name, _)| *name == self.group).map(|(_, position)| position))
    }

    /// All groups of the stream.
    pub async fn groups(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> Result<Vec<(String, StreamPosition)>, RedisError> {
        let groups = cmd("XINFO").arg("GROUPS").arg(&self.stream).query_async(redis).await;
        let groups: Vec<Info> = match groups {
            Err(err) if is_missing(&err) => return Ok(Vec::new()),
            groups => groups?,
        };
        let position = |g: &_| StreamPosition {
            id: id(g, "last-delivered-id"),
            read: number(g, "entries-read"),
        };
        Ok(groups.iter().map(|group| (text(group, "name"), position(group))).collect())
    }

    /// Creates the group at the stream's end, and the stream if necessary.
    pub async fn create(&self, redis: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(&self.group).arg("$").arg("MKSTREAM");
        match create.query_async::<()>(redis).await {
            Err(err) if err.code() == Some("BUSYGROUP") => Ok(()),
            created => created,
        }
    }

    /// Moves the group. With `ENTRIESREAD`, Redis can report its lag.
    pub async fn set(
        &self,
        redis: &mut MultiplexedConnection,
        position: StreamPosition,
    ) -> Result<(), RedisError> {
        let mut set = cmd("XGROUP");
        set.arg("SETID").arg(&self.stream).arg(&self.group).arg(position.id.to_string());
        if position.read > 0 {
            set.arg("ENTRIESREAD").arg(position.read);
        }
        set.query_async(redis).await
    }

    /// Reads the next page after the group's position, which moves with it, and the stream's state
    /// at the same moment: a page that is not full ends exactly at the stream's end.
    ///
    /// Must not be cancelled: Redis moves the group whether or not anybody reads the answer.
    pub async fn read(
        &self,
        redis: &mut MultiplexedConnection,
        PageLen { now: len, .. }: PageLen,
    ) -> Result<StreamPage, RedisError> {
        let mut read = pipe();
        read.atomic();
        read.cmd("XREADGROUP").arg("GROUP").arg(&self.group).arg(CONSUMER);
        read.arg("COUNT").arg(len).arg("NOACK").arg("STREAMS").arg(&self.stream).arg(">");
        read.cmd("XINFO").arg("STREAM").arg(&self.stream);
        let (entries, info): (Value, Info) = read.query_async(redis).await?;
        let entries = walk(entries, &self.seal);
        let end = (entries.len() < len).then(|| end(&info));
        Ok(StreamPage { entries, end })
    }

    /// Removes another node's group.
    pub async fn destroy(
        &self,
        redis: &mut MultiplexedConnection,
        group: &str,
    ) -> Result<(), RedisError> {
        cmd("XGROUP").arg("DESTROY").arg(&self.stream).arg(group).query_async(redis).await
    }
}

/// The stream or the group is missing: FLUSHALL, an empty restart, or somebody's XGROUP DESTROY.
pub(super) fn is_missing(err: &RedisError) -> bool {
    // "no such key" and "The XGROUP subcommand requires the key to exist" have the plain code ERR.
    err.code() == Some("NOGROUP") || (err.code() == Some("ERR") && is_about_key(err))
}

fn is_about_key(err: &RedisError) -> bool {
    let detail = err.detail().unwrap_or_default();
    detail.contains("no such key") || detail.contains("requires the key to exist")
}

/// The stream's end according to XINFO STREAM.
fn end(info: &Info) -> StreamPosition {
    StreamPosition { id: id(info, "last-generated-id"), read: number(info, "entries-added") }
}

fn id(info: &Info, key: &str) -> StreamId {
    text(info, key).parse().unwrap_or_default()
}

fn text(info: &Info, key: &str) -> String {
    info.get(key).and_then(|value| String::from_redis_value_ref(value).ok()).unwrap_or_default()
}

fn number(info: &Info, key: &str) -> u64 {
    info.get(key).and_then(|value| u64::from_redis_value_ref(value).ok()).unwrap_or_default()
}

/// The entries in XREADGROUP's answer for one stream: [[key, [[id, [field, value, …]], …]]], or a
/// map from key to the same. Walked by hand, because the typed reply clones everything.
fn walk(answer: Value, ours: &Seal) -> Vec<(StreamId, Found)> {
    let list = match answer {
        Value::Map(mut streams) => streams.pop().map(|(_, entries)| entries),
        Value::Array(mut streams) => match streams.pop() {
            Some(Value::Array(mut pair)) => pair.pop(),
            _ => None,
        },
        _ => None,
    };
    let Some(Value::Array(list)) = list else { return Vec::new() };
    list.into_iter().filter_map(|value| entry(value, ours)).collect()
}

fn entry(value: Value, ours: &Seal) -> Option<(StreamId, Found)> {
    let Value::Array(pair) = value else { return None };
    let mut pair = pair.into_iter();
    let (Some(Value::BulkString(id)), Some(Value::Array(fields))) = (pair.next(), pair.next())
    else {
        return None;
    };
    let id = std::str::from_utf8(&id).ok()?.parse().ok()?;
    let field = |wanted: &[u8]| {
        let is_it = |name: &Value| matches!(name, Value::BulkString(name) if name == wanted);
        match fields.chunks_exact(2).find(|pair| is_it(&pair[0])).map(|pair| &pair[1]) {
            Some(Value::BulkString(bytes)) => bytes.as_slice(),
            _ => b"",
        }
    };
    Some((id, Found::in_entry(field(b"event"), field(b"seal"), ours)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_to_what_may_be_held_at_once() {
        let mut page = PageLen::default();
        for _ in 0..9 {
            page.arrived(page.now, page.now * 100);
        }
        assert_eq!(page.now, PAGE_LEN_MAX);
        // Long events: the next page is shorter, but never empty.
        page.arrived(page.now, page.now * 64 * 1024);
        assert_eq!(page.now, 64);
        page.arrived(page.now, page.now * 8 * 1024 * 1024);
        assert_eq!(page.now, 1);
        page.arrived(page.now, 0);
        assert_eq!(page.now, 2);
    }
}
