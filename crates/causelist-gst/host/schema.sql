-- The host application's tables, as far as Causelist uses them, for the demo and for tests. In
-- production they exist already, with more columns: no migration creates them.
--
-- `host.` stands for the schema they live in; `Host::sql` puts its name there. Statuses and
-- priorities are plain text, since hosts write them in any letter case. User ids (assigned_to,
-- owner_id, user_id ...) have no foreign key: users live in the host's authentication schema.

create type host.app_role as enum
    ('partner','admin','manager','ca','advocate','staff','clerk','client');

create table host.tenants (
    id           uuid primary key default gen_random_uuid(),
    name         text not null,
    license_key  text not null unique,
    license_tier text not null default 'standard',
    is_active    boolean not null default true
);

-- People ---------------------------------------------------------------------------------------

-- Everybody who can sign in, a client's people included.
create table host.profiles (
    id          uuid primary key default gen_random_uuid(),
    tenant_id   uuid not null references host.tenants on delete cascade,
    full_name   text not null,
    phone       text,
    designation text
);
create index profiles_tenant_idx on host.profiles (tenant_id);

-- The firm's own people; id is the user's id.
create table host.employees (
    id              uuid primary key default gen_random_uuid(),
    tenant_id       uuid not null references host.tenants on delete cascade,
    employee_code   text not null unique,
    full_name       text not null,
    email           text not null,
    official_email  text,
    mobile          text,
    role            text not null check (role in
                    ('Partner','CA','Advocate','Manager','Staff','RM','Finance','Admin')),
    department      text not null,
    status          text not null default 'Active'
                    check (status in ('Active','Inactive','Suspended')),
    manager_id      uuid references host.employees,
    reporting_to    uuid references host.employees,
    whatsapp_access boolean not null default false,
    weekly_off_days text[] not null default '{Sunday}'
);
create index employees_tenant_idx on host.employees (tenant_id, status);

-- A user's tenant is that of the profile.
create table host.user_roles (
    id        uuid primary key default gen_random_uuid(),
    user_id   uuid not null,
    role      host.app_role not null,
    is_active boolean not null default true,
    unique (user_id, role)
);

create table host.clients (
    id           uuid primary key default gen_random_uuid(),
    tenant_id    uuid not null references host.tenants on delete cascade,
    display_name text not null,
    gstin        text,
    email        text,
    phone        text,
    city         text,
    state        text,
    status       text not null default 'Active',
    owner_id     uuid
);
create index clients_tenant_idx on host.clients (tenant_id, status);

-- Matters --------------------------------------------------------------------------------------

create table host.courts (
    id             uuid primary key default gen_random_uuid(),
    tenant_id      uuid not null references host.tenants on delete cascade,
    name           text not null,
    city           text,
    state          text,
    bench_location text,
    status         text not null default 'Active'
);
create index courts_tenant_idx on host.courts (tenant_id);

create table host.cases (
    id                uuid primary key default gen_random_uuid(),
    tenant_id         uuid not null references host.tenants on delete cascade,
    case_number       text not null,
    title             text not null,
    client_id         uuid references host.clients,
    stage_code        text,
    status            text not null default 'open',
    priority          text not null default 'Medium',
    assigned_to       uuid,
    owner_id          uuid,
    forum_id          uuid,
    authority_id      uuid,
    next_hearing_date timestamptz,
    reply_due_date    date,
    completed_at      timestamptz,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    unique (tenant_id, case_number)
);
create index cases_tenant_status_idx on host.cases (tenant_id, status);
create index cases_client_idx on host.cases (client_id);

create table host.hearings (
    id           uuid primary key default gen_random_uuid(),
    tenant_id    uuid not null references host.tenants on delete cascade,
    case_id      uuid not null references host.cases on delete cascade,
    hearing_date timestamptz not null,
    court_id     uuid references host.courts,
    court_name   text,
    judge_name   text,
    status       text not null default 'Scheduled',
    notes        text,
    hearing_type text
);
create index hearings_tenant_date_idx on host.hearings (tenant_id, hearing_date);
create index hearings_case_idx on host.hearings (case_id);

