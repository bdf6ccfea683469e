//! Who may instruct the broker.

use std::collections::BTreeSet;

use crate::chat::{Author, ChatMessage, ConversationId, Person, PersonId, Standing};

/// Whom the operator lets instruct the broker beside the full members of the installing workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// People, by id, whatever their standing.
    pub users: BTreeSet<PersonId>,
    /// Conversations in which guests and people of other organisations may instruct.
    pub channels: BTreeSet<ConversationId>,
    /// Teams (workspaces, organisations) whose people may instruct.
    pub teams: BTreeSet<String>,
    /// Bots that count as people: their user, bot or app ids. `*` stands for all.
    pub bots: BTreeSet<String>,
}

/// What an author may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Instruct the agent.
    Instruct,
    /// Another bot: its words are context, they open and continue nothing.
    ContextOnly,
    /// Nothing; they are told so now and then.
    Denied {
        /// Why, for them and for the log.
        reason: &'static str,
    },
}

impl Policy {
    /// Whether the answer needs nothing but the message itself, and which it is then.
    pub fn at_sight(&self, message: &ChatMessage) -> Option<Verdict> {
        match &message.author {
            Author::Own | Author::Unknown => Some(Verdict::ContextOnly),
            Author::Bot { id, other_ids, .. } => {
                let mut ids = other_ids.iter().chain([id]);
                let named = self.bots.contains("*") || ids.any(|id| self.bots.contains(id));
                Some(if named { Verdict::Instruct } else { Verdict::ContextOnly })
            }
            Author::Person { id, team } => {
                let named = self.users.contains(id)
                    || self.channels.contains(&message.conversation.conversation)
                    || team.as_ref().is_some_and(|team| self.teams.contains(team));
                named.then_some(Verdict::Instruct)
            }
        }
    }

    /// The answer for a person whose standing is known. Authority comes from ids alone, never from a name or an address.
    pub fn judge(&self, message: &ChatMessage, person: &Person) -> Verdict {
        if let Some(verdict) = self.at_sight(message) {
            return verdict;
        }
        if person.team.as_ref().is_some_and(|team| self.teams.contains(team)) {
            return Verdict::Instruct;
        }
        match person.standing {
            Standing::Member => Verdict::Instruct,
            Standing::Guest => Verdict::Denied { reason: "guests of this workspace may not instruct it" },
            Standing::External => Verdict::Denied { reason: "people of other organisations may not instruct it" },
            Standing::Bot => Verdict::ContextOnly,
            Standing::Deactivated => Verdict::Denied { reason: "the account is deactivated" },
        }
    }
}
