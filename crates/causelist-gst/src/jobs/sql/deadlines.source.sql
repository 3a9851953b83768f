-- What is due: tasks and hearings within 24 hours, statutory deadlines 7, 3, 1 and 0 days ahead.
item as materialized (
    select t.tenant_id as tenant, 'task' as entity_type, t.id as entity_id, t.title,
           coalesce(t.case_number, c.case_number) as case_number, t.due_date as due,
           lower(t.priority) in ('critical', 'high') as high, t.assigned_to as first_user,
           case when t.assigned_to is null then c.owner_id end as second_user,
           null::integer as days
    from scope s
    join host.tasks t on t.tenant_id = s.tenant and t.due_date >= $2 and t.due_date <= $2 + interval '24 hours'
    left join host.cases c on c.id = t.case_id and c.tenant_id = t.tenant_id
    where lower(t.status collate "C") not in ('completed', 'cancelled')
    union all
    select h.tenant_id, 'hearing', h.id, 'Hearing', c.case_number, h.hearing_date, true, c.owner_id, c.assigned_to, null
    from scope s
    join host.hearings h on h.tenant_id = s.tenant and h.hearing_date >= $2
     and h.hearing_date <= $2 + interval '24 hours'
    join host.cases c on c.id = h.case_id and c.tenant_id = h.tenant_id
    where lower(h.status) = 'scheduled'
    union all
    -- Due at the end of its day.
    select d.tenant_id, 'statutory_deadline', d.id, e.name, c.case_number,
           (g.deadline + 1)::timestamp at time zone s.zone, true, c.owner_id, c.assigned_to, g.deadline - s.today
    from scope s
    join host.case_statutory_deadlines d on d.tenant_id = s.tenant 
     and lower(d.status) not in ('completed', 'cancelled', 'met', 'filed', 'waived')
    join host.statutory_event_types e on e.id = d.event_type_id and e.tenant_id = d.tenant_id
    join host.cases c on c.id = d.case_id and c.tenant_id = d.tenant_id
    cross join lateral (select coalesce(d.extension_deadline, d.calculated_deadline) as deadline) g
    where g.deadline - s.today in (0, 1, 3, 7)
),
news as materialized (
    select i.* from item i
    where not exists (select from causelist.event e
                      where e.entity_id = i.entity_id and e.type = 'deadline_approaching' and e.occasion = i.due)
),
-- Whose each is; a person once per item.
part as materialized (
    select distinct i.tenant, i.entity_type, i.entity_id, u.user_id
    from item i cross join lateral (values (i.first_user), (i.second_user)) u (user_id)
    where u.user_id is not null
),
-- The lines of each person's digest.
line as materialized (
    select p.tenant, p.user_id, i.entity_type, i.entity_id, i.high, i.due,
           jsonb_build_object('entityType', i.entity_type, 'entityId', i.entity_id, 'title', i.title,
                              'caseNumber', i.case_number, 'dueWords', w.words) as line
    from part p
    join item i on i.tenant = p.tenant and i.entity_type = p.entity_type and i.entity_id = p.entity_id
    join scope s on s.tenant = p.tenant
    join member m on m.tenant = p.tenant and m.user_id = p.user_id
    cross join lateral (select i.due at time zone s.zone as local) l
    cross join lateral (
        select case when i.days is null
                    then case l.local::date - s.today when 0 then 'Today ' when 1 then 'Tomorrow '
                              else to_char(l.local, 'FMDD Mon ') end || to_char(l.local, 'FMHH12:MI AM')
                    when i.days = 0 then 'Today' when i.days = 1 then 'Tomorrow'
                    else 'in ' || i.days || ' days (' || to_char(s.today + i.days, 'FMDD Mon YYYY') || ')' end as words) w
    where case i.entity_type when 'task' then m.of_tasks when 'hearing' then m.of_hearings else true end
),
digest as materialized (
    select l.tenant, l.user_id,
           count(*) filter (where l.high) as high_count, count(*) filter (where not l.high) as normal_count,
           coalesce(jsonb_agg(l.line order by l.due, l.entity_id) filter (where l.high), '[]') as high,
           coalesce(jsonb_agg(l.line order by l.due, l.entity_id) filter (where not l.high), '[]') as normal
    from line l group by l.tenant, l.user_id
),
-- One message per person and day. What comes up later the same day is in the next day's, or
-- nowhere: a digest is not repeated.
draft as (
    select d.tenant, 'deadline-digest' as template, 'user' as entity_type, d.user_id as entity_id,
           s.today::text as occasion, 'user:' || d.user_id as recipient, r.channel, r.address, r.not_before,
           jsonb_build_object(
               'recipientName', m.full_name, 'firmName', s.firm, 'localDate', to_char(s.today, 'Dy, FMDD Mon YYYY'),
               'highPriority', d.high, 'normalPriority', d.normal,
               'title', 'Deadlines: ' || d.high_count || ' high priority, ' || d.normal_count || ' normal',
               'message', w.words) as data
    from digest d
    join scope s on s.tenant = d.tenant
    join member m on m.tenant = d.tenant and m.user_id = d.user_id
    join reach r on r.tenant = d.tenant and r.user_id = d.user_id
    cross join lateral (
        select string_agg(coalesce((x.line ->> 'caseNumber') || ': ', '') || (x.line ->> 'title') || ', '
                          || (x.line ->> 'dueWords'), '; ' order by x.place) as words
        from jsonb_array_elements(d.high || d.normal) with ordinality x (line, place) where x.place <= 10) w
),
untold as materialized (
    select d.tenant, d.user_id, m.full_name as who, f.reason
    from digest d
    join deaf f on f.tenant = d.tenant and f.user_id = d.user_id
    join member m on m.tenant = d.tenant and m.user_id = d.user_id
    union all
    select i.tenant, null, i.entity_type, 'nobody is responsible who is an active member'
    from item i
    where not exists (select from part p join member m on m.tenant = p.tenant and m.user_id = p.user_id
                      where p.tenant = i.tenant and p.entity_type = i.entity_type and p.entity_id = i.entity_id)
)
