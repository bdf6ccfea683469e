//! What becomes of a message that has reached its session: an input for the machine, or nothing more than a settled row.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;

use super::{Admitted, Change, End, Incoming, Session, UNROUTED_KEPT};
use crate::admission::Verdict;
use crate::chat::{ChatMessage, ChatTime, Parsed};
use crate::command::Command;
use crate::engine::authors::{admit, tell_denied};
use crate::engine::{commands, recovery, router};
use crate::sabotage::{Plant, planted};
use crate::session::{Arrival, Birth, SessionInput, SessionMachine};
use crate::store::{JournalFate, JournalId, JournalRow, KnownMessage, SessionId};

/// Whoever may not instruct is told so of messages that are younger than this.
const DENIAL_TOLD: Duration = Duration::from_secs(10 * 60);

impl Session {
    /// A message whose author is known: it becomes an input, or is settled.
    pub(super) async fn admitted(&mut self, admitted: Admitted) -> Result<(), End> {
        let Admitted { incoming, people, verdict, channel_name } = admitted;
        let Incoming { journal, message, opens, command, found, change } = incoming;
        if let Verdict::Denied { reason } = verdict {
            // Of a message that was found in the history, or changed, nobody wants to hear any more.
            let young = self.shared.parts.clock.now().since(message.at.timestamp()) < DENIAL_TOLD;
            if young && change == Change::New {
                let (shared, told) = (Arc::clone(&self.shared), message);
                self.shared.tasks.spawn(async move { tell_denied(&shared, &told, reason).await });
            }
            return self.settle(journal, JournalFate::Denied { reason: reason.to_owned() }).await;
        }
        let known = self.known(&message).await?;
        if planted(Plant::WatermarkAtNewest) {
            let _ = self.shared.parts.store.caught_up(&self.key, message.at).await;
        }
        let arrival = Arrival { journal: Some(journal), message, people, instructs: verdict == Verdict::Instruct };
        match (change, known) {
            (Change::New, Some(_)) => {
                self.settle(journal, JournalFate::Ignored { reason: "already in the inbox".to_owned() }).await
            }
            (Change::New, None) => self.arrived(arrival, journal, (opens, command, found), channel_name).await,
            (Change::Edit, Some(known)) => {
                self.look_for(Command::read(&arrival.message)).await?;
                self.step(SessionInput::Edited { arrival, known }).await
            }
            // It overtook its message, or that never came. What is older than the session is none of its business.
            (Change::Edit, None) if self.is_of_session(&arrival.message) => {
                let command = Command::read(&arrival.message);
                self.arrived(arrival, journal, (opens, command, found), channel_name).await
            }
            (Change::Deletion, known) if self.machine.is_some() => {
                self.step(SessionInput::Deleted { arrival, known }).await
            }
            (Change::Deletion, _) => self.settle(journal, JournalFate::Unrouted { thread: self.key.clone() }).await,
            (Change::Edit, None) => {
                let reason = "a change of nothing that is known".to_owned();
                self.settle(journal, JournalFate::Ignored { reason }).await
            }
        }
    }

    /// A message that was not known.
    async fn arrived(
        &mut self,
        arrival: Arrival,
        journal: JournalId,
        (opens, command, found): (bool, Option<Command>, bool),
        channel_name: Option<String>,
    ) -> Result<(), End> {
        let stopped_at = self.shared.stopped.at(&arrival.message.conversation);
        if command.is_none() && arrival.message.at < stopped_at {
            self.step(SessionInput::StopElsewhere { at: stopped_at }).await?;
        }
        match (self.machine.is_some(), command) {
            (true, Some(command)) if arrival.instructs => {
                self.look_for(Some(command)).await?;
                self.step(SessionInput::Command { arrival, command }).await
            }
            (true, _) => self.step(SessionInput::Message(arrival)).await,
            (false, Some(command)) => {
                self.settle(journal, commands::fate(command, &arrival.message)).await?;
                if !found {
                    let (shared, message) = (Arc::clone(&self.shared), arrival.message);
                    self.shared.tasks.spawn(async move { commands::answer(&shared, &message, command).await });
                }
                Ok(())
            }
            (false, None) if opens && arrival.instructs => self.begin(arrival, channel_name).await,
            (false, None) if opens => {
                self.settle(journal, JournalFate::Ignored { reason: "bots open nothing".to_owned() }).await
            }
            (false, None) => self.settle(journal, JournalFate::Unrouted { thread: self.key.clone() }).await,
        }
    }

