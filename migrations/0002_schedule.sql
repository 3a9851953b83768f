-- What fires when. One row per kind and tenant (tenant null: one for the whole fleet).
set local lock_timeout = '5s';

create table causelist.schedule (
    id              bigint generated always as identity primary key,
    kind            text collate "C" not null,
    tenant          uuid,
    cron            text not null,
    -- An IANA name, or 'tenant': the tenant's own zone, resolved when instants are computed.
    zone            text not null,
    misfire         text collate "C" not null default 'last' check (misfire in ('skip','last','all')),
    misfire_window  interval not null default '1 hour' check (misfire_window >= interval '0'),
    args            jsonb not null default '{}',
    paused          boolean not null default false,
    -- The next instant; null: none left (or paused).
    next_at         timestamptz,
    last_at         timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now()
);
-- (`nulls not distinct` would say this in one index, but needs PostgreSQL 15.)
create unique index schedule_kind_tenant_key on causelist.schedule
    (kind, coalesce(tenant, '00000000-0000-0000-0000-000000000000'));
create index schedule_due_idx on causelist.schedule (next_at) where next_at is not null and not paused;

-- One row per instant fired or passed over. The primary key makes each instant fire once, however
-- many schedulers run.
create table causelist.schedule_fire (
    schedule_id bigint not null references causelist.schedule on delete cascade,
    instant     timestamptz not null,
    fired_at    timestamptz not null default clock_timestamp(),
    -- fired, or misfire: passed over, since it was due longer ago than the misfire window allows.
    reason      text collate "C" not null check (reason in ('fired','misfire')),
    job_id      bigint,
    primary key (schedule_id, instant)
);
