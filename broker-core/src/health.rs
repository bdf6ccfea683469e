//! What each part of the broker says of itself.

use serde::Serialize;
use serde_json::{Map, Value};

/// The state of one part, as `GET /readyz` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartHealth {
    /// Whether the part does its work.
    pub ok: bool,
    /// Why not, and what mends it. For a part that is well, a remark, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Figures of the part, by name.
    #[serde(flatten)]
    pub detail: Map<String, Value>,
}

impl PartHealth {
    /// A part that does its work.
    pub fn well() -> Self {
        Self { ok: true, reason: None, detail: Map::new() }
    }

    /// A part that does not, and why.
    pub fn ill(reason: impl Into<String>) -> Self {
        Self { ok: false, reason: Some(reason.into()), detail: Map::new() }
    }

    /// Adds a remark without changing whether the part is well.
    #[must_use]
    pub fn remark(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Adds one figure.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }
}
