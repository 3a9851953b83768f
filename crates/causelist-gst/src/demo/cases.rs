//! Cases, from the scrutiny notice to the tribunal, and the documents in them.

use chrono::{Datelike, Duration};
use serde_json::json;
use uuid::Uuid;

use super::{clients::Client, people::People, rows::Rows, scene::Scene};

/// A case, as hearings, tasks and deadlines refer to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) id: Uuid,
    /// Position among the firm's cases, from which its number is made.
    pub(super) ordinal: usize,
    pub(super) matter: &'static Matter,
    pub(super) assigned_to: Option<Uuid>,
}

/// A kind of matter: the form it began with, what it's about, the stage it's in.
#[derive(Debug)]
pub(super) struct Matter {
    pub(super) form: &'static str,
    pub(super) subject: &'static str,
    pub(super) stage: &'static str,
}

const fn matter(form: &'static str, stage: &'static str, subject: &'static str) -> Matter {
    Matter { form, subject, stage }
}

const MATTERS: &[Matter] = &[
    matter(
        "ASMT-10",
        "SCRUTINY",
        "scrutiny of returns, GSTR-3B against GSTR-2B mismatch",
    ),
    matter(
        "ASMT-10",
        "SCRUTINY",
        "scrutiny of returns, turnover in GSTR-9 against Form 26AS",
    ),
    matter(
        "DRC-01A",
        "PRE_NOTICE",
        "intimation before notice, ITC reversal under Rule 42/43",
    ),
    matter(
        "DRC-01A",
        "PRE_NOTICE",
        "intimation before notice, ITC beyond Rule 36(4)",
    ),
    matter("DRC-01", "ADJUDICATION", "SCN u/s 73, short payment of tax on advances"),
    matter(
        "DRC-01",
        "ADJUDICATION",
        "SCN u/s 73, ITC on ineligible inward supplies u/s 17(5)",
    ),
    matter(
        "DRC-01",
        "ADJUDICATION",
        "SCN u/s 74, ITC on invoices of cancelled suppliers",
    ),
    matter("DRC-01", "ADJUDICATION", "SCN u/s 74, classification under HSN 3920"),
    matter(
        "ADT-02",
        "AUDIT",
        "audit findings u/s 65, RCM on legal and GTA services",
    ),
    matter(
        "MOV-07",
        "DETENTION",
        "detention u/s 129, e-way bill expired in transit",
    ),
    matter(
        "REG-17",
        "REGISTRATION",
        "notice to cancel registration, returns not filed",
    ),
    matter(
        "REG-31",
        "REGISTRATION",
        "suspension of registration, outward supply mismatch",
    ),
    matter("RFD-01", "REFUND", "refund of accumulated ITC, inverted duty structure"),
    matter(
        "RFD-08",
        "REFUND",
        "notice to reject refund, zero-rated supply without LUT",
    ),
    matter(
        "DRC-07",
        "ORDER",
        "order in original u/s 73, demand with interest and penalty",
    ),
    matter(
        "APL-01",
        "FIRST_APPEAL",
        "appeal u/s 107, denial of transitional credit",
    ),
    matter(
        "APL-01",
        "FIRST_APPEAL",
        "appeal u/s 107, valuation of composite supply",
    ),
    matter("APL-05", "TRIBUNAL", "appeal to GSTAT u/s 112, ITC and Rule 36(4)"),
    matter("WP", "HIGH_COURT", "writ, credit ledger blocked under Rule 86A"),
];

/// Open cases first, then those that are over.
pub(super) fn add(scene: &mut Scene, rows: &mut Rows, people: &People, clients: &[Client]) -> (Vec<Case>, Vec<Case>) {
    let count = scene.firm.size.cases;
    let open_count = count * 7 / 10;
    let (mut open, mut over) = (Vec::new(), Vec::new());
    for ordinal in 0..count {
        let is_open = ordinal < open_count;
        let matter = &MATTERS[ordinal % MATTERS.len()];
        let client = &clients[ordinal % clients.len()];
        let mut owner = Some(people.owners[ordinal % people.owners.len()]);
        let mut assigned_to = Some(people.litigators[ordinal % people.litigators.len()]);
        match ordinal {
            // One person in two parts, and parts that nobody has.
            3 => assigned_to = owner,
            7 => owner = None,
            13 => assigned_to = None,
            _ => {}
        }
        let (id, opened) = (scene.id(), scene.minutes(-60 * 24 * 500, -60 * 24 * 40));
        let completed_at = (!is_open).then(|| scene.minutes(-60 * 24 * 38, -60));
        let status = if is_open {
            scene.weighted(&[("open", 4), ("Active", 4), ("Open", 1), ("ACTIVE", 1)])
        } else {
            scene.weighted(&[("Completed", 4), ("completed", 1), ("COMPLETED", 1)])
        };
        let priority = scene.weighted(&[("Critical", 1), ("High", 3), ("Medium", 5), ("Low", 2)]);
        let reply_due = scene.number(-20, 45);
        let year = opened.year();
        rows.add("host.cases", json!({
            "id": id, "tenant_id": scene.firm.id, "case_number": number(scene, matter, ordinal),
            "title": format!("{}: {} ({}, FY {}-{:02})", client.name, matter.subject, matter.form, year - 2, (year - 1) % 100),
            // One matter of the firm's own.
            "client_id": (ordinal != 15).then_some(client.id),
            "stage_code": if is_open { matter.stage } else { "CLOSED" }, "status": status, "priority": priority,
            "assigned_to": assigned_to, "owner_id": owner, "reply_due_date": scene.day(reply_due),
            "completed_at": completed_at, "created_at": opened,
            "updated_at": completed_at.unwrap_or(scene.now - Duration::hours(5)),
        }));
        let case = Case {
            id,
            ordinal,
            matter,
            assigned_to,
        };
        if is_open { open.push(case) } else { over.push(case) }
    }
    documents(scene, rows, &open);
    (open, over)
}

/// The number of a case, unique in its firm.
pub(super) fn number(scene: &Scene, matter: &Matter, ordinal: usize) -> String {
    let year = scene.today.year() % 100;
    format!(
        "{}/{}/{}-{}/{:04}",
        scene.firm.code,
        matter.form,
        year - 1,
        year,
        ordinal + 1
    )
}

fn documents(scene: &mut Scene, rows: &mut Rows, cases: &[Case]) {
    for _ in 0..scene.firm.size.documents {
        let (id, case, created_at) = (scene.id(), scene.pick(cases), scene.minutes(-60 * 24 * 300, -30));
        rows.add(
            "host.documents",
            json!({
                "id": id, "tenant_id": scene.firm.id, "case_id": case.id, "created_at": created_at,
            }),
        );
    }
}
