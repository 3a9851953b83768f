-- Retention: old weeks of job and attempt go as whole partitions; small old rows go in batches.
-- And what a dead letter needs to be taken back: the key that it held.
set local lock_timeout = '5s';

-- The key (hold 'while') that the job gave up when it died. A retry takes it again.
alter table causelist.dead add column key text collate "C";

-- When the mark was made: the instant of a run may lie far in the past.
alter table causelist.audit_mark add column created_at timestamptz not null default now();
create index audit_mark_created_idx on causelist.audit_mark (created_at);
create index schedule_fire_fired_idx on causelist.schedule_fire (fired_at);
create index job_key_expires_idx on causelist.job_key (expires_at) where expires_at is not null;

-- Where weeks go that are to be kept beside the queue. Nothing in Causelist reads them.
create schema causelist_archive;

-- Why the jobs with ids from lo up to hi can't go yet; null when they can. Each count stops at
-- 1000. All of it is one look at one moment: a job that moves from one place to another is seen in
-- one of them.
create function causelist.unfinished_in(lo bigint, hi bigint) returns text
language sql volatile
return (
    select nullif(concat_ws(', ',
        (select count(*) || ' ready' from (
            select from causelist.ready where id >= lo and id < hi limit 1000) r having count(*) > 0),
        (select count(*) || ' scheduled' from (
            select from causelist.scheduled where id >= lo and id < hi limit 1000) s having count(*) > 0),
        (select count(*) || ' running' from (
            select from causelist.claim c, unnest(c.ids) i where i >= lo and i < hi limit 1000) c having count(*) > 0),
        (select count(*) || ' dead' from (
            select from causelist.dead where id >= lo and id < hi limit 1000) d having count(*) > 0)), ''));

revoke all on function causelist.unfinished_in(bigint, bigint) from public;

-- The weeks that ended more than `keep` ago: the partitions of job and attempt, the range of their
-- ids, and why they have to stay (null: they may go). Besides what waits, runs or is dead, a job
-- without an end in its history keeps its week, whatever became of it: nothing is lost silently.
create function causelist.old_weeks(keep interval)
returns table (week text, job_part regclass, attempt_part regclass, lo bigint, hi bigint, reason text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    open bigint;
begin
    if keep is null or keep < interval '1 day' then
        raise exception 'retention of %: must be at least 1 day', keep using errcode = 'invalid_parameter_value';
    end if;
    for week, job_part, attempt_part, lo, hi in
        with part as (
            select i.inhparent, c.oid, c.relname,
                   regexp_match(pg_get_expr(c.relpartbound, c.oid), $re$FROM \('(-?\d+)'\) TO \('(-?\d+)'\)$re$) as b
            from pg_inherits i join pg_class c on c.oid = i.inhrelid
            where i.inhparent in ('causelist.job'::regclass, 'causelist.attempt'::regclass))
        select substr(j.relname, 5), j.oid, a.oid, j.b[1]::bigint, j.b[2]::bigint
        from part j join part a on a.b = j.b and a.inhparent = 'causelist.attempt'::regclass
        where j.inhparent = 'causelist.job'::regclass and j.b[2]::bigint <= causelist.id_at(now() - keep)
        order by 4
    loop
        reason := causelist.unfinished_in(lo, hi);
        if reason is null then
            select count(*) into open from causelist.job j
            where j.id >= lo and j.id < hi and not exists (
                select from causelist.attempt a
                where a.job_id = j.id and a.job_id >= lo and a.job_id < hi
                  and a.outcome not in ('retry', 'snooze', 'crashed'));
            if open > 0 then
                reason := open || ' without an end';
            end if;
        end if;
        return next;
    end loop;
end $$;
revoke all on function causelist.old_weeks(interval) from public;

-- Drops the weeks that ended more than `keep` ago and hold nothing unfinished (or moves them into the
-- schema causelist_archive), all in one transaction, and tells what became of each: dropped,
-- archived, busy (try again), or kept with the reason. `just`: only that week. One caller at a time: a second one is
-- given no rows. A week's keys that stand for ever stay and go on refusing duplicates.
create function causelist.drop_old_partitions(keep interval, archive boolean default false, just text default null)
returns table (week text, outcome text, reason text)
-- Everybody who enqueues or claims waits behind the lock that this waits for: hence not for long.
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '250ms' as $$
declare
    weeks record;
    part  record;
begin
    if not pg_try_advisory_xact_lock(7205759403792794) then
        return;
    end if;
    -- All the looking comes before the first lock: old_weeks reads whole partitions.
    for weeks in select o.* from causelist.old_weeks(keep) o
                 where just is null or o.week = just order by o.lo
    loop
        week := weeks.week;
        reason := weeks.reason;
        outcome := 'kept';
        if reason is null then
            begin
                lock table causelist.job, causelist.attempt in access exclusive mode;
                for part in select * from (values ('job', weeks.job_part), ('attempt', weeks.attempt_part)) p(parent, oid)
                loop
                    execute format('alter table causelist.%I detach partition %s', part.parent, part.oid);
                    if archive then
                        execute format('alter table %s set schema causelist_archive', part.oid);
                    else
                        execute format('drop table %s', part.oid);
                    end if;
                end loop;
                delete from causelist.job_key k
                where k.job_id >= weeks.lo and k.job_id < weeks.hi
                  and (k.hold = 'while' or k.expires_at <= clock_timestamp());
                outcome := case when archive then 'archived' else 'dropped' end;
            exception when lock_not_available then
                outcome := 'busy';
                reason := 'a transaction held the tables for longer than 250 ms';
            end;
        end if;
        return next;
    end loop;
end $$;
revoke all on function causelist.drop_old_partitions(interval, boolean, text) from public;

select causelist.regrant_roles();
