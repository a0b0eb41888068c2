-- The embedded log from version 1 to 2. For the meaning see schema.sql.

alter table events add column messages integer;

create index events_by_turn on events (room_id, seq)
    where type <> 'message';
