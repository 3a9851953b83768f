//! Tasks: first those that make every rule of the SLA check and of the deadline alerts apply, then
//! the ordinary ones that a firm has.

use chrono::{DateTime, Duration, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    cases::{self, Case},
    hearings::Upcoming,
    people::People,
    rows::Rows,
    scene::Scene,
};

const PRIORITIES: [&str; 4] = ["Critical", "High", "Medium", "Low"];
const OPEN: [&str; 6] = ["Open", "Not Started", "In Progress", "Need Info", "On Hold", "Review"];
/// Hours per priority: the allowance, and the time left at which it becomes a warning and critical.
const SLA_HOURS: [(i64, i64, i64); 4] = [(8, 4, 2), (48, 24, 12), (120, 72, 30), (240, 168, 60)];

const TITLES: &[&str] = &[
    "Draft reply to {form}",
    "Reconcile GSTR-2B with the purchase register",
    "Collect e-way bills and lorry receipts from the client",
    "Compute ITC reversal under Rule 42/43",
    "Work out pre-deposit u/s 107(6)",
    "Prepare DRC-03 working for voluntary payment",
    "Compile paper book and index",
    "Get vakalatnama and board resolution signed",
    "Brief counsel on {form}",
    "File {form} response on the portal",
    "Supplier-wise ITC statement under Rule 36(4)",
    "Note to the client on the personal hearing",
    "Follow up certified copy of the order",
    "Reply to deficiency memo RFD-03",
    "Verify HSN summary against tax invoices",
    "Limitation note: days left for APL-01",
    "Check interest working u/s 50",
    "Research: recent High Court rulings on the point",
];

/// What tells a task from another; the rest follows from its case.
#[derive(Debug, Default)]
struct Task {
    status: &'static str,
    priority: &'static str,
    due: Option<DateTime<Utc>>,
    done: Option<DateTime<Utc>>,
    sla_hours: Option<i64>,
    created: DateTime<Utc>,
    hearing: Option<Upcoming>,
}

/// Those who are at hand while tasks are made: tasks go round, so that everybody has some of each.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    pub(super) people: &'a People,
    pub(super) open: &'a [Case],
    pub(super) over: &'a [Case],
    pub(super) upcoming: &'a [Upcoming],
    pub(super) made: usize,
}

pub(super) fn add(scene: &mut Scene, rows: &mut Rows, mut desk: Desk<'_>) {
    sla_levels(scene, rows, &mut desk);
    overdue(scene, rows, &mut desk);
    due_soon(scene, rows, &mut desk);
    for n in 0..desk.upcoming.len() {
        let hearing = desk.upcoming[n];
        preparation(scene, rows, &mut desk, hearing);
    }
    while desk.made < scene.firm.size.tasks {
        ordinary(scene, rows, &mut desk);
    }
}

/// Each priority at each level, by each of the three ways a target is found.
fn sla_levels(scene: &mut Scene, rows: &mut Rows, desk: &mut Desk<'_>) {
    for (p, (allowance, warning, critical)) in SLA_HOURS.into_iter().enumerate() {
        // Minutes left at warning, at critical, and after the violation.
        for (from, to) in [
            (critical * 60 + 20, warning * 60 - 20),
            (15, critical * 60 - 20),
            (-20 * 60, -15),
        ] {
            for way in 0..3 {
                let target = scene.minutes(from, to);
                let mut task = Task {
                    status: OPEN[desk.made % 6],
                    priority: PRIORITIES[p],
                    ..Task::default()
                };
                match way {
                    0 => {
                        task.sla_hours = Some(allowance);
                        task.created = target - Duration::hours(allowance);
                        task.due = Some(scene.at(far_off(desk.made), 17, 0));
                    }
                    1 => {
                        task.due = Some(target);
                        task.created = target - Duration::hours(allowance + 24);
                    }
                    _ => task.created = target - Duration::hours(allowance),
                }
                push(scene, rows, desk, task, true);
            }
        }
    }
}

/// A due date far enough away to play no part.
fn far_off(n: usize) -> i64 {
    12 + i64::try_from(n % 9).unwrap_or(0)
}

/// Each priority a few hours, more than a day and more than a week late; marked already or not.
fn overdue(scene: &mut Scene, rows: &mut Rows, desk: &mut Desk<'_>) {
    for priority in PRIORITIES {
        for (from, to) in [(-20 * 60, -60), (-70 * 60, -26 * 60), (-12 * 1440, -7 * 1440)] {
            for status in [OPEN[desk.made % 6], "Overdue"] {
                let due = scene.minutes(from, to);
                let created = due - Duration::days(6);
                let task = Task {
                    status,
                    priority,
                    due: Some(due),
                    created,
                    ..Task::default()
                };
                push(scene, rows, desk, task, true);
            }
        }
    }
}

