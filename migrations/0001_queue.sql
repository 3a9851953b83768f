-- The queue. Facts (job, attempt) are appended and never updated; what churns is small
-- (ready, scheduled, claim). A job's state is where it is: see causelist.job_state().
set local lock_timeout = '5s';

create schema if not exists causelist;

-- A job id carries its second: (seconds since 2025-01-01) << 22 | sequence. It orders by time, so
-- that partitions by id are partitions by time, and it fits a double (2^53) until 2093, so that
-- JSON readers keep every digit. 2^22 ids a second is 20 times what PostgreSQL can insert.
create sequence causelist.job_id_seq as bigint cycle maxvalue 9007199254740991;

create function causelist.id_at(at timestamptz) returns bigint
language sql immutable parallel safe
return (floor(date_part('epoch', at))::bigint - 1735689600) << 22;

create function causelist.new_job_id() returns bigint
language sql volatile
return ((floor(date_part('epoch', clock_timestamp()))::bigint - 1735689600) << 22)
       | (nextval('causelist.job_id_seq') & 4194303);

-- The instant (whole seconds) at which an id was made.
create function causelist.id_time(id bigint) returns timestamptz
language sql immutable parallel safe
return to_timestamp((id >> 22) + 1735689600);

create table causelist.queue (
    name       text collate "C" primary key check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    paused     boolean not null default false,
    created_at timestamptz not null default now()
);
insert into causelist.queue (name) values ('default'), ('practice'), ('delivery');

create table causelist.job (
    id           bigint not null default causelist.new_job_id(),
    kind         text collate "C" not null,
    queue        text collate "C" not null,
    priority     smallint not null,
    tenant       uuid,
    args         jsonb not null,
    max_attempts smallint not null check (max_attempts > 0),
    -- Whether a row of job_key names this job: a job without a key never touches that table.
    keyed        boolean not null default false,
    parent       bigint,
    -- W3C traceparent of whoever enqueued the job.
    trace        text,
    created_at   timestamptz not null default now(),
    primary key (id)
) partition by range (id);
create index job_kind_idx on causelist.job (kind, id desc);
create index job_tenant_idx on causelist.job (tenant, id desc) where tenant is not null;

-- What may be claimed now. rank: the run-at in µs since the epoch.
create table causelist.ready (
    queue    text collate "C" not null,
    priority smallint not null,
    rank     bigint not null,
    id       bigint not null,
    attempt  smallint not null,
    primary key (queue, priority, rank, id)
);
create index ready_id_idx on causelist.ready (id);

-- What becomes ready later: run-at, retry backoff, snooze.
create table causelist.scheduled (
    run_at   timestamptz not null,
    id       bigint not null,
    queue    text collate "C" not null,
    priority smallint not null,
    attempt  smallint not null,
    -- Why it waits: run_at, retry, snooze, crashed.
    reason   text collate "C" not null,
    primary key (run_at, id)
);
create index scheduled_id_idx on causelist.scheduled (id);

create table causelist.worker (
    id         uuid primary key,
    name       text not null,
    version    text not null,
    queues     text[] not null,
    kinds      text[] not null,
    slots      integer not null,
    started_at timestamptz not null default now(),
    seen_at    timestamptz not null default now(),
    stopping   boolean not null default false
);

-- One row per claimed batch. id is the fence; ids and attempts run in parallel.
create table causelist.claim (
    id         bigint generated always as identity primary key,
    worker     uuid not null,
    queue      text collate "C" not null,
    claimed_at timestamptz not null default now(),
    expires_at timestamptz not null,
    ids        bigint[] not null,
    attempts   smallint[] not null
);

-- Running jobs that somebody wants stopped; the worker hears of them when it renews its lease.
create table causelist.cancel_request (
    id           bigint primary key,
    requested_at timestamptz not null default now()
);

-- One row per finished attempt. Partitioned as job is, so that a job and its attempts go together.
create table causelist.attempt (
    job_id      bigint not null,
    attempt     smallint not null,
    -- Renewed claims of one attempt (snooze counts none) are told apart by their fence.
    fence       bigint not null,
    outcome     text collate "C" not null check (outcome in
                ('done','retry','snooze','discarded','dead','cancelled','uncertain','crashed')),
    worker      uuid not null,
    claimed_at  timestamptz not null,
    started_at  timestamptz,
    finished_at timestamptz not null default clock_timestamp(),
    error       text,
    result      jsonb,
    primary key (job_id, attempt, fence)
) partition by range (job_id);

-- What gave up, with the reason, until retried or purged.
create table causelist.dead (
    id       bigint primary key,
    kind     text collate "C" not null,
    tenant   uuid,
    attempt  smallint not null,
    reason   text collate "C" not null check (reason in ('attempts','permanent','crashed','uncertain')),
    error    text,
    died_at  timestamptz not null default clock_timestamp()
);
create index dead_kind_idx on causelist.dead (kind, died_at);

create table causelist.job_key (
    -- The nil uuid stands for "no tenant".
    tenant        uuid not null default '00000000-0000-0000-0000-000000000000',
    kind          text collate "C" not null,
    key           text collate "C" not null check (length(key) between 1 and 255),
    job_id        bigint not null,
    -- while: freed when the job finishes; until: freed at expires_at; ever: never freed.
    hold          text collate "C" not null check (hold in ('while','until','ever')),
    expires_at    timestamptz,
    primary key (tenant, kind, key),
    check ((hold = 'until') = (expires_at is not null))
);
create index job_key_job_idx on causelist.job_key (job_id);

-- Creates the weekly partitions from a week ago up to `ahead` from now. Returns how many it made.
create function causelist.keep_partitions(ahead interval default '28 days') returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    week timestamptz := date_trunc('week', now() - interval '7 days', 'UTC');
    tab  text;
    part text;
    made integer := 0;
begin
    -- One maker at a time: two at once would collide on the names.
    perform pg_advisory_xact_lock(7205759403792793);
    perform set_config('lock_timeout', '5s', true);
    while week < now() + ahead loop
        foreach tab in array array['job', 'attempt'] loop
            part := tab || '_' || to_char(week at time zone 'UTC', 'IYYY"w"IW');
            if to_regclass('causelist.' || part) is null then
                execute format('create table causelist.%I partition of causelist.%I for values from (%s) to (%s)',
                    part, tab, causelist.id_at(week), causelist.id_at(week + interval '7 days'));
                made := made + 1;
            end if;
        end loop;
        week := week + interval '7 days';
    end loop;
    return made;
end $$;
revoke all on function causelist.keep_partitions(interval) from public;
select causelist.keep_partitions();

-- Where a job is: 'scheduled','ready','running','dead','done','discarded','cancelled', or null
-- when there is no such job.
create function causelist.job_state(job bigint) returns text
language sql stable
return case
    when exists (select from causelist.ready where id = job) then 'ready'
    when exists (select from causelist.scheduled where id = job) then 'scheduled'
    when exists (select from causelist.claim where ids @> array[job]) then 'running'
    when exists (select from causelist.dead where id = job) then 'dead'
    else (select outcome from causelist.attempt where job_id = job
          order by finished_at desc, fence desc limit 1)
end;
