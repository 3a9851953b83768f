//! Becoming ready: the one text that says where a due job goes. It is the tail of every statement that
//! lets jobs become ready, after a `new` with the columns id, queue, priority, rank (the run-at in µs),
//! attempt, marks, tenant, due, gates and fair:
//!
//! - to `waiting`, if limits apply to it ([`crate::limits`]);
//! - else to `ready`, in a fair queue behind its tenant's other jobs ([`crate::fair`]).
//!
//! Enqueuing looks first whether anybody asks for that, and has a shorter text if not.

/// The column `gates` of a job whose kind and tenant `$n` has.
macro_rules! gates {
    ($n:literal) => {
        concat!(
            "case when not exists (select from causelist.job_limit) then null
                  when exists (select from causelist.job_limit l where l.kind is null or l.kind = ",
            $n,
            ".kind) then causelist.gates_of(",
            $n,
            ".kind, ",
            $n,
            ".tenant) end as gates"
        )
    };
}

/// The column `fair` of a job whose queue `$n` has.
macro_rules! fair {
    ($n:literal) => {
        concat!(
            "case when not exists (select from causelist.queue where fair) then false
                  else exists (select from causelist.queue q where q.fair and q.name = ",
            $n,
            ".queue) end as fair"
        )
    };
}

/// What is left of it where there is neither a rule nor a fair queue.
macro_rules! put_straight {
    () => {
        "now_ready as (
    insert into causelist.ready (queue, priority, rank, id, attempt)
    select queue, priority, rank, id, attempt from new where due)"
    };
}

/// Puts the jobs of `new` that are due where they belong.
macro_rules! put_ready {
    () => {
        "now_ready as (
    insert into causelist.ready (queue, priority, rank, id, attempt, marks)
    select queue, priority, rank, id, attempt, marks from new where due and gates is null and not fair),
turn as materialized (
    select t.*, causelist.fair_rank(t.queue, t.priority, t.tenant) as first
    from (select distinct queue, priority, coalesce(tenant, '00000000-0000-0000-0000-000000000000') as tenant
          from new where due and gates is null and fair) t),
in_turn as (
    insert into causelist.ready (queue, priority, rank, id, attempt, tenant, since, marks)
    select t.queue, t.priority,
           t.first - 1 + row_number() over (partition by t.queue, t.priority, t.tenant order by n.rank, n.id),
           n.id, n.attempt, t.tenant, n.rank, n.marks
    from new n join turn t on t.queue = n.queue and t.priority = n.priority
                          and t.tenant = coalesce(n.tenant, '00000000-0000-0000-0000-000000000000')
    where n.due and n.gates is null and n.fair),
at_gate as (
    insert into causelist.waiting (gates, queue, priority, rank, id, attempt, marks)
    select gates, queue, priority, rank, id, attempt, marks from new
    where due and gates is not null)"
    };
}

pub(crate) use {fair, gates, put_ready, put_straight};
