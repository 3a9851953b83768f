//! Jobs over a host that is not as it should be.

use causelist_core::{JobError, RunArgs};
use causelist_gst::doctor::grants;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::fixture::{Desk, KINDS, NOW, at};

#[tokio::test]
async fn more_columns_and_a_refused_audit_row_stop_nothing() {
    let desk = Desk::demo().await;
    desk.sql(
        "alter table host.tasks add extra text, add search tsvector;
         alter table host.audit_log add constraint known_actions check (action_type in ('login', 'logout'));",
    )
    .await;
    for kind in KINDS {
        let report = desk.run(kind, None, NOW).await;
        let reason = report["auditSkipped"]
            .as_str()
            .unwrap_or_else(|| panic!("{kind}: {report}"));
        assert!(
            reason.contains("known_actions") && reason.contains("causelist doctor"),
            "{reason}"
        );
    }
    assert_eq!(desk.value("select count(*) from host.audit_log").await, "0");
    assert_eq!(desk.value("select count(*) from causelist.audit_mark").await, "0");
    assert_ne!(
        desk.value("select count(*) from causelist.event where type = 'task_overdue'")
            .await,
        "0"
    );
    // Once the host accepts it, a repetition of the run writes the row.
    desk.sql("alter table host.audit_log drop constraint known_actions")
        .await;
    let report = desk.run(KINDS[0], None, NOW).await;
    assert!(report.get("auditSkipped").is_none(), "{report}");
    assert_eq!(desk.value("select count(*) from host.audit_log").await, "3");
}

#[tokio::test]
async fn a_missing_column_is_named_and_nothing_half_written() {
    let desk = Desk::demo().await;
    desk.sql("alter table host.tasks drop column sla_hours; alter table host.notifications drop column metadata")
        .await;
    let before = desk.contents().await;
    for kind in KINDS {
        let args = RunArgs {
            executed_at: Some(at(NOW)),
            dry_run: false,
        };
        let error = desk.run_as(desk.pool(), kind, None, args).await.unwrap_err();
        let JobError::Permanent(text) = &error else {
            panic!("{kind}: {error:?}")
        };
        assert!(
            text.contains("does not exist") && text.contains("causelist doctor"),
            "{text}"
        );
    }
    assert_eq!(before, desk.contents().await);
}

/// With the rights that the doctor's list grants and no others, and with row-level security that
/// does not apply to the role: every job does the same. Where it applies, jobs fail, since hidden
/// rows would be taken for absent ones.
#[tokio::test]
async fn the_granted_rights_are_enough_and_hidden_rows_are_an_error() {
    let desk = Desk::demo().await;
    let role = format!("worker_{}", desk.value("select current_database()").await);
    let grants: String = grants(&desk.host, &role);
    desk.sql(&format!(
        "create role {role} login password 'only-for-tests' bypassrls; {grants};
         grant usage on schema causelist to {role};
         grant select, insert, update, delete on all tables in schema causelist to {role};
         grant usage on all sequences in schema causelist to {role};
         alter table host.tasks enable row level security;
         create policy nobody on host.tasks using (false);"
    ))
    .await;
    let options = desk
        .url()
        .parse::<PgConnectOptions>()
        .unwrap()
        .username(&role)
        .password("only-for-tests");
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .connect_with(options.clone())
        .await
        .unwrap();
    let args = RunArgs {
        executed_at: Some(at(NOW)),
        dry_run: false,
    };
    for kind in KINDS {
        let report = desk
            .run_as(&pool, kind, None, args)
            .await
            .unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert!(report.get("auditSkipped").is_none(), "{kind}: {report}");
    }
    assert_ne!(
        desk.value("select count(*) from causelist.event where type = 'task_overdue'")
            .await,
        "0"
    );
    desk.sql(&format!("alter role {role} nobypassrls")).await;
    pool.close().await;
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .connect_with(options)
        .await
        .unwrap();
    let error = desk
        .run_as(&pool, "check-sla-and-overdue", None, args)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, JobError::Permanent(text) if text.contains("row-level security")),
        "{error:?}"
    );
    pool.close().await;
    desk.sql(&format!("drop owned by {role}; drop role {role}")).await;
}
