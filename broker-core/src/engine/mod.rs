//! The shell around the pure machines: tasks, channels, and the order in which things become durable.
//!
//! ```text
//! transport ─> intake ─commit─> journal ─parse─> router ─> live session ─> machine ─> AgentRuntime
//!               └ ack after the commit                       │ commit, then effects      │
//! transport <─ sender <──────────────── outbox rows <────────┴──── supervisor <──────────┘
//! ```
//!
//! | file | the task, and what it owns |
//! | --- | --- |
//! | `intake` | commits envelopes; the transport acknowledges after that |
//! | `recovery` | looks for messages that were written while nobody listened |
//! | `router` | reads journal rows and says which session they are for |
//! | `registry` | which sessions are live |
//! | `live` | one task per live session: its machine, its queue |
//! | `effects` | what a session's steps ask for: calls to the agent, look-ups |
//! | `files` | the files of messages, on their way into the session's folder |
//! | `sender` | one task per thread with open parts |
//! | `statuses` | one task per thread beside which something stands |
//! | `supervisor` | the runtime's events, handed to their sessions |
//! | `turns` | how many turns run at once |
//! | `door` | the way in for whoever is neither the platform nor the agent |
//! | `copies` | the copies of files that wait to be posted |
//! | `vital` | tells when a task is gone that cannot be missed |
//! | `people` | who somebody is, remembered for a day |
//! | `authors` | what an author may do, and what they are told who may not |
//! | `channels` | what the conversations are called that messages mention |
//! | `commands` | answers to commands, also where there is no session |
//! | `earlier` | the files of earlier messages, when somebody looks at these |

mod authors;
mod channels;
mod commands;
mod copies;
mod door;
mod earlier;
mod effects;
mod files;
mod intake;
mod live;
mod people;
mod recovery;
mod registry;
mod router;
mod sender;
mod statuses;
mod supervisor;
#[cfg(test)]
mod tests;
mod turns;
mod vital;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::InstallKey;
use crate::admission::Policy;
use crate::agent::AgentRuntime;
use crate::chat::{ChatTransport, InstallationId, ThreadKey};
use crate::clock::Clock;
use crate::health::PartHealth;
use crate::history::HistoryProvider;
use crate::ids::IdSource;
use crate::session::Surroundings;
use crate::store::{OwnerId, StateStore, StoreError};
use crate::workspace::Workspaces;

use people::People;
use registry::Registry;
use sender::Sender;
use statuses::Statuses;
use turns::Turns;

pub use door::{AskError, Door, Earlier, Once};
pub use effects::EarlierError;
pub use turns::TurnCounts;

/// The implementations that a broker is made of.
#[derive(Clone)]
pub struct Parts {
    /// The chat platform.
    pub transport: Arc<dyn ChatTransport>,
    /// What it already holds.
    pub history: Arc<dyn HistoryProvider>,
    /// The agent.
    pub runtime: Arc<dyn AgentRuntime>,
    /// What survives a crash.
    pub store: Arc<dyn StateStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Identifiers.
    pub ids: Arc<dyn IdSource>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// What an operator can choose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Below this, each session has its folder. Absolute.
    pub sessions_root: PathBuf,
    /// The shared clones. Absolute.
    pub repos_root: PathBuf,
    /// The installation whose name is left out of folder names.
    pub home: Option<InstallationId>,
    /// Who may instruct beside the full members of the installing workspace.
    pub policy: Policy,
    /// How many earlier messages go along with a first mention; zero for none.
    pub initial_history: usize,
    /// The most that one look at the history may bring.
    pub history_limit: usize,
    /// Folders beside a session's workspace and the shared clones, files of which may be posted. Absolute.
    pub file_roots: Vec<PathBuf>,
    /// The largest file of a message that is fetched, in bytes.
    pub file_max_bytes: u64,
    /// A turn without a sign of life for this long is interrupted.
    pub turn_idle: Duration,
    /// Whether the agent is told when somebody changes a message that it has been given.
    pub deliver_edits: bool,
    /// So many turns run at once, the others wait. At least one.
    pub max_active_turns: usize,
    /// A session in which nothing is open is put away after this long.
    pub session_idle: Duration,
    /// Sessions in which something happened within this time are looked after for messages that were missed.
    pub recovery_window: Duration,
    /// First mentions that were missed are looked for this far back, and not before there was a broker.
    pub missed_lookback: Duration,
    /// How often that is done while the link stands; it is done after each moment without one as well.
    pub recovery_every: Duration,
    /// Journal rows that were settled longer ago than this are deleted.
    pub journal_kept: Duration,
    /// Where workspaces are made.
    pub workspaces: Workspaces,
    /// How the agent's commands reach the broker, where there is a way.
    pub api: Option<ApiSettings>,
}

