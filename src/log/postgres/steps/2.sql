-- What a log of version 1 lacks: how far each member has read, and what is unread.

-- First what needs the whole table: it waits for appends, and those who come meanwhile go on before
-- it gets there. Behind the index it would wait for appends that wait for the index.
alter table events
    add column messages bigint;

alter table members
    set (fillfactor = 90);

-- Nothing if somebody has built it beforehand.
create index if not exists events_by_turn
    on events (room_id, seq)
    where type <> 'message';

insert into verbatim_schema (version)
values (2);
