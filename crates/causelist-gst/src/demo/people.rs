//! Members in all roles, and how each wants to be told.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{names, rows::Rows, scene::Scene};

/// The firm's people, as the rest of the demo refers to them.
#[derive(Debug, Default)]
pub(super) struct People {
    /// Partners and managers: they own cases.
    pub(super) owners: Vec<Uuid>,
    /// Everybody who works on cases, owners included.
    pub(super) litigators: Vec<Uuid>,
    /// Staff and clerks.
    pub(super) helpers: Vec<Uuid>,
    /// Of the client's own people.
    pub(super) client_users: Vec<Uuid>,
}

/// A role in the application, in the staff list, and what the card says.
type Role = (&'static str, &'static str, &'static str, &'static str);

const PARTNER: Role = ("partner", "Partner", "Partner, Indirect Tax", "Litigation");
const ADMIN: Role = ("admin", "Admin", "Practice Administrator", "Administration");
const MANAGER: Role = ("manager", "Manager", "Litigation Manager", "Litigation");
const CA: Role = ("ca", "CA", "Chartered Accountant", "Compliance");
const ADVOCATE: Role = ("advocate", "Advocate", "Advocate", "Litigation");
const STAFF: Role = ("staff", "Staff", "Article Assistant", "Compliance");
const CLERK: Role = ("clerk", "Staff", "Court Clerk", "Filing");

pub(super) fn add(scene: &mut Scene, rows: &mut Rows) -> People {
    let size = scene.firm.size;
    let staff: Vec<Role> = [
        (PARTNER, size.partners),
        (MANAGER, size.managers),
        (CA, size.cas),
        (ADVOCATE, size.advocates),
        (STAFF, size.staff),
        (CLERK, 1),
        (ADMIN, 1),
    ]
    .into_iter()
    .flat_map(|(role, count)| std::iter::repeat_n(role, count))
    .collect();
    let everybody = staff.len() + size.client_users;
    let first = scene.draw(names::FIRST, everybody);
    let last = scene.draw(names::LAST, everybody);
    let ids: Vec<Uuid> = (0..everybody).map(|_| scene.id()).collect();

    let mut people = People::default();
    let (partner, manager) = (ids[0], ids[size.partners]);
    for (n, id) in ids.iter().copied().enumerate() {
        let name = format!("{} {}", first[n], last[n]);
        let Some((role, position, designation, department)) = staff.get(n).copied() else {
            profile(scene, rows, id, n, &name, "Head of Taxation");
            user_role(scene, rows, id, "client", true);
            people.client_users.push(id);
            continue;
        };
        profile(scene, rows, id, n, &name, designation);
        let boss = match role {
            "partner" => None,
            "manager" | "admin" => Some(partner),
            _ => Some(manager),
        };
        // The last of the staff has left, and their role with them.
        let left = role == "staff" && people.helpers.len() + 1 == size.staff && size.staff > 1;
        let official = format!("{}@example.in", mailbox(&name));
        // People without an official address have a private one; one litigator of each firm has
        // none at all, which a NOT NULL column shows as an empty string.
        let (email, official_email) = match n % 7 {
            5 => (String::new(), None),
            3 => (format!("{}@example.com", mailbox(&name)), None),
            _ => (format!("{}@example.com", mailbox(&name)), Some(official)),
        };
        rows.add(
            "host.employees",
            json!({
                "id": id, "tenant_id": scene.firm.id, "employee_code": format!("{}-{:03}", scene.firm.code, n + 1),
                "full_name": name, "email": email, "official_email": official_email, "mobile": phone(scene, n),
                "role": position, "department": department, "status": if left { "Inactive" } else { "Active" },
                "manager_id": boss, "reporting_to": boss.map(|_| partner), "whatsapp_access": n.is_multiple_of(3),
                "weekly_off_days": if n % 5 == 4 { json!(["Saturday", "Sunday"]) } else { json!(["Sunday"]) },
            }),
        );
        user_role(scene, rows, id, role, !left);
        match role {
            "partner" | "manager" => {
                people.owners.push(id);
                people.litigators.push(id);
            }
            "ca" | "advocate" => people.litigators.push(id),
            "staff" | "clerk" if !left => people.helpers.push(id),
            _ => {}
        }
    }
    // A managing partner who also keeps the system.
    user_role(scene, rows, partner, "admin", true);

    for (n, user) in people.litigators.iter().enumerate() {
        let row = preferences(scene, *user, n);
        rows.add("host.notification_preferences", row);
    }
    // Clerks want calm at night; administrators and staff have no row, hence the defaults.
    if let Some(clerk) = people.helpers.last() {
        let row = preferences(scene, *clerk, 9);
        rows.add("host.notification_preferences", row);
    }
    people
}

/// Over any eight litigators in a row, each combination of e-mail, in-app and hearing reminders
/// occurs, and each of e-mail, in-app and task reminders; the days and quiet hours vary beside them.
fn preferences(scene: &mut Scene, user: Uuid, n: usize) -> Value {
    let (email, in_app, hearings) = (n & 1 == 0, n & 2 == 0, n & 4 == 0);
    let days = match n % 8 {
        0 => json!([3, 1, 0]),
        2 => json!([0]),
        5 => json!([]),
        6 => json!([1]),
        _ => json!([1, 0]),
    };
    let quiet = match n % 8 {
        // Over midnight, and still quiet when reminders go out at eight.
        1 | 2 => Some(("22:00", "08:30")),
        3 => Some(("13:00", "14:00")),
        4 => Some(("21:30", "07:00")),
        _ => None,
    };
    json!({
        "id": scene.id(), "tenant_id": scene.firm.id, "user_id": user,
        "email_enabled": email, "sms_enabled": n % 3 == 1, "whatsapp_enabled": n.is_multiple_of(3), "in_app_enabled": in_app,
        "hearing_reminders": hearings, "task_reminders": (email == in_app) == hearings,
        "reminder_days": days,
        "quiet_hours_start": quiet.map(|(start, _)| start), "quiet_hours_end": quiet.map(|(_, end)| end),
    })
}

fn profile(scene: &Scene, rows: &mut Rows, id: Uuid, n: usize, name: &str, designation: &str) {
    rows.add("host.profiles", json!({
        "id": id, "tenant_id": scene.firm.id, "full_name": name, "phone": phone(scene, n), "designation": designation,
    }));
}

fn user_role(scene: &mut Scene, rows: &mut Rows, user: Uuid, role: &str, is_active: bool) {
    let id = scene.id();
    rows.add(
        "host.user_roles",
        json!({ "id": id, "user_id": user, "role": role, "is_active": is_active }),
    );
}

/// Numbers that nobody has: no Indian number begins with a zero.
fn phone(scene: &Scene, n: usize) -> String {
    format!("+91 00000 {}{:04}", scene.firm.id.as_bytes()[15] % 10, n)
}

fn mailbox(name: &str) -> String {
    name.to_lowercase().replace('\'', "").replace(' ', ".")
}
