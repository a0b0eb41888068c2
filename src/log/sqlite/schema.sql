-- The embedded log, version 3. The same words as schema.sql for PostgreSQL, minus what only many
-- nodes need. Text compares bytewise (BINARY, the default), so both logs list in the same order.
-- Times are milliseconds since 1970 in UTC. `strict`: a column holds its type and nothing else.

-- Which version this is. (`pragma user_version` says so, too.)
create table verbatim_schema (
    version    integer primary key,
    -- The oldest version that can work on a log of this one: it shows what it does not know as it
    -- is. Null: no older one can.
    carried_by integer
) strict;

insert into verbatim_schema (version) values (3);

create table rooms (
    -- Short, because it stands in every event; never shown.
    id            integer primary key,
    -- Its unique index finds a room and lists rooms in the order of their names.
    name          text    not null unique,
    -- Who is its owner for ever: a creator who left and joins again is the owner again.
    created_by    text    not null,
    -- The highest seq given out: the next event takes the one after it.
    last_seq      integer not null,
    -- How many of its events are messages.
    message_count integer not null,
    -- How many members it has. Counting 100,000 rows at every join would be too dear.
    member_count  integer not null,
    created_at    integer not null
) strict;

-- Who is in which room now. What was before is in `events`.
create table members (
    room_id    integer not null,
    user_id    text    not null,
    -- The seq of the event that made this membership.
    joined_seq integer not null,
    -- How far the user has read; null: they never said. What is below joined_seq does not count.
    read_seq   integer,
    -- 'owner' or 'member'.
    role       text    not null,
    -- Answers "is this user a member?" and lists a room's members in the order of their ids.
    primary key (room_id, user_id)
) strict, without rowid;

-- In which rooms is this user?
create index members_by_user on members (user_id);

-- What happened. A row is written once and never changed.
create table events (
    room_id    integer not null,
    -- 1, 2, 3, … without a hole within the room.
    seq        integer not null,
    -- 'create', 'join', 'leave', 'message', or what a newer version writes: text, because people
    -- read this table.
    type       text    not null,
    user_id    text    not null,
    -- The command's own id, where it had one that makes it idempotent.
    client_id  text,
    -- The text of a message, or of another type that has one.
    body       text,
    -- The event that this one is about; null for every type of this version.
    target_seq integer,
    -- How many messages there are in the room before this event; null for messages, which come
    -- between. (Also null if version 1 wrote it.)
    messages   integer,
    -- For display. The order is seq.
    at         integer not null,
    -- What only its type has: the members of its JSON object, as they stand in its frame, without
    -- the braces. Text, so that the bytes stay. Null for every type of this version.
    data       text,
    -- History and catch-up read ranges of it. Without rowid the events of a room lie side by side
    -- in the key's own tree: a page of history is a page of the file, and there is one tree to write.
    primary key (room_id, seq)
) strict, without rowid;

-- Was this id committed before? Unique, so that no bug can ever make it two events. Partial,
-- because events without an id need no entry.
create unique index events_by_client_id on events (room_id, user_id, client_id)
    where client_id is not null;

-- How many messages are unread: the last event before a mark that is no message knows how many were
-- said before it. Partial, because messages, of which there are so many more, then cost nothing.
create index events_by_turn on events (room_id, seq)
    where type <> 'message';

-- For people with the sqlite3 shell.
create view event_log as
select r.name as room,
       e.seq,
       e.type,
       e.user_id,
       e.body as text,
       strftime('%Y-%m-%dT%H:%M:%fZ', e.at / 1000.0, 'unixepoch') as at,
       e.data
from events e
join rooms r on r.id = e.room_id;
