//! One task per live session: its machine, its queue, its commits.

mod arrivals;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use tokio::sync::{mpsc, oneshot};

use super::authors::admit;
use super::door::AskError;
use super::effects::Hands;
use super::registry::{self, Call, Letter, Load};
use super::{Shared, router, sender, supervisor, vital};
use crate::admission::Verdict;
use crate::agent::AgentEvent;
use crate::chat::{ChatMessage, ChatTime, PartBody, Person, ThreadKey};
use crate::clock::Timestamp;
use crate::command::Command;
use crate::session::{Effect, NamedPost, PostFate, SessionInput, SessionMachine, Step};
use crate::store::{
    CommitError, Fence, Fingerprint, InboxState, JournalFate, JournalId, PostId, SessionCommit, StoreError,
};
use crate::telemetry;
use crate::thread_tools::ToolAnswer;

/// A reply that came before its root's mention is taken when the mention follows within this time.
pub(super) const UNROUTED_KEPT: Duration = Duration::from_secs(10 * 60);

/// Messages of one thread whose authors are being looked up; more stay in the journal.
const MAX_ADMISSIONS: usize = 1024;

/// Inputs that share a commit at most.
const SHARED_COMMIT: usize = 16;

/// A message of the journal on its way to a session.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) journal: JournalId,
    pub(super) message: ChatMessage,
    /// Whether it may open a session.
    pub(super) opens: bool,
    /// The command that it is. Of one that was changed it is read later.
    pub(super) command: Option<Command>,
    /// Whether the search found it: it may have come in the ordinary way as well.
    pub(super) found: bool,
    /// What became of it.
    pub(super) change: Change,
}

/// What an envelope says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Somebody wrote it.
    New,
    /// Its author changed it.
    Edit,
    /// It was deleted.
    Deletion,
}

/// A message whose author is known.
pub(super) struct Admitted {
    pub(super) incoming: Incoming,
    pub(super) people: Vec<Person>,
    pub(super) verdict: Verdict,
    pub(super) channel_name: Option<String>,
}

/// Why a session's task ends.
enum End {
    /// Nothing is open in it.
    Quiet,
    /// The broker ends.
    Broker,
    /// Something that it waits for has panicked.
    Fallen,
    /// The rows are not what the machine believes them to be.
    Conflict,
}

struct Session {
    shared: Arc<Shared>,
    key: ThreadKey,
    number: u64,
    inbox: mpsc::Receiver<Letter>,
    hands: Hands,
    fence: Fence,
    machine: Option<SessionMachine>,
    /// Messages whose authors are being looked up: in order, so that nobody overtakes anybody.
    admissions: FuturesOrdered<BoxFuture<'static, Admitted>>,
    /// The same for commands, which go past the others.
    commands: FuturesUnordered<BoxFuture<'static, Admitted>>,
    /// Those who wait to hear whether a `-stop` of the whole conversation has found something here: as long as there is no machine,
    /// and messages are on their way to it. Bounded like the letters.
    stops: Vec<oneshot::Sender<bool>>,
    quiet_since: Timestamp,
    /// Journal rows that this task has taken and not settled.
    unsettled: HashSet<JournalId>,
    /// Whether a step of the machine may not be durable.
    ahead: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        // However this task ends: what it did not settle is routed again, and what it did not read too.
        self.shared.registry.let_go(self.unsettled.drain());
        self.inbox.close();
        while let Ok(letter) = self.inbox.try_recv() {
            supervisor::unheard(&self.shared, letter);
        }
    }
}

/// Starts the task of a session.
pub(super) fn start(
    shared: &Arc<Shared>,
    key: ThreadKey,
    number: u64,
    inbox: mpsc::Receiver<Letter>,
    letters: mpsc::Sender<Letter>,
) {
    let session = Box::new(Session {
        hands: Hands::new(shared, &key, letters),
        shared: Arc::clone(shared),
        key: key.clone(),
        number,
        inbox,
        fence: Fence::default(),
        machine: None,
        admissions: FuturesOrdered::new(),
        commands: FuturesUnordered::new(),
        stops: Vec::new(),
        quiet_since: shared.parts.clock.now(),
        unsettled: HashSet::new(),
        ahead: false,
    });
    let (tasks, shared, run) = (&shared.tasks, Arc::clone(shared), session.run().boxed());
    tasks.spawn(async move {
        if vital::ends(run, "session", &key).await {
            return;
        }
        shared.registry.remove(&key, number);
        rest(&shared, &key).await;
    });
}

