//! Showing values without their secrets.

use toml::Value;

const SECRETS: [&str; 2] = ["mail.smtp_password", "links.secret"];
const HIDDEN: &str = "[redacted]";
/// Longer values are cut: they are shown in messages of one line.
const LONGEST: usize = 200;

/// The value as TOML; of a secret, only that there is one.
pub(super) fn shown(key: &str, value: &Value) -> String {
    if let Value::String(text) = value {
        if text.is_empty() {
            return "\"\"".to_owned();
        }
        if SECRETS.contains(&key) {
            return HIDDEN.to_owned();
        }
        if key == "database.url" {
            return without_password(text).map_or(HIDDEN.to_owned(), |url| format!("\"{url}\""));
        }
    } else if SECRETS.contains(&key) || key == "database.url" {
        return HIDDEN.to_owned();
    }
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The URL with its passwords replaced, or `None` if it is not clear where they are. Passwords are
/// often not escaped as they should be: everything up to the last `@` counts as login.
fn without_password(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.starts_with("postgres") {
        return None;
    }
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    };
    let login = login.map_or(String::new(), |login| match login.split_once(':') {
        Some((user, _)) => format!("{user}:{HIDDEN}@"),
        None => format!("{login}@"),
    });
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    let query = query.map_or(String::new(), |query| {
        let pairs: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, _)) if name.contains("pass") => format!("{name}={HIDDEN}"),
                _ => pair.to_owned(),
            })
            .collect();
        format!("?{}", pairs.join("&"))
    });
    Some(format!("{scheme}://{login}{place}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        let url = |text: &str| shown("database.url", &Value::String(text.to_owned()));
        assert_eq!(url("postgres://a:s3c@h:5432/d"), "\"postgres://a:[redacted]@h:5432/d\"");
        assert_eq!(url("postgresql://h/d"), "\"postgresql://h/d\"");
        assert_eq!(
            url("postgres://a@h/d?sslmode=require"),
            "\"postgres://a@h/d?sslmode=require\""
        );
        for hidden in [
            url("postgres://a:s3c@h/d?x=1&password=s3c&sslpassword=s3c"),
            url("postgres://a:s3c@s3c/s3c?s3c@h/d"),
            url("mysql://s3c@h"),
            url("s3c"),
            shown("database.url", &Value::Integer(1)),
            shown("links.secret", &Value::String("s3c".to_owned())),
            shown(
                "mail.smtp_password",
                &Value::Array(vec![Value::String("s3c".to_owned())]),
            ),
        ] {
            assert!(!hidden.contains("s3c") && hidden.contains("[redacted]"), "{hidden}");
        }
        assert_eq!(
            shown("links.secret", &Value::String(String::new())),
            "\"\"",
            "shows that there is none"
        );
    }

    #[test]
    fn long_values_are_cut() {
        let shown = shown("worker.queues", &Value::String("ä".repeat(1000)));
        assert_eq!(shown.chars().count(), LONGEST + 1);
    }
}
