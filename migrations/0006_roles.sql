-- Least-privilege roles: what each may do is data in causelist.role_right, and
--   select causelist.grant_roles();
-- gives it to the roles causelist_enqueuer, causelist_worker and causelist_api, making those that are
-- missing. Whoever runs the migrations owns the schema: the fourth role, the migrator.
--
-- Migrating itself needs no right to make roles, and changes nothing where no roles are wanted.
-- Nobody is granted anything on a partition: PostgreSQL asks for the rights on the partitioned table.
--
-- A later migration that makes a table, sequence or function adds its rows to role_right and ends
-- with `select causelist.regrant_roles();`.
set local lock_timeout = '5s';

create table causelist.role_right (
    part   text collate "C" not null check (part in ('enqueuer', 'worker', 'api')),
    rights text not null,
    -- As GRANT takes it: table causelist.job.
    object text not null,
    primary key (part, object)
);

-- Which sets of roles were granted: their names' beginnings.
create table causelist.role_prefix (prefix name primary key);

-- Worker and API too: a trigger of the host that enqueues runs with the rights of whoever wrote the row.
insert into causelist.role_right (part, rights, object)
select part, 'execute', 'function ' || f
from unnest(array['enqueuer', 'worker', 'api']) part, unnest(array[
    'causelist.enqueue(text,jsonb,text,timestamptz,text,integer,uuid,integer,text,timestamptz,text)',
    'causelist.enqueue_many(jsonb)']) f;

-- SELECT ... FOR UPDATE takes the right to update. Nobody may update or delete what is history: job,
-- attempt. The worker's part is that of the scheduler too.
insert into causelist.role_right (part, rights, object) values
    ('worker', 'select, insert',                 'table causelist.job'),
    ('worker', 'select, insert',                 'table causelist.attempt'),
    ('worker', 'select, insert, update, delete', 'table causelist.ready'),
    ('worker', 'select, insert, update, delete', 'table causelist.scheduled'),
    ('worker', 'select, insert, update, delete', 'table causelist.claim'),
    ('worker', 'select, insert, update, delete', 'table causelist.job_key'),
    ('worker', 'select, insert, update, delete', 'table causelist.worker'),
    ('worker', 'select, delete',                 'table causelist.cancel_request'),
    ('worker', 'select, insert',                 'table causelist.dead'),
    ('worker', 'select',                         'table causelist.queue'),
    ('worker', 'select, insert, update',         'table causelist.schedule'),
    ('worker', 'select, insert, update, delete', 'table causelist.schedule_fire'),
    ('worker', 'select, insert',                 'table causelist.event'),
    ('worker', 'select, insert, update',         'table causelist.message'),
    ('worker', 'select, insert, update, delete', 'table causelist.audit_mark'),
    ('worker', 'select',                         'table causelist.tenant_setting'),
    ('worker', 'usage',                          'sequence causelist.job_id_seq'),
    ('worker', 'execute',                        'function causelist.keep_partitions(interval)'),
    -- What the next migration makes.
    ('worker', 'execute',                        'function causelist.old_weeks(interval)'),
    ('worker', 'execute',                        'function causelist.drop_old_partitions(interval,boolean,text)'),

    ('api',    'select, insert',                 'table causelist.job'),
    ('api',    'select, insert',                 'table causelist.attempt'),
    ('api',    'select, insert, delete',         'table causelist.ready'),
    ('api',    'select, insert, delete',         'table causelist.scheduled'),
    ('api',    'select',                         'table causelist.claim'),
    ('api',    'select, insert, update, delete', 'table causelist.job_key'),
    ('api',    'select',                         'table causelist.worker'),
    ('api',    'select, insert, delete',         'table causelist.cancel_request'),
    ('api',    'select, update, delete',         'table causelist.dead'),
    ('api',    'select, insert, update',         'table causelist.queue'),
    ('api',    'select, update',                 'table causelist.schedule'),
    ('api',    'select',                         'table causelist.schedule_fire'),
    ('api',    'select',                         'table causelist.event'),
    ('api',    'select',                         'table causelist.message'),
    ('api',    'select',                         'table causelist.tenant_setting'),
    ('api',    'select, insert, update (revoked_at, last_used)', 'table causelist.api_key'),
    ('api',    'usage',                          'sequence causelist.job_id_seq'),
    -- The fence of a record that is no attempt's.
    ('api',    'usage',                          'sequence causelist.claim_id_seq'),

    -- Both look at their start whether the schema is theirs. The migrations' own list is made by
    -- whoever runs them.
    ('worker', 'select',                         'table causelist._migrations'),
    ('api',    'select',                         'table causelist._migrations');

