-- The durable log on PostgreSQL 13 or later, version 4.
--
-- A node applies this by itself when it starts with an empty database: in one transaction, under an
-- advisory lock. It brings a log of an older version here by the files of src/log/postgres/steps. Run
-- by hand, this file is for an empty database; over a log of its own version it changes nothing.
-- Nothing is qualified, so it goes where the connection's search_path says.
--
-- Names compare bytewise (collate "C"): the order of a list must not depend on the server's locale,
-- and both logs must list in the same order. There are no foreign keys: each insert of an event
-- would take a lock on its room's row, beside the one that the append holds already, and rows only
-- ever leave by hand.

-- Which versions of this file were applied, and when. A node refuses a version above its own, unless
-- it is marked as one that the node can carry.
create table if not exists verbatim_schema (
    version    integer     primary key,
    applied_at timestamptz not null default now(),
    -- The oldest version whose nodes can work on a log of this one: they show what they do not know
    -- as it is. Null: no older one can.
    carried_by integer
);

-- Which log this is: one row. A copy of the database (a clone for a test, not a restored backup) is
-- another log; give it another row: update verbatim_log set id = default, secret = default.
create table if not exists verbatim_log (
    -- Stands in Redis under `chat:cluster`: two logs never share a Redis and a prefix.
    id      uuid    not null default gen_random_uuid(),
    -- Never leaves the nodes: what one tells the others by way of Redis is sealed with it.
    secret  bytea   not null
                    default uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
    is_only boolean primary key default true check (is_only)
);

insert into verbatim_log default values
on conflict do nothing;

-- One row per room. It is locked and updated by every append, so it is narrow, no counter is
-- indexed, and half of each page is left free (fillfactor): an update then stays within its page and
-- touches no index (HOT).
create table if not exists rooms (
    -- Short, because it stands in every event; never shown. It has holes: a `create` that came
    -- second used one up.
    id            bigint      generated always as identity primary key,
    -- The highest seq given out: the next event takes the one after it, under this row's lock, so
    -- seq has no holes. 0 only inside the transaction that makes the room.
    last_seq      bigint      not null,
    -- How many of its events are messages.
    message_count bigint      not null,
    -- How many members it has. Counting 100,000 rows at every join would be too dear.
    member_count  bigint      not null,
    created_at    timestamptz not null,
    -- Its unique index finds a room, lists rooms in the order of their names, and makes two nodes
    -- that create the same room wait for each other.
    name          text collate "C" not null unique,
    -- Who is its owner for ever: a creator who left and joins again is the owner again.
    created_by    text collate "C" not null
) with (
    fillfactor = 50,
    -- Dead versions of these rows slow down every append, and there are as many as appends: vacuum
    -- after so many, not after a share of the table, and without pausing.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- Who is in which room now. What was before is in `events`.
create table if not exists members (
    room_id    bigint not null,
    -- The seq of the event that made this membership.
    joined_seq bigint not null,
    -- How far the user has read; null: they never said. What is below joined_seq does not count.
    read_seq   bigint,
    user_id    text collate "C" not null,
    -- 'owner' or 'member'.
    role       text   not null,
    -- Answers "is this user a member?" and lists a room's members in the order of their ids.
    primary key (room_id, user_id)
)
-- Marks move often, and no index holds them: an update that stays within its page (HOT) touches
-- none, so each page has some room.
with (fillfactor = 90);

-- In which rooms is this user?
create index if not exists members_by_user on members (user_id);

-- What happened. A row is written once and never changed. (Columns of eight bytes come first: no
-- padding between them.)
create table if not exists events (
    room_id    bigint      not null,
    -- 1, 2, 3, … without a hole within the room.
    seq        bigint      not null,
    -- For display. The order is seq.
    at         timestamptz not null,
    -- The event that this one is about; null for every type of this version, which costs one bit.
    target_seq bigint,
    -- 'create', 'join', 'leave', 'message', or what a newer version writes: text, because people
    -- read this table.
    type       text        not null,
    user_id    text collate "C" not null,
    -- The command's own id, where it had one that makes it idempotent.
    client_id  text collate "C",
    -- The text of a message, or of another type that has one.
    body       text,
    -- How many messages there are in the room before this event; null for messages, which come
    -- between. (Also null if a node of version 1 wrote it.)
    messages   bigint,
    -- What only its type has: the members of its JSON object, as they stand in its frame, without
    -- the braces. Text, not jsonb, so that the bytes stay. Null for every type of this version.
    data       text,
    -- History and catch-up read ranges of it.
    primary key (room_id, seq)
) with (
    -- Nothing is updated or deleted, so vacuum comes for inserts only: early enough that an old page
    -- is known to be all visible, and frozen, before there are very many of them.
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- Was this id committed before? Unique, so that no bug can ever make it two events. Partial, because
-- events without an id need no entry.
create unique index if not exists events_by_client_id
    on events (room_id, user_id, client_id)
    where client_id is not null;

-- What was said between two moments, over all rooms: for people and for archiving. Events arrive in
-- the order of time, so a few bytes per 32 pages are enough, where a B-tree would cost each insert.
create index if not exists events_by_time
    on events using brin (at) with (pages_per_range = 32, autosummarize = on);

-- What is committed and not yet known to be in Redis: one row per room per batch, written in the
-- same transaction as the events. Empty where there is no Redis.
create table if not exists outbox (
    -- The order of sweeping. Within a room, a later batch has a higher id: it is drawn under the
    -- room's lock.
    id        bigint      generated always as identity primary key,
    room_id   bigint      not null,
    first_seq bigint      not null,
    last_seq  bigint      not null,
    -- When it was written; within a room, later rows have later times. A row of some age belongs to
    -- a node that died, or that cannot reach Redis.
    at        timestamptz not null
) with (
    -- Rows live for milliseconds: the table is tiny, and it must not become a large table of dead rows.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- How many messages are unread: the last event before a mark that is no message knows how many were
-- said before it. Partial, because messages, of which there are so many more, then cost nothing.
create index if not exists events_by_turn
    on events (room_id, seq)
    where type <> 'message';

-- For people with psql: select * from event_log where room = 'general' order by seq desc limit 20;
create or replace view event_log as
select r.name as room,
       e.seq,
       e.type,
       e.user_id,
       e.body as text,
       e.at,
       e.data
from events e
join rooms r on r.id = e.room_id;

insert into verbatim_schema (version)
select 4
where not exists (select from verbatim_schema);
