//! Which columns of the host's tables the jobs use, and how: what [`super::grants`] allows is what
//! stands here and nothing else, so that running the jobs with it shows what is missing.

pub(super) const SLA: &str = "check-sla-and-overdue";
pub(super) const HEARINGS: &str = "send-hearing-reminders";
pub(super) const ANALYTICS: &str = "analytics-snapshot";
pub(super) const DEADLINES: &str = "check-upcoming-deadlines";
pub(super) const HEALTH: &str = "automation-health-check";

pub(super) const ALL: &[&str] = &[SLA, HEARINGS, ANALYTICS, DEADLINES, HEALTH];
/// Those that tell members something.
const TELLING: &[&str] = &[SLA, HEARINGS, DEADLINES, HEALTH];

/// What may be done to a column; also the privilege's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Select,
    Insert,
    Update,
}

impl Access {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Insert => "insert",
            Self::Update => "update",
        }
    }
}

/// Kinds of jobs that use columns of a table.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) table: &'static str,
    pub(super) access: Access,
    pub(super) kinds: &'static [&'static str],
    columns: &'static str,
}

impl Use {
    pub(super) fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.columns
            .split_whitespace()
            .map(|column| column.trim_end_matches('?'))
    }

    /// Whether an INSERT always has a value for `column`: it's listed, and without `?`.
    pub(super) fn fills(&self, column: &str) -> bool {
        self.access == Access::Insert && self.columns.split_whitespace().any(|c| c == column)
    }
}

const fn select(kinds: &'static [&'static str], table: &'static str, columns: &'static str) -> Use {
    Use {
        table,
        access: Access::Select,
        kinds,
        columns,
    }
}
const fn insert(kinds: &'static [&'static str], table: &'static str, columns: &'static str) -> Use {
    Use {
        table,
        access: Access::Insert,
        kinds,
        columns,
    }
}
const fn update(kinds: &'static [&'static str], table: &'static str, columns: &'static str) -> Use {
    Use {
        table,
        access: Access::Update,
        kinds,
        columns,
    }
}

pub(super) const USES: &[Use] = &[
    select(ALL, "tenants", "id name is_active"),
    insert(
        ALL,
        "audit_log",
        "tenant_id user_id? entity_type entity_id? action_type timestamp details",
    ),
    // Whom to tell, and how.
    select(
        TELLING,
        "employees",
        "id tenant_id employee_code full_name email official_email status manager_id reporting_to",
    ),
    select(
        TELLING,
        "notification_preferences",
        "tenant_id user_id email_enabled in_app_enabled hearing_reminders task_reminders reminder_days \
         quiet_hours_start quiet_hours_end",
    ),
    insert(
        TELLING,
        "notifications",
        "tenant_id user_id type title message related_entity_type related_entity_id channels status read metadata",
    ),
    select(&[SLA, HEALTH], "user_roles", "user_id role is_active"),
    // Tasks and their escalation.
    select(
        &[SLA],
        "tasks",
        "id tenant_id case_id title assigned_to status priority due_date sla_hours case_number created_at",
    ),
    update(&[SLA], "tasks", "status updated_at"),
    select(&[SLA], "cases", "id tenant_id case_number owner_id"),
    select(
        &[SLA],
        "escalation_rules",
        "id tenant_id name trigger conditions actions is_active",
    ),
    select(&[SLA], "escalation_events", "tenant_id rule_id task_id triggered_at"),
    insert(
        &[SLA],
        "escalation_events",
        "tenant_id rule_id task_id triggered_at status assigned_to? escalated_to? current_level",
    ),
    // Hearings and deadlines.
    select(
        &[HEARINGS],
        "hearings",
        "id tenant_id case_id hearing_date court_id court_name judge_name status",
    ),
    select(
        &[HEARINGS],
        "cases",
        "id tenant_id case_number title client_id assigned_to owner_id",
    ),
    select(&[HEARINGS], "courts", "id tenant_id name city"),
    select(&[HEARINGS], "clients", "id tenant_id display_name email"),
    select(
        &[DEADLINES],
        "tasks",
        "id tenant_id case_id title assigned_to status priority due_date case_number",
    ),
    select(&[DEADLINES], "hearings", "id tenant_id case_id hearing_date status"),
    select(&[DEADLINES], "cases", "id tenant_id case_number assigned_to owner_id"),
    select(
        &[DEADLINES],
        "case_statutory_deadlines",
        "id tenant_id case_id event_type_id calculated_deadline extension_deadline status",
    ),
    select(&[DEADLINES], "statutory_event_types", "id tenant_id name"),
    // Numbers.
    select(&[ANALYTICS], "cases", "tenant_id status"),
    select(
        &[ANALYTICS],
        "tasks",
        "tenant_id status priority due_date completed_date sla_hours created_at",
    ),
    select(&[ANALYTICS], "hearings", "tenant_id hearing_date status"),
    select(&[ANALYTICS], "documents", "tenant_id"),
    select(
        &[ANALYTICS, HEALTH],
        "analytics_snapshots",
        "tenant_id snapshot_date metric_type metric_value",
    ),
    insert(
        &[ANALYTICS, HEALTH],
        "analytics_snapshots",
        "tenant_id snapshot_date metric_type metric_value",
    ),
    update(&[ANALYTICS, HEALTH], "analytics_snapshots", "metric_value"),
    select(
        &[HEALTH],
        "automation_rules",
        "id tenant_id name is_active last_triggered created_at",
    ),
    select(&[HEALTH], "automation_logs", "tenant_id rule_id status executed_at"),
];

