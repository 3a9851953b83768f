-- Limits: how many jobs of a kind or tenant may run at the same time or begin in a period. Fair queues:
-- tenants take turns. Both hold where a job becomes ready; claiming knows neither.
set local lock_timeout = '5s';

-- One row per rule. A job is under every rule that fits its kind and tenant.
create table causelist.job_limit (
    id          bigint generated always as identity primary key,
    -- null: all kinds together.
    kind        text collate "C" check (kind ~ '^[a-z][a-z0-9_-]{0,62}$'),
    -- fleet: all tenants together; each: every tenant by itself; one: this tenant.
    scope       text collate "C" not null check (scope in ('fleet','each','one')),
    tenant      uuid,
    max_running integer check (max_running > 0),
    -- At most `rate` jobs begin per `period`, evenly spread; up to `burst` of them at once.
    rate        integer check (rate > 0),
    period      interval check (period > interval '0'),
    burst       integer check (burst > 0),
    created_at  timestamptz not null default now(),
    check ((scope = 'one') = (tenant is not null)),
    check ((rate is null) = (period is null) and (rate is null) = (burst is null)),
    check (max_running is not null or rate is not null)
);
create unique index job_limit_key on causelist.job_limit
    (coalesce(kind, ''), scope, coalesce(tenant, '00000000-0000-0000-0000-000000000000'));

-- Jobs that could run but for a limit. gates: the gates that the job must pass, all at once; one per
-- rule: '<rule>', or '<rule>:<tenant>' for a rule that holds for each tenant. Jobs with the same gates in
-- the same queue are one line: if its first can't pass, none can.
create table causelist.waiting (
    gates    text[] collate "C" not null,
    queue    text collate "C" not null,
    priority smallint not null,
    rank     bigint not null,
    id       bigint not null,
    attempt  smallint not null,
    primary key (gates, queue, priority, rank, id)
);
create index waiting_id_idx on causelist.waiting (id);

-- One row per gate with max_running that a ready or running job has passed: the count of its rows is
-- how many run. Deleted when the job is settled, rescued or cancelled.
create table causelist.slot (
    gate text collate "C" not null,
    job  bigint not null,
    primary key (gate, job)
);
create index slot_job_idx on causelist.slot (job);

-- Per gate with a rate: when all that has begun would have, had it come evenly spread. One in the past
-- says nothing.
create table causelist.gate_pace (
    gate text collate "C" primary key,
    tat  timestamptz not null
);

-- The gates of a job; null: none.
create function causelist.gates_of(kind text, tenant uuid) returns text[]
language sql stable
return (select array_agg(case l.scope when 'each'
                              then l.id || ':' || coalesce(gates_of.tenant, '00000000-0000-0000-0000-000000000000')
                              else l.id::text end order by l.id)
        from causelist.job_limit l
        where (l.kind is null or l.kind = gates_of.kind) and (l.scope <> 'one' or l.tenant = gates_of.tenant));

-- In a fair queue rank is a virtual time: each job of a tenant takes one turn. It begins at the instant
-- at which the queue became fair (fair_from, in µs), so that what was ready before comes first.
alter table causelist.queue
    add column fair boolean not null default false,
    add column fair_from bigint not null default 0;

