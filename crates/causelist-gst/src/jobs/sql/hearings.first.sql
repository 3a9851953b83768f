    'first', (select coalesce(jsonb_agg(jsonb_build_object(
            'tenant', x.tenant, 'caseNumber', x.case_number, 'subject', x.court,
            'at', to_char(x.local, 'Dy, FMDD Mon YYYY FMHH12:MI AM'),
            'told', (select coalesce(jsonb_agg(jsonb_build_object('who', l.data ->> 'recipientName', 'channel', l.channel)
                            order by l.data ->> 'recipientName', l.channel), '[]')
                     from letter l where l.entity_id = x.id and l.tenant = x.tenant),
            'notTold', (select coalesce(jsonb_agg(jsonb_build_object('who', n.who, 'reason', n.reason)
                            order by n.who, n.reason), '[]')
                        from (select * from untold union all select * from silent) n
                        where n.entity_id = x.id and n.tenant = x.tenant)) order by x.hearing_date, x.id), '[]')
        from (select * from hearing h
              where h.days in (0, 1) or exists (select from letter l where l.entity_id = h.id)
              order by h.hearing_date, h.id limit 20) x))
