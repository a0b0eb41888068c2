-- What the embedded log of version 2 lacks. See schema.sql for what it is.

create table verbatim_schema (
    version    integer primary key,
    carried_by integer
) strict;

insert into verbatim_schema (version) values (3);

alter table events add column data text;

drop view if exists event_log;

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
