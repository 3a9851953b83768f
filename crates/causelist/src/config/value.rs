//! Reading values: from text, and into Rust's types. Errors are what was expected instead.

use std::time::Duration;

use causelist_notify::SmtpTls;
use serde::de::{Deserialize, Deserializer, Error};
use toml::Value;

/// Reads the text of a variable or flag as the type that the key's default has.
pub(super) fn from_text(text: &str, like: &Value) -> Option<Value> {
    match like {
        Value::Integer(_) => text.trim().parse().ok().map(Value::Integer),
        Value::Boolean(_) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(Value::Boolean(true)),
            "false" | "no" | "off" | "0" => Some(Value::Boolean(false)),
            _ => None,
        },
        Value::Array(_) => {
            let parts = text.split(',').map(|part| Value::String(part.trim().to_owned()));
            Some(Value::Array(parts.collect()))
        }
        _ => Some(Value::String(text.to_owned())),
    }
}

/// Whether the value has the type that the key's default has.
pub(super) fn same_type(value: &Value, like: &Value) -> bool {
    match (value, like) {
        (Value::Array(items), Value::Array(_)) => items.iter().all(Value::is_str),
        _ => value.same_type(like),
    }
}

/// What a value of that type looks like.
pub(super) fn expected(like: &Value) -> &'static str {
    match like {
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list of texts, such as [\"a\", \"b\"] (in the environment: a,b)",
        _ => "a text in quotes",
    }
}

/// How the connection to the mail server is protected.
pub(super) fn smtp_tls<'de, D: Deserializer<'de>>(value: D) -> Result<SmtpTls, D::Error> {
    match String::deserialize(value)?.as_str() {
        "starttls" => Ok(SmtpTls::StartTls),
        "implicit" => Ok(SmtpTls::Implicit),
        "none" => Ok(SmtpTls::None),
        _ => Err(D::Error::custom("`starttls`, `implicit` or `none`")),
    }
}

/// A time span.
pub(super) fn duration<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(value)?)
        .ok_or_else(|| D::Error::custom("a whole number with ms, s, m, h or d, such as \"500ms\", \"6s\" or \"2m\""))
}

/// Reads `500ms`, `6s`, `2m`, `1h`, `7d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().ok()?;
    let seconds = match unit.trim_start() {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("6s", 6_000),
            (" 2m ", 120_000),
            ("1 h", 3_600_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "6",
            "s",
            "-1s",
            "1.5s",
            "6 parsecs",
            "1m30s",
            "99999999999999999999s",
            "18446744073709551615d",
            "٣s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