    /// Looks at the agent's runtime for a command that asks how it stands.
    async fn look_for(&mut self, command: Option<Command>) -> Result<(), End> {
        match command {
            Some(Command::Status) => self.step(SessionInput::Seen(commands::seen(&self.shared))).await,
            _ => Ok(()),
        }
    }

    /// Whether a message belongs to the session, or may open it.
    fn is_of_session(&self, message: &ChatMessage) -> bool {
        self.machine.as_ref().is_none_or(|machine| message.at > machine.record().watermark)
    }

    /// What is known of a message: (installation, conversation, message) is one row, whatever arrives how often.
    async fn known(&mut self, message: &ChatMessage) -> Result<Option<KnownMessage>, End> {
        let mut wait = Duration::from_millis(100);
        loop {
            match self.shared.parts.store.known_message(&message.conversation, &message.id).await {
                Ok(known) => return Ok(known),
                Err(error) => self.store_failed(&error, &mut wait).await?,
            }
        }
    }

    /// Opens the session with its first message, and takes up replies that came before it.
    async fn begin(&mut self, first: Arrival, channel_name: Option<String>) -> Result<(), End> {
        let birth = Birth {
            id: SessionId::new(self.shared.parts.ids.next()),
            folder: crate::workspace::folder(&self.key, self.shared.settings.home.as_ref()),
            channel_name,
            stopped_at: self.shared.stopped.at(&first.message.conversation),
        };
        let now = self.shared.parts.clock.now();
        let at = first.message.at;
        let around = Arc::clone(&self.shared.around);
        self.machine = Some(SessionMachine::begin(around, self.fence, birth, &first, now));
        tracing::info!(session = %self.key, "a session begins");
        self.step(SessionInput::Message(first)).await?;
        self.take_up_early(at).await;
        Ok(())
    }

    /// Takes up replies that came before the mention that began the session.
    pub(super) async fn take_up_early(&mut self, mention: ChatTime) {
        let now = self.shared.parts.clock.now();
        match self.shared.parts.store.take_unrouted(&self.key, now.minus(UNROUTED_KEPT)).await {
            Ok(rows) => {
                for row in rows {
                    self.take_up(row, mention);
                }
            }
            Err(error) => tracing::warn!(session = %self.key, %error, "early replies could not be looked for"),
        }
    }

    /// A reply that came before the mention. What was written before it too is part of the history that goes along.
    fn take_up(&mut self, row: JournalRow, mention: ChatTime) {
        let (message, change) = match router::parse(&self.shared, &row) {
            Parsed::Message(message) => (message, Change::New),
            Parsed::Edited(message) => (message, Change::Edit),
            Parsed::Deleted(message) => (message, Change::Deletion),
            _ => return,
        };
        if !self.shared.registry.take_in(row.id) {
            return;
        }
        // The mention itself may have been changed before it came.
        if message.at < mention || (message.at == mention && change == Change::New) {
            let (shared, id) = (Arc::clone(&self.shared), row.id);
            let fate = JournalFate::Ignored { reason: "part of the history".to_owned() };
            self.shared.tasks.spawn(async move {
                if let Err(error) = router::settle(&shared, id, fate).await {
                    tracing::warn!(%error, "a journal row could not be settled; it is tried again");
                    shared.registry.let_go([id]);
                }
            });
        } else {
            self.shared.registry.hand_to(row.id, &self.key);
            self.unsettled.insert(row.id);
            let command = Command::read(&message).filter(|_| change == Change::New);
            let found = recovery::is_found(&row.envelope);
            let incoming = Incoming { journal: row.id, message: *message, opens: false, command, found, change };
            self.admissions.push_back(admit(Arc::clone(&self.shared), incoming, false).boxed());
        }
    }
}
