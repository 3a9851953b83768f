-- Into the host's table, once per instant: the row that names its instant (`executedAt`, in UTC with
-- all digits, so that text compares as time) says of which one the tenant's day is recorded, and
-- only a later one replaces it. A value that is there already is not written again.
recorded as materialized (
    select s.tenant
    from snapshot s
    join host.analytics_snapshots a
      on a.tenant_id = s.tenant and a.snapshot_date = s.today and a.metric_type = s.metric_type
    where jsonb_typeof(a.metric_value -> 'executedAt') = 'string'
      and (a.metric_value ->> 'executedAt') collate "C" >= s.metric_value ->> 'executedAt'
),
written as (
    insert into host.analytics_snapshots as a (tenant_id, snapshot_date, metric_type, metric_value)
    select tenant, today, metric_type, metric_value from snapshot s
    where not exists (select from recorded r where r.tenant = s.tenant)
    on conflict (tenant_id, snapshot_date, metric_type)
    do update set metric_value = excluded.metric_value
    where a.metric_value is distinct from excluded.metric_value
)
