select jsonb_build_object(
    'tenants', (select coalesce(jsonb_agg(to_jsonb(x) order by x.tenant), '[]') from (
        select s.tenant, s.today as date,
               (select count(*) from item i where i.tenant = s.tenant and i.entity_type = 'task') as "upcomingTasks",
               (select count(*) from item i where i.tenant = s.tenant and i.entity_type = 'hearing') as "upcomingHearings",
               (select count(*) from item i where i.tenant = s.tenant and i.entity_type = 'statutory_deadline')
                   as "upcomingStatutoryDeadlines",
               (select count(*) from told t where t.tenant = s.tenant) as "notificationsSent",
               (select count(*) from untold u where u.tenant = s.tenant) as "failedNotifications"
        from scope s) x),
    'notTold', (select coalesce(jsonb_agg(to_jsonb(x) order by x.reason), '[]')
                from (select reason, count(*) from untold group by reason) x),
