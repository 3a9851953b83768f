//! Ten days of analytics snapshots, made from today's numbers: today looks as usual, but for one
//! metric of each firm, which is an anomaly.

use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{TENANTS, rows::Rows, scene::Scene};
use crate::Host;

/// Today's metrics of a tenant ($1) at an instant ($2), as (name, value).
const METRICS: &str = "
with t as (
    select status, due_date, completed_date, status = 'Completed' as completed,
           coalesce(created_at + make_interval(hours => sla_hours), due_date,
                    created_at + make_interval(hours => case priority when 'Critical' then 8
                        when 'High' then 48 when 'Medium' then 120 else 240 end)) as target
      from host.tasks where tenant_id = $1 and status <> 'Cancelled'
), h as (
    select lower(status) as status from host.hearings where tenant_id = $1 and hearing_date < $2
)
select m.name, m.value::float8 from (values
    ('case_count', (select count(*)::numeric from host.cases
                     where tenant_id = $1 and lower(status) in ('open', 'active'))),
    ('document_count', (select count(*) from host.documents where tenant_id = $1)),
    ('overdue_tasks', (select count(*) from t where not completed and (status = 'Overdue' or due_date < $2))),
    ('task_completion_rate', (select 100.0 * count(*) filter (where status = 'Completed') / count(*)
                                from host.tasks where tenant_id = $1)),
    ('sla_compliance_rate', (select 100.0 * count(*) filter (where case when completed
         then completed_date <= target else target > $2 end) / count(*) from t)),
    ('hearing_attendance_rate', (select 100.0 * count(*) filter (where status in ('concluded', 'completed'))
         / count(*) filter (where status in ('concluded', 'completed', 'scheduled', 'no-board')) from h))
) m (name, value)
order by 1";

/// The metric of each firm that is an anomaly today, and what it was, in percent, before.
const ANOMALIES: [(&str, f64); 3] = [("overdue_tasks", 55.0), ("document_count", 60.0), ("case_count", 150.0)];

/// Reads what `scene`'s firm has in the database and adds the ten days before today.
pub(super) async fn add(
    scene: &mut Scene,
    rows: &mut Rows,
    host: &Host,
    db: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let today: Vec<(String, f64)> = sqlx::query_as(AssertSqlSafe(host.sql(METRICS)))
        .bind(scene.firm.id)
        .bind(scene.now)
        .fetch_all(db)
        .await?;
    let firm = TENANTS.iter().position(|firm| firm.id == scene.firm.id).unwrap_or(0);
    let (odd, percent) = ANOMALIES[firm];
    for days in 1..=10 {
        let mut all = Map::new();
        for (name, value) in &today {
            // Within 3 % of today, or of what it usually was.
            let usual = if name == odd { value * percent / 100.0 } else { *value };
            let was = usual * (1000 + scene.number(-30, 31)) as f64 / 1000.0;
            let was = if name.ends_with("rate") {
                json!((was.min(100.0) * 100.0).round() / 100.0)
            } else {
                json!(was.round() as i64)
            };
            all.insert(name.clone(), was);
        }
        for (name, value) in &all {
            snapshot(scene, rows, days, name, json!({ "value": value }));
        }
        snapshot(scene, rows, days, "daily_snapshot", Value::Object(all));
    }
    Ok(())
}

fn snapshot(scene: &mut Scene, rows: &mut Rows, days: i64, metric: &str, value: Value) {
    let id = scene.id();
    rows.add(
        "host.analytics_snapshots",
        json!({
            "id": id, "tenant_id": scene.firm.id, "snapshot_date": scene.day(-days), "metric_type": metric,
            "metric_value": value, "created_at": scene.at(-days, 23, 59),
        }),
    );
}