-- Gives the roles <prefix>_enqueuer, <prefix>_worker and <prefix>_api the rights of their part in the
-- schema causelist, and takes all others there from them. Makes roles (without login) that are missing.
-- May be repeated. Returns the roles.
create function causelist.grant_roles(prefix name default 'causelist') returns setof name
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    owner   name := (select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'causelist');
    missing name[];
    role    name;
    of_part record;
    granted record;
begin
    if prefix is null or prefix !~ '^[a-z][a-z0-9_]{0,49}$' then
        raise exception using errcode = '22023', message = format(
            'prefix %s: must be 1 to 50 of a-z, 0-9 and ''_'', beginning with a letter', to_json(coalesce(prefix, '')));
    end if;
    if not pg_has_role(owner, 'usage') then
        raise exception using errcode = '42501',
            message = format('role %s may not grant rights in the schema causelist: run this as its owner, %s', current_user, owner);
    end if;
    -- Two at once would change the same rows of the catalogue.
    perform pg_advisory_xact_lock(7205759403792795);
    missing := array(select r from unnest(array[prefix || '_enqueuer', prefix || '_worker', prefix || '_api']) r
                     where not exists (select from pg_roles where rolname = r));
    if missing <> '{}' and not exists (select from pg_roles where rolname = current_user and (rolsuper or rolcreaterole)) then
        raise exception using errcode = '42501',
            message = format('role %s may not make roles: let one that may run the statements below, then repeat this', current_user),
            hint = (select string_agg(format('create role %I nologin;', r), ' ') from unnest(missing) r);
    end if;
    foreach role in array missing loop
        execute format('create role %I nologin', role);
    end loop;
    for of_part in select p.part, (prefix || '_' || p.part)::name as role from unnest(array['enqueuer', 'worker', 'api']) p(part) loop
        role := of_part.role;
        execute format('revoke all on all tables in schema causelist from %I', role);
        execute format('revoke all on all sequences in schema causelist from %I', role);
        execute format('revoke all on all functions in schema causelist from %I', role);
        execute format('revoke all on schema causelist from %I', role);
        execute format('grant usage on schema causelist to %I', role);
        for granted in
            select r.rights, r.object from causelist.role_right r where r.part = of_part.part
              and (r.object <> 'table causelist._migrations' or to_regclass('causelist._migrations') is not null)
        loop
            execute format('grant %s on %s to %I', granted.rights, granted.object, role);
        end loop;
        return next role;
    end loop;
    insert into causelist.role_prefix (prefix) values (prefix) on conflict do nothing;
end $$;
revoke all on function causelist.grant_roles(name) from public;

-- Grants anew what was granted before: the end of a migration that changes role_right. It makes no
-- roles, so that a migration needs no right to: a set of which one was dropped is passed over.
create function causelist.regrant_roles() returns void
language sql set search_path = pg_catalog, pg_temp as $$
    select causelist.grant_roles(p.prefix) from causelist.role_prefix p
    where (select count(*) from pg_roles
           where rolname in (p.prefix || '_enqueuer', p.prefix || '_worker', p.prefix || '_api')) = 3;
$$;
revoke all on function causelist.regrant_roles() from public;
