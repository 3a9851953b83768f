//! Links in mails that act on an entity: signed, so that nobody can make one up, and expiring.
//!
//! The signature is HMAC-SHA256 over everything before it, so that purpose, entity, tenant, reader
//! and expiry can't be exchanged. A link says who may do what; it is no proof that a person clicked:
//! mail scanners open links too. So the page behind `complete` and `reschedule` must ask before it acts.

use chrono::{DateTime, Duration, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;
use uuid::Uuid;

use crate::Secret;

/// Signed before the link's own text, so that this key's signatures mean nothing elsewhere.
const DOMAIN: &[u8] = b"causelist link 1\n";
/// Where links begin, below the base URL.
const PATH: &str = "/links/";
/// 128 bits: the least that a link's key should carry.
const LEAST_SECRET: usize = 16;

/// What a link does when opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Show the entity.
    View,
    /// Ask for another date.
    Reschedule,
    /// Mark the entity complete.
    Complete,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::View, Self::Reschedule, Self::Complete];

    /// The word that stands in the link.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Reschedule => "reschedule",
            Self::Complete => "complete",
        }
    }
}

/// What a link stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What it does.
    pub purpose: Purpose,
    /// The kind of entity, a word of `[a-z_]`.
    pub entity_type: String,
    /// Which one.
    pub entity_id: Uuid,
    /// Whose it is.
    pub tenant: Uuid,
    /// For whom the link was made: the ledger's recipient, such as `user:<uuid>`.
    pub recipient: String,
    /// When it ends, in whole seconds.
    pub expires: DateTime<Utc>,
}

/// Why a link was not made or not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// A setting can't be used.
    #[error("{setting}: {problem}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What is wrong and what to do.
        problem: &'static str,
    },
    /// A part of the link has characters that links don't carry.
    #[error("{0} of the link is not a plain word")]
    Word(&'static str),
    /// Not a link of ours, or changed on its way.
    #[error("the link is not valid: its signature does not fit")]
    Invalid,
    /// It was good once.
    #[error("the link has expired")]
    Expired,
}

/// Makes links and checks them.
#[derive(Debug, Clone)]
pub struct LinkSigner {
    base_url: String,
    secret: Secret,
    lifetime: Duration,
}

impl LinkSigner {
    /// Links below `base_url` (`https://host[/path]`), each good for `lifetime`.
    ///
    /// # Errors
    /// When the URL is not http(s) or has a query, the secret is shorter than 16 bytes, or the
    /// lifetime is not positive.
    pub fn new(base_url: &str, secret: Secret, lifetime: Duration) -> Result<Self, LinkError> {
        let base_url = base_url.trim_end_matches('/');
        let rest = base_url
            .strip_prefix("https://")
            .or_else(|| base_url.strip_prefix("http://"));
        if rest.is_none_or(|r| r.is_empty() || r.starts_with('/')) {
            return Err(LinkError::Setting {
                setting: "base URL",
                problem: "must begin with https://host or http://host",
            });
        }
        if base_url.chars().any(|c| !c.is_ascii_graphic() || "?#\"'<>".contains(c)) {
            return Err(LinkError::Setting {
                setting: "base URL",
                problem: "must have no query, fragment, quotes, spaces or letters beyond ASCII",
            });
        }
        if secret.expose().len() < LEAST_SECRET {
            return Err(LinkError::Setting {
                setting: "link secret",
                problem: "must have at least 16 bytes",
            });
        }
        if lifetime <= Duration::zero() {
            return Err(LinkError::Setting {
                setting: "link lifetime",
                problem: "must be positive",
            });
        }
        Ok(Self {
            base_url: base_url.to_owned(),
            secret,
            lifetime,
        })
    }

    /// When a link made at `now` ends.
    #[must_use]
    pub fn expiry(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now + self.lifetime
    }

    /// The link's full URL.
    ///
    /// # Errors
    /// [`LinkError::Word`] when the entity type or the recipient could not be read back.
    pub fn sign(&self, link: &Link) -> Result<String, LinkError> {
        if !is_entity_type(&link.entity_type) {
            return Err(LinkError::Word("the entity type"));
        }
        if !is_recipient(&link.recipient) {
            return Err(LinkError::Word("the recipient"));
        }
        let body = format!(
            "{PATH}{}/{}/{}?t={}&r={}&x={}",
            link.purpose.word(),
            link.entity_type,
            link.entity_id,
            link.tenant,
            // Of all that stands in a link only the colon is a character that mail programs may
            // rewrite (%3A), which would spoil the signature.
            link.recipient.replace(':', "."),
            link.expires.timestamp()
        );
        let signature = hex::encode(self.mac(&body).finalize().into_bytes());
        Ok(format!("{}{body}&s={signature}", self.base_url))
    }

    /// What a link stands for, from its path and query (`/links/…?…&s=…`) as it was requested.
    ///
    /// # Errors
    /// [`LinkError::Invalid`] or, for a link of ours that is too old at `now`, [`LinkError::Expired`].
    pub fn verify(&self, path_and_query: &str, now: DateTime<Utc>) -> Result<Link, LinkError> {
        let (body, signature) = path_and_query.rsplit_once("&s=").ok_or(LinkError::Invalid)?;
        let signature = hex::decode(signature).map_err(|_| LinkError::Invalid)?;
        // Compares in constant time.
        self.mac(body)
            .verify_slice(&signature)
            .map_err(|_| LinkError::Invalid)?;
        let link = parse(body).ok_or(LinkError::Invalid)?;
        if now >= link.expires {
            return Err(LinkError::Expired);
        }
        Ok(link)
    }