/// A value that jobs write into a column, known beforehand: a host's CHECK, or the length of the
/// column, may refuse it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) table: &'static str,
    pub(super) column: &'static str,
    pub(super) value: &'static str,
    pub(super) kinds: &'static [&'static str],
}

const fn written(
    kinds: &'static [&'static str],
    table: &'static str,
    column: &'static str,
    value: &'static str,
) -> Written {
    Written {
        table,
        column,
        value,
        kinds,
    }
}

pub(super) const VALUES: &[Written] = &[
    written(ALL, "audit_log", "action_type", "background_job_execution"),
    written(ALL, "audit_log", "entity_type", "background_job"),
    written(&[SLA], "tasks", "status", "Overdue"),
    written(&[SLA], "escalation_events", "status", "pending"),
    written(TELLING, "notifications", "status", "sent"),
    written(&[SLA], "notifications", "type", "escalation"),
    written(&[HEARINGS], "notifications", "type", "hearing_reminder"),
    written(&[DEADLINES], "notifications", "type", "deadline_digest"),
    written(&[HEALTH], "notifications", "type", "health_alert"),
    written(&[ANALYTICS], "analytics_snapshots", "metric_type", "daily_snapshot"),
    written(&[ANALYTICS], "analytics_snapshots", "metric_type", "case_count"),
    written(
        &[ANALYTICS],
        "analytics_snapshots",
        "metric_type",
        "task_completion_rate",
    ),
    written(
        &[ANALYTICS],
        "analytics_snapshots",
        "metric_type",
        "sla_compliance_rate",
    ),
    written(
        &[ANALYTICS],
        "analytics_snapshots",
        "metric_type",
        "hearing_attendance_rate",
    ),
    written(&[ANALYTICS], "analytics_snapshots", "metric_type", "document_count"),
    written(&[ANALYTICS], "analytics_snapshots", "metric_type", "overdue_tasks"),
    written(&[HEALTH], "analytics_snapshots", "metric_type", "automation_health"),
];

/// Columns of a table that an upsert needs to be unique together.
#[derive(Debug)]
pub(super) struct Unique {
    pub(super) table: &'static str,
    pub(super) columns: &'static [&'static str],
    pub(super) kinds: &'static [&'static str],
}

pub(super) const UNIQUE: &[Unique] = &[Unique {
    table: "analytics_snapshots",
    columns: &["tenant_id", "snapshot_date", "metric_type"],
    kinds: &[ANALYTICS, HEALTH],
}];
