-- The application. A task that somebody closes or postpones meanwhile stays as it is, and leaves no
-- event.
marked as (
    update host.tasks t set status = 'Overdue', updated_at = now()
    from task k
    where k.marks and t.id = k.id and t.due_date < $2
      and lower(t.status collate "C") not in ('completed', 'cancelled', 'overdue')
    returning t.id, t.tenant_id as tenant, t.case_id, t.due_date, k.priority
),
recorded as (
    insert into causelist.event (tenant, type, entity_id, occasion, payload)
    select m.tenant, 'task_overdue', m.id, m.due_date, jsonb_build_object(
               'task_id', m.id, 'case_id', m.case_id, 'priority', ('{Critical,High,Medium,Low}'::text[])[m.priority],
               'days_overdue', floor(date_part('epoch', $2 - m.due_date) / 86400)::bigint)
    from marked m
    union all
    select n.tenant, n.level, n.id, n.target, jsonb_build_object(
               'task_id', n.id,
               'sla_threshold', round((date_part('epoch', n.target - n.created_at) / 3600)::numeric, 2),
               'actual_time', round((date_part('epoch', $2 - n.created_at) / 3600)::numeric, 2))
    from news n
    -- Sorted, so that all of news is known before the first row goes in, and the index is filled
    -- from one end to the other.
    order by 3
    on conflict do nothing
    returning tenant, type
),
opened as (
    insert into host.escalation_events (tenant_id, rule_id, task_id, triggered_at, status, assigned_to,
                                        escalated_to, current_level)
    select o.tenant, o.rule_id, o.task_id, $2, 'pending', o.assigned_to,
           (array_agg(g.user_id order by g.role <> 'partner', g.role) filter (where g.user_id is not null))[1],
           case when 'partner' = any (o.roles) then 2 else 1 end
    from opening o
    left join target g on g.rule_id = o.rule_id and g.task_id = o.task_id
    group by o.task_id, o.rule_id, o.tenant, o.assigned_to, o.roles
    returning tenant_id as tenant
),
fact as (
    select tenant, 'marks' as what, count(*) as n from marked group by tenant
    union all select tenant, type, count(*) from recorded group by tenant, type
    union all select tenant, 'opens', count(*) from opened group by tenant
    union all select tenant, 'tells', count(*) from reserved group by tenant
    union all select tenant, 'fails', count(*) from untold group by tenant
)
select jsonb_build_object(
    'tenants', (select coalesce(jsonb_agg(to_jsonb(x) order by x.tenant), '[]') from (
        select s.tenant,
               coalesce(sum(f.n) filter (where f.what = 'marks'), 0) as "overdueTasks",
               coalesce(sum(f.n) filter (where f.what = 'sla_violation'), 0) as "slaViolations",
               coalesce(sum(f.n) filter (where f.what = 'opens'), 0) as "rulesTriggered",
               coalesce(sum(f.n) filter (where f.what = 'sla_warning'), 0) as warnings,
               coalesce(sum(f.n) filter (where f.what = 'sla_critical'), 0) as criticals,
               coalesce(sum(f.n) filter (where f.what = 'tells'), 0) as "notificationsSent",
               coalesce(sum(f.n) filter (where f.what = 'fails'), 0) as "failedNotifications"
        from scope s left join fact f on f.tenant = s.tenant group by s.tenant) x),
    'notTold', (select coalesce(jsonb_agg(to_jsonb(x) order by x.reason), '[]')
                from (select reason, count(*) from untold group by reason) x),
    'mail', (select jsonb_agg(to_jsonb(m) order by m.tenant) from mail m))
