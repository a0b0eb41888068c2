-- The embedded log from version 2 to 3. For the meaning see schema.sql.

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
