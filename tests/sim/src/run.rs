//! One run: brokers one after another in one world, until nothing is open any more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker_core::chat::ThreadKey;
use broker_core::engine::{Broker, Parts, Settings};
use broker_core::store::StateStore;
use broker_core::workspace::Workspaces;
use broker_store::SqliteStore;

use crate::codex::SimCodex;
use crate::judge;
use crate::scenario::Scenario;
use crate::slack::SimSlack;
use crate::store::{Place, PlaceError, SimStore};
use crate::world::World;

/// Nothing may be open any more after so long, in simulated milliseconds.
const PATIENCE: u64 = 3 * 60 * 60 * 1000;
/// The same where something goes wrong all the time, so that something may be open for ever.
const SIEGE: u64 = 5 * 60 * 1000;
/// How often is looked whether anything is open.
const LOOK: u64 = 2_000;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was wrong; nothing, if all is well.
    pub wrong: Vec<String>,
    /// What happened, line by line.
    pub trace: Vec<String>,
    /// How often the broker could have been killed.
    pub points: u32,
    /// How many brokers there were.
    pub lives: u32,
    /// When something came to the agent or stood in a thread, in milliseconds, by thread.
    pub moments: BTreeMap<ThreadKey, Vec<u64>>,
}

/// How one broker's life ended.
enum Life {
    Killed,
    Drained,
    Quiet,
    Never(String),
}

/// Runs a scenario.
///
/// # Errors
///
/// When the run could not be made, which says nothing of the broker.
pub fn run(scenario: &Scenario) -> Result<Outcome, PlaceError> {
    let world = World::new(scenario);
    let observed = world.clone();
    broker_core::testing::observe(Some(Box::new(move |key, rows| {
        observed.lock().facts.machines.insert(key.clone(), rows);
    })));
    let outcome = run_in(scenario, &world);
    broker_core::testing::observe(None);
    outcome
}

fn run_in(scenario: &Scenario, world: &World) -> Result<Outcome, PlaceError> {
    let mut place = Arc::new(Place::new(scenario.disk)?);
    let wrong = loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let store = place.open()?;
        let life = runtime.block_on(async {
            world.begin();
            let life = live(scenario, world, &store, &place).await;
            world.pause();
            life
        });
        // Everything that the broker was is gone, wherever it stood.
        drop(runtime);
        let ended = world.lock().ended;
        let away = match life {
            Life::Killed => {
                let ended = ended.unwrap_or(crate::world::Ended { away: 0, torn: None });
                {
                    let mut state = world.lock();
                    state.unlink();
                    state.leave_codex(false);
                }
                let torn = world.lock().facts.torn.take().zip(ended.torn);
                if let Some(place) = Arc::get_mut(&mut place) {
                    place.crash(torn)?;
                }
                ended.away
            }
            Life::Drained => {
                let mut state = world.lock();
                state.unlink();
                state.leave_codex(true);
                state.facts.away
            }
            Life::Quiet => break judged(world, &store)?,
            Life::Never(why) => break vec![why],
        };
        drop(store);
        world.pass(away);
    };
    let state = world.lock();
    let mut moments: BTreeMap<ThreadKey, Vec<u64>> = BTreeMap::new();
    for thread in state.codex.threads.values() {
        moments.entry(thread.session.clone()).or_default().extend(thread.history.iter().map(|recorded| recorded.at));
    }
    for thread in state.slack.messages.iter().map(|written| written.message.thread()).collect::<BTreeSet<_>>() {
        let own = state.slack.own(&thread).map(|written| written.at).collect::<Vec<_>>();
        moments.entry(thread).or_default().extend(own);
    }
    Ok(Outcome { wrong, trace: state.trace().to_vec(), points: state.points(), lives: state.life, moments })
}

fn judged(world: &World, store: &Arc<SqliteStore>) -> Result<Vec<String>, PlaceError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(judge::judge(world, store)))
}

fn settings(scenario: &Scenario) -> Settings {
    Settings {
        turn_idle: Duration::from_secs(60),
        session_idle: Duration::from_secs(40),
        max_active_turns: scenario.turns,
        recovery_every: Duration::from_millis(scenario.search_every),
        workspaces: Workspaces::Imagined,
        ..Settings::new(PathBuf::from("/imagined/sessions"), PathBuf::from("/imagined/repos"))
    }
}

async fn live(scenario: &Scenario, world: &World, store: &Arc<SqliteStore>, place: &Arc<Place>) -> Life {
    let slack = Arc::new(SimSlack::new(world));
    let parts = Parts {
        transport: Arc::clone(&slack) as _,
        history: slack,
        runtime: Arc::new(SimCodex::new(world)),
        store: Arc::new(SimStore::new(world, Arc::clone(store), Arc::clone(place))),
        clock: Arc::new(world.clone()),
        ids: Arc::new(world.clone()),
    };
    let started = tokio::select! {
        biased;
        () = world.run(u64::MAX) => return if world.lock().ended.is_some() { Life::Killed } else { Life::Drained },
        started = Broker::start(parts, settings(scenario)) => started,
    };
    let broker = match started {
        Ok(broker) => broker,
        Err(error) => return Life::Never(format!("the broker does not start: {error}")),
    };
    let search = broker.recovery_health();
    let patience = if scenario.siege.is_some() { SIEGE } else { PATIENCE };
    let mut busy_at = world.lock().now();
    loop {
        let now = world.lock().now();
        world.run(now + LOOK).await;
        if world.lock().ended.is_some() {
            return Life::Killed;
        }
        if std::mem::take(&mut world.lock().drain) {
            return drain(world, broker).await;
        }
        let busy = match is_busy(world, store).await {
            Ok(busy) => busy,
            Err(error) => return Life::Never(error.to_string()),
        };
        let now = world.lock().now();
        busy_at = busy_at.max(world.lock().happened);
        if let Some(what) = busy {
            busy_at = now;
            if now > patience {
                return Life::Never(format!("something is still open: {what}"));
            }
            continue;
        }
        // A search that began after everything was over has found nothing more.
        let searched = search.borrow().detail.clone();
        let number = |name: &str| searched.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let begun = number("last_pass_ms").saturating_sub(crate::world::BEGINNING);
        if begun > busy_at && number("left") == 0 && number("last_pass_ms") > 0 && now > busy_at + 50_000 {
            return Life::Quiet;
        }
        if now > patience {
            return Life::Never("the search for missed messages comes to no end".to_owned());
        }
    }
}

async fn drain(world: &World, broker: Broker) -> Life {
    tokio::select! {
        biased;
        () = broker.drain(Duration::from_secs(4)) => Life::Drained,
        () = world.run(u64::MAX) => Life::Killed,
    }
}

/// What is still open, if anything is.
async fn is_busy(world: &World, store: &SqliteStore) -> Result<Option<String>, broker_core::store::StoreError> {
    {
        let state = world.lock();
        if state.due().is_some() {
            return Ok(Some("something is about to happen".to_owned()));
        }
        if state.agent_works() {
            return Ok(Some("a turn runs".to_owned()));
        }
    }
    let counts = store.counts().await?;
    if counts.journal_unread > 0 {
        return Ok(Some("a journal row is unread".to_owned()));
    }
    if let Some(thread) = store.threads_with_parts().await?.first() {
        return Ok(Some(format!("a part in {thread} waits")));
    }
    if let Some(session) = store.sessions_with_work().await?.first() {
        return Ok(Some(format!("something is to be done in {session}")));
    }
    Ok(None)
}
