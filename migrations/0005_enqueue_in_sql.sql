-- Enqueue in SQL, from any language, in the caller's transaction:
--   select * from causelist.enqueue('kind', '{"a": 1}', key => 'order-7', run_at => now() + interval '1 hour');
--   select * from causelist.enqueue_many('[{"kind": "a"}, {"kind": "b", "args": {"x": 1}}]');
-- The rules and the words of its refusals are those of the Rust function (crates/causelist-queue,
-- enqueue.rs); both write the same rows and share the keys. What is refused raises SQLSTATE 22023
-- and writes nothing.
--
-- Neither sends a NOTIFY: it takes a lock at commit that is one for the whole cluster, so that one
-- per enqueuing transaction would make all commits follow each other. Workers poll (1 s); who wants
-- the job sooner runs `select pg_notify('causelist_ready', '<queue>')` after the commit.
set local lock_timeout = '5s';

-- One job as asked for. Numbers are wider than they are stored, so that what is out of range can be
-- refused with a reason.
create type causelist.new_job as (
    kind         text,
    args         jsonb,
    key          text,
    run_at       timestamptz,
    queue        text,
    priority     integer,
    tenant       uuid,
    max_attempts integer,
    hold         text,
    expires_at   timestamptz,
    trace        text
);

-- What is wrong with one job, or null. `most` is the limit of the arguments in bytes, as PostgreSQL
-- prints them.
create function causelist.new_job_problem(job causelist.new_job, most bigint) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    name_rule constant text := '^[a-z][a-z0-9_-]{0,62}$';
    name_text constant text := 'must be 1 to 63 of a-z, 0-9, ''_'' and ''-'', beginning with a letter';
    size bigint;
    at   timestamptz;
    field text;
    value text;
    problem text;
begin
    case
    when job.kind is null or job.kind !~ name_rule then
        field := 'kind'; value := job.kind; problem := name_text;
    when job.queue !~ name_rule then
        field := 'queue'; value := job.queue; problem := name_text;
    when job.priority not between -32768 and 32767 then
        field := 'priority'; value := job.priority; problem := 'must lie between -32768 and 32767';
    when job.max_attempts < 1 then
        field := 'max_attempts'; value := job.max_attempts; problem := 'must be at least 1';
    when job.max_attempts > 32767 then
        field := 'max_attempts'; value := job.max_attempts; problem := 'must be at most 32767';
    when length(job.key) not between 1 and 255 then
        field := 'key'; value := job.key; problem := 'must have 1 to 255 characters and no NUL';
    when job.hold not in ('while', 'until', 'ever') then
        field := 'hold'; value := job.hold; problem := 'must be while, until or ever';
    when job.hold <> 'while' and job.key is null then
        field := 'hold'; value := job.hold; problem := 'is for a key: give one, or leave hold out';
    when job.hold = 'until' and job.expires_at is null then
        field := 'hold'; value := job.hold; problem := 'needs expires_at: until when the key stands for its job';
    when job.hold <> 'until' and job.expires_at is not null then
        field := 'expires_at'; value := job.expires_at; problem := 'is for hold ''until'': set that, or leave expires_at out';
    when job.run_at < 'epoch' or job.run_at >= '10000-01-01 00:00:00+00' then
        field := 'run_at'; at := job.run_at;
    when job.expires_at < 'epoch' or job.expires_at >= '10000-01-01 00:00:00+00' then
        field := 'expires_at'; at := job.expires_at;
    -- A W3C traceparent has 55; no limit at all would let it outgrow the arguments.
    when length(job.trace) > 512 then
        field := 'trace'; value := job.trace; problem := 'must have at most 512 characters';
    when jsonb_typeof(job.args) <> 'object' then
        field := 'args'; value := job.args; problem := 'must be a JSON object';
    else
        size := octet_length(job.args::text);
        -- Each level takes two bytes at least, a number that a double can't hold 309: most
        -- arguments are too short for either, and are not walked through.
        if size > 128 and jsonb_path_exists(job.args, 'strict $.**{64}') then
            return 'the arguments nest deeper than 64 levels';
        elsif size > 308 and jsonb_path_exists(job.args,
                'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))') then
            return 'the arguments hold a number beyond 1.8e308, which JSON readers can''t take: pass it as a text';
        elsif size > most then
            return format('the arguments take %s bytes, the limit is %s: store the data elsewhere and pass its id', size, most);
        end if;
        return null;
    end case;
    if at is not null then
        value := case when isfinite(at) then to_char(at at time zone 'UTC', 'FMYYYY-MM-DD HH24:MI:SS" UTC"') else at::text end;
        problem := 'must lie between 1970 and 9999';
    end if;
    return format('%s %s: %s', field, to_json(left(coalesce(value, ''), 64)), problem);
end $$;

