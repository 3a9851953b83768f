select jsonb_build_object(
    'tenants', (select coalesce(jsonb_agg(to_jsonb(x) order by x.tenant), '[]') from (
        select s.tenant, s.today as date,
               (select count(*) from hearing h where h.tenant = s.tenant and h.days in (0, 1)) as "hearingsProcessed",
               (select count(*) from told t where t.tenant = s.tenant) as "notificationsSent",
               (select count(*) from untold u where u.tenant = s.tenant) as "failedNotifications"
        from scope s) x),
    'notTold', (select coalesce(jsonb_agg(to_jsonb(x) order by x.reason), '[]')
                from (select reason, count(*) from untold group by reason) x),
