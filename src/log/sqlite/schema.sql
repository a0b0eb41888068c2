-- The embedded log, version 3. It has the names of schema.sql for PostgreSQL, without what only
-- several nodes need. Text compares bytewise (BINARY, the default), so both logs list in the same
-- order. Times are milliseconds since 1970 in UTC. `strict`: columns only accept their own type.

-- Which version this is. (Also in `pragma user_version`.)
create table verbatim_schema (
    version    integer primary key,
    -- The oldest version that can use a log of this version: it passes on unchanged what it does
    -- not know. NULL: no older version can.
    carried_by integer
) strict;

insert into verbatim_schema (version) values (3);

create table rooms (
    -- A short key for other tables; never shown.
    id            integer primary key,
    -- Its unique index finds a room and lists rooms by name.
    name          text    not null unique,
    -- The owner, permanently: a creator who left and joins again is the owner again.
    created_by    text    not null,
    -- The highest seq given out; the next event takes the one after it.
    last_seq      integer not null,
    -- The number of its events that are messages.
    message_count integer not null,
    -- The number of its members. Counting 100,000 rows at each join would be too slow.
    member_count  integer not null,
    created_at    integer not null
) strict;

-- Current memberships. Past ones are in `events`.
create table members (
    room_id    integer not null,
    user_id    text    not null,
    -- The seq of the event that began this membership.
    joined_seq integer not null,
    -- How far the user has read; NULL: never reported. Below joined_seq it does not count.
    read_seq   integer,
    -- 'owner' or 'member'.
    role       text    not null,
    -- Answers "is this user a member?" and lists a room's members by id.
    primary key (room_id, user_id)
) strict, without rowid;

-- The rooms of a user.
create index members_by_user on members (user_id);

-- All events. A row is written once and never changed.
create table events (
    room_id    integer not null,
    -- 1, 2, 3, … without a hole within the room.
    seq        integer not null,
    -- 'create', 'join', 'leave', 'message', or a type of a newer version. Text, because people read
    -- this table.
    type       text    not null,
    user_id    text    not null,
    -- The command's id, if it is an idempotency key.
    client_id  text,
    -- The text of a message, or of another type that has one.
    body       text,
    -- The event that this one is about; NULL for all types of this version.
    target_seq integer,
    -- The number of messages in the room before this event; NULL for messages. (Also NULL if
    -- version 1 wrote it.)
    messages   integer,
    -- For display. The order is seq.
    at         integer not null,
    -- Fields of this type alone: the members of its JSON object as in its frame, without the
    -- braces. Text, so that the bytes do not change. NULL for all types of this version.
    data       text,
    -- History and catch-up read ranges of it. Without rowid the events of a room lie together in
    -- the key's own tree: a page of history is a page of the file, and only one tree is written.
    primary key (room_id, seq)
) strict, without rowid;

-- Finds an id that was committed before. Unique, so that no bug can make two events of it. Partial,
-- because events without an id need no entry.
create unique index events_by_client_id on events (room_id, user_id, client_id)
    where client_id is not null;

-- Counts unread messages: the last non-message event before a read mark holds the number of
-- messages before it. Partial, so that messages, of which there are many more, cost nothing.
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
