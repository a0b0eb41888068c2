-- A log on PostgreSQL as version 2 of the schema made it, with a room in it.

create table if not exists verbatim_schema (
    version    integer     primary key,
    applied_at timestamptz not null default now()
);

create table if not exists rooms (
    id            bigint      generated always as identity primary key,
    last_seq      bigint      not null,
    message_count bigint      not null,
    member_count  bigint      not null,
    created_at    timestamptz not null,
    name          text collate "C" not null unique,
    created_by    text collate "C" not null
) with (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

create table if not exists members (
    room_id    bigint not null,
    joined_seq bigint not null,
    read_seq   bigint,
    user_id    text collate "C" not null,
    role       text   not null,
    primary key (room_id, user_id)
)
with (fillfactor = 90);

create index if not exists members_by_user on members (user_id);

create table if not exists events (
    room_id    bigint      not null,
    seq        bigint      not null,
    at         timestamptz not null,
    target_seq bigint,
    type       text        not null,
    user_id    text collate "C" not null,
    client_id  text collate "C",
    body       text,
    messages   bigint,
    primary key (room_id, seq)
) with (
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

create unique index if not exists events_by_client_id
    on events (room_id, user_id, client_id)
    where client_id is not null;

create index if not exists events_by_time
    on events using brin (at) with (pages_per_range = 32, autosummarize = on);

create table if not exists outbox (
    id        bigint      generated always as identity primary key,
    room_id   bigint      not null,
    first_seq bigint      not null,
    last_seq  bigint      not null,
    at        timestamptz not null
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

create index if not exists events_by_turn
    on events (room_id, seq)
    where type <> 'message';

create or replace view event_log as
select r.name as room,
       e.seq,
       e.type,
       e.user_id,
       e.body as text,
       e.at
from events e
join rooms r on r.id = e.room_id;

alter table events
    add column if not exists messages bigint;

alter table members
    set (fillfactor = 90);

insert into verbatim_schema (version)
values (2)
on conflict (version) do nothing;

insert into rooms (name, created_by, last_seq, message_count, member_count, created_at)
values ('r', '1', 7, 3, 2, '2026-01-02 03:04:05.001+00');

insert into members (room_id, user_id, joined_seq, read_seq, role)
values (1, '1', 1, null, 'owner'),
       (1, '3', 6, null, 'member');

insert into events (room_id, seq, type, user_id, client_id, body, at)
values (1, 1, 'create', '1', null, null, '2026-01-02 03:04:05.001+00'),
       (1, 2, 'join', '2', null, null, '2026-01-02 03:04:05.002+00'),
       (1, 3, 'message', '1', 'c1', 'a', '2026-01-02 03:04:05.003+00'),
       (1, 4, 'leave', '2', 'c2', null, '2026-01-02 03:04:05.004+00'),
       (1, 5, 'message', '1', null, 'b', '2026-01-02 03:04:05.005+00'),
       (1, 6, 'join', '3', null, null, '2026-01-02 03:04:05.006+00'),
       (1, 7, 'message', '3', 'c1', 'ü', '2026-01-02 03:04:05.007+00');

update events set messages = case seq when 4 then 1 when 6 then 2 else 0 end where type <> 'message';

update members set read_seq = 3 where user_id = '1';

insert into outbox (room_id, first_seq, last_seq, at)
values (1, 7, 7, '2026-01-02 03:04:05.007+00');