create table host.documents (
    id         uuid primary key default gen_random_uuid(),
    tenant_id  uuid not null references host.tenants on delete cascade,
    case_id    uuid references host.cases on delete cascade,
    created_at timestamptz not null default now()
);
create index documents_tenant_idx on host.documents (tenant_id, created_at);

-- Work -----------------------------------------------------------------------------------------

create table host.task_bundles (
    id            uuid primary key default gen_random_uuid(),
    tenant_id     uuid not null references host.tenants on delete cascade,
    name          text not null,
    trigger_event text,
    is_active     boolean not null default true
);

create table host.task_bundle_items (
    id            uuid primary key default gen_random_uuid(),
    tenant_id     uuid not null references host.tenants on delete cascade,
    bundle_id     uuid not null references host.task_bundles on delete cascade,
    title         text not null,
    description   text,
    priority      text not null default 'Medium',
    due_days      integer not null default 0,
    assigned_role text,
    order_index   integer not null default 0
);
create index task_bundle_items_bundle_idx on host.task_bundle_items (bundle_id, order_index);

create table host.tasks (
    id                uuid primary key default gen_random_uuid(),
    tenant_id         uuid not null references host.tenants on delete cascade,
    case_id           uuid references host.cases on delete cascade,
    hearing_id        uuid references host.hearings on delete set null,
    title             text not null,
    description       text,
    assigned_to       uuid,
    assigned_by       uuid,
    status            text not null default 'Open',
    priority          text not null default 'Medium',
    due_date          timestamptz,
    completed_date    timestamptz,
    sla_hours         integer,
    escalation_level  integer not null default 0,
    timezone          text,
    case_number       text,
    bundle_id         uuid references host.task_bundles on delete set null,
    is_auto_generated boolean not null default false,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now()
);
create index tasks_tenant_status_due_idx on host.tasks (tenant_id, status, due_date);
create index tasks_case_idx on host.tasks (case_id);
create index tasks_assigned_idx on host.tasks (assigned_to);
create index tasks_hearing_idx on host.tasks (hearing_id) where hearing_id is not null;

create table host.statutory_event_types (
    id              uuid primary key default gen_random_uuid(),
    tenant_id       uuid not null references host.tenants on delete cascade,
    act_id          uuid,
    code            text not null,
    name            text not null,
    legal_reference text,
    unique (tenant_id, code)
);

create table host.case_statutory_deadlines (
    id                  uuid primary key default gen_random_uuid(),
    tenant_id           uuid not null references host.tenants on delete cascade,
    case_id             uuid not null references host.cases on delete cascade,
    event_type_id       uuid not null references host.statutory_event_types,
    base_date           date not null,
    calculated_deadline date not null,
    extension_deadline  date,
    status              text not null default 'pending',
    task_id             uuid references host.tasks on delete set null
);
create index case_statutory_deadlines_due_idx
    on host.case_statutory_deadlines (tenant_id, status, calculated_deadline);

-- state 'ALL': a national holiday.
create table host.holidays (
    id        uuid primary key default gen_random_uuid(),
    tenant_id uuid not null references host.tenants on delete cascade,
    date      date not null,
    name      text not null,
    type      text not null default 'national',
    state     text not null default 'ALL',
    is_active boolean not null default true,
    unique (tenant_id, date, state)
);

-- Automation -----------------------------------------------------------------------------------

create table host.automation_rules (
    id              uuid primary key default gen_random_uuid(),
    tenant_id       uuid not null references host.tenants on delete cascade,
    name            text not null,
    description     text,
    trigger_type    text not null,
    trigger_config  jsonb not null default '{}',
    conditions      jsonb not null default '{}',
    actions         jsonb not null default '[]',
    is_active       boolean not null default true,
    execution_count integer not null default 0,
    success_count   integer not null default 0,
    failure_count   integer not null default 0,
    last_triggered  timestamptz,
    created_at      timestamptz not null default now()
);
create index automation_rules_tenant_idx on host.automation_rules (tenant_id, trigger_type)
    where is_active;

