-- How each tenant's automation rules did in the last 24 hours. A partial success is an execution
-- that is neither a success nor a failure.
execution as materialized (
    select l.tenant_id as tenant, l.rule_id, count(*) as executions,
           count(*) filter (where l.status = 'success') as successes,
           count(*) filter (where l.status = 'failed') as failures
    from host.automation_logs l
    join scope s on s.tenant = l.tenant_id
    where l.executed_at > $2 - interval '24 hours' and l.executed_at <= $2
    group by l.tenant_id, l.rule_id
),
rule as materialized (
    select r.tenant_id as tenant, r.id, r.name, coalesce(e.executions, 0) as executions,
           coalesce(e.successes, 0) as successes, coalesce(e.failures, 0) as failures,
           round(100.0 * e.successes / nullif(e.executions, 0), 2) as success_rate,
           coalesce(e.failures > 0.2 * e.executions, false) as degraded,
           r.is_active and coalesce(r.last_triggered, r.created_at) < $2 - interval '48 hours' as inactive
    from host.automation_rules r
    join scope s on s.tenant = r.tenant_id
    left join execution e on e.tenant = r.tenant_id and e.rule_id = r.id
),
-- Over all logged executions, those of rules that were deleted since too.
overall as materialized (
    select s.tenant, s.firm, s.today,
           coalesce(sum(e.executions), 0)::bigint as executions,
           coalesce(sum(e.successes), 0)::bigint as successes,
           coalesce(sum(e.failures), 0)::bigint as failures,
           round(100.0 * sum(e.successes) / nullif(sum(e.executions), 0), 2) as success_rate
    from scope s left join execution e on e.tenant = s.tenant
    group by s.tenant, s.firm, s.today
),
alert as materialized (
    select r.tenant, 'CRITICAL' as level, 'automation_rule' as entity_type, r.id as entity_id, r.name as rule,
           r.success_rate, 'Automation rule "' || r.name || '" is failing' as subject,
           r.successes || ' of ' || r.executions || ' executions of the last 24 hours succeeded ('
               || r.success_rate || ' %); below 80 % a rule needs attention.' as detail
    from rule r where r.success_rate < 80
    union all
    select r.tenant, 'WARNING', 'automation_rule', r.id, r.name, null,
           'Automation rule "' || r.name || '" is inactive',
           'The rule is switched on and was not triggered in the last 48 hours.'
    from rule r where r.inactive
    union all
    select o.tenant, 'INFO', 'tenant', o.tenant, null, o.success_rate,
           'Automation succeeded in ' || o.success_rate || ' % of cases',
           o.successes || ' of ' || o.executions || ' executions of the last 24 hours succeeded; usual are 95 % and more.'
    from overall o where o.success_rate < 95
),
admin as materialized (
    select distinct m.tenant, m.user_id, m.full_name
    from member m join host.user_roles u on u.user_id = m.user_id and u.is_active and u.role::text = 'admin'
),
draft as (
    select a.tenant, 'health-alert' as template, a.entity_type, a.entity_id,
           a.level || ' ' || s.today as occasion, 'user:' || p.user_id as recipient, r.channel, r.address, r.not_before,
           jsonb_build_object('level', a.level, 'subject', a.subject, 'detail', a.detail, 'successRate', a.success_rate,
                              'ruleName', a.rule, 'firmName', s.firm, 'recipientName', p.full_name,
                              'title', '[' || a.level || '] ' || a.subject, 'message', a.detail) as data
    from alert a
    join scope s on s.tenant = a.tenant
    join admin p on p.tenant = a.tenant
    join reach r on r.tenant = a.tenant and r.user_id = p.user_id
),
untold as materialized (
    select a.tenant, p.full_name as who, d.reason
    from alert a
    join admin p on p.tenant = a.tenant
    join deaf d on d.tenant = a.tenant and d.user_id = p.user_id
    union all
    select a.tenant, 'the admin', 'the practice has no active admin'
    from alert a where not exists (select from admin p where p.tenant = a.tenant)
),
snapshot as materialized (
    select o.tenant, o.today, 'automation_health' as metric_type,
           jsonb_build_object(
               'executedAt', to_char($2::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
               'executions', o.executions, 'successes', o.successes, 'failures', o.failures,
               'successRate', o.success_rate,
               'rules', (select coalesce(jsonb_agg(jsonb_build_object(
                             'id', r.id, 'name', r.name, 'executions', r.executions, 'successes', r.successes,
                             'failures', r.failures, 'successRate', r.success_rate,
                             'degraded', r.degraded, 'inactive', r.inactive) order by r.name, r.id), '[]')
                         from rule r where r.tenant = o.tenant)) as metric_value
    from overall o
)
