//! The messages' texts: what each template needs, and how it is rendered.
//!
//! A ledger row names its template and carries its `data`, a JSON object with the fields below;
//! texts are made at hand-off. A field that is missing, null or of another type rejects the message,
//! with a reason that names template and field (never a value). Fields marked `?` may be absent or
//! null. Fields that are not listed are ignored. All times are the reader's local words: the job that
//! reserves the message knows the tenant's zone, templates don't.
//!
//! `hearing-reminder` (subject `Hearing Reminder: <caseNumber> - <courtName>`)
//!
//! | field | type | what |
//! | --- | --- | --- |
//! | `caseNumber`, `caseTitle` | text | the case |
//! | `courtName` | text | the court; say "Court to be confirmed" when none is known |
//! | `courtCity` | text? | its city |
//! | `judge` | text? | "to be assigned" when absent |
//! | `clientName` | text | the client's display name |
//! | `hearingAt` | text | the instant, ISO 8601 with offset |
//! | `localDate`, `localTime` | text | as the reader writes them: "Wed, 15 Jan 2025", "10:30 AM IST" |
//! | `when` | text | "today", "tomorrow", "in 3 days" |
//! | `recipientName`, `firmName` | text | who is addressed, by which firm |
//! | `internal` | flag? | whether it goes to a member, who is shown the firm's checklist |
//!
//! `deadline-digest`
//!
//! | field | type | what |
//! | --- | --- | --- |
//! | `recipientName`, `firmName` | text | who is addressed, by which firm |
//! | `localDate` | text | the day of the digest |
//! | `highPriority`, `normalPriority` | list | lines in the order to be shown; either may be empty |
//!
//! each line:
//!
//! | field | type | what |
//! | --- | --- | --- |
//! | `entityType` | word | `task`, `hearing` or `statutory_deadline` (`[a-z_]`, at most 40) |
//! | `entityId` | uuid | what the links act on |
//! | `title` | text | the task's title, "Hearing", the statutory event's name |
//! | `caseNumber` | text? | |
//! | `dueWords` | text | "Today 5:00 PM", "Tomorrow 10:30 AM", "in 3 days (18 Jan 2025)" |
//!
//! The links (view, reschedule, mark complete) are made when the text is: see [`crate::link`].
//!
//! `health-alert`
//!
//! | field | type | what |
//! | --- | --- | --- |
//! | `level` | text | `CRITICAL`, `WARNING`, `INFO` |
//! | `subject`, `detail` | text | one line; one paragraph |
//! | `successRate` | number? | per cent, 0 to 100 |
//! | `ruleName` | text? | |
//! | `firmName` | text | |
//!
//! `escalation`
//!
//! | field | type | what |
//! | --- | --- | --- |
//! | `taskTitle`, `priority`, `reason` | text | |
//! | `caseNumber` | text? | |
//! | `daysOverdue` | number | |
//! | `recipientName`, `firmName` | text | |

use chrono::{DateTime, Utc};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;

use crate::link::{Link, LinkSigner, Purpose, is_entity_type};

/// Longer texts are cut: a title of a megabyte must not become a mail of several.
const LONGEST_TEXT: usize = 1000;
/// Longer lists are cut, and the mail says how many more there are.
const LONGEST_LIST: usize = 200;

/// Why a message can't be rendered. Names template and field, never a value: the text is stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// No such template.
    #[error("there is no template '{0}'")]
    Unknown(String),
    /// The data doesn't fit.
    #[error("template '{template}': field '{field}' {problem}")]
    Field {
        /// The template's name.
        template: &'static str,
        /// The field, for a line of a list with its place: `highPriority[2].title`.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The engine refused.
    #[error("template '{template}' can't be rendered: {problem}")]
    Render {
        /// The template's name.
        template: &'static str,
        /// The engine's reason, without values.
        problem: String,
    },
}

/// A message's texts.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// The same as HTML.
    pub html: String,
}

/// What the links in a message are made from.
#[derive(Debug)]
pub struct LinkContext<'a> {
    /// Makes and signs them.
    pub signer: &'a LinkSigner,
    /// Whose entities.
    pub tenant: Uuid,
    /// For whom, as in the ledger.
    pub recipient: &'a str,
    /// When the message is rendered; the links' lifetime begins here.
    pub now: DateTime<Utc>,
}

/// What a field must be.
enum Want {
    Text,
    TextOrNone,
    Number,
    NumberOrNone,
    FlagOrNone,
    EntityType,
    Uuid,
    Lines(&'static [(&'static str, Want)]),
}

struct Spec {
    name: &'static str,
    fields: &'static [(&'static str, Want)],
    subject: &'static str,
    text: &'static str,
    html: &'static str,
}

