//! What readiness shows of every part, from before it is there until after it has ended.

use std::sync::Arc;

use broker_core::agent::AgentRuntime;
use broker_core::chat::LinkHealth;
use broker_core::engine::TurnCounts;
use broker_core::health::PartHealth;
use broker_core::store::StateStore;
use broker_http::{Api, Part};
use tokio::sync::watch;

use crate::figures;

/// The parts that come late and leave early: the link to Slack, the outbox, the search for missed messages, the turns. The
/// port is open before they are there, so that an operator can see what is missing.
#[derive(Debug)]
pub(crate) struct Board {
    link: watch::Sender<LinkHealth>,
    outbox: watch::Sender<PartHealth>,
    recovery: watch::Sender<PartHealth>,
    turns: watch::Sender<PartHealth>,
    sessions: watch::Sender<PartHealth>,
}

impl Board {
    /// Nothing is there yet.
    pub(crate) fn new() -> Self {
        let connecting = PartHealth::ill("connecting to Slack");
        let link = LinkHealth::new(connecting.clone(), connecting);
        let outbox = PartHealth::ill("waits for the connection to Slack");
        // Nobody waits for the first search: it is no reason not to be ready.
        let recovery = PartHealth::well().remark("no pass yet");
        Self {
            link: watch::Sender::new(link),
            outbox: watch::Sender::new(outbox),
            recovery: watch::Sender::new(recovery),
            turns: watch::Sender::new(shown(TurnCounts::default())),
            sessions: watch::Sender::new(PartHealth::well()),
        }
    }

    /// Slack does not answer for now.
    pub(crate) fn not_connected(&self, reason: &str) {
        let ill = PartHealth::ill(format!("connecting to Slack: {reason}"));
        self.link.send_replace(LinkHealth::new(ill.clone(), ill));
    }

    /// So many turns run and wait, and so do the sessions stand.
    pub(crate) fn look(&self, counts: TurnCounts, sessions: PartHealth) {
        figures::turns(counts);
        self.turns.send_replace(shown(counts));
        self.sessions.send_replace(sessions);
    }

    /// The broker is stopping: whoever asks is to send nothing more.
    pub(crate) fn stopping(&self) {
        self.link.send_modify(|link| link.socket = PartHealth::ill("the broker is stopping"));
    }

    /// Shows the link, the outbox and the search as they report themselves, until the returned future is dropped.
    pub(crate) async fn follow(
        &self,
        link: watch::Receiver<LinkHealth>,
        outbox: watch::Receiver<PartHealth>,
        recovery: watch::Receiver<PartHealth>,
    ) {
        tokio::join!(relay(link, &self.link), relay(outbox, &self.outbox), relay(recovery, &self.recovery));
        // None reports any more; what they said last is not the truth for ever.
        let ended = PartHealth::ill("it has ended; restart the broker");
        self.link.send_modify(|link| link.socket = ended.clone());
        self.outbox.send_replace(ended);
    }

    /// The parts of readiness.
    pub(crate) fn api(&self, api: Api, store: Arc<dyn StateStore>, runtime: &dyn AgentRuntime) -> Api {
        api.part(Part::asked("store", move || store_health(Arc::clone(&store))))
            .part(Part::watched("socket", self.link.subscribe(), socket))
            .part(Part::watched("scopes", self.link.subscribe(), |link| link.scopes.clone()))
            .part(Part::watched("outbox", self.outbox.subscribe(), PartHealth::clone))
            .part(Part::watched("recovery", self.recovery.subscribe(), PartHealth::clone))
            .part(Part::watched("sessions", self.sessions.subscribe(), PartHealth::clone))
            .part(Part::watched("turns", self.turns.subscribe(), PartHealth::clone))
            .part(Part::watched("runtime", runtime.health(), |health| health.runtime.clone()))
            .part(Part::watched("sandbox", runtime.health(), |health| health.sandbox.clone()))
    }
}

/// The link as a whole, and each of its connections.
fn socket(link: &LinkHealth) -> PartHealth {
    // Our own type of numbers and strings: this cannot fail.
    let connections = serde_json::to_value(&link.connections).unwrap_or_default();
    link.socket.clone().with("connections", connections)
}

/// Waiting is no illness: it is what the limit is for.
fn shown(counts: TurnCounts) -> PartHealth {
    PartHealth::well().with("active", counts.active).with("waiting", counts.waiting)
}

/// Passes on what a part reports, until it reports no longer.
async fn relay<T: Clone>(mut from: watch::Receiver<T>, to: &watch::Sender<T>) {
    loop {
        let now = from.borrow_and_update().clone();
        to.send_replace(now);
        if from.changed().await.is_err() {
            return;
        }
    }
}

/// The store as it reports itself, with figures that it has to be asked for.
async fn store_health(store: Arc<dyn StateStore>) -> PartHealth {
    let health = store.health().borrow().clone();
    match store.counts().await {
        Ok(counts) => health
            .with("sessions", counts.sessions)
            .with("journal_unread", counts.journal_unread)
            .with("journal_unreadable", counts.journal_unreadable)
            .with("inbox_open", counts.inbox_open)
            .with("parts_open", counts.parts_open),
        // A store that commits and cannot be read is not well.
        Err(error) if health.ok => PartHealth::ill(error.to_string()),
        Err(_) => health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn late_parts_are_ill_then_as_they_say_then_stopping() {
        let board = Board::new();
        let shown = board.link.subscribe();
        board.not_connected("no answer");
        assert_eq!(shown.borrow().socket, PartHealth::ill("connecting to Slack: no answer"));

        let well = LinkHealth::new(PartHealth::well(), PartHealth::well());
        let (tell, link) = watch::channel(well.clone());
        let (end_outbox, outbox) = watch::channel(PartHealth::well());
        {
            let (_, recovery) = watch::channel(PartHealth::well());
            let follow = board.follow(link, outbox, recovery);
            tokio::pin!(follow);
            let mut seen = board.link.subscribe();
            tokio::select! {
                () = &mut follow => panic!("it ended early"),
                found = seen.wait_for(|link| *link == well) => drop(found.expect("shown")),
            }
            tell.send_modify(|link| link.scopes = PartHealth::ill("files:read is missing"));
            tokio::select! {
                () = &mut follow => panic!("it ended early"),
                found = seen.wait_for(|link| !link.scopes.ok) => drop(found.expect("shown")),
            }
            drop((tell, end_outbox));
            follow.await;
        }
        assert!(!board.link.borrow().socket.ok && !board.outbox.borrow().ok);
        board.stopping();
        assert!(board.link.borrow().socket.reason.as_ref().is_some_and(|reason| reason.contains("stopping")));
    }
}
