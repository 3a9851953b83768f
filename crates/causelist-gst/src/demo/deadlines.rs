//! Statutory deadlines and the holidays that days are counted around.

use chrono::{Datelike, NaiveDate};
use serde_json::json;
use uuid::Uuid;

use super::{cases::Case, rows::Rows, scene::Scene};

/// Code, name, where it's written, days from the event.
const EVENTS: &[(&str, &str, &str, i64)] = &[
    (
        "DRC06_REPLY",
        "Reply to show cause notice (DRC-06)",
        "CGST Act s. 73(9)/74(9), Rule 142(4)",
        30,
    ),
    (
        "ASMT11_REPLY",
        "Reply to scrutiny notice (ASMT-11)",
        "CGST Act s. 61, Rule 99(2)",
        30,
    ),
    (
        "DRC01A_PARTB",
        "Submission on intimation (DRC-01A Part B)",
        "CGST Rule 142(2A)",
        15,
    ),
    (
        "REG18_REPLY",
        "Reply to cancellation notice (REG-18)",
        "CGST Rule 22(2)",
        7,
    ),
    (
        "RFD09_REPLY",
        "Reply to refund rejection notice (RFD-09)",
        "CGST Rule 92(3)",
        15,
    ),
    ("APL01_APPEAL", "First appeal (APL-01)", "CGST Act s. 107(1)", 90),
    (
        "APL05_APPEAL",
        "Appeal to the Appellate Tribunal (APL-05)",
        "CGST Act s. 112(1)",
        90,
    ),
    (
        "MOV_REPLY",
        "Reply to detention notice (MOV-07)",
        "CGST Act s. 129(3)",
        7,
    ),
];

pub(super) fn add(scene: &mut Scene, rows: &mut Rows, open: &[Case]) {
    let events: Vec<(Uuid, i64)> = EVENTS.iter().map(|event| (scene.id(), event.3)).collect();
    for ((id, _), (code, name, reference, _)) in events.iter().zip(EVENTS) {
        rows.add(
            "host.statutory_event_types",
            json!({
                "id": id, "tenant_id": scene.firm.id, "code": code, "name": name, "legal_reference": reference,
            }),
        );
    }
    let mut turn = 20;
    let mut deadline = |scene: &mut Scene, calculated: i64, extension: Option<i64>, status: &str| {
        let (event, days) = events[turn % events.len()];
        let (id, case) = (scene.id(), open[turn % open.len()]);
        turn += 1;
        rows.add(
            "host.case_statutory_deadlines",
            json!({
                "id": id, "tenant_id": scene.firm.id, "case_id": case.id, "event_type_id": event,
                "base_date": scene.day(calculated - days), "calculated_deadline": scene.day(calculated),
                "extension_deadline": extension.map(|to| scene.day(to)), "status": status,
            }),
        );
    };
    for days in [7, 3, 1, 0] {
        deadline(scene, days, None, "pending");
        deadline(scene, days, None, "pending");
        // Extended to such a day, and extended away from it.
        deadline(scene, days - 15, Some(days), "pending");
        deadline(scene, days, Some(days + 20), "pending");
        deadline(scene, days, None, "completed");
    }
    for days in [-9, -2, 2, 4, 5, 6, 8, 14, 21, 30, 45] {
        let status = if days < 0 { "completed" } else { "pending" };
        deadline(scene, days, None, status);
    }
    holidays(scene, rows);
}

/// Fixed by the calendar, every year.
const EVERY_YEAR: &[(u32, u32, &str, &str)] = &[
    (1, 26, "Republic Day", "ALL"),
    (8, 15, "Independence Day", "ALL"),
    (10, 2, "Gandhi Jayanti", "ALL"),
    (12, 25, "Christmas", "ALL"),
    (2, 19, "Chhatrapati Shivaji Maharaj Jayanti", "Maharashtra"),
    (4, 14, "Dr. Ambedkar Jayanti", "Maharashtra"),
    (5, 1, "Maharashtra Day", "Maharashtra"),
    (5, 1, "May Day", "Karnataka"),
    (11, 1, "Kannada Rajyotsava", "Karnataka"),
];

/// Fixed by the moon: as notified for 2026.
const IN_2026: &[(u32, u32, &str, &str)] = &[
    (3, 4, "Holi", "ALL"),
    (3, 21, "Id-ul-Fitr", "ALL"),
    (3, 26, "Ram Navami", "ALL"),
    (3, 31, "Mahavir Jayanti", "ALL"),
    (4, 3, "Good Friday", "ALL"),
    (5, 1, "Buddha Purnima", "ALL"),
    (5, 27, "Id-ul-Zuha (Bakrid)", "ALL"),
    (6, 26, "Muharram", "ALL"),
    (8, 26, "Milad-un-Nabi", "ALL"),
    (9, 4, "Janmashtami", "ALL"),
    (10, 20, "Dussehra", "ALL"),
    (11, 8, "Diwali", "ALL"),
    (11, 24, "Guru Nanak Jayanti", "ALL"),
    (3, 19, "Gudi Padwa", "Maharashtra"),
    (9, 14, "Ganesh Chaturthi", "Maharashtra"),
    (3, 19, "Ugadi", "Karnataka"),
    (4, 20, "Basava Jayanti", "Karnataka"),
    (9, 14, "Varasiddhi Vinayaka Vrata", "Karnataka"),
    (11, 27, "Kanakadasa Jayanti", "Karnataka"),
    (10, 26, "Maharishi Valmiki Jayanti", "Delhi"),
];

/// Every firm knows every state's holidays: it has matters in all of them.
fn holidays(scene: &mut Scene, rows: &mut Rows) {
    let this = scene.today.year();
    let moon = IN_2026.iter().map(|day| (2026, day));
    // 2026 even when it's past: what a stored deadline was counted with.
    let years = (2026.min(this)..=this.max(2026) + 1).flat_map(|year| EVERY_YEAR.iter().map(move |day| (year, day)));
    for (year, (month, day, name, state)) in years.chain(moon) {
        let Some(date) = NaiveDate::from_ymd_opt(year, *month, *day) else {
            continue;
        };
        let id = scene.id();
        rows.add(
            "host.holidays",
            json!({
                "id": id, "tenant_id": scene.firm.id, "date": date, "name": name,
                "type": if *state == "ALL" { "national" } else { "state" }, "state": state, "is_active": true,
            }),
        );
    }
}
