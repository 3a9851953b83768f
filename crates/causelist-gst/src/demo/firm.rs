//! The three firms of the demo.

use chrono_tz::Tz;
use uuid::Uuid;

/// A tenant of the demo practice. Its id is the same whatever the seed.
#[derive(Debug, Clone, Copy)]
pub struct DemoTenant {
    /// The tenant's id.
    pub id: Uuid,
    /// The firm's name.
    pub name: &'static str,
    /// The zone it works in.
    pub zone: Tz,
    /// The state whose holidays it keeps.
    pub state: &'static str,
    /// Begins employee codes and case numbers.
    pub(super) code: &'static str,
    pub(super) tier: &'static str,
    pub(super) courts: &'static [Court],
    pub(super) size: Size,
}

/// A court or authority: name, city, state, bench.
pub(super) type Court = (&'static str, &'static str, &'static str, &'static str);

/// How much of everything a firm has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) partners: usize,
    pub(super) managers: usize,
    pub(super) cas: usize,
    pub(super) advocates: usize,
    pub(super) staff: usize,
    pub(super) client_users: usize,
    pub(super) clients: usize,
    pub(super) cases: usize,
    pub(super) hearings: usize,
    pub(super) tasks: usize,
    pub(super) documents: usize,
}

/// The demo's tenants: two in India, in different states; one abroad, in a zone with daylight
/// saving, that handles matters in Delhi.
pub const TENANTS: [DemoTenant; 3] = [
    DemoTenant {
        id: Uuid::from_u128(0x0c05_1157_0000_4000_8000_0000_0000_0001),
        name: "Sahyadri Tax Chambers LLP",
        zone: Tz::Asia__Kolkata,
        state: "Maharashtra",
        code: "STC",
        tier: "enterprise",
        courts: &[
            ("GSTAT State Bench, Mumbai", "Mumbai", "Maharashtra", "Mumbai"),
            ("GSTAT State Bench, Pune", "Pune", "Maharashtra", "Pune"),
            ("GSTAT Principal Bench", "New Delhi", "Delhi", "New Delhi"),
            ("High Court of Bombay", "Mumbai", "Maharashtra", "Principal Seat"),
            ("High Court of Bombay at Nagpur", "Nagpur", "Maharashtra", "Nagpur"),
            (
                "Commissioner (Appeals-I), CGST Mumbai",
                "Mumbai",
                "Maharashtra",
                "Bandra-Kurla Complex",
            ),
            (
                "Joint Commissioner (Appeals), SGST Pune",
                "Pune",
                "Maharashtra",
                "Yerwada",
            ),
            (
                "Additional Commissioner, CGST Mumbai East",
                "Mumbai",
                "Maharashtra",
                "Parel",
            ),
            (
                "Deputy Commissioner of State Tax, Thane",
                "Thane",
                "Maharashtra",
                "Thane",
            ),
            (
                "Authority for Advance Ruling, Maharashtra",
                "Mumbai",
                "Maharashtra",
                "Mazgaon",
            ),
        ],
        size: Size {
            partners: 2,
            managers: 2,
            cas: 2,
            advocates: 4,
            staff: 2,
            client_users: 2,
            clients: 40,
            cases: 160,
            hearings: 120,
            tasks: 1200,
            documents: 400,
        },
    },
    DemoTenant {
        id: Uuid::from_u128(0x0c05_1157_0000_4000_8000_0000_0000_0002),
        name: "Kaveri Indirect Tax Advisors",
        zone: Tz::Asia__Kolkata,
        state: "Karnataka",
        code: "KIT",
        tier: "professional",
        courts: &[
            ("GSTAT State Bench, Bengaluru", "Bengaluru", "Karnataka", "Bengaluru"),
            ("GSTAT Principal Bench", "New Delhi", "Delhi", "New Delhi"),
            ("High Court of Karnataka", "Bengaluru", "Karnataka", "Principal Bench"),
            ("High Court of Karnataka, Dharwad", "Dharwad", "Karnataka", "Dharwad"),
            (
                "Commissioner (Appeals-II), CGST Bengaluru",
                "Bengaluru",
                "Karnataka",
                "Queens Road",
            ),
            (
                "Joint Commissioner of Commercial Taxes (Appeals-3)",
                "Bengaluru",
                "Karnataka",
                "Shanthinagar",
            ),
            (
                "Deputy Commissioner of Commercial Taxes (Audit-2.4)",
                "Mysuru",
                "Karnataka",
                "Mysuru",
            ),
            (
                "Superintendent, CGST Mangaluru Range",
                "Mangaluru",
                "Karnataka",
                "Mangaluru",
            ),
        ],
        size: Size {
            partners: 2,
            managers: 1,
            cas: 2,
            advocates: 4,
            staff: 1,
            client_users: 1,
            clients: 35,
            cases: 140,
            hearings: 100,
            tasks: 1050,
            documents: 320,
        },
    },
    DemoTenant {
        id: Uuid::from_u128(0x0c05_1157_0000_4000_8000_0000_0000_0003),
        name: "Albion India Desk",
        zone: Tz::Europe__London,
        state: "Delhi",
        code: "AID",
        tier: "standard",
        courts: &[
            ("GSTAT Principal Bench", "New Delhi", "Delhi", "New Delhi"),
            ("High Court of Delhi", "New Delhi", "Delhi", "New Delhi"),
            ("Supreme Court of India", "New Delhi", "Delhi", "New Delhi"),
            (
                "Commissioner (Appeals-I), CGST Delhi",
                "New Delhi",
                "Delhi",
                "IP Estate",
            ),
            (
                "Additional Commissioner, CGST Delhi South",
                "New Delhi",
                "Delhi",
                "IP Estate",
            ),
            (
                "Special Commissioner (Appeals), Delhi SGST",
                "New Delhi",
                "Delhi",
                "ITO",
            ),
        ],
        size: Size {
            partners: 1,
            managers: 1,
            cas: 2,
            advocates: 4,
            staff: 1,
            client_users: 1,
            clients: 25,
            cases: 100,
            hearings: 80,
            tasks: 750,
            documents: 200,
        },
    },
];
