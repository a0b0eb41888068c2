-- The durable log on PostgreSQL 13 or later, version 4.
--
-- A node applies this file when it starts with an empty database: in one transaction, under an
-- advisory lock. It upgrades a log of an older version with the files in src/log/postgres/steps.
-- Applied by hand, this file is for an empty database; on a log of its own version it changes
-- nothing. Names are not qualified, so the tables are created where search_path says.
--
-- Names compare bytewise (collate "C"): the order of a list must not depend on the server's locale,
-- and both logs must list in the same order. There are no foreign keys: each insert of an event
-- would lock its room's row, which the append has locked already, and rows are only ever deleted by
-- hand.

-- Which versions of this file were applied, and when. A node refuses a version above its own,
-- unless that is marked as usable for it.
create table if not exists verbatim_schema (
    version    integer     primary key,
    applied_at timestamptz not null default now(),
    -- The oldest version whose nodes can use a log of this version: they pass on unchanged what
    -- they do not know. NULL: no older version can.
    carried_by integer
);

-- Which log this is: one row. A copy of the database (a clone for a test, not a restored backup) is
-- another log. Give it another identity: update verbatim_log set id = default, secret = default.
create table if not exists verbatim_log (
    -- Stored in Redis as `chat:cluster`, so that two logs never share a Redis and a prefix.
    id      uuid    not null default gen_random_uuid(),
    -- Never leaves the nodes: it seals what they tell each other through Redis.
    secret  bytea   not null
                    default uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
    is_only boolean primary key default true check (is_only)
);

insert into verbatim_log default values
on conflict do nothing;

-- One row per room. Every append locks and updates it, so it is narrow, no counter is indexed, and
-- half of each page stays free (fillfactor): an update then stays within its page and touches no
-- index (HOT).
create table if not exists rooms (
    -- A short key for other tables; never shown. Ids may have gaps: a `create` that came second
    -- used one.
    id            bigint      generated always as identity primary key,
    -- The highest seq given out. The next event takes the one after it, under this row's lock, so
    -- seqs have no holes. 0 only inside the transaction that creates the room.
    last_seq      bigint      not null,
    -- The number of its events that are messages.
    message_count bigint      not null,
    -- The number of its members. Counting 100,000 rows at each join would be too slow.
    member_count  bigint      not null,
    created_at    timestamptz not null,
    -- Its unique index finds a room, lists rooms by name, and makes two nodes that create the same
    -- room wait for each other.
    name          text collate "C" not null unique,
    -- The owner, permanently: a creator who left and joins again is the owner again.
    created_by    text collate "C" not null
) with (
    fillfactor = 50,
    -- Dead versions of these rows slow down every append, and every append leaves one. So vacuum
    -- runs after a fixed number, not a share of the table, and without pausing.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- Current memberships. Past ones are in `events`.
create table if not exists members (
    room_id    bigint not null,
    -- The seq of the event that began this membership.
    joined_seq bigint not null,
    -- How far the user has read; NULL: never reported. Below joined_seq it does not count.
    read_seq   bigint,
    user_id    text collate "C" not null,
    -- 'owner' or 'member'.
    role       text   not null,
    -- Answers "is this user a member?" and lists a room's members by id.
    primary key (room_id, user_id)
)
-- Read marks move often, and no index contains them: an update within its page (HOT) touches no
-- index, so each page keeps some space free.
with (fillfactor = 90);

-- The rooms of a user.
create index if not exists members_by_user on members (user_id);

-- All events. A row is written once and never changed. (Columns of eight bytes come first, to avoid
-- padding.)
create table if not exists events (
    room_id    bigint      not null,
    -- 1, 2, 3, … without a hole within the room.
    seq        bigint      not null,
    -- For display. The order is seq.
    at         timestamptz not null,
    -- The event that this one is about; NULL for all types of this version, which costs one bit.
    target_seq bigint,
    -- 'create', 'join', 'leave', 'message', or a type of a newer version. Text, because people read
    -- this table.
    type       text        not null,
    user_id    text collate "C" not null,
    -- The command's id, if it is an idempotency key.
    client_id  text collate "C",
    -- The text of a message, or of another type that has one.
    body       text,
    -- The number of messages in the room before this event; NULL for messages. (Also NULL if a node
    -- of version 1 wrote it.)
    messages   bigint,
    -- Fields of this type alone: the members of its JSON object as in its frame, without the
    -- braces. Text and not jsonb, so that the bytes do not change. NULL for all types of this
    -- version.
    data       text,
    -- History and catch-up read ranges of it.
    primary key (room_id, seq)
) with (
    -- Rows are never updated or deleted, so vacuum only runs because of inserts: early enough that
    -- old pages are marked all-visible and frozen before there are many of them.
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- Finds an id that was committed before. Unique, so that no bug can make two events of it. Partial,
-- because events without an id need no entry.
create unique index if not exists events_by_client_id
    on events (room_id, user_id, client_id)
    where client_id is not null;

-- Events of all rooms within a time range, for people and for archiving. Events arrive in time
-- order, so a few bytes per 32 pages suffice, where a B-tree would slow down each insert.
create index if not exists events_by_time
    on events using brin (at) with (pages_per_range = 32, autosummarize = on);

-- Batches that are committed and not yet known to be in Redis: one row per room and batch, written
-- in the transaction of the events. Empty without Redis.
create table if not exists outbox (
    -- The order of sweeping. Within a room a later batch has a higher id, because it is drawn under
    -- the room's lock.
    id        bigint      generated always as identity primary key,
    room_id   bigint      not null,
    first_seq bigint      not null,
    last_seq  bigint      not null,
    -- When it was written; within a room, later rows have later times. An old row belongs to a node
    -- that died, or that cannot reach Redis.
    at        timestamptz not null
) with (
    -- Rows live for milliseconds; vacuum keeps the table from filling with dead ones.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- Counts unread messages: the last non-message event before a read mark holds the number of
-- messages before it. Partial, so that messages, of which there are many more, cost nothing.
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
