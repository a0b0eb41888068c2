//! What the runner reads behind the server's back: the tables, the stream, the nodes' memory.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio_postgres::Client as Sql;
use verbatim_checker::{MembersRow, Place, Read, RoomRow, Row, StreamEntry};
use verbatim_tools::verify::recorder::Recorder;

use crate::site::Site;
use crate::{bystander, crew};

const ROOMS: &str = "select id, name, last_seq, message_count, member_count from rooms order by id";
const MEMBERS: &str = "select room_id, user_id from members";
const EVENTS: &str = "select room_id, seq, type, user_id, client_id, body, data, at
                      from events order by room_id, seq";
/// How long the reader of a file waits for its node.
const FILE_TIMEOUT: Duration = Duration::from_secs(10);

/// How far each room goes, which also says what was not committed before.
pub async fn positions(sql: &Sql, recorder: &Recorder) -> Result<(), tokio_postgres::Error> {
    let asked_at = recorder.now();
    let rows = sql.query("select name, last_seq from rooms", &[]).await?;
    let mut history = recorder.history();
    for row in rows.iter().filter(|row| is_checked(row.get(0))) {
        let room = history.room(row.get(0));
        let last_seq = number(row.get(1));
        history.read(Read { place: Place::Table, room, asked_at, last_seq });
    }
    Ok(())
}

/// Resident memory of the nodes that run; says the most of them.
pub fn memory(site: &Site<'_>, recorder: &Recorder) -> u64 {
    let mut most = 0;
    for node in &site.nodes {
        // Busy: it is being started or stopped.
        let Ok(process) = node.process.try_lock() else { continue };
        let Some(process) = &*process else { continue };
        if let Some(bytes) = resident_bytes(process.pid()) {
            let now = recorder.now();
            let mut history = recorder.history();
            let node = history.node(&node.name);
            history.memory(node, now, bytes);
            most = most.max(bytes);
        }
    }
    most
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Everything that the log holds.
pub async fn table(sql: &Sql, recorder: &Recorder) -> Result<(), tokio_postgres::Error> {
    let rooms = sql.query(ROOMS, &[]).await?;
    let members = sql.query(MEMBERS, &[]).await?;
    let events = sql.query(EVENTS, &[]).await?;
    let mut history = recorder.history();
    let mut names = HashMap::new();
    for row in rooms.iter().filter(|row| is_checked(row.get(1))) {
        let room = history.room(row.get(1));
        names.insert(row.get::<_, i64>(0), room);
        history.room_row(RoomRow {
            room,
            last_seq: number(row.get(2)),
            message_count: number(row.get(3)),
            member_count: number(row.get(4)),
        });
    }
    for row in members {
        let Some(room) = names.get(&row.get::<_, i64>(0)).copied() else { continue };
        let user = history.user(row.get(1));
        history.member(MembersRow { room, user });
    }
    for row in events {
        let Some(room) = names.get(&row.get::<_, i64>(0)).copied() else { continue };
        let at: SystemTime = row.get(7);
        history.row(&Row {
            room,
            seq: number(row.get(1)),
            kind: row.get(2),
            user: row.get(3),
            client_id: row.get(4),
            body: row.get(5),
            data: row.get(6),
            at_ms: at_ms(at),
        });
    }
    Ok(())
}

/// Everything that an embedded log holds, whose node may run.
pub fn file(path: &Path, recorder: &Recorder) -> rusqlite::Result<()> {
    let file = rusqlite::Connection::open(path)?;
    file.busy_timeout(FILE_TIMEOUT)?;
    let mut history = recorder.history();
    let mut rooms = file.prepare(ROOMS)?;
    let mut rows = rooms.query([])?;
    let mut names = HashMap::new();
    while let Some(row) = rows.next()? {
        let room = history.room(&row.get::<_, String>(1)?);
        names.insert(row.get::<_, i64>(0)?, room);
        history.room_row(RoomRow {
            room,
            last_seq: number(row.get(2)?),
            message_count: number(row.get(3)?),
            member_count: number(row.get(4)?),
        });
    }
    let mut members = file.prepare(MEMBERS)?;
    let mut rows = members.query([])?;
    while let Some(row) = rows.next()? {
        let user = history.user(&row.get::<_, String>(1)?);
        history.member(MembersRow { room: names[&row.get(0)?], user });
    }
    let mut events = file.prepare(EVENTS)?;
    let mut rows = events.query([])?;
    while let Some(row) = rows.next()? {
        let text = |column: usize| row.get::<_, Option<String>>(column);
        let (kind, user, client_id) = (text(2)?, text(3)?, text(4)?);
        let (body, data) = (text(5)?, text(6)?);
        history.row(&Row {
            room: names[&row.get(0)?],
            seq: number(row.get(1)?),
            kind: &kind.unwrap_or_default(),
            user: &user.unwrap_or_default(),
            client_id: client_id.as_deref(),
            body: body.as_deref(),
            data: data.as_deref(),
            at_ms: row.get(7)?,
        });
    }
    Ok(())
}

/// What a crew says is nobody's loss, and for its own rooms the runner sees itself.
fn is_checked(room: &str) -> bool {
    ![crew::PREFIX, bystander::PREFIX].iter().any(|prefix| room.starts_with(prefix))
}

/// Rows that wait for Redis. Those of the runner's own rooms, which a node could not read and set
/// aside, it looks at again after a minute only.
pub async fn outbox_len(sql: &Sql) -> Result<u64, tokio_postgres::Error> {
    const WAITING: &str = "
        select count(*) from outbox o left join rooms r on r.id = o.room_id
        where r.name is null or not starts_with(r.name, $1::text)";
    Ok(number(sql.query_one(WAITING, &[&bystander::PREFIX]).await?.get(0)))
}

/// Everything that the stream holds.
pub async fn stream(site: &Site<'_>, recorder: &Recorder) -> redis::RedisResult<()> {
    type Entries = Vec<(String, HashMap<String, Vec<u8>>)>;
    let Some(mut redis) = site.redis().await else {
        return Err(std::io::Error::other("Redis is away").into());
    };
    let mut all = redis::cmd("XRANGE");
    let entries: Entries = all.arg("chat:events").arg("-").arg("+").query_async(&mut redis).await?;
    let mut history = recorder.history();
    for (id, fields) in entries {
        let (ms, number) = id.split_once('-').expect("a stream's ID");
        let text = |key: &str| String::from_utf8_lossy(&fields[key]).into_owned();
        if !is_checked(&text("room")) {
            continue;
        }
        let (room, frame) = (history.room(&text("room")), history.frame(&fields["event"]));
        let id = (ms.parse().expect("a stream's ID"), number.parse().expect("a stream's ID"));
        let seq = text("seq").parse().expect("a seq");
        history.stream_entry(StreamEntry { id, room, seq, frame });
    }
    Ok(())
}

/// Milliseconds since 1970.
pub fn at_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("a time of this century");
    i64::try_from(since.as_millis()).expect("a time of this century")
}

pub fn number(value: i64) -> u64 {
    u64::try_from(value).expect("no counter is negative")
}
