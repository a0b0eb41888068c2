-- What a log of version 1 lacks: how far each member has read, and what is unread.

-- It waits for appends, and they for it, but reads go on; what follows stops everything, and takes
-- no time.
create index if not exists events_by_turn
    on events (room_id, seq)
    where type <> 'message';

alter table events
    add column messages bigint;

alter table members
    set (fillfactor = 90);

insert into verbatim_schema (version)
values (2);
