//! GST identification numbers: two digits of state code, the ten characters of the PAN, one for the
//! how-many-eth registration of that PAN in the state, a `Z`, and a check character.

const ALPHABET: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// The check character of the first 14 characters of a GSTIN: a weighted sum in base 36, as the
/// GST network publishes it. None when `body` isn't 14 digits and capital letters.
pub(super) fn check_character(body: &str) -> Option<char> {
    if body.len() != 14 {
        return None;
    }
    let mut sum = 0;
    for (at, byte) in body.bytes().enumerate() {
        let value = ALPHABET.iter().position(|a| *a == byte)?;
        let product = if at % 2 == 0 { value } else { value * 2 };
        sum += product / 36 + product % 36;
    }
    Some(char::from(ALPHABET[(36 - sum % 36) % 36]))
}

/// The GSTIN of a state code, a PAN and a registration's ordinal; None as for [`check_character`].
pub(super) fn gstin(state_code: &str, pan: &str, ordinal: char) -> Option<String> {
    let body = format!("{state_code}{pan}{ordinal}Z");
    let check = check_character(&body)?;
    Some(format!("{body}{check}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_published_numbers() {
        // The examples in the documentation of python-stdnum's in_.gstin, and one PAN in two states.
        for known in ["27AAPFU0939F1ZV", "29AAGCB7383J1Z4", "07AAPFU0939F1ZX"] {
            assert_eq!(check_character(&known[..14]), known.chars().last(), "{known}");
        }
        assert_eq!(gstin("27", "AAPFU0939F", '1').as_deref(), Some("27AAPFU0939F1ZV"));
    }

    #[test]
    fn a_changed_character_changes_the_check() {
        assert_ne!(check_character("27AAPFU0938F1Z"), Some('V'));
        assert_ne!(check_character("72AAPFU0939F1Z"), Some('V'));
    }

    #[test]
    fn refuses_what_is_no_gstin() {
        for bad in [
            "",
            "27AAPFU0939F1",
            "27aapfu0939f1z",
            "27AAPFU0939F1ZV",
            "27AAPFU0939F1é",
        ] {
            assert_eq!(check_character(bad), None, "{bad}");
        }
    }
}
