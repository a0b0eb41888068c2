//! The node's consumer group on the stream: its durable cursor, and what Redis knows of it.
//!
//! It keeps nothing itself. A group is read with NOACK, so nothing is ever pending in it; it is
//! there for its `last-delivered-id`, which survives the node and can be seen in RedisInsight.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError, Value, cmd, pipe};

use super::event::{Found, StreamId};
use super::seal::Seal;

/// Most entries read in one round trip while draining, and about the most bytes of their events.
const PAGE_LEN_MAX: usize = 512;
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The one consumer of a node's group.
const CONSUMER: &str = "node";

/// Where a node is in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub id: StreamId,
    /// How many entries the stream had been given when it stood at `id`.
    pub read: u64,
}

/// How many entries to read at once.
///
/// Nobody knows how long they are before they are read, and a page that does not arrive within
/// `mirror.timeout_ms` is read again: on a slow way, for ever. So pages begin short, grow with each
/// that arrives, are much shorter after one that did not, and do not become as long again. Nor do
/// they grow to more bytes than the node wants to hold at once, judged by those before.
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
    /// A page of so many entries has come, and their events had so many bytes.
    pub fn arrived(&mut self, len: usize, bytes: usize) {
        let fit = PAGE_BYTES_MAX.saturating_mul(len).checked_div(bytes).unwrap_or(PAGE_LEN_MAX);
        self.now = (self.now * 2).min(self.max).min(fit.max(1));
    }

    pub fn was_lost(&mut self) {
        self.max = (self.now / 2).max(1);
        self.now = (self.now / 8).max(1);
    }
}

/// Entries that were read at once.
pub(super) struct Page {
    pub entries: Vec<(StreamId, Found)>,
    /// The stream's end, if the page reaches it.
    pub end: Option<Place>,
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
    ) -> Result<Option<Place>, RedisError> {
        let info = cmd("XINFO").arg("STREAM").arg(&self.stream).query_async(redis).await;
        let info: Info = match info {
            Err(err) if is_missing(&err) => return Ok(None),
            info => info?,
        };
        Ok(Some(end(&info)))
    }

    /// Where the group stands; `None`: there is no group. The count is 0 if Redis does not know it.
    pub async fn group(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> Result<Option<Place>, RedisError> {
        let groups = self.groups(redis).await?;
        Ok(groups.into_iter().find(|(name, _)| *name == self.group).map(|(_, place)| place))
    }

    /// All groups of the stream.
    pub async fn groups(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> Result<Vec<(String, Place)>, RedisError> {
        let groups = cmd("XINFO").arg("GROUPS").arg(&self.stream).query_async(redis).await;
        let groups: Vec<Info> = match groups {
            Err(err) if is_missing(&err) => return Ok(Vec::new()),
            groups => groups?,
        };
        let place =
            |g: &_| Place { id: id(g, "last-delivered-id"), read: number(g, "entries-read") };
        Ok(groups.iter().map(|group| (text(group, "name"), place(group))).collect())
    }

    /// Makes the group at the stream's end, and the stream if need be.
    pub async fn create(&self, redis: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(&self.group).arg("$").arg("MKSTREAM");
        match create.query_async::<()>(redis).await {
            Err(err) if err.code() == Some("BUSYGROUP") => Ok(()),
            created => created,
        }
    }

    /// Moves the group. `ENTRIESREAD` lets Redis tell its lag.
    pub async fn set(
        &self,
        redis: &mut MultiplexedConnection,
        place: Place,
    ) -> Result<(), RedisError> {
        let mut set = cmd("XGROUP");
        set.arg("SETID").arg(&self.stream).arg(&self.group).arg(place.id.to_string());
        if place.read > 0 {
            set.arg("ENTRIESREAD").arg(place.read);
        }
        set.query_async(redis).await
    }

    /// The next page behind the group's place, which moves with it, and the stream as it was in the
    /// same moment: a page that is not full ends exactly at the stream's end.
    ///
    /// Must not be cancelled: Redis moves the group whether or not anybody reads its answer.
    pub async fn read(
        &self,
        redis: &mut MultiplexedConnection,
        PageLen { now: len, .. }: PageLen,
    ) -> Result<Page, RedisError> {
        let mut read = pipe();
        read.atomic();
        read.cmd("XREADGROUP").arg("GROUP").arg(&self.group).arg(CONSUMER);
        read.arg("COUNT").arg(len).arg("NOACK").arg("STREAMS").arg(&self.stream).arg(">");
        read.cmd("XINFO").arg("STREAM").arg(&self.stream);
        let (entries, info): (Value, Info) = read.query_async(redis).await?;
        let entries = walk(entries, &self.seal);
        let end = (entries.len() < len).then(|| end(&info));
        Ok(Page { entries, end })
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

/// The stream or the group is not there: FLUSHALL, an empty restart, or somebody's XGROUP DESTROY.
pub(super) fn is_missing(err: &RedisError) -> bool {
    // "no such key" and "The XGROUP subcommand requires the key to exist" are plain ERR.
    err.code() == Some("NOGROUP") || (err.code() == Some("ERR") && is_about_key(err))
}

fn is_about_key(err: &RedisError) -> bool {
    let detail = err.detail().unwrap_or_default();
    detail.contains("no such key") || detail.contains("requires the key to exist")
}

/// What XINFO STREAM says of the stream's end.
fn end(info: &Info) -> Place {
    Place { id: id(info, "last-generated-id"), read: number(info, "entries-added") }
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

/// The entries in the answer to XREADGROUP for one stream: [[key, [[id, [field, value, …]], …]]],
/// or a map from key to the same. Walked by hand: the typed reply clones everything first.
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
        // Long ones: the next page is shorter, and never empty.
        page.arrived(page.now, page.now * 64 * 1024);
        assert_eq!(page.now, 64);
        page.arrived(page.now, page.now * 8 * 1024 * 1024);
        assert_eq!(page.now, 1);
        page.arrived(page.now, 0);
        assert_eq!(page.now, 2);
    }
}