alter table causelist.ready
    -- Whether the job has slots. These columns are null for most jobs, and cost them nothing.
    add column gated boolean,
    -- Only in fair queues: whose turn it is (the nil uuid: nobody's), and the run-at in µs.
    add column tenant uuid,
    add column since bigint;
create index ready_turn_idx on causelist.ready (queue, priority, tenant, rank) where tenant is not null;

-- How far a fair queue has come: the rank of what was last claimed, published now and then.
create table causelist.fair_clock (
    queue    text collate "C" not null,
    priority smallint not null,
    rank     bigint not null,
    primary key (queue, priority)
);

-- The rank of a tenant's next job in a fair queue: now by the queue's clock, or after the tenant's last.
-- Takes no lock: two that ask at once are given the same turn, which only puts one of them ahead by one.
create function causelist.fair_rank(queue text, priority smallint, tenant uuid) returns bigint
language sql stable
return greatest(
    (select q.fair_from from causelist.queue q where q.name = fair_rank.queue),
    (select c.rank from causelist.fair_clock c where c.queue = fair_rank.queue and c.priority = fair_rank.priority),
    (select r.rank + 1 from causelist.ready r
     where r.queue = fair_rank.queue and r.priority = fair_rank.priority and r.tenant = fair_rank.tenant
     order by r.rank desc limit 1));

-- Lets up to `most` waiting jobs of the given queues pass their gates, in the order (priority, rank, id).
-- state: off (no rule, nothing waits), busy (somebody else does it just now), on. more: call again.
--
-- One caller at a time, so that rooms can be counted from rows. The lock comes in a statement of its own:
-- the one that counts must see what the last holder did. The settings: a plan made while `waiting` was
-- small must not read all of it when it has grown.
create function causelist.admit(of_queues text[], most integer,
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
        returning gates, queue, priority, rank, id, attempt),
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
        insert into causelist.ready (queue, priority, rank, id, attempt, gated, tenant, since)
        select g.queue, g.priority,
               case when g.whose is null then g.rank
                    else causelist.fair_rank(g.queue, g.priority, g.whose) - 1
                         + row_number() over (partition by g.queue, g.priority, g.whose order by g.rank, g.id) end,
               g.id, g.attempt, c.counted, g.whose, case when g.whose is not null then g.rank end
        from (select g.*, case when q.fair then (
                         select coalesce(j.tenant, '00000000-0000-0000-0000-000000000000') from causelist.job j
                         where j.id = g.id) end as whose
              from gone g join causelist.queue q on q.name = g.queue offset 0) g
        left join (select distinct p.id, p.counted from passed p where p.counted) c on c.id = g.id)
    select coalesce(array_agg(distinct g.queue), '{}'), count(*), (select count(*) from head) > count(*)
    into queues, jobs, more from gone g;
end $$;

-- Where a job is: 'waiting','scheduled','ready','running','dead','done','discarded','cancelled', or null
-- when there is no such job.
create or replace function causelist.job_state(job bigint) returns text
language sql stable
return case
    when exists (select from causelist.ready where id = job) then 'ready'
    when exists (select from causelist.waiting where id = job) then 'waiting'
    when exists (select from causelist.scheduled where id = job) then 'scheduled'
    when exists (select from causelist.claim where ids @> array[job]) then 'running'
    when exists (select from causelist.dead where id = job) then 'dead'
    else (select outcome from causelist.attempt where job_id = job
          order by finished_at desc, fence desc limit 1)
end;

-- Why the jobs with ids from lo up to hi can't go yet; null when they can. Each count stops at
-- 1000. All of it is one look at one moment: a job that moves from one place to another is seen in
-- one of them.
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
        (select count(*) || ' dead' from (
            select from causelist.dead where id >= lo and id < hi limit 1000) d having count(*) > 0)), ''));

-- The heart of both functions below: checks all, then writes all. The answer is in the jobs' order.
create or replace function causelist.enqueue_rows(jobs causelist.new_job[])
returns table (id bigint, duplicate boolean, state text)
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- See the remark on positions below.
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    n       constant integer := cardinality(jobs);
    ids     bigint[]  := array_fill(null::bigint, array[n]);
    dups    boolean[] := array_fill(false, array[n]);
    states  text[]    := array_fill(null::text, array[n]);
    new_ids bigint[];
    keyed   boolean;
    left_to_do integer := n;
    -- Whether limits or fair queues may matter.
    ruled   constant boolean := exists (select from causelist.job_limit) or exists (select from causelist.queue where fair);
    setting text := nullif(current_setting('causelist.payload_limit', true), '');
    most    bigint := 262144;
    problem text;
    missing text;
    -- What one statement found: positions, job ids, states.
    at        integer[];
    got       bigint[];
    got_state text[];
