//! Clients with GSTINs that pass the check, at addresses nobody has.

use serde_json::json;
use uuid::Uuid;

use super::{gstin::gstin, names, people::People, rows::Rows, scene::Scene};

/// A client, as a case names it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) id: Uuid,
    pub(super) name: String,
}

pub(super) fn add(scene: &mut Scene, rows: &mut Rows, people: &People) -> Vec<Client> {
    let kinds: Vec<(&str, &str)> = names::CLIENT_FIRST
        .iter()
        .flat_map(|first| names::CLIENT_TRADE.iter().map(move |trade| (*first, *trade)))
        .collect();
    let mut clients = Vec::new();
    for (n, (first, trade)) in scene.draw(&kinds, scene.firm.size.clients).into_iter().enumerate() {
        let (form, holder) = scene.pick(names::CLIENT_FORM);
        let home = names::STATES
            .iter()
            .find(|(state, ..)| *state == scene.firm.state)
            .copied();
        let (state, code, cities) = match home {
            Some(home) if scene.chance(60) => home,
            _ => scene.pick(names::STATES),
        };
        let pan = pan(scene, holder);
        let name = format!("{first} {trade} {form}");
        // Every sixth has given no address, every other sixth an empty one.
        let email = match n % 12 {
            2 => None,
            8 => Some(String::new()),
            _ => Some(format!("tax.{}.{n}@example.com", first.to_lowercase())),
        };
        let (id, city, owner) = (scene.id(), scene.pick(cities), scene.pick(&people.owners));
        rows.add(
            "host.clients",
            json!({
                "id": id, "tenant_id": scene.firm.id, "display_name": name, "gstin": gstin(code, &pan, '1'),
                "email": email, "phone": format!("+91 00000 5{n:04}"), "city": city, "state": state,
                "status": if n % 17 == 16 { "Inactive" } else { "Active" }, "owner_id": owner,
            }),
        );
        clients.push(Client { id, name });
    }
    clients
}

/// A PAN that nobody has: they are given out from AAA on, and ZZ is far from being reached.
fn pan(scene: &mut Scene, holder: char) -> String {
    let letter = |scene: &mut Scene| char::from(b'A' + u8::try_from(scene.number(0, 26)).unwrap_or(0));
    let (third, fifth, last) = (letter(scene), letter(scene), letter(scene));
    format!("ZZ{third}{holder}{fifth}{:04}{last}", scene.number(1, 10_000))
}

#[cfg(test)]
mod tests {
    use super::super::gstin::check_character;
    use super::*;
    use crate::demo::firm::TENANTS;

    #[test]
    fn gstins_pass_the_check_and_carry_their_state() {
        let now = "2026-11-23T06:30:00Z".parse().unwrap();
        for firm in TENANTS {
            let mut scene = Scene::new(firm, now, 7);
            let mut rows = Rows::default();
            let people = People {
                owners: vec![firm.id],
                ..People::default()
            };
            add(&mut scene, &mut rows, &people);
            for row in rows.of("host.clients") {
                let (gstin, state) = (row["gstin"].as_str().unwrap(), row["state"].as_str().unwrap());
                assert_eq!(check_character(&gstin[..14]), gstin.chars().last(), "{gstin}");
                let code = names::STATES.iter().find(|(name, ..)| *name == state).unwrap().1;
                assert!(gstin.starts_with(code), "{gstin} in {state}");
            }
        }
    }
}
