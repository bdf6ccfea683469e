//! What the sockets have been through, and the health that follows from it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::chat::{ConnectionEnd, ConnectionHealth, ConnectionState, LinkHealth};
use broker_core::clock::{Clock, Timestamp};
use broker_core::health::PartHealth;
use broker_core::telemetry;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long Slack may still count a link that broke without a farewell.
const GHOST: Duration = Duration::from_secs(60);
/// Such links that are remembered.
const MAX_GHOSTS: usize = 16;

/// A link, and which of the broker's connections it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkId {
    /// The connection, counted from zero.
    pub(crate) slot: usize,
    /// No two links have the same.
    pub(crate) number: u64,
}

/// The one place where the links of all connections report.
#[derive(Debug)]
pub(crate) struct Board {
    clock: Arc<dyn Clock>,
    facts: Mutex<Facts>,
    health: watch::Sender<LinkHealth>,
}

#[derive(Debug)]
struct Facts {
    slots: Vec<Slot>,
    /// The links that stand, and the reason that Slack gave in advance for ending them.
    links: BTreeMap<u64, Option<String>>,
    connected_since: Option<Timestamp>,
    /// How often the last link ended.
    gaps: u64,
    /// Links that Slack may count: from before the handshake to the end of the socket.
    ours: u64,
    /// When links ended that Slack may not know to have ended.
    ghosts: VecDeque<Instant>,
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

#[derive(Debug)]
struct Slot {
    /// The newest of its links, while that stands.
    link: Option<u64>,
    opened: bool,
    health: ConnectionHealth,
}

impl Slot {
    fn turn(&mut self, state: ConnectionState, now: Timestamp) {
        if self.health.state != state {
            self.health.state = state;
            self.health.since = now;
        }
    }
}

impl Board {
    /// A board for so many connections.
    pub(crate) fn new(clock: Arc<dyn Clock>, scopes: PartHealth, connections: usize) -> Self {
        let now = clock.now();
        let slot = || Slot { link: None, opened: false, health: ConnectionHealth::new(now) };
        let facts = Facts {
            slots: (0..connections).map(|_| slot()).collect(),
            links: BTreeMap::new(),
            connected_since: None,
            gaps: 0,
            ours: 0,
            ghosts: VecDeque::new(),
            strangers: 0,
            last_frame: None,
            last_event: None,
            connects: 0,
            frames: 0,
            acks: 0,
            not_accepted: 0,
            unreadable: 0,
            cut: 0,
        };
        let mut health = LinkHealth::new(facts.health(), scopes);
        health.connections = facts.connections();
        Self { clock, health: watch::Sender::new(health), facts: Mutex::new(facts) }
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

    fn change<R>(&self, change: impl FnOnce(&mut Facts, Timestamp) -> R) -> R {
        let now = self.now();
        let mut facts = self.facts();
        let result = change(&mut facts, now);
        let (socket, gaps, connections) = (facts.health(), facts.gaps, facts.connections());
        // Sent under the lock, so that an older state never overwrites a newer one.
        self.health.send_modify(|health| {
            health.socket = socket;
            health.gaps = gaps;
            health.connections = connections;
        });
        result
    }

    fn change_slot(&self, slot: usize, change: impl FnOnce(&mut Slot, Timestamp)) {
        self.change(|facts, now| facts.slots.get_mut(slot).map_or((), |slot| change(slot, now)));
    }

    /// What the bot token may do was heard.
    pub(crate) fn may(&self, scopes: PartHealth) {
        self.health.send_if_modified(|health| {
            let changed = health.scopes != scopes;
            if changed {
                match &scopes.reason {
                    Some(reason) => tracing::warn!(reason, "what the bot token may do has changed"),
                    None => tracing::info!("the bot token may do all that the broker needs"),
                }
                health.scopes = scopes;
            }
            changed
        });
    }

    /// A connection is being opened.
    pub(crate) fn trying(&self, slot: usize) {
        self.change_slot(slot, |slot, now| {
            // While the link before still stands, that is what matters.
            if slot.link.is_none() {
                slot.turn(ConnectionState::Connecting, now);
            }
        });
    }

    /// A connection could not be opened: why, and what mends that.
    pub(crate) fn trouble(&self, slot: usize, why: &str) {
        self.change_slot(slot, |slot, now| {
            slot.health.trouble = Some(why.to_owned());
            if slot.link.is_none() {
                slot.turn(ConnectionState::Waiting, now);
            }
        });
    }

    /// A connection was ended with the broker.
    pub(crate) fn stopped(&self, slot: usize) {
        self.change_slot(slot, |slot, now| slot.turn(ConnectionState::Stopped, now));
    }

    /// A socket is about to be opened: Slack may count it from now on.
    pub(crate) fn count(self: &Arc<Self>) -> Counted {
        self.facts().ours += 1;
        Counted { board: Arc::clone(self), known: false }
    }

    /// A link stands. `connections` is how many Slack counts for the app, this one included.
    pub(crate) fn opened(&self, id: LinkId, connections: Option<u64>) {
        let (before, strangers) = self.change(|facts, now| {
            if facts.links.is_empty() {
                facts.connected_since = Some(now);
            }
            facts.links.insert(id.number, None);
            facts.connects += 1;
            if let Some(slot) = facts.slots.get_mut(id.slot) {
                slot.link = Some(id.number);
                slot.health.trouble = None;
                slot.health.reconnects += u64::from(slot.opened);
                slot.opened = true;
                slot.health.last_frame = Some(now);
                slot.turn(ConnectionState::Open, now);
                // The new link counts from its own beginning.
                slot.health.since = now;
            }
            facts.last_frame = Some(now);
            let before = facts.strangers;
            facts.strangers = connections.map_or(0, |connections| facts.strangers_of(connections));
            (before, facts.strangers)
        });
        if strangers == before {
            return;
        }
        if strangers > 0 {
            tracing::warn!(strangers, "{}", strangers_remark(strangers));
        } else {
            tracing::info!("slack counts no connections of the app any more but the broker's own");
        }
    }

    /// Slack said that it will end a link.
    pub(crate) fn ending(&self, id: LinkId, reason: &str) {
        self.change(|facts, now| {
            if let Some(announced) = facts.links.get_mut(&id.number) {
                announced.get_or_insert_with(|| reason.to_owned());
            }
            if let Some(slot) = facts.slots.get_mut(id.slot).filter(|slot| slot.link == Some(id.number)) {
                slot.turn(ConnectionState::Ending, now);
            }
        });
    }

    /// A link delivers no more.
    pub(crate) fn closed(&self, id: LinkId, why: &str) {
        self.change(|facts, now| {
            let Some(announced) = facts.links.remove(&id.number) else { return };
            if facts.links.is_empty() {
                facts.connected_since = None;
                facts.gaps += 1;
            }
            let Some(slot) = facts.slots.get_mut(id.slot) else { return };
            // What Slack said is more telling than the end that followed from it.
            let reason = announced.map_or_else(|| why.to_owned(), |reason| format!("slack asked for it ({reason})"));
            slot.health.last_end = Some(ConnectionEnd { at: now, reason });
            if slot.link == Some(id.number) {
                slot.link = None;
                slot.turn(ConnectionState::Waiting, now);
            }
        });
    }

    /// Something came on a link.
    pub(crate) fn heard(&self, id: LinkId, what: Heard) {
        self.change(|facts, now| {
            facts.last_frame = Some(now);
            if let Some(Slot { health, .. }) = facts.slots.get_mut(id.slot) {
                health.last_frame = Some(now);
                match what {
                    Heard::Ping => health.platform_pings += 1,
                    Heard::Pong => health.pongs += 1,
                    Heard::Envelope { .. } => health.last_event = Some(now),
                    Heard::Other => {}
                }
            }
            if let Heard::Envelope { readable, cut } = what {
                facts.last_event = Some(now);
                facts.frames += 1;
                facts.unreadable += u64::from(!readable);
                facts.cut += u64::from(cut);
            }
        });
    }

    /// A ping of ours went out.
    pub(crate) fn pinged(&self, id: LinkId) {
        self.change_slot(id.slot, |slot, _| slot.health.pings += 1);
    }

    /// An envelope was acknowledged.
    pub(crate) fn acked(&self) {
        metrics::counter!(telemetry::ACKS).increment(1);
        self.change(|facts, _| facts.acks += 1);
    }

    /// An envelope could not be committed. Slack will send it again.
    pub(crate) fn not_accepted(&self) {
        self.change(|facts, _| facts.not_accepted += 1);
    }
}

/// What came on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A ping of Slack's.
    Ping,
    /// The answer to a ping of ours.
    Pong,
    /// An envelope; `readable` says whether it has an id that can be acknowledged.
    Envelope { readable: bool, cut: bool },
    /// Anything else.
    Other,
}

/// A socket that Slack may count as one of the app's. Dropped when the socket is closed.
#[derive(Debug)]
pub(crate) struct Counted {
    board: Arc<Board>,
    /// Whether Slack may think that it is still open.
    known: bool,
}

impl Counted {
    /// The handshake is over: Slack counts it.
    pub(crate) fn known(&mut self) {
        self.known = true;
    }

