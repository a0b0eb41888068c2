-- From version 2 to 3. Nodes of version 2 keep working.
create table verbatim_log (
    id      uuid    not null default gen_random_uuid(),
    secret  bytea   not null
                    default uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
    is_only boolean primary key default true check (is_only)
);

insert into verbatim_log default values;

insert into verbatim_schema (version)
values (3);
