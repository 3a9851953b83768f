-- The hearings to come, as far ahead as anybody may want to be reminded: a year at most.
hearing as materialized (
    select h.id, h.tenant_id as tenant, h.case_id, h.hearing_date, l.local, l.local::date - s.today as days,
           h.hearing_date >= $2 as ahead,
           c.case_number, c.title, c.client_id, c.owner_id, c.assigned_to,
           coalesce(nullif(btrim(h.court_name), ''), ct.name, 'Court to be confirmed') as court, ct.city,
           nullif(btrim(h.judge_name), '') as judge,
           to_char(l.local, 'FMHH12:MI AM ') || z.zone_words as local_time
    from scope s
    join host.hearings h on h.tenant_id = s.tenant
     and h.hearing_date >= s.today::timestamp at time zone s.zone
     and h.hearing_date < (s.today + 366)::timestamp at time zone s.zone
    join host.cases c on c.id = h.case_id and c.tenant_id = h.tenant_id
    left join host.courts ct on ct.id = h.court_id and ct.tenant_id = h.tenant_id
    cross join lateral (select h.hearing_date at time zone s.zone as local) l
    -- What zone the time is in: the name that is India's alone among these readers, or the offset.
    cross join lateral (select l.local - h.hearing_date at time zone 'UTC' as ahead_of_utc) o
    cross join lateral (
        select case when s.zone in ('Asia/Kolkata', 'Asia/Calcutta') then 'IST'
                    else 'UTC' || case when o.ahead_of_utc < interval '0' then '-' else '+' end
                         || to_char(greatest(o.ahead_of_utc, -o.ahead_of_utc), 'HH24:MI') end as zone_words) z
    where lower(h.status) = 'scheduled'
),
-- Who has a part in each: a person once, however many parts. Nobody is reminded of what has begun.
party as materialized (
    select distinct on (h.id, p.user_id) h.id, h.tenant, p.role, p.user_id
    from hearing h
    join scope s on s.tenant = h.tenant
    cross join lateral (values (1, 'owner', h.owner_id, s.to_owner), (2, 'assigned advocate', h.assigned_to, s.to_assignee))
        p (place, role, user_id, wanted)
    where h.ahead and p.wanted and p.user_id is not null
    order by h.id, p.user_id, p.place
),
-- The members to be told today: those who want it this many days ahead.
asked as materialized (
    select p.id, p.tenant, p.role, p.user_id, m.full_name
    from party p
    join hearing h on h.id = p.id
    join member m on m.tenant = p.tenant and m.user_id = p.user_id
    where m.of_hearings and h.days = any (m.reminder_days)
),
-- The clients, today and the day before, by e-mail: the one way that is known to reach them.
client as materialized (
    select h.id, h.tenant, k.id as client_id, k.display_name,
           case when btrim(k.email) like '%_@_%' then btrim(k.email) end as address
    from hearing h
    join scope s on s.tenant = h.tenant and s.to_client
    join host.clients k on k.id = h.client_id and k.tenant_id = h.tenant
    where h.ahead and h.days in (0, 1)
),
recipient as materialized (
    select a.id, a.tenant, 'user:' || a.user_id as recipient, a.full_name, r.channel, r.address, r.not_before
    from asked a join reach r on r.tenant = a.tenant and r.user_id = a.user_id
    union all
    select c.id, c.tenant, 'client:' || c.client_id, c.display_name, 'email', c.address, null
    from client c where c.address is not null
),
draft as (
    select r.tenant, 'hearing-reminder' as template, 'hearing' as entity_type, r.id as entity_id,
           h.local::date || ' T-' || h.days as occasion, r.recipient, r.channel, r.address, r.not_before,
           jsonb_build_object(
               'caseNumber', h.case_number, 'caseTitle', h.title, 'courtName', h.court, 'courtCity', h.city,
               'judge', h.judge, 'clientName', coalesce(k.display_name, 'not recorded'),
               'hearingAt', to_char(h.hearing_date at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
               'localDate', to_char(h.local, 'Dy, FMDD Mon YYYY'), 'localTime', h.local_time,
               'when', w.words, 'recipientName', r.full_name, 'firmName', s.firm,
               -- Members get the firm's checklist, clients don't.
               'internal', r.recipient like 'user:%',
               'title', 'Hearing Reminder: ' || h.case_number || ' - ' || h.court,
               'message', 'Hearing ' || w.words || ', ' || to_char(h.local, 'FMDD Mon YYYY ') || h.local_time || ', '
                          || h.court || coalesce(', ' || h.city, '')) as data
    from recipient r
    join hearing h on h.id = r.id
    join scope s on s.tenant = r.tenant
    left join host.clients k on k.id = h.client_id and k.tenant_id = h.tenant
    cross join lateral (
        select case h.days when 0 then 'today' when 1 then 'tomorrow' else 'in ' || h.days || ' days' end as words) w
),
-- Those who should be told today or tomorrow's hearings and can't be.
untold as materialized (
    select a.tenant, a.id as entity_id, a.full_name as who, d.reason
    from asked a join deaf d on d.tenant = a.tenant and d.user_id = a.user_id
    union all
    select c.tenant, c.id, c.display_name, 'the client has no e-mail address' from client c where c.address is null
    union all
    select p.tenant, p.id, 'the ' || p.role, 'the case''s ' || p.role || ' is no active member'
    from party p join hearing h on h.id = p.id
    where h.days in (0, 1)
      and not exists (select from member m where m.tenant = p.tenant and m.user_id = p.user_id)
    union all
    select h.tenant, h.id, 'nobody', 'the case has no owner, advocate or client'
    from hearing h
    where h.ahead and h.days in (0, 1) and num_nonnulls(h.owner_id, h.assigned_to, h.client_id) = 0
),
-- Why some others hear nothing: they have chosen so, or it is too late.
silent as (
    select p.tenant, p.id as entity_id, m.full_name as who,
           case when not m.of_hearings then 'has switched off hearing reminders'
                else 'wants to be reminded on other days' end as reason
    from party p
    join hearing h on h.id = p.id
    join member m on m.tenant = p.tenant and m.user_id = p.user_id
    where h.days in (0, 1) and not (m.of_hearings and h.days = any (m.reminder_days))
    union all
    select h.tenant, h.id, 'everybody', 'the hearing has begun' from hearing h where not h.ahead
)