/// Leaves a session alone for a while whose task has panicked, then has it take up what is open in it.
async fn rest(shared: &Arc<Shared>, key: &ThreadKey) {
    let until = shared.registry.fell(key, shared.parts.clock.now());
    tokio::select! {
        biased;
        () = shared.ending.cancelled() => {}
        () = shared.parts.clock.sleep_until(until) => registry::wake(shared, key),
    }
}

impl Session {
    // There may be ten thousand sessions that wait, and each would keep for all that time the room that it needs while it
    // works: so whatever it works at is boxed.
    async fn run(mut self: Box<Self>) {
        let end = match self.load().boxed().await {
            Ok(()) => self.work().await,
            Err(end) => end,
        };
        if let End::Quiet = end {
            self.release().boxed().await;
        }
        self.answer_waiting();
        self.shared.registry.remove(&self.key, self.number);
        match end {
            End::Broker => {}
            End::Fallen => {
                let (tasks, shared, key) = (&self.shared.tasks, Arc::clone(&self.shared), self.key.clone());
                tasks.spawn(async move { rest(&shared, &key).await });
            }
            End::Quiet => self.hand_over().boxed().await,
            End::Conflict => {
                tracing::error!(session = %self.key, "the session's rows were changed by somebody else; it is loaded anew");
                self.hand_over().boxed().await;
                registry::wake(&self.shared, &self.key);
            }
        }
    }

    /// What they wait for is durable and will be posted by whoever takes the session up, and that is what they are told.
    fn answer_waiting(&self) {
        let machine = self.machine.as_ref().filter(|_| !self.ahead);
        for (call, post) in machine.map(SessionMachine::waiting_beside).into_iter().flatten() {
            self.hands.reply(call, ToolAnswer::Queued { post });
        }
    }

    /// Closes the agent's thread, unless commands that the agent left behind run in it. Before anybody else can open it: a
    /// release that comes after the next task's open would cut that task off from the thread's events.
    async fn release(&mut self) {
        let record = self.machine.as_ref().map(SessionMachine::record);
        let Some(thread) = record.and_then(|record| record.agent_thread.clone()) else { return };
        let released = tokio::select! {
            biased;
            () = self.shared.ending.cancelled() => return,
            released = self.shared.parts.runtime.release(&thread) => released,
        };
        if let Err(error) = released {
            tracing::debug!(session = %self.key, %error, "the agent's thread stays open");
        }
    }

    /// Gives what came too late to the session's next task.
    async fn hand_over(&mut self) {
        self.inbox.close();
        while let Some(letter) = self.inbox.recv().await {
            if let Err(Letter::Message(incoming)) = registry::try_send(&self.shared, &self.key, letter) {
                self.shared.registry.let_go([incoming.journal]);
            }
        }
    }

    /// Takes the session and what is open in it.
    async fn load(&mut self) -> Result<(), End> {
        let mut wait = Duration::from_millis(100);
        let (fence, rows) = loop {
            match self.shared.parts.store.claim(&self.key, &self.shared.owner).await {
                Ok(claimed) => break claimed,
                Err(error) => self.store_failed(&error, &mut wait).await?,
            }
        };
        self.fence = fence;
        if rows.open_parts > 0 {
            // Whoever planned them may have ended before the sender heard of them.
            sender::wake(&self.shared, &self.key);
        }
        let now = self.shared.parts.clock.now();
        self.machine = SessionMachine::load(Arc::clone(&self.shared.around), fence, rows, now);
        if let Some(thread) = self.machine.as_ref().and_then(|machine| machine.record().agent_thread.clone()) {
            self.shared.registry.bind(&thread, &self.key);
        }
        if let Some(record) = self.machine.as_ref().map(SessionMachine::record) {
            // An earlier broker may have ended between the session's first step and this.
            let early = (now.since(record.created_at) < UNROUTED_KEPT).then_some(record.watermark);
            self.step(SessionInput::Recover).await?;
            if let Some(mention) = early {
                self.take_up_early(mention).await;
            }
        }
        Ok(())
    }

