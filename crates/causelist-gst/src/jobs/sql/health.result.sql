-- The result, the same for plan and application but for the messages counted.
select jsonb_build_object(
    'totalRules', (select count(*) from rule),
    'successRate', (select round(100.0 * sum(successes) / nullif(sum(executions), 0), 2) from overall),
    'degradedRules', (select count(*) from rule where degraded),
    'inactiveRules', (select count(*) from rule where inactive),
    'notificationsSent', (select count(*) from told),
    'failedNotifications', (select count(*) from untold),
    'notTold', (select coalesce(jsonb_agg(to_jsonb(x) order by x.reason), '[]')
                from (select reason, count(*) from untold group by reason) x),
    'tenants', (select coalesce(jsonb_agg(jsonb_build_object(
            'tenant', o.tenant, 'date', o.today, 'executions', o.executions, 'successes', o.successes,
            'failures', o.failures, 'successRate', o.success_rate,
            'totalRules', (select count(*) from rule r where r.tenant = o.tenant),
            'degraded', (select coalesce(jsonb_agg(r.name order by r.name), '[]') from rule r
                         where r.tenant = o.tenant and r.degraded),
            'inactive', (select coalesce(jsonb_agg(r.name order by r.name), '[]') from rule r
                         where r.tenant = o.tenant and r.inactive),
            'alerts', (select coalesce(jsonb_agg(jsonb_build_object('level', a.level, 'subject', a.subject)
                                                 order by a.level, a.subject), '[]')
                       from alert a where a.tenant = o.tenant)) order by o.tenant), '[]') from overall o),
