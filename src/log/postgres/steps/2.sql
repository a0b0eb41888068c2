-- From version 1 to 2: how far each member has read, and what is unread.

-- First the change that locks the whole table: appends that already hold the table go on before it
-- gets its lock. After the index it would wait for appends that wait for the index.
alter table events
    add column messages bigint;

alter table members
    set (fillfactor = 90);

-- Does nothing if somebody has built the index beforehand.
create index if not exists events_by_turn
    on events (room_id, seq)
    where type <> 'message';

insert into verbatim_schema (version)
values (2);