const LINE: &[(&str, Want)] = &[
    ("entityType", Want::EntityType),
    ("entityId", Want::Uuid),
    ("title", Want::Text),
    ("caseNumber", Want::TextOrNone),
    ("dueWords", Want::Text),
];

const SPECS: &[Spec] = &[
    Spec {
        name: "hearing-reminder",
        fields: &[
            ("caseNumber", Want::Text),
            ("caseTitle", Want::Text),
            ("courtName", Want::Text),
            ("courtCity", Want::TextOrNone),
            ("judge", Want::TextOrNone),
            ("clientName", Want::Text),
            ("hearingAt", Want::Text),
            ("localDate", Want::Text),
            ("localTime", Want::Text),
            ("when", Want::Text),
            ("recipientName", Want::Text),
            ("firmName", Want::Text),
            ("internal", Want::FlagOrNone),
        ],
        subject: "Hearing Reminder: {{ caseNumber }} - {{ courtName }}",
        text: include_str!("../templates/hearing-reminder.txt"),
        html: include_str!("../templates/hearing-reminder.html"),
    },
    Spec {
        name: "deadline-digest",
        fields: &[
            ("recipientName", Want::Text),
            ("firmName", Want::Text),
            ("localDate", Want::Text),
            ("highPriority", Want::Lines(LINE)),
            ("normalPriority", Want::Lines(LINE)),
        ],
        subject: "Deadlines {{ localDate }}: {{ highPriorityCount }} high priority, {{ normalPriorityCount }} normal",
        text: include_str!("../templates/deadline-digest.txt"),
        html: include_str!("../templates/deadline-digest.html"),
    },
    Spec {
        name: "health-alert",
        fields: &[
            ("level", Want::Text),
            ("subject", Want::Text),
            ("detail", Want::Text),
            ("successRate", Want::NumberOrNone),
            ("ruleName", Want::TextOrNone),
            ("firmName", Want::Text),
        ],
        subject: "[{{ level }}] {{ subject }}",
        text: include_str!("../templates/health-alert.txt"),
        html: include_str!("../templates/health-alert.html"),
    },
    Spec {
        name: "escalation",
        fields: &[
            ("taskTitle", Want::Text),
            ("caseNumber", Want::TextOrNone),
            ("priority", Want::Text),
            ("daysOverdue", Want::Number),
            ("reason", Want::Text),
            ("recipientName", Want::Text),
            ("firmName", Want::Text),
        ],
        subject: "Escalation: {% if caseNumber %}{{ caseNumber }} - {% endif %}{{ taskTitle }}",
        text: include_str!("../templates/escalation.txt"),
        html: include_str!("../templates/escalation.html"),
    },
];

/// The templates, compiled.
#[derive(Debug)]
pub struct Templates {
    env: Environment<'static>,
}

impl Templates {
    /// Compiles the templates that are part of the program.
    ///
    /// # Errors
    /// When one has a syntax error; a test makes sure that none has.
    pub fn new() -> Result<Self, TemplateError> {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()
            .map_err(|e| engine_error("(all)", &e))?;
        env.set_syntax(syntax);
        env.set_debug(false);
        for spec in SPECS {
            // Names ending in .html are escaped, the others are not: the engine's own rule.
            for (suffix, source) in [("subject", spec.subject), ("txt", spec.text), ("html", spec.html)] {
                env.add_template_owned(format!("{}.{suffix}", spec.name), source)
                    .map_err(|e| engine_error(spec.name, &e))?;
            }
        }
        Ok(Self { env })
    }

    /// Makes the texts of a ledger row.
    ///
    /// # Errors
    /// When there is no such template or the data doesn't fit it: the message can't be sent, ever.
    pub fn render(&self, template: &str, data: &Value, links: &LinkContext<'_>) -> Result<Rendered, TemplateError> {
        let spec = SPECS
            .iter()
            .find(|s| s.name == template)
            .ok_or_else(|| TemplateError::Unknown(clean(template).chars().take(64).collect()))?;
        let fields = Filling {
            template: spec.name,
            links,
        }
        .object("", data, spec.fields)?;
        let context = minijinja::Value::from(Serde(Value::Object(fields)));
        let part = |suffix: &str| {
            self.env
                .get_template(&format!("{}.{suffix}", spec.name))
                .and_then(|t| t.render(context.clone()))
                .map_err(|e| engine_error(spec.name, &e))
        };
        Ok(Rendered {
            subject: part("subject")?.trim().to_owned(),
            text: part("txt")?,
            html: part("html")?,
        })
    }
}

/// The engine's error without its detail, which may quote values.
fn engine_error(template: &'static str, error: &minijinja::Error) -> TemplateError {
    let line = error
        .line()
        .map(|l| format!(" (line {l} of {})", error.name().unwrap_or(template)));
    TemplateError::Render {
        template,
        problem: format!("{}{}", error.kind(), line.unwrap_or_default()),
    }
}