/// How the agent's commands reach the broker.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Where the local API is: `http://<host>:<port>`.
    pub base: String,
    /// What the sessions' tokens are made from.
    pub key: Arc<InstallKey>,
}

impl Settings {
    /// The defaults, with the two folders that have none.
    pub fn new(sessions_root: PathBuf, repos_root: PathBuf) -> Self {
        Self {
            sessions_root,
            repos_root,
            home: None,
            policy: Policy::default(),
            initial_history: 8,
            history_limit: 50,
            file_roots: Vec::new(),
            file_max_bytes: 100 * 1024 * 1024,
            turn_idle: Duration::from_secs(15 * 60),
            deliver_edits: true,
            max_active_turns: 32,
            session_idle: Duration::from_secs(10 * 60),
            recovery_window: Duration::from_secs(14 * 24 * 60 * 60),
            missed_lookback: Duration::from_secs(24 * 60 * 60),
            recovery_every: Duration::from_secs(15 * 60),
            journal_kept: Duration::from_secs(7 * 24 * 60 * 60),
            workspaces: Workspaces::default(),
            api: None,
        }
    }
}

/// What every task of the engine shares.
pub(crate) struct Shared {
    pub(crate) parts: Parts,
    pub(crate) settings: Settings,
    pub(crate) around: Arc<Surroundings>,
    pub(crate) owner: OwnerId,
    pub(crate) people: People,
    pub(crate) registry: Registry,
    pub(crate) sender: Sender,
    pub(crate) statuses: Statuses,
    pub(crate) turns: Turns,
    pub(crate) files: files::Files,
    pub(crate) copies: copies::Copies,
    pub(crate) answered: commands::Answered,
    pub(crate) stopped: commands::StoppedConversations,
    pub(crate) recovery: watch::Sender<PartHealth>,
    pub(crate) tasks: TaskTracker,
    /// The task that cannot be missed and is gone.
    pub(crate) broken: watch::Sender<Option<&'static str>>,
    /// No new envelopes.
    pub(crate) closing: CancellationToken,
    /// Sessions and the sender end.
    pub(crate) ending: CancellationToken,
}

/// A running broker. Dropping it stops its tasks without a drain; what was committed goes on with the next one.
pub struct Broker {
    shared: Arc<Shared>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("live_sessions", &self.shared.registry.count()).finish_non_exhaustive()
    }
}

