//! What is written into a thread: Markdown as it comes, and parts as they go out.

use serde::{Deserialize, Serialize};

use super::{OutFile, Person, PersonId};

/// Somebody whom a text may mention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mentionable {
    /// Their id.
    pub id: PersonId,
    /// The names that they are called by, the one they chose first.
    pub names: Vec<String>,
}

impl Mentionable {
    /// A person, by all the names that the platform knows.
    pub fn of(person: &Person) -> Self {
        let mut names = Vec::new();
        for name in [&person.display_name, &person.real_name, &person.username].into_iter().flatten() {
            if !name.trim().is_empty() && !names.contains(name) {
                names.push(name.clone());
            }
        }
        Self { id: person.id.clone(), names }
    }
}

/// Text that an agent or the broker wrote, in Markdown, and whom it may mention: by itself nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentText {
    markdown: String,
    people: Vec<Mentionable>,
}

impl AgentText {
    /// Wraps Markdown that mentions nobody.
    pub fn new(markdown: impl Into<String>) -> Self {
        Self { markdown: markdown.into(), people: Vec::new() }
    }

    /// The same text, in which these people are mentioned where it names them.
    #[must_use]
    pub fn mentioning(self, people: Vec<Mentionable>) -> Self {
        Self { people, ..self }
    }

    /// The Markdown.
    pub fn markdown(&self) -> &str {
        &self.markdown
    }

    /// Whom the text may mention.
    pub fn mentionable(&self) -> &[Mentionable] {
        &self.people
    }
}

/// One message of a post, rendered: what is committed is what is sent, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PartBody {
    /// Text in the platform's own markup.
    Text {
        /// The markup.
        markup: String,
    },
    /// A file.
    File {
        /// The file, with what stands beside it.
        file: Box<OutFile>,
    },
}

impl PartBody {
    /// The file that is to be handed over before this can be posted.
    pub fn to_upload(&self) -> Option<&OutFile> {
        match self {
            Self::File { file } if file.uploaded.is_none() => Some(file),
            _ => None,
        }
    }
}