begin
    if n = 0 then
        return;
    end if;
    if setting ~ '^[0-9]{1,9}$' then
        most := least(setting::bigint, 16777216);
    elsif setting is not null then
        raise exception using errcode = '22023',
            message = format('causelist.payload_limit %s: must be a number of bytes, 16777216 at most', to_json(left(setting, 64)));
    end if;
    for i in 1..n loop
        problem := causelist.new_job_problem(jobs[i], most);
        if problem is not null then
            raise exception using errcode = '22023', message = problem,
                detail = format('Job %s of %s; nothing was enqueued.', i, n);
        end if;
    end loop;
    select j.queue into missing from (select distinct (jobs[i]).queue from generate_series(1, n) i) j
    where not exists (select from causelist.queue q where q.name = j.queue) order by j.queue limit 1;
    if found then
        raise exception using errcode = '22023', detail = 'Nothing was enqueued.', message = format(
            'queue %s does not exist: create it, or use one of those that `causelist queues` lists', to_json(missing));
    end if;

    -- The array is addressed by position: unnest would write all arguments to a temporary file. That
    -- takes one step per element as long as the array is not copied, as it is for `for … in select`
    -- and for a plan with constants.
    keyed := exists (select from generate_series(1, n) i where (jobs[i]).key is not null);
    new_ids := array(select causelist.new_job_id() from generate_series(1, n));
    -- In the first round: all jobs without a key, and of those that share a key in this call the
    -- first. Then what met a holder that came meanwhile, or one from this very call. A holder that
    -- it met may have gone when it is looked at: then the key is free, and the next round tries
    -- again.
    for round in 1..10 loop
        if keyed then
            -- Looked at first, since the insert would lock the row of a key's holder, and so keep
            -- that job from being settled until the caller's transaction ends.
            select coalesce(array_agg(i), '{}'), array_agg(k.job_id), array_agg(causelist.job_state(k.job_id))
            into at, got, got_state
            from generate_series(1, n) i
            join causelist.job_key k
              on k.tenant = coalesce((jobs[i]).tenant, '00000000-0000-0000-0000-000000000000')
             and k.kind = (jobs[i]).kind and k.key = (jobs[i]).key
            where ids[i] is null and (k.expires_at is null or k.expires_at > clock_timestamp());
            for i in 1..cardinality(at) loop
                ids[at[i]] := got[i];
                dups[at[i]] := true;
                states[at[i]] := got_state[i];
            end loop;
            left_to_do := left_to_do - cardinality(at);
            exit when left_to_do = 0;
            with held as (
                insert into causelist.job_key as k (tenant, kind, key, job_id, hold, expires_at)
                select distinct on (1, 2, 3)
                       coalesce((jobs[i]).tenant, '00000000-0000-0000-0000-000000000000'), (jobs[i]).kind, (jobs[i]).key,
                       new_ids[i], (jobs[i]).hold, (jobs[i]).expires_at
                from generate_series(1, n) i where ids[i] is null and (jobs[i]).key is not null
                -- In the order of the keys, so that two calls can't wait for each other.
                order by 1, 2, 3, i
                on conflict (tenant, kind, key) do update
                    set job_id = excluded.job_id, hold = excluded.hold, expires_at = excluded.expires_at
                    where k.expires_at <= clock_timestamp()
                returning k.job_id)
            select array_agg(i) into at from generate_series(1, n) i
            where ids[i] is null and ((jobs[i]).key is null or new_ids[i] in (select h.job_id from held h));
        else
            at := array(select generate_series(1, n));
        end if;
        continue when at is null;
        with new as materialized (
            -- Whether it is due is decided once: asked twice, a job that comes due in between would
            -- go to both places or to none.
            select i, coalesce((jobs[i]).run_at <= clock_timestamp(), true) as due from unnest(at) i),
        put as (
            insert into causelist.job (id, kind, queue, priority, tenant, args, max_attempts, trace, keyed)
            select new_ids[i], (jobs[i]).kind, (jobs[i]).queue, (jobs[i]).priority, (jobs[i]).tenant, (jobs[i]).args,
                   (jobs[i]).max_attempts, (jobs[i]).trace, (jobs[i]).key is not null
            from new),
        now_ready as (
            insert into causelist.ready (queue, priority, rank, id, attempt)
            select (jobs[i]).queue, (jobs[i]).priority,
                   (date_part('epoch', coalesce((jobs[i]).run_at, clock_timestamp())) * 1e6)::bigint, new_ids[i], 0
            from new where due and not ruled),
        later as (
            insert into causelist.scheduled (run_at, id, queue, priority, attempt, reason)
            select (jobs[i]).run_at, new_ids[i], (jobs[i]).queue, (jobs[i]).priority, 0, 'run_at' from new where not due)
        select array_agg(i), array_agg(case when due then 'ready' else 'scheduled' end) into at, got_state from new;
        if ruled then
            -- As in ready.rs.
            with new as materialized (
                select u.i, new_ids[u.i] as id, (jobs[u.i]).queue, (jobs[u.i]).priority::smallint as priority,
                       coalesce((jobs[u.i]).tenant, '00000000-0000-0000-0000-000000000000') as tenant,
                       (date_part('epoch', coalesce((jobs[u.i]).run_at, clock_timestamp())) * 1e6)::bigint as rank,
                       causelist.gates_of((jobs[u.i]).kind, (jobs[u.i]).tenant) as gates,
                       exists (select from causelist.queue q where q.name = (jobs[u.i]).queue and q.fair) as fair
                from unnest(at, got_state) u(i, state) where u.state = 'ready'),
            now_ready as (
                insert into causelist.ready (queue, priority, rank, id, attempt)
                select n.queue, n.priority, n.rank, n.id, 0 from new n where n.gates is null and not n.fair),
            turn as materialized (
                select t.*, causelist.fair_rank(t.queue, t.priority, t.tenant) as first
                from (select distinct n.queue, n.priority, n.tenant from new n where n.gates is null and n.fair) t),
            in_turn as (
                insert into causelist.ready (queue, priority, rank, id, attempt, tenant, since)
                select t.queue, t.priority,
                       t.first - 1 + row_number() over (partition by t.queue, t.priority, t.tenant order by n.rank, n.id),
                       n.id, 0, t.tenant, n.rank
                from new n join turn t on t.queue = n.queue and t.priority = n.priority and t.tenant = n.tenant
                where n.gates is null and n.fair),
            at_gate as (
                insert into causelist.waiting (gates, queue, priority, rank, id, attempt)
                select n.gates, n.queue, n.priority, n.rank, n.id, 0 from new n where n.gates is not null)
            select array_agg(u.i), array_agg(case when n.gates is null then u.state else 'waiting' end)
            into at, got_state
            from unnest(at, got_state) u(i, state) left join new n on n.i = u.i;
        end if;
        for i in 1..cardinality(at) loop
            ids[at[i]] := new_ids[at[i]];
            states[at[i]] := got_state[i];
        end loop;
        left_to_do := left_to_do - cardinality(at);
        exit when left_to_do = 0;
    end loop;
    if left_to_do > 0 then
        raise exception using errcode = '40001', detail = 'Nothing was enqueued.',
            message = 'key "": its holder changed ten times while this job was enqueued: try again';
    end if;
    return query select u.id, u.dup, u.state from unnest(ids, dups, states) u(id, dup, state);
