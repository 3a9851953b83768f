//! What `causelist.grant_roles` gives, takes away and refuses.

use causelist_testkit::TestDb;
use sqlx::AssertSqlSafe;

use super::{denied, drop_roles, grant, login, run};
use crate::fixture::db;

#[tokio::test]
async fn granting_takes_away_what_is_not_meant_to_be_there() {
    let db = db().await;
    grant(&db).await;
    let enqueuer = login(&db, "enqueuer").await;
    let role = format!("{}_enqueuer", db.name());
    run(
        db.pool(),
        &format!("grant select on causelist.job to {role}; grant update (hash) on causelist.api_key to {role}"),
    )
    .await;
    run(&enqueuer, "select count(*) from causelist.job").await;
    run(db.pool(), "select causelist.regrant_roles()").await;
    denied(
        &enqueuer,
        &[
            "select count(*) from causelist.job",
            "update causelist.api_key set hash = null",
        ],
    )
    .await;
    run(&enqueuer, "select causelist.enqueue('act')").await;
    drop_roles(&db).await;
}

#[tokio::test]
async fn who_may_not_grant_is_told_what_to_do() {
    let db = db().await;
    let name = format!("{}_owner", db.name());
    run(
        db.pool(),
        &format!(
            "create role {name}; grant create on database {0} to {name}; alter schema causelist owner to {name};
             grant execute on function causelist.grant_roles to {name}",
            db.name()
        ),
    )
    .await;
    let mut tx = db.pool().begin().await.expect("a transaction");
    sqlx::raw_sql(AssertSqlSafe(format!("set local role {name}")))
        .execute(&mut *tx)
        .await
        .expect("is set");
    let error = sqlx::query("select causelist.grant_roles($1::name)")
        .bind(db.name())
        .execute(&mut *tx)
        .await
        .expect_err("is refused");
    let error = error.as_database_error().expect("PostgreSQL refused");
    assert!(error.message().contains("may not make roles"), "{error}");
    let hint = error
        .downcast_ref::<sqlx::postgres::PgDatabaseError>()
        .hint()
        .unwrap_or_default();
    assert!(
        hint.contains(&format!("create role {}_api nologin;", db.name())),
        "{hint}"
    );
    drop(tx);
    run(
        db.pool(),
        &format!("alter schema causelist owner to current_user; revoke all on schema causelist from {name}"),
    )
    .await;
    drop_roles(&db).await;
}

/// Who adds a table, sequence or function decides who may use it, and says so in a migration
/// (`causelist.role_right`) or here.
#[tokio::test]
async fn everything_in_the_schema_is_somebodys_or_nobodys_by_intent() {
    let db = TestDb::new().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    // So that names are printed with their schema.
    sqlx::query("set search_path = pg_catalog")
        .execute(&mut *conn)
        .await
        .expect("is set");
    let unmentioned: Vec<String> = sqlx::query_scalar(
        "with object (name) as (
             select case relkind when 'S' then 'sequence ' else 'table ' end || oid::regclass
             from pg_class c
             where relnamespace = 'causelist'::regnamespace and relkind in ('r', 'p', 'S', 'v', 'm')
               and not relispartition
               and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'i' and relkind = 'S')
             union all
             select 'function ' || oid::regprocedure from pg_proc p
             where pronamespace = 'causelist'::regnamespace
               and not has_function_privilege('public', p.oid, 'execute')),
         mentioned (name) as (
             select case when object like 'function %'
                         then 'function ' || substr(object, 10)::regprocedure else object end
             from causelist.role_right)
         select name from object except select name from mentioned order by 1",
    )
    .fetch_all(&mut *conn)
    .await
    .expect("a list");
    assert_eq!(
        unmentioned,
        [
            "function causelist.enqueue_rows(causelist.new_job[])",
            "function causelist.grant_roles(name)",
            "function causelist.new_job_problem(causelist.new_job,bigint)",
            "function causelist.regrant_roles()",
            "function causelist.unfinished_in(bigint,bigint)",
            "table causelist.role_prefix",
            "table causelist.role_right",
        ]
    );
}
