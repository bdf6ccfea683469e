//! What the socket has been through, and the health that follows from it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use broker_core::chat::LinkHealth;
use broker_core::clock::{Clock, Timestamp};
use broker_core::health::PartHealth;
use tokio::sync::watch;

/// The one place where the links of a socket report.
#[derive(Debug)]
pub(crate) struct Board {
    clock: Arc<dyn Clock>,
    facts: Mutex<Facts>,
    health: watch::Sender<LinkHealth>,
}

#[derive(Debug, Default)]
struct Facts {
    /// How many links are kept: some of them may be on their way, and are counted by Slack already.
    connections: u64,
    /// The links that stand, by number.
    links: BTreeSet<u64>,
    connected_since: Option<Timestamp>,
    /// How often the last link ended.
    gaps: u64,
    /// Why no link stands, or why the last try failed.
    trouble: Option<String>,
    /// Connections that Slack counts beyond ours.
    strangers: u64,
    last_frame: Option<Timestamp>,
    last_event: Option<Timestamp>,
    connects: u64,
    frames: u64,
    acks: u64,
    not_accepted: u64,
    unreadable: u64,
    cut: u64,
}

impl Board {
    /// A board of a socket that keeps so many connections.
    pub(crate) fn new(clock: Arc<dyn Clock>, scopes: PartHealth, connections: usize) -> Self {
        let connections = u64::try_from(connections).unwrap_or(u64::MAX);
        let facts = Facts { connections, trouble: Some("not connected yet".to_owned()), ..Facts::default() };
        let health = watch::Sender::new(LinkHealth::new(facts.health(), scopes));
        Self { clock, facts: Mutex::new(facts), health }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<LinkHealth> {
        self.health.subscribe()
    }

    // Held for a moment, never across an await.
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Facts, Timestamp)) {
        let now = self.now();
        let mut facts = self.facts();
        change(&mut facts, now);
        let (socket, gaps) = (facts.health(), facts.gaps);
        // Sent under the lock, so that an older state never overwrites a newer one.
        self.health.send_modify(|health| {
            health.socket = socket;
            health.gaps = gaps;
        });
    }

    /// A link stands. `connections` is how many Slack counts for the app, this one included.
    pub(crate) fn opened(&self, link: u64, connections: Option<u64>) {
        self.change(|facts, now| {
            if facts.links.is_empty() {
                facts.connected_since = Some(now);
            }
            facts.links.insert(link);
            facts.connects += 1;
            facts.trouble = None;
            let ours = u64::try_from(facts.links.len()).unwrap_or(u64::MAX).max(facts.connections);
            facts.strangers = connections.unwrap_or(ours).saturating_sub(ours);
        });
    }

    /// A link delivers no more.
    pub(crate) fn closed(&self, link: u64, why: &str) {
        self.change(|facts, _| {
            if facts.links.remove(&link) && facts.links.is_empty() {
                facts.connected_since = None;
                facts.gaps += 1;
                // What went wrong before is more telling than the end that followed from it.
                facts.trouble.get_or_insert_with(|| why.to_owned());
            }
        });
    }

    /// No link could be opened.
    pub(crate) fn trouble(&self, why: &str) {
        self.change(|facts, _| facts.trouble = Some(why.to_owned()));
    }

    /// Something came.
    pub(crate) fn heard(&self) {
        self.change(|facts, now| facts.last_frame = Some(now));
    }

    /// An envelope came; `readable` says whether it has an id that can be acknowledged.
    pub(crate) fn received(&self, readable: bool, cut: bool) {
        self.change(|facts, now| {
            facts.last_frame = Some(now);
            facts.last_event = Some(now);
            facts.frames += 1;
            facts.unreadable += u64::from(!readable);
            facts.cut += u64::from(cut);
        });
    }

    /// An envelope was acknowledged.
    pub(crate) fn acked(&self) {
        self.change(|facts, _| facts.acks += 1);
    }

    /// An envelope could not be committed. Slack will send it again.
    pub(crate) fn not_accepted(&self) {
        self.change(|facts, _| facts.not_accepted += 1);
    }
}

impl Facts {
    fn health(&self) -> PartHealth {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
        let mut health = match (&self.trouble, self.links.is_empty()) {
            (trouble, true) => PartHealth::ill(trouble.clone().unwrap_or_else(|| "not connected".to_owned())),
            (Some(trouble), false) => PartHealth::well().remark(format!("no new connection: {trouble}")),
            (None, false) => PartHealth::well(),
        };
        if self.strangers > 0 {
            let strangers = self.strangers;
            health = health.remark(format!(
                "slack counts {strangers} more connection(s) of the app, and gives each event to only one: end the other \
                 program, or give it an app of its own (one left over from a broken link goes by itself)"
            ));
        }
        health
            .with("connected_since_ms", millis(self.connected_since))
            .with("last_frame_ms", millis(self.last_frame))
            .with("last_event_ms", millis(self.last_event))
            .with("links", self.links.len())
            .with("connects", self.connects)
            .with("frames", self.frames)
            .with("acks", self.acks)
            .with("not_accepted", self.not_accepted)
            .with("unreadable", self.unreadable)
            .with("cut", self.cut)
    }
}
