-- The tenants of the run: $1 names one, null means all; $2 is the instant it pretends to run at.
scope as materialized (
    select t.id as tenant, t.name as firm, z.zone,
           ($2::timestamptz at time zone z.zone)::date as today,
           s.sla_thresholds,
           coalesce(s.reminders_to_owner, true) as to_owner,
           coalesce(s.reminders_to_assignee, true) as to_assignee,
           coalesce(s.reminders_to_client, true) as to_client
    from host.tenants t
    left join causelist.tenant_setting s on s.tenant = t.id
    cross join lateral (select coalesce(s.zone, 'Asia/Kolkata') as zone) z
    where t.is_active and ($1::uuid is null or t.id = $1)
)
