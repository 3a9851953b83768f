//! A job's result in a sentence, for people.

use serde_json::Value;

/// What a run of one of the practice's jobs did (or, from a plan, would do); none for other kinds.
#[must_use]
pub fn sentence(kind: &str, result: &Value) -> Option<String> {
    let planned = result.get("plan");
    let counts = planned.unwrap_or(result);
    let n = |name: &str| counts.get(name).and_then(Value::as_i64).unwrap_or(0);
    let many = |count: i64, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let told = format!(
        "{} reserved, {} not reachable",
        many(n("notificationsSent"), "message", "messages"),
        many(n("failedNotifications"), "recipient", "recipients")
    );
    let text = match kind {
        "check-sla-and-overdue" => format!(
            "{} turned overdue; SLA targets: {} violated, {} critical, {} near; {} opened; {told}",
            many(n("overdueTasks"), "task", "tasks"),
            n("slaViolations"),
            n("criticals"),
            n("warnings"),
            many(n("rulesTriggered"), "escalation", "escalations"),
        ),
        "send-hearing-reminders" => {
            format!(
                "{} today and tomorrow; {told}",
                many(n("hearingsProcessed"), "hearing", "hearings")
            )
        }
        "check-upcoming-deadlines" => format!(
            "due within 24 hours: {} and {}; {told}",
            many(n("upcomingTasks"), "task", "tasks"),
            many(n("upcomingHearings"), "hearing", "hearings"),
        ),
        "automation-health-check" => format!(
            "{}, {} of executions succeeded, {} degraded, {} inactive; {told}",
            many(n("totalRules"), "rule", "rules"),
            counts
                .get("successRate")
                .and_then(Value::as_f64)
                .map_or_else(|| "none".into(), |rate| format!("{rate} %")),
            n("degradedRules"),
            n("inactiveRules"),
        ),
        "analytics-snapshot" => {
            let unusual: Vec<String> = counts
                .get("tenants")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|tenant| tenant.get("anomalies")?.as_array())
                .flatten()
                .filter_map(|anomaly| {
                    let metric = anomaly.get("metric")?.as_str()?.replace('_', " ");
                    let off = anomaly.get("deviation").and_then(Value::as_f64);
                    Some(off.map_or_else(|| metric.clone(), |off| format!("{metric} ({off:+} %)")))
                })
                .collect();
            let unusual = if unusual.is_empty() {
                "none".to_owned()
            } else {
                unusual.join(", ")
            };
            format!(
                "{} recorded; unusual: {unusual}",
                many(n("metricsCount"), "metric", "metrics")
            )
        }
        _ => return None,
    };
    Some(if planned.is_some() {
        format!("would be: {text}")
    } else {
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tells_a_result_and_a_plan() {
        let result = json!({ "hearingsProcessed": 1, "notificationsSent": 8, "failedNotifications": 0 });
        assert_eq!(
            sentence("send-hearing-reminders", &result).as_deref(),
            Some("1 hearing today and tomorrow; 8 messages reserved, 0 recipients not reachable")
        );
        let plan = json!({ "dryRun": true, "plan": { "upcomingTasks": 2, "upcomingHearings": 1 } });
        let said = sentence("check-upcoming-deadlines", &plan).expect("is known");
        assert!(
            said.starts_with("would be: due within 24 hours: 2 tasks and 1 hearing"),
            "{said}"
        );
        assert_eq!(sentence("deliver-messages", &json!({})), None);
    }
}
