-- Parents that wait for their children, progress and checkpoints, and who is to blame for a crash.
set local lock_timeout = '5s';

-- What is known of a job beside its place, as bits: 1 it was in a claim whose worker died (a suspect),
-- 2 it has children, 4 it has a row in progress. Most jobs have none.
alter table causelist.ready add column marks smallint not null default 0;
alter table causelist.waiting add column marks smallint not null default 0;
alter table causelist.scheduled add column marks smallint not null default 0;

alter table causelist.claim
    -- Those of its jobs that have, or may have, children; null: none.
    add column parents bigint[],
    -- Whose fault a crash would be: null every job's (none is a suspect), 0 nobody's (no suspect runs),
    -- else that of this suspect, which runs alone.
    add column trying bigint;

-- Children that have not ended. Each deletes its own row at its end, so that no row is everybody's.
create table causelist.child (
    parent bigint not null,
    id     bigint not null,
    primary key (parent, id)
);

-- How the others ended, until their parent is finished.
create table causelist.child_end (
    parent  bigint not null,
    id      bigint not null,
    outcome text collate "C" not null check (outcome in ('done','discarded','cancelled','dead')),
    -- The numbers among the fields of its result.
    numbers jsonb,
    primary key (parent, id)
);

-- Jobs whose own run is over and that wait for their children: what becomes their attempt then.
create table causelist.parent (
    id         bigint primary key,
    attempt    smallint not null,
    fence      bigint not null,
    outcome    text collate "C" not null check (outcome in ('done','discarded','cancelled')),
    worker     uuid not null,
    claimed_at timestamptz not null,
    started_at timestamptz,
    -- Its own report.
    result     jsonb,
    error      text,
    keyed      boolean not null,
    -- Its own parent.
    parent     bigint,
    since      timestamptz not null default clock_timestamp()
);

-- How far a job has come, and what its next attempt goes on from.
create table causelist.progress (
    id         bigint primary key,
    done       bigint,
    total      bigint,
    note       text,
    checkpoint jsonb,
    at         timestamptz not null default clock_timestamp()
);