impl Broker {
    /// Starts the broker's tasks, takes up what an earlier one left open, and opens the link to the platform.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn start(parts: Parts, settings: Settings) -> Result<Self, StoreError> {
        let (transport, sends) = (Arc::clone(&parts.transport), Arc::clone(&parts.transport));
        let capabilities = transport.capabilities();
        let around = Arc::new(Surroundings {
            render: Arc::new(move |text| transport.render(text)),
            sessions_root: settings.sessions_root.clone(),
            turn_idle: settings.turn_idle,
            initial_history: settings.initial_history.min(settings.history_limit),
            history_limit: settings.history_limit,
            deliver_edits: settings.deliver_edits,
            sends_files: Arc::new(move || sends.capabilities().files),
            shows_status: capabilities.status || capabilities.reactions,
        });
        let shared = Arc::new(Shared {
            owner: OwnerId::new(parts.ids.next()),
            people: People::new(&parts),
            registry: Registry::default(),
            sender: Sender::new(),
            statuses: Statuses::new(capabilities),
            turns: Turns::new(settings.max_active_turns),
            files: files::Files::default(),
            copies: copies::Copies::default(),
            answered: commands::Answered::default(),
            stopped: commands::StoppedConversations::default(),
            recovery: watch::Sender::new(PartHealth::well().remark("no pass yet")),
            tasks: TaskTracker::new(),
            broken: watch::Sender::new(None),
            closing: CancellationToken::new(),
            ending: CancellationToken::new(),
            parts,
            settings,
            around,
        });
        let broker = Self { shared: Arc::clone(&shared) };
        supervisor::start(&shared);
        copies::begin(&shared).await?;
        for thread in shared.parts.store.threads_with_parts().await? {
            sender::wake(&shared, &thread);
        }
        for key in shared.parts.store.sessions_with_work().await? {
            registry::wake(&shared, &key);
        }
        let rows = router::start(&shared);
        recovery::start(&shared, rows.clone());
        intake::start(&shared, rows);
        Ok(broker)
    }

    /// How far the search for missed messages is, now and from now on.
    pub fn recovery_health(&self) -> watch::Receiver<PartHealth> {
        self.shared.recovery.subscribe()
    }

    /// Returns when a task has panicked that the broker cannot do without, with its name. Nothing that was committed is lost,
    /// but this broker does its work no more: end it, and start another one on the same store.
    pub async fn broken(&self) -> &'static str {
        let mut broken = self.shared.broken.subscribe();
        loop {
            if let Some(name) = *broken.borrow_and_update() {
                return name;
            }
            // The sender lives as long as this broker.
            let _ = broken.changed().await;
        }
    }

    /// How the outbox stands, now and from now on.
    pub fn outbox_health(&self) -> watch::Receiver<PartHealth> {
        self.shared.sender.health()
    }

    /// Returns when nothing is open: every envelope that was accepted is read, no session is at work, nothing waits to be
    /// posted. For programs that end when their input does; new envelopes may come at any time.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn idle(&self) -> Result<(), StoreError> {
        let mut quiet_looks = 0;
        while quiet_looks < 2 {
            // In the order in which a message goes, so that none slips by; twice, since a post that was refused is told.
            let quiet = self.shared.parts.store.unread(None, 1).await?.is_empty()
                && self.shared.registry.in_flight() == 0
                && self.shared.registry.busy() == 0
                && self.shared.registry.resting(self.shared.parts.clock.now()) == 0
                && self.shared.parts.store.threads_with_parts().await?.is_empty();
            quiet_looks = if quiet { quiet_looks + 1 } else { 0 };
            self.shared.registry.changed().await;
        }
        Ok(())
    }

    /// Tries now what was put aside in a session after too many failures, and what waits for another try.
    ///
    /// # Errors
    ///
    /// When there is no such session, or the broker cannot take the request.
    pub async fn retry(&self, session: &ThreadKey) -> Result<(), AskError> {
        self.door().retry(session).await
    }

    /// The way to this broker's sessions for whoever is neither the platform nor the agent.
    pub fn door(&self) -> Door {
        Door::new(&self.shared)
    }

    /// How many turns run, and how many wait.
    pub fn turns(&self) -> TurnCounts {
        self.shared.turns.counts()
    }

    /// How the sessions stand at this moment. Ill when one breaks down again and again: its thread gets no answer, and the log
    /// says why. What was written in it is kept.
    pub fn session_health(&self) -> PartHealth {
        let (registry, now) = (&self.shared.registry, self.shared.parts.clock.now());
        let health = match registry.broken(now) {
            0 => PartHealth::well(),
            broken => {
                let told = "thread(s) break down again and again and get no answer; the log names them, with the panic";
                PartHealth::ill(format!("{broken} {told}"))
            }
        };
        health.with("live", registry.count()).with("resting", registry.resting(now))
    }

    /// How many sessions are live, that is in memory.
    pub fn live_sessions(&self) -> usize {
        self.shared.registry.count()
    }

    /// Ends the broker: no new envelopes; turns that run may end within `grace`, those that do not are continued by the
    /// next broker; what is being sent is finished; the agent's process is ended.
    pub async fn drain(self, grace: Duration) {
        let shared = &self.shared;
        shared.closing.cancel();
        // What waits for the end of another turn is the next broker's.
        shared.turns.close();
        let quiet = async {
            while shared.registry.at_work() > 0 {
                shared.registry.changed().await;
            }
        };
        if tokio::time::timeout(grace, quiet).await.is_err() {
            tracing::info!(turns = shared.registry.at_work(), "the grace period is over; the next broker goes on");
        }
        tokio::join!(
            shared.sender.settle(Duration::from_secs(5).min(grace)),
            shared.statuses.clear_all(Duration::from_secs(8).min(grace)),
        );
        shared.ending.cancel();
        shared.tasks.close();
        if tokio::time::timeout(Duration::from_secs(15), shared.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        shared.parts.runtime.shutdown(Duration::from_secs(5)).await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.ending.cancel();
        self.shared.tasks.close();
    }
}
