//! What the runtime says of itself.

use std::sync::{Mutex, PoisonError};

use broker_core::agent::{AgentAccount, RuntimeHealth};
use broker_core::clock::Timestamp;
use broker_core::health::PartHealth;
use tokio::sync::watch;

use crate::auth::Account;

/// Where the process stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stage {
    /// It is being started.
    Starting,
    /// It answers.
    Up,
    /// It is gone or could not be started; it is started again at `again`.
    Waiting {
        /// Why, and what mends it.
        reason: String,
        again: Timestamp,
    },
    /// Nothing was asked of it for so long that it was ended. The next request starts it.
    Resting,
    /// The runtime was shut down.
    Ended,
}

/// Everything that health is made of.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) stage: Stage,
    pub(crate) epoch: u64,
    pub(crate) pid: Option<u32>,
    pub(crate) version: Option<String>,
    /// Starts after the first.
    pub(crate) restarts: u64,
    /// Starts in a row that came to nothing, or to a process that did not live for a minute.
    pub(crate) failures: u32,
    pub(crate) loaded: Option<usize>,
    pub(crate) last_answer: Option<Timestamp>,
    pub(crate) account: Account,
    /// What Codex complains about in its configuration.
    pub(crate) warning: Option<String>,
    /// Why the configured `auth.json` was not taken over.
    pub(crate) auth_trouble: Option<String>,
    /// What the process last wrote to its stderr.
    pub(crate) last_words: Option<String>,
    pub(crate) sandbox: PartHealth,
}

impl Facts {
    fn runtime(&self) -> PartHealth {
        let mut health = match (&self.stage, &self.account) {
            (Stage::Starting, _) => PartHealth::ill("Codex is starting"),
            (Stage::Ended, _) => PartHealth::ill("Codex was ended with the broker"),
            (Stage::Waiting { reason, .. }, _) => PartHealth::ill(self.loop_remark(reason)),
            (Stage::Up | Stage::Resting, Account::Missing) => PartHealth::ill(
                "Codex is not signed in; set OPENAI_API_KEY, or CODEX_AUTH_JSON_PATH, or run `codex login` with \
                 CODEX_HOME set to the broker's",
            ),
            (Stage::Up, _) => PartHealth::well(),
            (Stage::Resting, _) => {
                PartHealth::well().remark("Codex rests, since nothing was asked of it; the next message starts it")
            }
        };
        if health.ok {
            let unknown = match &self.account {
                Account::Unknown(Some(why)) => Some(format!("the account could not be read ({why})")),
                _ => None,
            };
            if let Some(remark) = self.auth_trouble.clone().or_else(|| self.warning.clone()).or(unknown) {
                health = health.remark(remark);
            }
        }
        self.figures(health)
    }

    fn loop_remark(&self, reason: &str) -> String {
        let words = self.last_words.as_ref().map(|words| format!("; it last wrote: {words}")).unwrap_or_default();
        if self.failures > 2 {
            format!("Codex does not run ({reason}), {} starts in a row came to nothing{words}", self.failures)
        } else {
            format!("Codex does not run ({reason}){words}")
        }
    }

    fn figures(&self, health: PartHealth) -> PartHealth {
        let mut health = health.with("epoch", self.epoch).with("restarts", self.restarts);
        if let Some(pid) = self.pid {
            health = health.with("pid", pid);
        }
        if let Some(version) = &self.version {
            health = health.with("version", version.as_str());
        }
        if let Some(loaded) = self.loaded {
            health = health.with("threads_loaded", loaded);
        }
        if let Some(at) = self.last_answer {
            health = health.with("last_answer_ms", at.as_millis());
        }
        if let Account::SignedIn { kind, .. } = &self.account {
            health = health.with("account", kind.as_str());
        }
        if let Stage::Waiting { again, .. } = &self.stage {
            health = health.with("next_start_ms", again.as_millis());
        }
        health
    }
}

/// The facts, and whoever watches them.
#[derive(Debug)]
pub(crate) struct Board {
    facts: Mutex<Facts>,
    shown: watch::Sender<RuntimeHealth>,
}

impl Board {
    /// Nothing has happened yet.
    pub(crate) fn new() -> Self {
        let facts = Facts {
            stage: Stage::Starting,
            epoch: 0,
            pid: None,
            version: None,
            restarts: 0,
            failures: 0,
            loaded: None,
            last_answer: None,
            account: Account::Unknown(None),
            warning: None,
            auth_trouble: None,
            last_words: None,
            sandbox: PartHealth::ill("the sandbox has not been tried yet"),
        };
        let health = RuntimeHealth { runtime: facts.runtime(), sandbox: facts.sandbox.clone() };
        Self { facts: Mutex::new(facts), shown: watch::Sender::new(health) }
    }

    /// Changes facts; whoever watches is told when that shows.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        // Held for a moment, never across an await.
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut facts);
        let health = RuntimeHealth { runtime: facts.runtime(), sandbox: facts.sandbox.clone() };
        self.shown.send_if_modified(|shown| {
            let differs = *shown != health;
            *shown = health;
            differs
        });
        result
    }

    /// The account, as it was last read.
    pub(crate) fn account(&self) -> Option<AgentAccount> {
        match &self.facts.lock().unwrap_or_else(PoisonError::into_inner).account {
            Account::SignedIn { kind, plan } => Some(AgentAccount { kind: kind.clone(), plan: plan.clone() }),
            _ => None,
        }
    }

    /// The health, now and from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<RuntimeHealth> {
        self.shown.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_says_what_is_wrong_and_what_mends_it() {
        let board = Board::new();
        let mut health = board.watch();
        assert!(!health.borrow_and_update().runtime.ok);
        board.change(|facts| {
            facts.stage = Stage::Up;
            facts.pid = Some(7);
        });
        assert!(health.borrow_and_update().runtime.ok);
        assert_eq!(health.borrow().runtime.detail["pid"], 7);
        board.change(|facts| facts.account = Account::Missing);
        let reason = health.borrow_and_update().runtime.reason.clone().expect("a reason");
        assert!(reason.contains("OPENAI_API_KEY"));
        board.change(|facts| {
            facts.stage = Stage::Waiting { reason: "it crashed".to_owned(), again: Timestamp::from_millis(5) };
            facts.failures = 4;
            facts.last_words = Some("panicked".to_owned());
        });
        let reason = health.borrow_and_update().runtime.reason.clone().expect("a reason");
        assert_eq!(
            reason,
            "Codex does not run (it crashed), 4 starts in a row came to nothing; it last wrote: panicked"
        );
        board.change(|_| ());
        assert!(!health.has_changed().expect("the board lives"));
    }
}
