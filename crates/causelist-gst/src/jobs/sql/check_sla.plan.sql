-- The plan: counts by tenant, and the first tasks with what would happen to them.
fact as (
    select tenant, true as marks, null::text as level, false as opens, false as tells, false as fails
    from task where marks
    union all select tenant, false, level, false, false, false from news
    union all select tenant, false, null, true, false, false from opening
    union all select tenant, false, null, false, true, false from letter
    union all select tenant, false, null, false, false, true from untold
)
select jsonb_build_object(
    'tenants', (select coalesce(jsonb_agg(to_jsonb(x) order by x.tenant), '[]') from (
        select s.tenant,
               count(*) filter (where f.marks) as "overdueTasks",
               count(*) filter (where f.level = 'sla_violation') as "slaViolations",
               count(*) filter (where f.opens) as "rulesTriggered",
               count(*) filter (where f.level = 'sla_warning') as warnings,
               count(*) filter (where f.level = 'sla_critical') as criticals,
               count(*) filter (where f.tells) as "notificationsSent",
               count(*) filter (where f.fails) as "failedNotifications"
        from scope s left join fact f on f.tenant = s.tenant group by s.tenant) x),
    'first', (select coalesce(jsonb_agg(jsonb_build_object(
            'tenant', x.tenant, 'subject', t.title, 'caseNumber', coalesce(t.case_number, c.case_number),
            'change', concat_ws(', ', case when x.marks then 'becomes Overdue' end, x.level,
                                case when o.rules is not null then 'escalated by ' || o.rules end),
            'told', coalesce(o.told, '[]'), 'notTold', coalesce(o.not_told, '[]')) order by x.place), '[]')
        from (select k.tenant, k.id, k.case_id, k.marks, n.level,
                     row_number() over (order by p.task_id is null, not k.marks, k.target, k.id) as place
              from task k
              left join news n on n.id = k.id
              left join (select distinct task_id from opening) p on p.task_id = k.id
              where k.marks or n.level is not null or p.task_id is not null
              order by 6 limit 20) x
        join host.tasks t on t.id = x.id
        left join host.cases c on c.id = x.case_id and c.tenant_id = x.tenant
        left join lateral (
            select string_agg(distinct g.name, ', ') as rules,
                   jsonb_agg(distinct jsonb_build_object('who', m.full_name, 'channel', r.channel))
                       filter (where r.channel is not null) as told,
                   jsonb_agg(distinct jsonb_build_object('who', coalesce(m.full_name, 'the ' || g.role),
                       'reason', coalesce(d.reason, 'the practice has no active ' || g.role)))
                       filter (where r.channel is null) as not_told
            from target g
            left join member m on m.tenant = g.tenant and m.user_id = g.user_id
            left join reach r on r.tenant = g.tenant and r.user_id = g.user_id
            left join deaf d on d.tenant = g.tenant and d.user_id = g.user_id
            where g.task_id = x.id) o on true),
    'notTold', (select coalesce(jsonb_agg(to_jsonb(x) order by x.reason), '[]')
                from (select reason, count(*) from untold group by reason) x))