    fn mac(&self, body: &str) -> Hmac<Sha256> {
        // HMAC takes a key of any length; this type can't say so.
        #[expect(clippy::expect_used, reason = "HMAC is defined for keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.expose().as_bytes()).expect("any length is fine");
        mac.update(DOMAIN);
        mac.update(body.as_bytes());
        mac
    }
}

/// Reads a body whose signature was found good.
fn parse(body: &str) -> Option<Link> {
    let (path, query) = body.strip_prefix(PATH)?.split_once('?')?;
    let [purpose, entity_type, entity_id] = path.split('/').collect::<Vec<_>>().try_into().ok()?;
    let [tenant, recipient, expires] = query.split('&').collect::<Vec<_>>().try_into().ok()?;
    Some(Link {
        purpose: Purpose::ALL.into_iter().find(|p| p.word() == purpose)?,
        entity_type: entity_type.to_owned(),
        entity_id: entity_id.parse().ok()?,
        tenant: tenant.strip_prefix("t=")?.parse().ok()?,
        recipient: recipient.strip_prefix("r=")?.replace('.', ":"),
        expires: DateTime::from_timestamp(expires.strip_prefix("x=")?.parse().ok()?, 0)?,
    })
}

/// Whether the text can stand in a link as an entity's type.
pub(crate) fn is_entity_type(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

fn is_recipient(text: &str) -> bool {
    (1..=80).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_736_900_000 + seconds, 0).expect("is an instant")
    }

    fn signer() -> LinkSigner {
        LinkSigner::new(
            "https://jobs.example/app/",
            Secret::new("0123456789abcdef"),
            Duration::days(7),
        )
        .expect("settings are fine")
    }

    fn link() -> Link {
        Link {
            purpose: Purpose::Complete,
            entity_type: "task".to_owned(),
            entity_id: Uuid::from_u128(1),
            tenant: Uuid::from_u128(2),
            recipient: format!("user:{}", Uuid::from_u128(3)),
            expires: signer().expiry(at(0)),
        }
    }

    fn relative(url: &str) -> &str {
        url.strip_prefix("https://jobs.example/app")
            .expect("begins with the base URL")
    }

    #[test]
    fn reads_back_what_it_signed_until_it_expires() {
        let url = signer().sign(&link()).expect("is signed");
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/?&=._-".contains(&b);
        assert!(relative(&url).bytes().all(plain), "{url}");
        assert_eq!(signer().verify(relative(&url), at(0)), Ok(link()));
        assert_eq!(signer().verify(relative(&url), at(7 * 86400 - 1)), Ok(link()));
        assert_eq!(signer().verify(relative(&url), at(7 * 86400)), Err(LinkError::Expired));
    }

    #[test]
    fn every_changed_character_makes_it_invalid() {
        let url = signer().sign(&link()).expect("is signed");
        let good = relative(&url);
        for i in 0..good.len() {
            for other in ["0", "a", "/", "&", ""] {
                let changed = format!("{}{other}{}", &good[..i], &good[i + 1..]);
                if changed != good {
                    assert_eq!(signer().verify(&changed, at(0)), Err(LinkError::Invalid), "{changed}");
                }
            }
        }
        for junk in [
            "",
            "/links/",
            "&s=",
            "/links/view/task/1?t=&r=&x=&s=00",
            good.trim_end_matches(|c| c != '&'),
        ] {
            assert_eq!(signer().verify(junk, at(0)), Err(LinkError::Invalid), "{junk}");
        }
        let other = LinkSigner::new(
            "https://jobs.example/app",
            Secret::new("0123456789abcdeF"),
            Duration::days(7),
        );
        assert_eq!(
            other.expect("settings are fine").verify(good, at(0)),
            Err(LinkError::Invalid)
        );
    }

    #[test]
    fn takes_no_words_that_could_forge_another_field() {
        let forged = Link {
            recipient: "user:1&x=9999999999".to_owned(),
            ..link()
        };
        assert_eq!(signer().sign(&forged), Err(LinkError::Word("the recipient")));
        let forged = Link {
            entity_type: "task/../../x".to_owned(),
            ..link()
        };
        assert_eq!(signer().sign(&forged), Err(LinkError::Word("the entity type")));
    }

    #[test]
    fn refuses_settings_that_would_make_bad_links() {
        let new = |url: &str, secret: &str, days| LinkSigner::new(url, Secret::new(secret), Duration::days(days));
        let good = "0123456789abcdef";
        for url in [
            "",
            "jobs.example",
            "ftp://x",
            "https://",
            "https:///x",
            "https://x?y",
            "https://x\"onclick=",
            "https://ä",
        ] {
            assert!(new(url, good, 1).is_err(), "{url}");
        }
        assert!(new("https://x", "short", 1).is_err());
        assert!(new("https://x", good, 0).is_err());
        assert!(!format!("{:?}", signer()).contains("0123456789"));
    }
}