-- The heart of both functions below: checks all, then writes all. The answer is in the jobs' order.
create function causelist.enqueue_rows(jobs causelist.new_job[])
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
            from new where due),
        later as (
            insert into causelist.scheduled (run_at, id, queue, priority, attempt, reason)
            select (jobs[i]).run_at, new_ids[i], (jobs[i]).queue, (jobs[i]).priority, 0, 'run_at' from new where not due)
        select array_agg(i), array_agg(case when due then 'ready' else 'scheduled' end) into at, got_state from new;
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

-- Enqueues one job. `duplicate`: the key's holder stands for it, and nothing was written; `state` is
-- then the holder's (null once its history was dropped). Lower priorities run first. `hold` says for
-- how long the key stands for the job: while it is unfinished, until expires_at, or for ever.
--
-- Runs with its owner's rights, so that the caller needs no right on any table.
create function causelist.enqueue(
    kind         text,
    args         jsonb       default '{}',
    key          text        default null,
    run_at       timestamptz default null,
    queue        text        default 'default',
    priority     integer     default 0,
    tenant       uuid        default null,
    max_attempts integer     default 5,
    hold         text        default 'while',
    expires_at   timestamptz default null,
    trace        text        default null,
    out id bigint, out duplicate boolean, out state text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
    -- Drivers pass null for what their caller left out.
    select e.id, e.duplicate, e.state into id, duplicate, state
    from causelist.enqueue_rows(array[row(kind, coalesce(args, '{}'), key, run_at, coalesce(queue, 'default'),
        coalesce(priority, 0), tenant, coalesce(max_attempts, 5), coalesce(hold, 'while'), expires_at,
        trace)::causelist.new_job]) e;
end $$;

-- Enqueues the jobs of a JSON array, all or none. Each is an object with the parameters of
-- causelist.enqueue as its fields; only kind must be there. One row per job, in order.
create function causelist.enqueue_many(jobs jsonb)
returns table (id bigint, duplicate boolean, state text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    known constant text[] := array['kind', 'args', 'key', 'run_at', 'queue', 'priority', 'tenant', 'max_attempts',
                                   'hold', 'expires_at', 'trace'];
    made causelist.new_job[];
    r    record;
begin
    if jobs is null or jsonb_typeof(jobs) <> 'array' then
        raise exception using errcode = '22023', detail = 'Nothing was enqueued.', message = format(
            'jobs %s: must be a JSON array of objects such as {"kind": "a-kind", "args": {}}',
            to_json(left(coalesce(jobs::text, ''), 64)));
    end if;
    select e.pos, e.j, jsonb_typeof(e.j) as type into r from jsonb_array_elements(jobs) with ordinality e(j, pos)
    where case when jsonb_typeof(e.j) = 'object' then e.j - known <> '{}' else true end order by e.pos limit 1;
    if found then
        raise exception using errcode = '22023',
            detail = format('Job %s of %s; nothing was enqueued.', r.pos, jsonb_array_length(jobs)),
            message = case when r.type = 'object'
                then format('field %s: is not known; there are %s',
                    to_json(left((select f from jsonb_object_keys(r.j - known) f limit 1), 64)), array_to_string(known, ', '))
                else format('job %s: must be an object such as {"kind": "a-kind", "args": {}}', to_json(left(r.j::text, 64)))
            end;
    end if;
    begin
        made := array(
            select row(j.kind, coalesce(j.args, '{}'), j.key, j.run_at, coalesce(j.queue, 'default'), coalesce(j.priority, 0),
                       j.tenant, coalesce(j.max_attempts, 5), coalesce(j.hold, 'while'), j.expires_at,
                       j.trace)::causelist.new_job
            from jsonb_array_elements(jobs) with ordinality e(j, pos),
                 jsonb_populate_record(null::causelist.new_job, e.j) j
            order by e.pos);
    exception when data_exception then
        -- A uuid, an instant or a number that can't be read. PostgreSQL's message quotes it, but
        -- does not say where it was.
        for r in select e.j, e.pos from jsonb_array_elements(jobs) with ordinality e(j, pos) order by e.pos loop
            begin
                perform jsonb_populate_record(null::causelist.new_job, r.j);
            exception when data_exception then
                raise exception using errcode = '22023', message = left(sqlerrm, 200),
                    detail = format('Job %s of %s; nothing was enqueued.', r.pos, jsonb_array_length(jobs));
            end;
        end loop;
        raise;
    end;
    return query select e.id, e.duplicate, e.state from causelist.enqueue_rows(made) e;
end $$;

-- By default everybody may call a new function.
revoke all on function causelist.new_job_problem(causelist.new_job, bigint) from public;
revoke all on function causelist.enqueue_rows(causelist.new_job[]) from public;
revoke all on function causelist.enqueue(text, jsonb, text, timestamptz, text, integer, uuid, integer, text,
                                         timestamptz, text) from public;
revoke all on function causelist.enqueue_many(jsonb) from public;
