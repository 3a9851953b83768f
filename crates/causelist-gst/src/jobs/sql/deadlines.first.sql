    'first', (select coalesce(jsonb_agg(x.entry), '[]') from (
        select jsonb_build_object(
                   'tenant', d.tenant, 'who', m.full_name, 'highPriority', d.high, 'normalPriority', d.normal,
                   'told', (select coalesce(jsonb_agg(l.channel order by l.channel), '[]') from letter l
                            where l.tenant = d.tenant and l.entity_id = d.user_id),
                   'notTold', (select u.reason from untold u where u.tenant = d.tenant and u.user_id = d.user_id)) as entry
        from digest d join member m on m.tenant = d.tenant and m.user_id = d.user_id
        order by d.tenant, m.full_name, d.user_id limit 20) x))