end $$;


revoke all on function causelist.gates_of(text, uuid) from public;
revoke all on function causelist.fair_rank(text, smallint, uuid) from public;
revoke all on function causelist.admit(text[], integer) from public;

insert into causelist.role_right (part, rights, object) values
    ('worker', 'select',                         'table causelist.job_limit'),
    ('worker', 'select, insert',                 'table causelist.waiting'),
    ('worker', 'select, delete',                 'table causelist.slot'),
    ('worker', 'select, delete',                 'table causelist.gate_pace'),
    ('worker', 'select, insert, update',         'table causelist.fair_clock'),
    ('worker', 'execute',                        'function causelist.gates_of(text, uuid)'),
    ('worker', 'execute',                        'function causelist.fair_rank(text, smallint, uuid)'),
    ('worker', 'execute',                        'function causelist.admit(text[], integer)'),

    ('api',    'select, insert, update, delete', 'table causelist.job_limit'),
    ('api',    'select, insert, delete',         'table causelist.waiting'),
    ('api',    'select, delete',                 'table causelist.slot'),
    ('api',    'select, delete',                 'table causelist.gate_pace'),
    ('api',    'select',                         'table causelist.fair_clock'),
    ('api',    'execute',                        'function causelist.gates_of(text, uuid)'),
    ('api',    'execute',                        'function causelist.fair_rank(text, smallint, uuid)');

select causelist.regrant_roles();
