//! Places in a request body, which error responses name.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

/// A value's place in a request body: `value`, `values[3]`, `values[3][1]` or `value.temperature`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Place {
    /// The key of the body's object.
    field: Cow<'static, str>,
    /// The position in that field's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// The feature of a reading, as the request refers to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    feature: Option<Feature>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Feature {
    Number(usize),
    Name(String),
}

impl Place {
    pub(super) fn field(field: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field: field.into(),
            index: None,
            feature: None,
        }
    }

    pub(super) fn item(field: &'static str, index: usize) -> Self {
        Self {
            index: Some(index),
            ..Self::field(field)
        }
    }

    /// The place of a feature in the reading at this place, where readings are lists.
    pub(super) fn feature(&self, number: usize) -> Self {
        Self {
            feature: Some(Feature::Number(number)),
            ..self.clone()
        }
    }

    /// The place of a feature in the reading at this place, where readings are objects.
    pub(super) fn feature_name(&self, name: &str) -> Self {
        Self {
            feature: Some(Feature::Name(name.to_owned())),
            ..self.clone()
        }
    }
}

impl From<&'static str> for Place {
    fn from(field: &'static str) -> Self {
        Self::field(field)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        match &self.feature {
            None => Ok(()),
            Some(Feature::Number(number)) => write!(f, "[{number}]"),
            Some(Feature::Name(name)) => write!(f, ".{name}"),
        }
    }
}
