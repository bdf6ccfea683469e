//! Where new identifiers come from, and the macro that declares their newtypes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Declares an opaque string identifier with the conversions that every identifier of the crate has.
macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps the identifier as the other side spells it.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The identifier as the other side spells it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pub(crate) use string_id;

/// Where new identifiers come from: injected, so that a test or a simulation can repeat a run.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// A text that no earlier call of any process has returned.
    fn next(&self) -> String;
}

/// UUIDs of version 7: unique and in the order of their making.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    fn next(&self) -> String {
        uuid::Uuid::now_v7().simple().to_string()
    }
}

/// `1`, `2`, `3`, …: for tests.
#[derive(Debug, Default)]
pub struct CountingIds(AtomicU64);

impl IdSource for CountingIds {
    fn next(&self) -> String {
        (self.0.fetch_add(1, Ordering::Relaxed) + 1).to_string()
    }
}