/// Turns data into what a template may use: every listed field, checked and cleaned, nothing else.
struct Filling<'a> {
    template: &'static str,
    links: &'a LinkContext<'a>,
}

impl Filling<'_> {
    fn object(&self, at: &str, data: &Value, wanted: &[(&str, Want)]) -> Result<Map<String, Value>, TemplateError> {
        let object = data.as_object().ok_or_else(|| self.wrong(at, "must be an object"))?;
        let mut out = Map::new();
        for (name, want) in wanted {
            let path = format!("{at}{name}");
            let value = object.get(*name).unwrap_or(&Value::Null);
            let filled = match (want, value) {
                (Want::TextOrNone | Want::NumberOrNone | Want::FlagOrNone, Value::Null) => Value::Null,
                (_, Value::Null) => return Err(self.wrong(&path, "is missing")),
                (Want::Text | Want::TextOrNone, Value::String(text)) => Value::String(clean(text)),
                (Want::Text | Want::TextOrNone, _) => return Err(self.wrong(&path, "must be text")),
                (Want::Number | Want::NumberOrNone, Value::Number(_)) => value.clone(),
                (Want::Number | Want::NumberOrNone, _) => {
                    return Err(self.wrong(&path, "must be a number"));
                }
                (Want::FlagOrNone, Value::Bool(_)) => value.clone(),
                (Want::FlagOrNone, _) => return Err(self.wrong(&path, "must be true or false")),
                (Want::EntityType, Value::String(text)) if is_entity_type(text) => value.clone(),
                (Want::EntityType, _) => {
                    return Err(self.wrong(&path, "must be a word of a-z and _"));
                }
                (Want::Uuid, Value::String(text)) if text.parse::<Uuid>().is_ok() => value.clone(),
                (Want::Uuid, _) => return Err(self.wrong(&path, "must be a uuid")),
                (Want::Lines(of), Value::Array(lines)) => {
                    out.insert(format!("{name}Count"), lines.len().into());
                    out.insert(format!("{name}More"), lines.len().saturating_sub(LONGEST_LIST).into());
                    self.lines(&path, lines, of)?
                }
                (Want::Lines(_), _) => return Err(self.wrong(&path, "must be a list")),
            };
            out.insert((*name).to_owned(), filled);
        }
        Ok(out)
    }

    fn lines(&self, at: &str, lines: &[Value], of: &[(&str, Want)]) -> Result<Value, TemplateError> {
        let mut out = Vec::with_capacity(lines.len().min(LONGEST_LIST));
        for (i, line) in lines.iter().take(LONGEST_LIST).enumerate() {
            let at = format!("{at}[{i}].");
            let mut line = self.object(&at, line, of)?;
            line.insert("links".to_owned(), self.links_of(&at, &line)?);
            out.push(Value::Object(line));
        }
        Ok(Value::Array(out))
    }

    fn links_of(&self, at: &str, line: &Map<String, Value>) -> Result<Value, TemplateError> {
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
        let entity_id = text("entityId")
            .parse()
            .map_err(|_| self.wrong(&format!("{at}entityId"), "must be a uuid"))?;
        let mut out = Map::new();
        for purpose in [Purpose::View, Purpose::Reschedule, Purpose::Complete] {
            let link = Link {
                purpose,
                entity_type: text("entityType").to_owned(),
                entity_id,
                tenant: self.links.tenant,
                recipient: self.links.recipient.to_owned(),
                expires: self.links.signer.expiry(self.links.now),
            };
            let url = self.links.signer.sign(&link).map_err(|e| TemplateError::Render {
                template: self.template,
                problem: e.to_string(),
            })?;
            out.insert(purpose.word().to_owned(), Value::String(url));
        }
        Ok(Value::Object(out))
    }

    fn wrong(&self, field: &str, problem: &'static str) -> TemplateError {
        let field = if field.is_empty() {
            "(data)"
        } else {
            field.trim_end_matches('.')
        };
        TemplateError::Field {
            template: self.template,
            field: field.to_owned(),
            problem,
        }
    }
}

/// A value on one line: line breaks and other control characters could forge lines (in a header even
/// headers), and direction overrides could make a text look like another. Joiners stay: Indic
/// scripts need them.
fn clean(text: &str) -> String {
    let forging = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out: String = text
        .chars()
        .take(LONGEST_TEXT)
        .map(|c| if forging(c) { ' ' } else { c })
        .collect::<String>();
    if text.chars().nth(LONGEST_TEXT).is_some() {
        out.push('…');
    }
    out.trim().to_owned()
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
