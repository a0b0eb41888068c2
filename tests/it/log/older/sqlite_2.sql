-- An embedded log as version 2 made it, with a room in it.

create table rooms (
    id            integer primary key,
    name          text    not null unique,
    created_by    text    not null,
    last_seq      integer not null,
    message_count integer not null,
    member_count  integer not null,
    created_at    integer not null
) strict;

create table members (
    room_id    integer not null,
    user_id    text    not null,
    joined_seq integer not null,
    read_seq   integer,
    role       text    not null,
    primary key (room_id, user_id)
) strict, without rowid;

create index members_by_user on members (user_id);

create table events (
    room_id    integer not null,
    seq        integer not null,
    type       text    not null,
    user_id    text    not null,
    client_id  text,
    body       text,
    target_seq integer,
    messages   integer,
    at         integer not null,
    primary key (room_id, seq)
) strict, without rowid;

create unique index events_by_client_id on events (room_id, user_id, client_id)
    where client_id is not null;

create index events_by_turn on events (room_id, seq)
    where type <> 'message';

create view event_log as
select r.name as room,
       e.seq,
       e.type,
       e.user_id,
       e.body as text,
       strftime('%Y-%m-%dT%H:%M:%fZ', e.at / 1000.0, 'unixepoch') as at
from events e
join rooms r on r.id = e.room_id;

insert into rooms (name, created_by, last_seq, message_count, member_count, created_at)
values ('r', '1', 7, 3, 2, 1767323045001);

insert into members (room_id, user_id, joined_seq, read_seq, role)
values (1, '1', 1, null, 'owner'),
       (1, '3', 6, null, 'member');

insert into events (room_id, seq, type, user_id, client_id, body, at)
values (1, 1, 'create', '1', null, null, 1767323045001),
       (1, 2, 'join', '2', null, null, 1767323045002),
       (1, 3, 'message', '1', 'c1', 'a', 1767323045003),
       (1, 4, 'leave', '2', 'c2', null, 1767323045004),
       (1, 5, 'message', '1', null, 'b', 1767323045005),
       (1, 6, 'join', '3', null, null, 1767323045006),
       (1, 7, 'message', '3', 'c1', 'ü', 1767323045007);

update events set messages = case seq when 4 then 1 when 6 then 2 else 0 end where type <> 'message';

update members set read_seq = 3 where user_id = '1';

pragma application_id = 0x56726274;
pragma user_version = 2;
