//! Arguments as JSON text: written once when a job is made, read once when it runs.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// The text of a `jsonb` value, neither parsed nor checked on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonText(pub(crate) Box<str>);

/// The version before the text in jsonb's binary form; there has only been the first.
const VERSION: u8 = 1;

impl Type<Postgres> for JsonText {
    fn type_info() -> PgTypeInfo {
        <serde_json::Value as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for JsonText {
    fn array_type_info() -> PgTypeInfo {
        <serde_json::Value as PgHasArrayType>::array_type_info()
    }
}

impl<'r> Decode<'r, Postgres> for JsonText {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let format = value.format();
        let mut bytes = value.as_bytes()?;
        if format == PgValueFormat::Binary {
            bytes = match bytes {
                [VERSION, text @ ..] => text,
                _ => return Err("jsonb of an unknown version".into()),
            };
        }
        Ok(Self(std::str::from_utf8(bytes)?.into()))
    }
}

impl Encode<'_, Postgres> for JsonText {
    fn encode_by_ref(&self, out: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        out.push(VERSION);
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

/// What is to be known of a JSON text before it is stored. The text must be JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Levels of nesting: 1 for a plain value or a flat object.
    pub(crate) depth: usize,
    /// Whether some text in it holds a NUL, which PostgreSQL can't store.
    pub(crate) nul: bool,
    pub(crate) object: bool,
}

impl Shape {
    pub(crate) fn of(text: &str) -> Self {
        let mut shape = Self {
            depth: 1,
            nul: false,
            object: text.starts_with('{'),
        };
        let (mut open, mut quoted) = (0_usize, false);
        let mut bytes = text.as_bytes();
        while let [byte, rest @ ..] = bytes {
            bytes = rest;
            match byte {
                b'"' => quoted = !quoted,
                b'\\' => {
                    shape.nul |= rest.starts_with(b"u0000");
                    // Whatever is escaped is no quote and begins no escape.
                    bytes = rest.get(1..).unwrap_or_default();
                }
                b'{' | b'[' if !quoted => {
                    open += 1;
                    // An element is a level deeper than what holds it; an empty holder has none.
                    let empty = matches!(rest.first(), Some(b'}' | b']'));
                    shape.depth = shape.depth.max(open + usize::from(!empty));
                }
                b'}' | b']' if !quoted => open = open.saturating_sub(1),
                _ => {}
            }
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shape(value: &Value) -> (usize, bool, bool) {
        let shape = Shape::of(&value.to_string());
        (shape.depth, shape.nul, shape.object)
    }

    #[test]
    fn the_shape_of_a_text_is_that_of_its_value() {
        assert_eq!(shape(&json!({})), (1, false, true));
        assert_eq!(shape(&json!({"a": 1})), (2, false, true));
        assert_eq!(shape(&json!({"a": [1, {"b": []}]})), (4, false, true));
        assert_eq!(shape(&json!([[]])), (2, false, false));
        assert_eq!(shape(&json!(7)), (1, false, false));
        assert_eq!(shape(&json!({"a": "[[[{\"\\"})), (2, false, true));
        assert_eq!(shape(&json!({"a": "x\0"})), (2, true, true));
        assert_eq!(shape(&json!({"a\0": 1})), (2, true, true));
        // A backslash and then the letters, not a NUL.
        assert_eq!(shape(&json!({"a": "\\u0000"})), (2, false, true));
        assert_eq!(shape(&json!({"a": "\\\\\0"})), (2, true, true));
    }
}
