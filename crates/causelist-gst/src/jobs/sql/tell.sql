-- Into the ledger: mail waits for its delivery, an in-app message is delivered by being a row.
reserved as (
    insert into causelist.message (tenant, template, entity_type, entity_id, occasion, recipient, channel,
                                   address, data, job_id, not_before, state, settled_at)
    select l.tenant, l.template, l.entity_type, l.entity_id, l.occasion, l.recipient, l.channel,
           l.address, l.data, $3, l.not_before,
           case l.channel when 'in_app' then 'accepted' else 'reserved' end,
           case l.channel when 'in_app' then now() end
    from letter l
    order by l.tenant, l.recipient, l.entity_id, l.channel
    on conflict do nothing
    returning tenant, template, entity_type, entity_id, recipient, channel, not_before, data
),
shown as (
    insert into host.notifications (tenant_id, user_id, type, title, message, related_entity_type,
                                    related_entity_id, channels, status, read, metadata)
    select r.tenant, substr(r.recipient, 6)::uuid, replace(r.template, '-', '_'), r.data ->> 'title',
           r.data ->> 'message', r.entity_type, r.entity_id, '{in_app}', 'sent', false,
           jsonb_build_object('source', 'causelist', 'jobId', $3::text)
    from reserved r where r.channel = 'in_app'
),
mail as (
    select r.tenant, case when bool_or(r.not_before is null) then null else min(r.not_before) end as not_before
    from reserved r where r.channel = 'email'
    group by r.tenant
)
