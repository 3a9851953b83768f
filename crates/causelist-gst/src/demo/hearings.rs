//! Courts and hearings: some today and tomorrow in the firm's own zone, whatever the day.

use serde_json::json;
use uuid::Uuid;

use super::{cases::Case, firm::Court, names, rows::Rows, scene::Scene};

/// When benches sit, in the firm's time.
const SLOTS: &[(u32, u32)] = &[
    (10, 30),
    (11, 0),
    (11, 30),
    (12, 15),
    (14, 30),
    (15, 0),
    (15, 45),
    (16, 15),
];

const KINDS: &[&str] = &[
    "Personal Hearing",
    "Admission",
    "Final Hearing",
    "Virtual Hearing",
    "Stay Application",
];

const PAST: &[(&str, u32)] = &[
    ("Concluded", 30),
    ("concluded", 3),
    ("Completed", 20),
    ("COMPLETED", 3),
    ("Adjourned", 20),
    ("No-board", 8),
    ("Withdrawn", 4),
    ("Cancelled", 6),
    // Held or not: nobody has written it down.
    ("Scheduled", 6),
];

/// A hearing that is to come, for the tasks that prepare it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upcoming {
    pub(super) id: Uuid,
    pub(super) case: Case,
}

pub(super) fn add(scene: &mut Scene, rows: &mut Rows, open: &[Case], over: &[Case]) -> Vec<Upcoming> {
    let courts = courts(scene, rows);
    let before = rows.of("host.hearings").len();
    let mut upcoming = Vec::new();
    // One case after the other, so that today's and tomorrow's hearings reach every litigator.
    let mut cases = open.iter().copied().cycle();
    let mut next = |count: usize| -> Vec<Case> { cases.by_ref().take(count).collect() };

    for (days, count) in [(0, 10), (1, 10), (2, 4), (3, 5), (7, 4)] {
        for (n, case) in next(count).into_iter().enumerate() {
            let status = ["Scheduled", "scheduled", "Scheduled", "SCHEDULED"][n % 4];
            let id = hearing(scene, rows, &courts, case, days, status, n);
            upcoming.push(Upcoming { id, case });
        }
    }
    // Called off: nobody is to be reminded of these.
    for days in [0, 1] {
        for (case, status) in next(2).into_iter().zip(["Cancelled", "Adjourned"]) {
            hearing(scene, rows, &courts, case, days, status, 1);
        }
    }
    let made = rows.of("host.hearings").len() - before;
    for n in 0..scene.firm.size.hearings - made {
        let ahead = n.is_multiple_of(4);
        let (days, status) = if ahead {
            (
                scene.number(8, 45),
                scene.weighted(&[("Scheduled", 9), ("Adjourned", 1)]),
            )
        } else {
            (scene.number(-120, 0), scene.weighted(PAST))
        };
        let case = if !ahead && n.is_multiple_of(3) {
            scene.pick(over)
        } else {
            scene.pick(open)
        };
        hearing(scene, rows, &courts, case, days, status, n);
    }
    upcoming
}

fn hearing(
    scene: &mut Scene,
    rows: &mut Rows,
    courts: &[(Uuid, Court)],
    case: Case,
    days: i64,
    status: &str,
    n: usize,
) -> Uuid {
    let (id, kind, judge) = (scene.id(), scene.pick(KINDS), scene.pick(names::JUDGES));
    let ((hour, minute), (court_id, court)) = (SLOTS[n % SLOTS.len()], scene.pick(courts));
    rows.add(
        "host.hearings",
        json!({
            "id": id, "tenant_id": scene.firm.id, "case_id": case.id, "hearing_date": scene.at(days, hour, minute),
            // Some are only known by the court's name; some have no judge yet.
            "court_id": (n % 6 != 5).then_some(court_id), "court_name": court.0,
            "judge_name": (n % 3 != 2).then_some(judge), "status": status,
            "notes": (n.is_multiple_of(5)).then_some("Carry the paper book and the GSTR-2B reconciliation."),
            "hearing_type": kind,
        }),
    );
    id
}

fn courts(scene: &mut Scene, rows: &mut Rows) -> Vec<(Uuid, Court)> {
    let courts: Vec<_> = scene.firm.courts.iter().map(|court| (scene.id(), *court)).collect();
    for (id, (name, city, state, bench)) in &courts {
        rows.add(
            "host.courts",
            json!({
                "id": id, "tenant_id": scene.firm.id, "name": name, "city": city, "state": state,
                "bench_location": bench, "status": "Active",
            }),
        );
    }
    courts
}