    /// Both sides said farewell: Slack counts it no more.
    pub(crate) fn farewell(&mut self) {
        self.known = false;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut facts = self.board.facts();
        facts.ours = facts.ours.saturating_sub(1);
        if self.known {
            if facts.ghosts.len() >= MAX_GHOSTS {
                facts.ghosts.pop_front();
            }
            facts.ghosts.push_back(Instant::now());
        }
    }
}

impl Facts {
    /// How many of the connections that Slack counts are somebody else's. Where links that broke a moment ago may be among
    /// them, nothing is known that was not known before.
    fn strangers_of(&mut self, connections: u64) -> u64 {
        let now = Instant::now();
        self.ghosts.retain(|ended| now.duration_since(*ended) < GHOST);
        let ghosts = u64::try_from(self.ghosts.len()).unwrap_or(u64::MAX);
        match connections.saturating_sub(self.ours) {
            0 => 0,
            more if more > ghosts => more - ghosts,
            _ => self.strangers,
        }
    }

    fn connections(&self) -> Vec<ConnectionHealth> {
        self.slots.iter().map(|slot| slot.health.clone()).collect()
    }

    /// What is wrong with the connections that are not open, each reason once.
    fn trouble(&self) -> Option<String> {
        let shut = || self.slots.iter().filter(|slot| slot.health.state != ConnectionState::Stopped);
        let mut reasons: Vec<&str> = shut().filter_map(|slot| slot.health.trouble.as_deref()).collect();
        if reasons.is_empty() {
            let ends = shut().filter(|slot| slot.link.is_none()).filter_map(|slot| slot.health.last_end.as_ref());
            reasons.extend(ends.map(|end| end.reason.as_str()));
        }
        reasons.sort_unstable();
        reasons.dedup();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn health(&self) -> PartHealth {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
        let mut health = match (self.trouble(), self.links.is_empty()) {
            (Some(trouble), true) => PartHealth::ill(trouble),
            (None, true) => PartHealth::ill("not connected yet"),
            (Some(trouble), false) => PartHealth::well().remark(format!("a connection is missing: {trouble}")),
            (None, false) => PartHealth::well(),
        };
        if self.strangers > 0 {
            let strangers = strangers_remark(self.strangers);
            let both = health.reason.take().map(|reason| format!("{reason}; {strangers}"));
            health = health.remark(both.unwrap_or(strangers));
        }
        health
            .with("connected_since_ms", millis(self.connected_since))
            .with("last_frame_ms", millis(self.last_frame))
            .with("last_event_ms", millis(self.last_event))
            .with("links", self.links.len())
            .with("strangers", self.strangers)
            .with("connects", self.connects)
            .with("frames", self.frames)
            .with("acks", self.acks)
            .with("not_accepted", self.not_accepted)
            .with("unreadable", self.unreadable)
            .with("cut", self.cut)
    }
}

fn strangers_remark(strangers: u64) -> String {
    format!(
        "slack counts {strangers} more connection(s) of the app, and gives each event to only one: end the other program, \
         or give it an app of its own (one left over from a broken link goes by itself)"
    )
}