create table host.automation_logs (
    id               uuid primary key default gen_random_uuid(),
    tenant_id        uuid not null references host.tenants on delete cascade,
    rule_id          uuid references host.automation_rules on delete set null,
    rule_name        text,
    trigger_event    text,
    trigger_data     jsonb,
    status           text not null check (status in ('success','partial','failed')),
    actions_executed jsonb,
    error_message    text,
    case_id          uuid references host.cases on delete set null,
    executed_at      timestamptz not null default now()
);
create index automation_logs_tenant_idx on host.automation_logs (tenant_id, executed_at);

create table host.escalation_rules (
    id         uuid primary key default gen_random_uuid(),
    tenant_id  uuid not null references host.tenants on delete cascade,
    name       text not null,
    trigger    text not null check (trigger in
               ('task_overdue','critical_sla','client_deadline','manual')),
    conditions jsonb not null default '{}',
    actions    jsonb not null default '{}',
    is_active  boolean not null default true
);
create index escalation_rules_tenant_idx on host.escalation_rules (tenant_id, trigger);

create table host.escalation_events (
    id            uuid primary key default gen_random_uuid(),
    tenant_id     uuid not null references host.tenants on delete cascade,
    rule_id       uuid references host.escalation_rules on delete set null,
    task_id       uuid references host.tasks on delete cascade,
    triggered_at  timestamptz not null default now(),
    status        text not null default 'pending' check (status in
                  ('pending','contacted','resolved','escalated')),
    assigned_to   uuid,
    escalated_to  uuid,
    current_level integer not null default 1
);
create index escalation_events_task_idx on host.escalation_events (task_id, rule_id);

-- What people are told, and what is kept -------------------------------------------------------

create table host.notifications (
    id                  uuid primary key default gen_random_uuid(),
    tenant_id           uuid not null references host.tenants on delete cascade,
    user_id             uuid not null,
    type                text not null,
    title               text not null,
    message             text not null,
    related_entity_type text,
    related_entity_id   uuid,
    channels            text[] not null default '{in_app}',
    status              text not null default 'pending' check (status in
                        ('pending','sent','failed','read')),
    read                boolean not null default false,
    metadata            jsonb not null default '{}'
);
create index notifications_user_idx on host.notifications (user_id, read);

create table host.notification_preferences (
    id                uuid primary key default gen_random_uuid(),
    tenant_id         uuid not null references host.tenants on delete cascade,
    user_id           uuid not null,
    email_enabled     boolean not null default true,
    sms_enabled       boolean not null default false,
    whatsapp_enabled  boolean not null default false,
    in_app_enabled    boolean not null default true,
    hearing_reminders boolean not null default true,
    task_reminders    boolean not null default true,
    reminder_days     integer[] not null default '{1,0}',
    quiet_hours_start time,
    quiet_hours_end   time,
    unique (tenant_id, user_id)
);

create table host.audit_log (
    id          uuid primary key default gen_random_uuid(),
    tenant_id   uuid not null references host.tenants on delete cascade,
    user_id     uuid,
    entity_type varchar(50) not null,
    entity_id   uuid,
    action_type varchar(50) not null,
    timestamp   timestamptz not null default now(),
    details     jsonb not null default '{}'
);
create index audit_log_tenant_idx on host.audit_log (tenant_id, timestamp);

create table host.analytics_snapshots (
    id            uuid primary key default gen_random_uuid(),
    tenant_id     uuid not null references host.tenants on delete cascade,
    snapshot_date date not null,
    metric_type   varchar(50) not null,
    metric_value  jsonb not null,
    created_at    timestamptz not null default now(),
    unique (tenant_id, snapshot_date, metric_type)
);
