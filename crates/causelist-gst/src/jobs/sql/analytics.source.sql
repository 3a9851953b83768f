-- Each tenant's metrics at the instant, one row each. Rates are per cent with two decimals, and
-- null where there is nothing to divide by.
allowance as materialized (
    select s.tenant, d.priority,
           make_interval(secs => 3600 * coalesce(
               case when jsonb_typeof(o.hours) = 'number' then least(greatest((o.hours #>> '{}')::float8, 0), 1e6) end,
               d.hours)) as allowance
    from scope s
    cross join (values ('critical', 8), ('high', 48), ('medium', 120), ('low', 240)) d (priority, hours)
    left join lateral (
        select p.value -> 'allowance' as hours from jsonb_each(s.sla_thresholds) p
        where lower(p.key) = d.priority and jsonb_typeof(p.value) = 'object' limit 1) o on true
),
-- One pass over the tasks. The SLA target is the one of the SLA check; a cancelled task has none.
task as materialized (
    select t.tenant_id as tenant,
           count(*) as total,
           count(*) filter (where w.status = 'completed') as completed,
           count(*) filter (where w.status not in ('completed', 'cancelled')
                            and (w.status = 'overdue' or t.due_date < $2)) as overdue,
           count(*) filter (where w.status <> 'cancelled') as targeted,
           count(*) filter (where case w.status when 'completed' then t.completed_date <= g.target
                                                when 'cancelled' then false else g.target > $2 end) as compliant
    from host.tasks t
    join scope s on s.tenant = t.tenant_id
    cross join lateral (select lower(t.status collate "C") as status, lower(t.priority collate "C") as priority) w
    left join allowance a on a.tenant = t.tenant_id
     and a.priority = case when w.priority in ('critical', 'high', 'low') then w.priority else 'medium' end
    cross join lateral (
        select coalesce(t.created_at + make_interval(hours => t.sla_hours), t.due_date,
                        t.created_at + a.allowance) as target) g
    group by t.tenant_id
),
-- Held: concluded or completed. Missed: past, and still scheduled or without a board. Adjourned,
-- withdrawn and cancelled ones are neither.
hearing as materialized (
    select h.tenant_id as tenant,
           count(*) filter (where w.status in ('concluded', 'completed')) as held,
           count(*) filter (where w.status in ('scheduled', 'no-board')) as missed
    from host.hearings h
    join scope s on s.tenant = h.tenant_id
    cross join lateral (select lower(h.status) as status) w
    where h.hearing_date < $2
    group by h.tenant_id
),
metric as materialized (
    select s.tenant, s.today, m.name, m.value
    from scope s
    left join task t on t.tenant = s.tenant
    left join hearing h on h.tenant = s.tenant
    cross join lateral (values
        ('case_count', (select count(*) from host.cases c
                        where c.tenant_id = s.tenant and lower(c.status) in ('open', 'active'))::numeric),
        ('task_completion_rate', round(100.0 * t.completed / nullif(t.total, 0), 2)),
        ('sla_compliance_rate', round(100.0 * t.compliant / nullif(t.targeted, 0), 2)),
        ('hearing_attendance_rate', round(100.0 * h.held / nullif(h.held + h.missed, 0), 2)),
        ('document_count', (select count(*) from host.documents d where d.tenant_id = s.tenant)::numeric),
        ('overdue_tasks', coalesce(t.overdue, 0)::numeric)) m (name, value)
),
-- The mean of the seven days before, where at least three of them are there.
baseline as materialized (
    select m.tenant, m.name, avg(v.value) as mean
    from metric m
    join host.analytics_snapshots a
      on a.tenant_id = m.tenant and a.metric_type = m.name
     and a.snapshot_date between m.today - 7 and m.today - 1
    cross join lateral (
        select case when jsonb_typeof(a.metric_value -> 'value') = 'number'
                    then (a.metric_value ->> 'value')::numeric end as value) v
    where v.value is not null
    group by m.tenant, m.name
    having count(*) >= 3
),
-- More than 30 per cent off. From a mean of nought any change is; its deviation has no number.
anomaly as materialized (
    select m.tenant, m.name as metric, m.value, round(b.mean, 2) as baseline,
           round(100 * (m.value - b.mean) / nullif(b.mean, 0), 1) as deviation
    from metric m
    join baseline b on b.tenant = m.tenant and b.name = m.name
    where m.value is not null and abs(m.value - b.mean) > 0.3 * abs(b.mean)
),
snapshot as materialized (
    select tenant, today, name as metric_type, jsonb_build_object('value', value) as metric_value from metric
    union all
    select tenant, today, 'daily_snapshot',
           jsonb_object_agg(name, value)
               || jsonb_build_object('executedAt', to_char($2::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
    from metric group by tenant, today
),
found as (
    select jsonb_build_object(
        'metricsCount', (select count(*) from metric),
        'anomalyDetected', exists (select from anomaly),
        'tenants', (select coalesce(jsonb_agg(jsonb_build_object(
                'tenant', s.tenant, 'date', s.today,
                'metrics', (select jsonb_object_agg(m.name, m.value) from metric m where m.tenant = s.tenant),
                'anomalies', (select coalesce(jsonb_agg(to_jsonb(a) - 'tenant' order by a.metric), '[]')
                              from anomaly a where a.tenant = s.tenant)) order by s.tenant), '[]') from scope s)) as result
)
