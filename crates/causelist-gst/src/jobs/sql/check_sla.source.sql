-- Intervals per tenant, indexed by priority (1 Critical to 4 Low): the defaults, over them what the
-- tenant set. Anything but a number is passed over, so that one tenant's mistake stops nobody's
-- check. (Arrays, since a join on a computed priority would mislead the planner's estimates.)
allowance as materialized (
    select s.tenant,
           array_agg(make_interval(secs => 3600 * coalesce(o.allowance, d.allowance)) order by d.place) as allowance,
           array_agg(make_interval(secs => 3600 * coalesce(o.warning, d.warning)) order by d.place) as warning,
           array_agg(make_interval(secs => 3600 * coalesce(o.critical, d.critical)) order by d.place) as critical
    from scope s
    cross join (values (1, 'Critical', 8, 4, 2), (2, 'High', 48, 24, 12), (3, 'Medium', 120, 72, 30),
                       (4, 'Low', 240, 168, 60)) d (place, priority, allowance, warning, critical)
    left join lateral (
        select max(case when k.key = 'allowance' then k.hours end) as allowance,
               max(case when k.key = 'warning' then k.hours end) as warning,
               max(case when k.key = 'critical' then k.hours end) as critical
        from jsonb_each(s.sla_thresholds) p
        cross join lateral (
            select e.key, least(greatest(e.value::float8, 0), 1e6) as hours
            from jsonb_each(case when jsonb_typeof(p.value) = 'object' then p.value end) e
            where jsonb_typeof(e.value) = 'number') k
        where initcap(p.key) = d.priority
    ) o on true
    group by s.tenant
),
-- The open tasks that are late or near their target: all others need no look. Letter case is folded
-- in collation C, which is far cheaper. A priority that nobody knows counts as Medium.
task as materialized (
    select t.id, t.tenant_id as tenant, t.case_id, t.assigned_to, p.place as priority, t.created_at,
           t.due_date, g.target,
           coalesce(t.due_date < $2 and lower(t.status collate "C") <> 'overdue', false) as marks,
           case when g.target <= $2 then 'sla_violation'
                when g.target <= $2 + a.critical[p.place] then 'sla_critical'
                when g.target <= $2 + a.warning[p.place] then 'sla_warning' end as level
    from host.tasks t
    join allowance a on a.tenant = t.tenant_id
    cross join lateral (
        select case t.priority when 'Critical' then 1 when 'High' then 2 when 'Medium' then 3 when 'Low' then 4
               else case lower(t.priority collate "C") when 'critical' then 1 when 'high' then 2
                    when 'low' then 4 else 3 end end as place) p
    cross join lateral (
        select coalesce(t.created_at + make_interval(hours => t.sla_hours), t.due_date,
                        t.created_at + a.allowance[p.place]) as target) g
    where t.status not in ('Completed', 'Cancelled')
      and lower(t.status collate "C") not in ('completed', 'cancelled')
      and (t.due_date < $2 or g.target <= $2 + greatest(a.warning[p.place], a.critical[p.place]))
),
-- Levels not yet recorded for this target.
news as materialized (
    select t.* from task t
    where t.level is not null
      and not exists (select from causelist.event e
                      where e.entity_id = t.id and e.type = t.level and e.occasion = t.target)
),
-- The tenants' escalation rules; what a rule leaves open is as in the default rules: late by more
-- than 24 hours with priority High or Critical goes to the manager, a violated target of a Critical
-- task to partner and manager.
rule as materialized (
    select r.id as rule_id, r.tenant_id as tenant, r.name, r.trigger,
           make_interval(secs => 3600 * case
               when jsonb_typeof(r.conditions -> 'hoursOverdue') = 'number'
               then least(greatest((r.conditions ->> 'hoursOverdue')::float8, 0), 1e6)
               when jsonb_typeof(r.conditions -> 'daysOverdue') = 'number'
               then least(greatest((r.conditions ->> 'daysOverdue')::float8 * 24, 0), 1e6)
               when r.trigger = 'task_overdue' then 24 else 0 end) as after,
           case jsonb_typeof(r.conditions -> 'priority')
               when 'array' then array(select lower(x) from jsonb_array_elements_text(r.conditions -> 'priority') x)
               when 'string' then array[lower(r.conditions ->> 'priority')]
               else case r.trigger when 'task_overdue' then '{high,critical}' else '{critical}' end::text[]
           end as priorities,
           case jsonb_typeof(r.actions -> 'escalateTo')
               when 'array' then array(select lower(x) from jsonb_array_elements_text(r.actions -> 'escalateTo') x)
               when 'string' then array[lower(r.actions ->> 'escalateTo')]
               else case r.trigger when 'task_overdue' then '{manager}' else '{partner,manager}' end::text[]
           end as roles
    from host.escalation_rules r
    join scope s on s.tenant = r.tenant_id
    where r.is_active and r.trigger in ('task_overdue', 'critical_sla')
),
-- What each rule opens: once per task and occasion (the due date or target that passed). An
-- escalation opened after the occasion is that occasion's, whatever became of it since.
opening as materialized (
    select r.rule_id, r.name, r.trigger, r.roles, o.occasion, t.id as task_id, t.tenant, t.case_id,
           t.assigned_to, t.priority
    from task t
    join rule r on r.tenant = t.tenant
     and ('{critical,high,medium,low}'::text[])[t.priority] = any (r.priorities)
    cross join lateral (
        select case r.trigger when 'task_overdue' then t.due_date else t.target end as occasion) o
    where case r.trigger when 'task_overdue' then o.occasion + r.after < $2
                         else o.occasion + r.after <= $2 end
      and not exists (select from host.escalation_events e
                      where e.task_id = t.id and e.rule_id = r.rule_id and e.triggered_at >= o.occasion)
),
-- Who holds a role in a practice, and who stands in where a task names nobody: the first by code.
holder as materialized (
    select m.tenant, m.user_id, r.role::text as role,
           row_number() over (partition by m.tenant, r.role order by m.employee_code, m.user_id) as place
    from member m
    join host.user_roles r on r.user_id = m.user_id and r.is_active
),
-- To whom each goes. The manager is the assignee's, the partner the case's owner if that is one.
target as materialized (
    select o.*, role.role,
           case when role.role = 'manager' then coalesce(m1.user_id, m2.user_id, h.user_id, hp.user_id)
                when role.role = 'partner' then coalesce(ow.user_id, h.user_id)
                else h.user_id end as user_id
    from opening o
    cross join lateral unnest(o.roles) role (role)
    left join host.employees a on a.id = o.assigned_to and a.tenant_id = o.tenant
    left join member m1 on m1.user_id = a.manager_id and m1.tenant = o.tenant
    left join member m2 on m2.user_id = a.reporting_to and m2.tenant = o.tenant
    left join host.cases c on c.id = o.case_id and c.tenant_id = o.tenant
    left join holder ow on ow.user_id = c.owner_id and ow.tenant = o.tenant and ow.role = 'partner'
    left join holder h on h.tenant = o.tenant and h.role = role.role and h.place = 1
    left join holder hp on hp.tenant = o.tenant and hp.role = 'partner' and hp.place = 1
),
-- Each person's tasks, the most urgent first. However many there are, a person gets one message of
-- a run: it is about the first and names the next.
line as materialized (
    select *, row_number() over (partition by tenant, user_id
                                 order by priority, occasion, task_id) as place,
           count(*) over (partition by tenant, user_id) as lines
    from (select distinct on (tenant, user_id, task_id) tenant, user_id, task_id, case_id, priority,
                 occasion, rule_id, name, trigger
          from target where user_id is not null
          order by tenant, user_id, task_id, trigger, rule_id) once
),
rest as (
    select l.tenant, l.user_id, string_agg(t.title, ', ' order by l.place) as titles
    from line l join host.tasks t on t.id = l.task_id
    where l.place between 2 and 6
    group by l.tenant, l.user_id
),
draft as (
    select l.tenant, 'escalation' as template, 'task' as entity_type, l.task_id as entity_id,
           l.rule_id || ' ' || to_char(l.occasion at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as occasion,
           'user:' || l.user_id as recipient, r.channel, r.address, r.not_before,
           jsonb_build_object(
               'taskTitle', t.title, 'caseNumber', coalesce(t.case_number, c.case_number),
               'priority', ('{Critical,High,Medium,Low}'::text[])[l.priority],
               'daysOverdue', floor(date_part('epoch', $2 - l.occasion) / 86400)::bigint,
               'reason', w.reason || coalesce('; ' || (l.lines - 1) || ' more escalated at the same time: '
                                              || n.titles || case when l.lines > 6 then ', ...' else '' end, ''),
               'tasks', l.lines, 'recipientName', m.full_name, 'firmName', s.firm,
               'title', 'Escalation: ' || t.title || case when l.lines > 1 then ' and ' || (l.lines - 1) || ' more' else '' end,
               'message', w.reason) as data
    from line l
    join scope s on s.tenant = l.tenant
    join member m on m.tenant = l.tenant and m.user_id = l.user_id
    join reach r on r.tenant = l.tenant and r.user_id = l.user_id
    join host.tasks t on t.id = l.task_id
    left join host.cases c on c.id = l.case_id and c.tenant_id = l.tenant
    cross join lateral (
        select case l.trigger when 'task_overdue' then 'overdue since ' else 'its SLA target passed on ' end
               || to_char(l.occasion at time zone s.zone, 'FMDD Mon YYYY FMHH12:MI AM')
               || ' (rule "' || l.name || '")' as reason) w
    left join rest n on n.tenant = l.tenant and n.user_id = l.user_id
    where l.place = 1
),
untold as materialized (
    select g.tenant, g.task_id as entity_id, 'the ' || g.role as who,
           'the practice has no active ' || g.role as reason
    from target g where g.user_id is null
    union all
    select l.tenant, l.task_id, m.full_name, d.reason
    from line l
    join deaf d on d.tenant = l.tenant and d.user_id = l.user_id
    join member m on m.tenant = l.tenant and m.user_id = l.user_id
    where l.place = 1
)
