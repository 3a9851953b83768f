-- The active members of the practices, how they want to be told, and until when their quiet hours
-- hold mail back. Needs scope.
member as materialized (
    select e.tenant_id as tenant, e.id as user_id, e.full_name, e.employee_code,
           e.manager_id, e.reporting_to, a.address,
           coalesce(p.email_enabled, true) as by_email,
           coalesce(p.in_app_enabled, true) as by_app,
           coalesce(p.hearing_reminders, true) as of_hearings,
           coalesce(p.task_reminders, true) as of_tasks,
           coalesce(p.reminder_days, '{1,0}') as reminder_days,
           case when p.quiet_hours_start < p.quiet_hours_end
                 and l.clock >= p.quiet_hours_start and l.clock < p.quiet_hours_end
                then (l.today + p.quiet_hours_end) at time zone s.zone
                when p.quiet_hours_start > p.quiet_hours_end and l.clock >= p.quiet_hours_start
                then (l.today + 1 + p.quiet_hours_end) at time zone s.zone
                when p.quiet_hours_start > p.quiet_hours_end and l.clock < p.quiet_hours_end
                then (l.today + p.quiet_hours_end) at time zone s.zone
           end as quiet_until
    from host.employees e
    join scope s on s.tenant = e.tenant_id
    left join host.notification_preferences p on p.tenant_id = e.tenant_id and p.user_id = e.id
    -- Quiet hours are those of the moment in which the message can leave: a run as of an earlier
    -- instant, a retry and a late worker send now, not then. (A preview of a run to come is judged
    -- as of its own instant. No count depends on this, so plan and application agree.)
    cross join lateral (select greatest($2, statement_timestamp()) at time zone s.zone as local) n
    cross join lateral (select n.local::time as clock, n.local::date as today) l
    cross join lateral (
        select case when btrim(e.official_email) like '%_@_%' then btrim(e.official_email)
                    when btrim(e.email) like '%_@_%' then btrim(e.email) end as address) a
    where e.status = 'Active'
),
-- On which channels a member can be told; a member without a row here can't be.
reach as materialized (
    select m.tenant, m.user_id, 'email' as channel, m.address, m.quiet_until as not_before
    from member m where m.by_email and m.address is not null
    union all
    select m.tenant, m.user_id, 'in_app', null, null from member m where m.by_app
),
-- Why a member can't be told.
deaf as (
    select m.tenant, m.user_id,
           case when m.by_email then 'has no e-mail address, and in-app messages are switched off'
                else 'has switched off e-mail and in-app messages' end as reason
    from member m where not m.by_app and (not m.by_email or m.address is null)
)