-- As in 0008, with the marks.
create or replace function causelist.admit(of_queues text[], most integer,
    out state text, out queues text[], out jobs integer, out more boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
    at constant timestamptz := clock_timestamp();
begin
    queues := '{}';
    jobs := 0;
    more := false;
    state := 'on';
    perform from causelist.waiting w order by w.gates, w.queue, w.priority, w.rank, w.id limit 1;
    if not found then
        if not exists (select from causelist.job_limit) then
            state := 'off';
        end if;
        return;
    end if;
    if not pg_try_advisory_xact_lock(7205759403792808) then
        state := 'busy';
        return;
    end if;
    with recursive line as (
        (select w.gates, w.queue, w.priority, w.rank, w.id from causelist.waiting w
         order by w.gates, w.queue, w.priority, w.rank, w.id limit 1)
        union all
        select n.* from line l cross join lateral (
            select w.gates, w.queue, w.priority, w.rank, w.id from causelist.waiting w
            where (w.gates, w.queue) > (l.gates, l.queue)
            order by w.gates, w.queue, w.priority, w.rank, w.id limit 1) n),
    served as materialized (
        select l.*, u.gate from line l join causelist.queue q on q.name = l.queue
        cross join unnest(l.gates) u(gate)
        where l.queue = any (of_queues) and not q.paused),
    -- A gate whose rule is gone is in nobody's way.
    room as materialized (
        select g.gate, l.max_running is not null as counted, l.period / l.rate as step, p.tat,
               greatest(0, least(most,
                   l.max_running - (select count(*) from causelist.slot s where s.gate = g.gate),
                   floor(l.burst - greatest(0, date_part('epoch', p.tat - at)) * l.rate / date_part('epoch', l.period))
               ))::integer as places
        from (select distinct s.gate from served s) g
        join causelist.job_limit l on l.id = split_part(g.gate, ':', 1)::bigint
        left join causelist.gate_pace p on p.gate = g.gate),
    -- Who is among the first `most` of all is in one of the lines with the first heads.
    head as materialized (
        select w.* from (
            select s.gates, s.queue, coalesce(min(r.places), most) as places
            from served s left join room r on r.gate = s.gate
            group by s.gates, s.queue, s.priority, s.rank, s.id having coalesce(min(r.places), most) > 0
            order by s.priority, s.rank, s.id limit most) s
        cross join lateral (
            select w.ctid as place, w.gates, w.queue, w.priority, w.rank, w.id from causelist.waiting w
            where w.gates = s.gates and w.queue = s.queue
            order by w.priority, w.rank, w.id limit s.places) w),
    -- Where several lines share a gate, who comes too late in one of its gates stays behind.
    late as materialized (
        select h.id from (
            select h.id, u.gate, row_number() over (partition by u.gate order by h.priority, h.rank, h.id) as pos
            from head h cross join unnest(h.gates) u(gate)) h
        join room r on r.gate = h.gate where h.pos > r.places),
    gone as (
        delete from causelist.waiting where ctid = any (array(
            select h.place from head h where not exists (select from late l where l.id = h.id)
            order by h.priority, h.rank, h.id limit most))
        returning gates, queue, priority, rank, id, attempt, marks),
    passed as materialized (
        select g.id, r.gate, r.counted, r.step, r.tat from gone g cross join unnest(g.gates) u(gate)
        join room r on r.gate = u.gate),
    took as (
        insert into causelist.slot (gate, job) select p.gate, p.id from passed p where p.counted),
    paced as (
        insert into causelist.gate_pace (gate, tat)
        select p.gate, greatest(p.tat, at) + count(*) * p.step from passed p where p.step is not null
        group by p.gate, p.tat, p.step
        on conflict (gate) do update set tat = excluded.tat),
    put as (
        insert into causelist.ready (queue, priority, rank, id, attempt, gated, tenant, since, marks)
        select g.queue, g.priority,
               case when g.whose is null then g.rank
                    else causelist.fair_rank(g.queue, g.priority, g.whose) - 1
                         + row_number() over (partition by g.queue, g.priority, g.whose order by g.rank, g.id) end,
               g.id, g.attempt, c.counted, g.whose, case when g.whose is not null then g.rank end,
               g.marks
        from (select g.*, case when q.fair then (
                         select coalesce(j.tenant, '00000000-0000-0000-0000-000000000000') from causelist.job j
                         where j.id = g.id) end as whose
              from gone g join causelist.queue q on q.name = g.queue offset 0) g
        left join (select distinct p.id, p.counted from passed p where p.counted) c on c.id = g.id)
    select coalesce(array_agg(distinct g.queue), '{}'), count(*), (select count(*) from head) > count(*)
    into queues, jobs, more from gone g;
end $$;

-- Where a job is: 'waiting','scheduled','ready','running','waiting_children','dead','done','discarded',
-- 'cancelled', or null when there is no such job.
create or replace function causelist.job_state(job bigint) returns text
language sql stable
return case
    when exists (select from causelist.ready where id = job) then 'ready'
    when exists (select from causelist.waiting where id = job) then 'waiting'
    when exists (select from causelist.scheduled where id = job) then 'scheduled'
    when exists (select from causelist.claim where ids @> array[job]) then 'running'
    when exists (select from causelist.parent where id = job) then 'waiting_children'
    when exists (select from causelist.dead where id = job) then 'dead'
    else (select outcome from causelist.attempt where job_id = job
          order by finished_at desc, fence desc limit 1)
end;

-- As in 0008, and with the parents that wait.
create or replace function causelist.unfinished_in(lo bigint, hi bigint) returns text
language sql volatile
return (
    select nullif(concat_ws(', ',
        (select count(*) || ' ready' from (
            select from causelist.ready where id >= lo and id < hi limit 1000) r having count(*) > 0),
        (select count(*) || ' waiting' from (
            select from causelist.waiting where id >= lo and id < hi limit 1000) w having count(*) > 0),
        (select count(*) || ' scheduled' from (
            select from causelist.scheduled where id >= lo and id < hi limit 1000) s having count(*) > 0),
        (select count(*) || ' running' from (
            select from causelist.claim c, unnest(c.ids) i where i >= lo and i < hi limit 1000) c having count(*) > 0),
        (select count(*) || ' waiting for children' from (
            select from causelist.parent where id >= lo and id < hi limit 1000) p having count(*) > 0),
        (select count(*) || ' dead' from (
            select from causelist.dead where id >= lo and id < hi limit 1000) d having count(*) > 0)), ''));

-- A child marks its parent wherever that is; a cancelled parent takes its children along. Who cancels or
-- purges removes what was noted of the job.
insert into causelist.role_right (part, rights, object) values
    ('worker', 'select, insert, delete',         'table causelist.child'),
    ('worker', 'select, insert, delete',         'table causelist.child_end'),
    ('worker', 'select, insert, update, delete', 'table causelist.parent'),
    ('worker', 'select, insert, update, delete', 'table causelist.progress'),
    ('api',    'select, insert, delete',         'table causelist.child'),
    ('api',    'select, insert, delete',         'table causelist.child_end'),
    ('api',    'select, insert, update, delete', 'table causelist.parent'),
    ('api',    'select, delete',                 'table causelist.progress');
update causelist.role_right set rights = 'select, insert, update (marks), delete'
where part = 'api' and object in ('table causelist.ready', 'table causelist.scheduled');
update causelist.role_right set rights = 'select, insert, update (marks), delete'
where object = 'table causelist.waiting';
update causelist.role_right set rights = 'select, update (parents)'
where part = 'api' and object = 'table causelist.claim';
-- A parent that ends as cancelled has its children stopped.
update causelist.role_right set rights = 'select, insert, delete'
where part = 'worker' and object = 'table causelist.cancel_request';
select causelist.regrant_roles();
