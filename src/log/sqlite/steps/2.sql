-- What the embedded log of version 1 lacks. See schema.sql for what it is.

alter table events add column messages integer;

create index events_by_turn on events (room_id, seq)
    where type <> 'message';
