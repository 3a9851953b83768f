-- What jobs leave behind once, whatever is repeated: events, messages, audit marks.
set local lock_timeout = '5s';

-- Something happened to an entity of a tenant. occasion tells repetitions apart (the due date that
-- passed, the target that was missed): the same event is recorded once.
create table causelist.event (
    id         bigint generated always as identity primary key,
    tenant     uuid not null,
    type       text collate "C" not null,
    entity_id  uuid not null,
    occasion   timestamptz not null,
    payload    jsonb not null,
    created_at timestamptz not null default now(),
    unique (entity_id, type, occasion)
);
create index event_tenant_idx on causelist.event (tenant, id);

-- The delivery ledger: one row per (tenant, template, entity, occasion, recipient, channel).
create table causelist.message (
    id            bigint generated always as identity primary key,
    tenant        uuid not null,
    template      text collate "C" not null,
    entity_type   text collate "C" not null,
    entity_id     uuid not null,
    -- Which occasion of the entity: for a reminder its hearing date and T-n.
    occasion      text collate "C" not null,
    -- 'user:<uuid>' or 'client:<uuid>'.
    recipient     text collate "C" not null,
    channel       text collate "C" not null check (channel in ('email','in_app')),
    -- Where to: an e-mail address; null for in_app.
    address       text,
    -- What the template is rendered from.
    data          jsonb not null,
    -- The job that reserved the message: its "why".
    job_id        bigint,
    state         text collate "C" not null default 'reserved'
                  check (state in ('reserved','handed_off','accepted','rejected','unknown')),
    -- Not before (quiet hours, a provider's pause).
    not_before    timestamptz,
    attempts      smallint not null default 0,
    -- Which delivery job has (or had) it in hand, under which fence. While that job's lease lives,
    -- others pass over the message.
    handed_by     bigint,
    handed_fence  bigint,
    handed_off_at timestamptz,
    settled_at    timestamptz,
    -- The RFC 5322 Message-ID given to the mail, stable over attempts.
    provider_id   text,
    error         text,
    created_at    timestamptz not null default now(),
    unique (tenant, template, entity_id, occasion, recipient, channel)
);
create index message_reserved_idx on causelist.message (tenant, channel, id) where state = 'reserved';
create index message_handed_idx on causelist.message (handed_off_at) where state = 'handed_off';
create index message_tenant_idx on causelist.message (tenant, id desc);

-- One audit row per (tenant, kind, instant), however often the job runs for that instant.
create table causelist.audit_mark (
    tenant  uuid not null,
    kind    text collate "C" not null,
    instant timestamptz not null,
    primary key (tenant, kind, instant)
);

-- What a tenant sets for itself and the host has no column for. A tenant without a row has the
-- defaults: read it as `left join causelist.tenant_setting s on s.tenant = t.id` and
-- `coalesce(s.zone, 'Asia/Kolkata')`, `coalesce(s.reminders_to_owner, true)` and so on.
create table causelist.tenant_setting (
    tenant                uuid primary key,
    -- An IANA name. The second condition raises "time zone not recognized" for what PostgreSQL
    -- doesn't know; abbreviations are refused, since IST alone means three zones.
    zone                  text not null default 'Asia/Kolkata'
                          check (zone = 'UTC' or zone like '%/%')
                          check (timestamptz 'epoch' at time zone zone is not null),
    -- Whose holidays count beside the national ones: holidays.state, in the host's spelling.
    state                 text,
    -- Whom hearing reminders go to.
    reminders_to_owner    boolean not null default true,
    reminders_to_assignee boolean not null default true,
    reminders_to_client   boolean not null default true,
    -- Hours per priority, each optional, over the defaults of the SLA check:
    -- {"High": {"allowance": 48, "warning": 24, "critical": 12}}. Priorities in any letter case
    -- are looked up by initcap().
    sla_thresholds        jsonb check (jsonb_typeof(sla_thresholds) = 'object'),
    updated_at            timestamptz not null default now()
);