/// Within the next 24 hours, so that everybody's list has lines of high and of normal priority.
fn due_soon(scene: &mut Scene, rows: &mut Rows, desk: &mut Desk<'_>) {
    for round in 0..desk.people.litigators.len() {
        for (from, to) in [(40, 6 * 60), (7 * 60, 23 * 60)] {
            let priority = PRIORITIES[(round + usize::from(from > 40) * 2) % 4];
            let task = Task {
                status: OPEN[desk.made % 6],
                priority,
                due: Some(scene.minutes(from, to)),
                created: scene.minutes(-9 * 1440, -4 * 1440),
                ..Task::default()
            };
            push(scene, rows, desk, task, true);
        }
    }
}

/// What has to be ready before a hearing.
fn preparation(scene: &mut Scene, rows: &mut Rows, desk: &mut Desk<'_>, hearing: Upcoming) {
    let done = scene.chance(40);
    let created = scene.minutes(-8 * 1440, -3 * 1440);
    let due = scene.minutes(60, 5 * 1440);
    let task = Task {
        status: if done { "Completed" } else { OPEN[desk.made % 6] },
        priority: "High",
        due: Some(due),
        done: done.then_some(created + Duration::hours(50)),
        created,
        hearing: Some(hearing),
        ..Task::default()
    };
    push(scene, rows, desk, task, false);
}

fn ordinary(scene: &mut Scene, rows: &mut Rows, desk: &mut Desk<'_>) {
    let priority = scene.weighted(&[("Critical", 1), ("High", 4), ("Medium", 9), ("Low", 5)]);
    let mut task = Task {
        priority,
        ..Task::default()
    };
    match scene.weighted(&[
        ("Completed", 56),
        ("Cancelled", 6),
        ("Overdue", 3),
        ("late", 4),
        ("open", 31),
    ]) {
        status @ ("Completed" | "Cancelled") => {
            task.status = status;
            task.created = scene.minutes(-200 * 1440, -12 * 1440);
            let due = task.created + Duration::hours(scene.number(24, 240));
            task.due = scene.chance(92).then_some(due);
            if status == "Completed" {
                // Four in five on time; all of them before now.
                let hours = if scene.chance(80) {
                    -scene.number(1, 20)
                } else {
                    scene.number(2, 40)
                };
                task.done = Some((due + Duration::hours(hours)).min(scene.now - Duration::hours(1)));
            }
            task.sla_hours = scene.chance(30).then(|| scene.number(24, 200));
        }
        status @ ("Overdue" | "late") => {
            task.status = if status == "late" { OPEN[desk.made % 6] } else { status };
            let due = scene.minutes(-25 * 1440, -30);
            task.due = Some(due);
            task.created = due - Duration::hours(scene.number(48, 240));
        }
        _ => {
            task.status = OPEN[desk.made % 6];
            task.created = scene.minutes(-12 * 1440, -60);
            let (days, hour) = (scene.number(2, 60), scene.number(10, 19));
            task.due = Some(scene.at(days, u32::try_from(hour).unwrap_or(17), 0));
            // Not due for long, but promised sooner.
            task.sla_hours = scene.chance(12).then(|| scene.number(300, 900));
        }
    }
    push(scene, rows, desk, task, false);
}

/// `by_turn`: to the next litigator and open case in turn, for tasks that everybody shall have.
fn push(scene: &mut Scene, rows: &mut Rows, desk: &mut Desk<'_>, task: Task, by_turn: bool) {
    let n = desk.made;
    desk.made += 1;
    let litigators = &desk.people.litigators;
    let case = match task.hearing {
        Some(hearing) => Some(hearing.case),
        None if by_turn => Some(desk.open[n % desk.open.len()]),
        // Office work belongs to no case.
        None if n % 40 == 39 => None,
        None if task.done.is_some() && n.is_multiple_of(3) => Some(scene.pick(desk.over)),
        None => Some(scene.pick(desk.open)),
    };
    let assigned_to = match case.and_then(|case| case.assigned_to) {
        _ if by_turn => Some(litigators[n % litigators.len()]),
        _ if n % 50 == 49 => None,
        _ if n % 9 == 8 => Some(scene.pick(&desk.people.helpers)),
        Some(user) => Some(user),
        None => Some(scene.pick(litigators)),
    };
    let (id, title, assigned_by): (Uuid, &str, Uuid) =
        (scene.id(), scene.pick(TITLES), scene.pick(&desk.people.owners));
    rows.add(
        "host.tasks",
        json!({
            "id": id, "tenant_id": scene.firm.id, "case_id": case.map(|case| case.id),
            "hearing_id": task.hearing.map(|hearing| hearing.id),
            "title": title.replace("{form}", case.map_or("the notice", |case| case.matter.form)),
            "description": case.map(|case| case.matter.subject), "assigned_to": assigned_to,
            "assigned_by": assigned_by, "status": task.status, "priority": task.priority, "due_date": task.due,
            "completed_date": task.done, "sla_hours": task.sla_hours,
            "timezone": (!n.is_multiple_of(4)).then_some(scene.firm.zone.name()),
            "case_number": case.map(|case| cases::number(scene, case.matter, case.ordinal)),
            "is_auto_generated": n.is_multiple_of(5), "created_at": task.created,
            "updated_at": task.done.unwrap_or(task.created),
        }),
    );
}