    async fn work(&mut self) -> End {
        loop {
            self.answer_stops();
            let quiet = self.is_quiet();
            self.shared.registry.set_load(&self.key, self.number, self.load_now());
            let deadline = self.machine.as_ref().and_then(SessionMachine::deadline);
            let clock = Arc::clone(&self.shared.parts.clock);
            let put_away = self.quiet_since.plus(self.shared.settings.session_idle);
            let result = tokio::select! {
                biased;
                () = self.shared.ending.cancelled() => return End::Broker,
                Some(admitted) = self.commands.next(), if !self.commands.is_empty() => {
                    self.admitted(admitted).boxed().await
                }
                Some(admitted) = self.admissions.next(), if !self.admissions.is_empty() => {
                    self.admitted(admitted).boxed().await
                }
                letter = self.inbox.recv() => match letter {
                    Some(letter) => self.letter(letter).boxed().await,
                    None => return End::Quiet,
                },
                () = clock.sleep_until(deadline.unwrap_or_default()), if deadline.is_some() => {
                    self.step(SessionInput::Tick).boxed().await
                }
                () = clock.sleep_until(put_away), if quiet => return End::Quiet,
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.admissions.is_empty()
            && self.commands.is_empty()
            && self.machine.as_ref().is_none_or(SessionMachine::is_quiet)
    }

    fn load_now(&self) -> Load {
        if self.is_quiet() {
            return Load::Quiet;
        }
        let at_work = self.machine.as_ref().is_some_and(SessionMachine::is_at_work);
        if at_work { Load::AtWork } else { Load::Open }
    }

    async fn letter(&mut self, letter: Letter) -> Result<(), End> {
        // What changes nothing, such as the end of a process that it does not need, keeps no session from being put away.
        if !matches!(letter, Letter::Input(_)) {
            self.quiet_since = self.shared.parts.clock.now();
        }
        match letter {
            Letter::Wake => Ok(()),
            Letter::Anew => Err(End::Fallen),
            Letter::Input(input) => self.steps(*input).await,
            Letter::Asked(input, answer) => {
                self.step(*input).await?;
                // Whoever asked may have gone away.
                let _ = answer.send(Ok(self.machine.is_some()));
                Ok(())
            }
            Letter::Stop(at, answer) => self.stopped(at, answer).await,
            Letter::Call(call) => self.call(*call).await,
            Letter::Message(incoming) if self.admissions.len() + self.commands.len() >= MAX_ADMISSIONS => {
                // It stays in the journal, and the router finds it again.
                self.shared.registry.let_go([incoming.journal]);
                Ok(())
            }
            Letter::Message(incoming) => {
                self.unsettled.insert(incoming.journal);
                let names_channel = self.machine.is_none() && incoming.opens;
                let is_command = incoming.command.is_some();
                let admission = admit(Arc::clone(&self.shared), *incoming, names_channel).boxed();
                // With nothing to go past, a command must not overtake the message that it is meant for.
                if is_command && (self.machine.is_some() || self.admissions.is_empty()) {
                    self.commands.push(admission);
                } else {
                    self.admissions.push_back(admission);
                }
                Ok(())
            }
        }
    }

    /// Somebody stops the whole conversation.
    async fn stopped(&mut self, at: ChatTime, answer: oneshot::Sender<bool>) -> Result<(), End> {
        let Some(step) = self.handle(SessionInput::StopElsewhere { at }) else {
            // What is on its way here may begin the session, which is then born with the stop.
            self.stops.push(answer);
            return Ok(());
        };
        let any = step.commit.inbox.iter().any(|row| row.state == InboxState::Cancelled)
            || step.commit.turns.iter().any(|turn| turn.stopped);
        self.make(step).await?;
        // Whoever asked may have gone away. What is on its way is stopped as it comes.
        let _ = answer.send(any || !self.admissions.is_empty());
        Ok(())
    }

    /// Answers those who stopped the whole conversation, once it is durable here or there is nothing to stop.
    fn answer_stops(&mut self) {
        if self.machine.is_some() || self.admissions.is_empty() {
            for answer in self.stops.drain(..) {
                let record = self.machine.as_ref().map(SessionMachine::record);
                let _ = answer.send(record.is_some_and(|record| record.watermark < record.stopped_at));
            }
        }
    }

    /// Somebody beside the agent asks for something. What was asked for before under the same name is looked up first.
    async fn call(&mut self, call: Call) -> Result<(), End> {
        let Call { command, once, answer } = call;
        let Some(session) = self.machine.as_ref().map(|machine| machine.record().id.clone()) else {
            let _ = answer.send(Err(AskError::NoSession));
            return Ok(());
        };
        let post = match once {
            Some(once) => Some(self.named_post(PostId::named(&session, &once.key), once.fingerprint).await?),
            None => None,
        };
        let call = self.hands.expect(answer);
        self.step(SessionInput::Asked { call, command, post }).await
    }

    async fn named_post(&mut self, id: PostId, fingerprint: Fingerprint) -> Result<NamedPost, End> {
        let mut wait = Duration::from_millis(100);
        loop {
            match self.shared.parts.store.post(&id).await {
                Ok(parts) => return Ok(NamedPost { id, fingerprint, known: PostFate::of(&parts) }),
                Err(error) => self.store_failed(&error, &mut wait).await?,
            }
        }
    }

    async fn settle(&mut self, journal: JournalId, fate: JournalFate) -> Result<(), End> {
        let mut wait = Duration::from_millis(100);
        loop {
            match router::settle(&self.shared, journal, fate.clone()).await {
                Ok(()) => {
                    self.unsettled.remove(&journal);
                    return Ok(());
                }
                Err(error) => self.store_failed(&error, &mut wait).await?,
            }
        }
    }

    /// An input and those that wait behind it: while the disk is busy, what came meanwhile shares one commit.
    async fn steps(&mut self, first: SessionInput) -> Result<(), End> {
        let Some(mut step) = self.handle(first) else { return Ok(()) };
        for _ in 1..SHARED_COMMIT {
            let next = match self.inbox.try_recv() {
                Ok(Letter::Input(input)) => self.handle(*input),
                Ok(other) => {
                    self.make(step).await?;
                    return Box::pin(self.letter(other)).await;
                }
                Err(_) => break,
            };
            let Some(next) = next else { break };
            match step.commit.join(next.commit) {
                Ok(()) => step.effects.extend(next.effects),
                Err(commit) => {
                    let before = std::mem::replace(&mut step, Step { commit: *commit, effects: next.effects });
                    self.make(before).await?;
                }
            }
        }
        self.make(step).await
    }

    /// One input, its commit, then its effects.
    async fn step(&mut self, input: SessionInput) -> Result<(), End> {
        match self.handle(input) {
            Some(step) => self.make(step).await,
            None => Ok(()),
        }
    }

    fn handle(&mut self, input: SessionInput) -> Option<Step> {
        let machine = self.machine.as_mut()?;
        count_call(&input);
        Some(machine.handle(input, self.shared.parts.clock.now()))
    }

    /// Makes a step durable, then does what it asks for.
    async fn make(&mut self, step: Step) -> Result<(), End> {
        let Step { commit, mut effects } = step;
        self.ahead = true;
        // A place among the turns is no part of what has to be durable, and others wait for it.
        if let Some(place) = effects.iter().position(|effect| *effect == Effect::ReturnSlot) {
            effects.remove(place);
            self.hands.return_slot();
        }
        let files: Vec<_> =
            commit.parts.iter().filter(|part| matches!(part.body, PartBody::File { .. })).cloned().collect();
        let ended: Vec<_> = commit.turns.iter().filter_map(|turn| turn.ended).collect();
        let read = commit.read.clone();
        if !commit.is_empty() {
            self.commit(commit).await?;
            self.shared.copies.keep(&files);
            self.quiet_since = self.shared.parts.clock.now();
            #[cfg(feature = "testing")]
            if let Some(machine) = &self.machine {
                crate::testing::observed(&self.key, machine);
            }
        }
        self.ahead = false;
        for (_, end) in ended {
            metrics::counter!(telemetry::TURNS, "outcome" => end.as_str()).increment(1);
        }
        if let Some(machine) = &self.machine {
            for effect in effects {
                self.hands.perform(effect, machine);
            }
        }
        // Before the rows are let go: whoever waits for the broker to be idle must not find the session between the two.
        self.shared.registry.set_load(&self.key, self.number, self.load_now());
        for id in &read {
            self.unsettled.remove(id);
        }
        self.shared.registry.let_go(read);
        Ok(())
    }

    /// Makes a step durable. A store that fails holds this up: nothing may happen that is not remembered.
    async fn commit(&mut self, commit: SessionCommit) -> Result<(), End> {
        let mut wait = Duration::from_millis(100);
        loop {
            match self.shared.parts.store.commit(commit.clone()).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Store(error)) => self.store_failed(&error, &mut wait).await?,
                Err(error @ (CommitError::Fenced | CommitError::Stale { .. })) => {
                    tracing::error!(session = %self.key, %error, "a step could not be committed");
                    return Err(End::Conflict);
                }
            }
        }
    }

    async fn store_failed(&mut self, error: &StoreError, wait: &mut Duration) -> Result<(), End> {
        tracing::error!(session = %self.key, %error, "the store failed; trying again");
        let until = self.shared.parts.clock.now().plus(*wait);
        *wait = (*wait * 2).min(Duration::from_secs(5));
        tokio::select! {
            biased;
            () = self.shared.ending.cancelled() => Err(End::Broker),
            () = self.shared.parts.clock.sleep_until(until) => Ok(()),
        }
    }
}

/// Counts a call of a tool. Whatever else a model calls is one name.
fn count_call(input: &SessionInput) {
    let SessionInput::Agent(AgentEvent::ToolCall { tool, .. }) = input else { return };
    let tool = match tool.as_str() {
        "post" => "post",
        "broker" => "broker",
        _ => "other",
    };
    metrics::counter!(telemetry::TOOL_CALLS, "tool" => tool).increment(1);
}
