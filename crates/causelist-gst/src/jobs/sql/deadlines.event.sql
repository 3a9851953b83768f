recorded as (
    insert into causelist.event (tenant, type, entity_id, occasion, payload)
    select n.tenant, 'deadline_approaching', n.entity_id, n.due,
           jsonb_build_object('entity_type', n.entity_type, 'entity_id', n.entity_id,
                              'hours_until_due', round(extract(epoch from n.due - $2) / 3600, 1))
    from news n order by n.entity_id
    on conflict do nothing returning tenant
)
