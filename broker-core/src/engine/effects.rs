//! What a session's steps ask for. Each call runs in a task of its own, so that a session never waits for one; calls whose
//! order matters go through the session's lane.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::door::AskError;
use super::files::SessionFiles;
use super::people::NAME_LIMIT;
use super::registry::Letter;
use super::statuses::{self, Wish};
use super::{Shared, channels, copies, earlier, sender, vital};
use crate::access::SessionApi;
use crate::admission::{Policy, Verdict};
use crate::agent::{AgentAnswer, AgentInput, AgentThreadId, InputId, OpenError, RequestId, SubmitError, ThreadSpec};
use crate::chat::{Author, ChatMessage, ChatOp, ChatTime, DeliverError, MessageId, OpKey, Person, PersonId, ThreadKey};
use crate::history::{self, Latest, Until};
use crate::prompt::{self, Coordinates, Overflow};
use crate::session::{CallId, Caller, Effect, Pin, SessionInput, SessionMachine};
use crate::store::ContextMessage;
use crate::thread_tools::ToolAnswer;
use crate::workspace::Workspaces;
use crate::{telemetry, thread_tools, workspace};

/// How long the earlier messages are waited for.
const BACKFILL_LIMIT: Duration = Duration::from_secs(10);

/// How long it is waited for who wrote them.
const AUTHOR_LIMIT: Duration = Duration::from_secs(5);

/// People that earlier messages mention and who are looked up for one look at them; more keep their ids.
const MAX_MENTIONED: usize = 50;

/// How long a reaction may take, the wait for its turn included.
const REACT_LIMIT: Duration = Duration::from_secs(15);

/// Calls of those beside the agent who wait for an answer: at most as many as letters wait, each for as long as a tool call
/// is waited for. Dropped with the session's task, which the callers see.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    latest: u64,
    answers: HashMap<CallId, oneshot::Sender<Result<ToolAnswer, AskError>>>,
}

impl Calls {
    fn expect(&self, answer: oneshot::Sender<Result<ToolAnswer, AskError>>) -> CallId {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.latest += 1;
        let call = CallId(calls.latest);
        calls.answers.insert(call, answer);
        call
    }

    fn reply(&self, call: CallId, answer: ToolAnswer) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&call);
        // Whoever asked may have gone away.
        let _ = waiting.map(|waiting| waiting.send(Ok(answer)));
    }
}

/// A call to the agent whose place in the order matters.
enum Job {
    Open {
        spec: Box<ThreadSpec>,
        place: Box<Coordinates>,
        known: Option<AgentThreadId>,
    },
    Submit {
        thread: AgentThreadId,
        input: AgentInput,
        overflow: Option<Overflow>,
        workspace: PathBuf,
    },
    ReadFates {
        thread: AgentThreadId,
        ids: Vec<InputId>,
    },
    /// Behind what was on its way to the thread.
    Leave {
        thread: AgentThreadId,
    },
}

/// Does what one session's steps ask for.
pub(super) struct Hands {
    shared: Arc<Shared>,
    key: ThreadKey,
    letters: mpsc::Sender<Letter>,
    /// Unbounded as a type, bounded by the machine: one open, one read, one leave for each
    /// conversation, and at most `MAX_IN_DOUBT` submits.
    /// Boxed, since a channel keeps room for dozens of jobs.
    lane: mpsc::UnboundedSender<Box<Job>>,
    /// Inputs whose submits are not made any more, should they wait in the lane. Emptied whenever nothing waits there.
    dropped: Arc<Mutex<BTreeSet<InputId>>>,
    files: SessionFiles,
    /// The session's places among the files that are copied.
    copying: Arc<Semaphore>,
    calls: Calls,
    /// The session's place among the turns that may run; given back when the session ends, however it ends.
    slot: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

/// Runs what a session waits for: should it panic, no answer ever comes, so the session begins anew.
fn spawn(
    shared: &Arc<Shared>,
    key: &ThreadKey,
    letters: &mpsc::Sender<Letter>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let (key, letters, task) = (key.clone(), letters.clone(), task.boxed());
    shared.tasks.spawn(async move {
        if !vital::ends(task, name, &key).await {
            let _ = letters.send(Letter::Anew).await;
        }
    });
}

impl Hands {
    pub(super) fn new(shared: &Arc<Shared>, key: &ThreadKey, letters: mpsc::Sender<Letter>) -> Self {
        let (lane, jobs) = mpsc::unbounded_channel();
        let dropped = Arc::default();
        let lane_dropped = Arc::clone(&dropped);
        let worker = run_lane(Arc::clone(shared), key.clone(), letters.clone(), (jobs, lane_dropped));
        spawn(shared, key, &letters, "agent", worker);
        Self {
            shared: Arc::clone(shared),
            key: key.clone(),
            letters,
            lane,
            dropped,
            files: SessionFiles::default(),
            copying: copies::places(),
            calls: Calls::default(),
            slot: Arc::default(),
        }
    }

    /// Gives the session's place among the turns back.
    pub(super) fn return_slot(&self) {
        drop(self.slot.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Runs what the session waits for.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        spawn(&self.shared, &self.key, &self.letters, name, task);
    }

    fn queue(&self, job: Job) {
        // Its receiver is gone when the broker ends.
        let _ = self.lane.send(Box::new(job));
    }

    fn dropped(&self) -> MutexGuard<'_, BTreeSet<InputId>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody beside the agent waits for an answer.
    pub(super) fn expect(&self, answer: oneshot::Sender<Result<ToolAnswer, AskError>>) -> CallId {
        self.calls.expect(answer)
    }

    /// Answers somebody beside the agent.
    pub(super) fn reply(&self, call: CallId, answer: ToolAnswer) {
        self.calls.reply(call, answer);
    }

    /// Begins an effect; its answer comes back as an input.
    pub(super) fn perform(&self, effect: Effect, machine: &SessionMachine) {
        match effect {
            Effect::Open { known } => {
                let (spec, place) = self.spec(machine);
                let (spec, place) = (Box::new(spec), Box::new(place));
                self.queue(Job::Open { spec, place, known });
            }
            Effect::Submit { thread, input, overflow } => {
                let workspace = machine.workspace();
                self.queue(Job::Submit { thread, input, overflow, workspace });
            }
            Effect::ReadFates { thread, ids } => {
                self.queue(Job::ReadFates { thread, ids });
            }
            Effect::Backfill { row, before, own } => self.backfill(row, before, own),
            Effect::Fetch { row, files } => {
                let fetched = self.files.fetch(&self.shared, &self.letters, machine.workspace(), row, files);
                self.spawn("files", fetched);
            }
            Effect::Interrupt { thread, turn } => {
                let (runtime, letters) = (Arc::clone(&self.shared.parts.runtime), self.letters.clone());
                self.spawn("interrupt", async move {
                    let result = runtime.interrupt(&thread, &turn).await;
                    reply(&letters, SessionInput::Interrupted { turn, result }).await;
                });
            }
            Effect::Answer { request, answer } => self.answer(request, answer),
            Effect::AnswerHistory { request, before, limit } => {
                self.answer_history(request, before, limit, machine.workspace());
            }
            Effect::DropCopy { copy } => {
                let shared = Arc::clone(&self.shared);
                self.shared.tasks.spawn(async move { shared.copies.remove(&copy).await });
            }
            Effect::CountParts => self.count_parts(),
            Effect::Pin { pin, thread } => self.pin(pin, thread.as_ref(), machine),
            Effect::Reply { call, answer } => self.reply(call, answer),
            Effect::React { caller, name, on } => self.react(caller, name, on),
            Effect::AskSlot => self.ask_slot(),
            Effect::ReturnSlot => self.return_slot(),
            Effect::Leave { thread } => {
                self.queue(Job::Leave { thread });
            }
            Effect::DropSubmits { rows } => self.dropped().extend(rows),
            Effect::Status { text, distrust, generation } => {
                statuses::show(&self.shared, &self.key, &Wish { text, distrust, generation });
            }
            Effect::Flush => sender::wake(&self.shared, &self.key),
        }
    }

    /// What the agent's thread is opened with, and what it is told of its place.
    fn spec(&self, machine: &SessionMachine) -> (ThreadSpec, Coordinates) {
        let record = machine.record();
        let workspace = machine.workspace();
        let place = Coordinates {
            thread: self.key.clone(),
            channel_name: record.channel_name.clone(),
            channel_topic: None,
            kind: record.conversation_kind,
            workspace: workspace.clone(),
            repos_root: self.shared.settings.repos_root.clone(),
            images_root: self.shared.parts.runtime.images_root(),
        };
        let api = self.shared.settings.api.as_ref();
        let api = api.map(|api| SessionApi {
            base: api.base.clone(),
            token: api.key.token(&self.key, &record.id, record.token_generation),
        });
        let instructions = String::new();
        (ThreadSpec { session: self.key.clone(), workspace, instructions, tools: thread_tools::specs(), api }, place)
    }

    /// Checks and copies a file; the answer comes back as an input.
    fn pin(&self, pin: Pin, thread: Option<&AgentThreadId>, machine: &SessionMachine) {
        let (settings, workspace) = (&self.shared.settings, machine.workspace());
        let mut roots = vec![workspace.clone(), settings.repos_root.clone()];
        roots.extend(settings.file_roots.iter().cloned());
        roots.extend(thread.and_then(|thread| self.shared.parts.runtime.images_folder(thread)));
        let (shared, letters, here) = (Arc::clone(&self.shared), self.letters.clone(), Arc::clone(&self.copying));
        let key = self.key.clone();
        self.spawn("file", async move {
            let (making, result) =
                copies::make(&shared, &here, &key, (pin.wish.clone(), pin.until), workspace, roots).await;
            let made = result.is_ok();
            let handed = letters.send(Letter::Input(Box::new(SessionInput::Pinned { pin, result }))).await;
            if made && handed.is_ok() {
                making.handed_over();
            }
        });
    }

    /// Counts the parts of the thread that are not yet sent; the answer comes back as an input.
    fn count_parts(&self) {
        let (shared, letters, key) = (Arc::clone(&self.shared), self.letters.clone(), self.key.clone());
        self.spawn("outbox", async move {
            let count = copies::count(&shared, &key).await;
            if let Err(error) = &count {
                tracing::warn!(session = %key, %error, "the outbox could not be counted");
            }
            reply(&letters, SessionInput::PartsCounted(count.ok())).await;
        });
    }

    fn ask_slot(&self) {
        let (shared, letters, slot) = (Arc::clone(&self.shared), self.letters.clone(), Arc::clone(&self.slot));
        self.spawn("turn", async move {
            let permit = tokio::select! {
                biased;
                () = shared.ending.cancelled() => return,
                // A session that has ended waits for nothing.
                () = letters.closed() => return,
                permit = shared.turns.acquire() => permit,
            };
            // While the broker ends no turn begins.
            let Some(permit) = permit else { return };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
            reply(&letters, SessionInput::SlotGranted).await;
        });
    }

    /// Not durable, since it may be repeated: whoever asked is told how it went, and may ask again.
    fn react(&self, caller: Caller, name: String, on: bool) {
        let (shared, thread, calls) = (Arc::clone(&self.shared), self.key.clone(), self.calls.clone());
        self.shared.tasks.spawn(async move {
            let answer = if shared.parts.transport.capabilities().reactions {
                let op = ChatOp::React { thread, name, on };
                let key = OpKey::new(shared.parts.ids.next());
                match tokio::time::timeout(REACT_LIMIT, shared.parts.transport.perform(&key, &op)).await {
                    Ok(Ok(_)) => ToolAnswer::Done,
                    Ok(Err(DeliverError::Refused { code })) => {
                        ToolAnswer::refused("refused", format!("Slack refused the reaction ({code})"))
                    }
                    Ok(Err(error)) => ToolAnswer::refused("unavailable", format!("{error}; {}", prompt::REACT_AGAIN)),
                    Err(_) => {
                        let message = format!("Slack did not answer in time; {}", prompt::REACT_AGAIN);
                        ToolAnswer::refused("unavailable", message)
                    }
                }
            } else {
                ToolAnswer::refused("not_supported", "there are no reactions here")
            };
            match caller {
                Caller::Beside(call) => calls.reply(call, answer),
                Caller::Agent(request) => {
                    let answer = answer.for_agent();
                    count_answer(&answer);
                    if let Err(error) = shared.parts.runtime.answer(&request, answer).await {
                        tracing::debug!(%error, "a tool call is over before its answer");
                    }
                }
            }
        });
    }

    fn answer(&self, request: RequestId, answer: AgentAnswer) {
        count_answer(&answer);
        let runtime = Arc::clone(&self.shared.parts.runtime);
        self.shared.tasks.spawn(async move {
            if let Err(error) = runtime.answer(&request, answer).await {
                tracing::debug!(%error, "a tool call is over before its answer");
            }
        });
    }

    fn backfill(&self, row: InputId, before: ChatTime, own: bool) {
        let (shared, key, letters) = (Arc::clone(&self.shared), self.key.clone(), self.letters.clone());
        let limit = self.shared.around.initial_history;
        self.spawn("history", async move {
            let result = read_history(&shared, &key, Until::Before(before), limit, own).await;
            if let Err(reason) = &result {
                tracing::warn!(session = %key, reason, "the earlier messages could not be read; the first one goes without");
            }
            reply(&letters, SessionInput::Backfilled { row, result }).await;
        });
    }

    fn answer_history(&self, request: RequestId, before: Option<MessageId>, limit: usize, workspace: PathBuf) {
        let (shared, key, files) = (Arc::clone(&self.shared), self.key.clone(), self.files.clone());
        self.shared.tasks.spawn(async move {
            let asked = Instant::now();
            let answer = match read_earlier(&shared, &key, before.as_ref(), limit).await {
                Ok((mut messages, has_more)) => {
                    earlier::fetch_files(&shared, &files, &workspace, &mut messages, asked).await;
                    let text = prompt::history(&messages, has_more, Some(&workspace));
                    AgentAnswer::Tool { success: true, text }
                }
                Err(error) => AgentAnswer::Tool { success: false, text: error.to_string() },
            };
            count_answer(&answer);
            if let Err(error) = shared.parts.runtime.answer(&request, answer).await {
                tracing::debug!(%error, "a tool call is over before its answer");
            }
        });
    }
}

fn count_answer(answer: &AgentAnswer) {
    let AgentAnswer::Tool { success, .. } = answer;
    let result = if *success { "done" } else { "refused" };
    metrics::counter!(telemetry::TOOL_ANSWERS, "result" => result).increment(1);
}

pub(super) async fn reply(letters: &mpsc::Sender<Letter>, input: SessionInput) {
    // A session that is gone needs no answer: its rows say what is open.
    let _ = letters.send(Letter::Input(Box::new(input))).await;
}

/// Why earlier messages are not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EarlierError {
    /// The bound is none.
    #[error("what the messages shall be before is not a message_ts of this thread, such as \"1700000000.000100\"")]
    NoSuchMoment,
    /// The platform does not give them.
    #[error("the messages could not be read: {0}")]
    Unreadable(String),
}

/// The latest messages of a thread, or the latest before one of them, oldest first, and whether there are older ones.
pub(super) async fn read_earlier(
    shared: &Shared,
    key: &ThreadKey,
    before: Option<&MessageId>,
    limit: usize,
) -> Result<(Vec<ContextMessage>, bool), EarlierError> {
    let until = match before {
        None => Until::Newest { now: ChatTime::of(shared.parts.clock.now()) },
        Some(id) => Until::Before(shared.parts.history.time_of(id).ok_or(EarlierError::NoSuchMoment)?),
    };
    read_history(shared, key, until, limit, false).await.map_err(EarlierError::Unreadable)
}

/// The latest messages up to a bound, with the names of their people.
async fn read_history(
    shared: &Shared,
    key: &ThreadKey,
    until: Until,
    limit: usize,
    own: bool,
) -> Result<(Vec<ContextMessage>, bool), String> {
    let read = history::latest_before(shared.parts.history.as_ref(), key, until, limit, own);
    let Latest { mut messages, has_more } = match tokio::time::timeout(BACKFILL_LIMIT, read).await {
        Ok(Ok(latest)) => latest,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {} s", BACKFILL_LIMIT.as_secs())),
    };
    let authors: BTreeSet<PersonId> = messages.iter().filter_map(author_of).cloned().collect();
    let mentioned = messages.iter().flat_map(|message| &message.mentions).filter(|id| !authors.contains(id));
    let mentioned: BTreeSet<PersonId> = mentioned.take(MAX_MENTIONED).cloned().collect();
    // Who may instruct depends on who wrote; whom they mention is a name.
    let (authors, mentioned, names) = tokio::join!(
        shared.people.within(AUTHOR_LIMIT, authors),
        shared.people.names(mentioned),
        channels::names(shared, &messages)
    );
    channels::note(&mut messages, &names);
    let people: BTreeMap<PersonId, Person> =
        authors.into_iter().chain(mentioned).map(|person| (person.id.clone(), person)).collect();
    let with_people = |message: ChatMessage| {
        let denied = is_denied(&shared.settings.policy, &message, &people);
        let ids: BTreeSet<&PersonId> = author_of(&message).into_iter().chain(&message.mentions).collect();
        let people = ids.into_iter().filter_map(|id| people.get(id)).cloned().collect();
        ContextMessage { message, people, denied }
    };
    Ok((messages.into_iter().map(with_people).collect(), has_more))
}

/// Whether the author of a message may not instruct the agent, or it is not known whether they may.
fn is_denied(policy: &Policy, message: &ChatMessage, people: &BTreeMap<PersonId, Person>) -> bool {
    let judged = || Some(policy.judge(message, people.get(author_of(message)?)?));
    policy.at_sight(message).or_else(judged) != Some(Verdict::Instruct)
}

fn author_of(message: &ChatMessage) -> Option<&PersonId> {
    match &message.author {
        Author::Person { id, .. } => Some(id),
        _ => None,
    }
}

/// Runs a session's calls to the agent one after another.
async fn run_lane(
    shared: Arc<Shared>,
    key: ThreadKey,
    letters: mpsc::Sender<Letter>,
    (mut jobs, dropped): (mpsc::UnboundedReceiver<Box<Job>>, Arc<Mutex<BTreeSet<InputId>>>),
) {
    // The thread that may yet take an input, since a submit was not answered in time.
    let mut doubtful = None;
    loop {
        let job = tokio::select! {
            biased;
            () = shared.ending.cancelled() => return,
            // What a task that is no more has not handed over is given by the one that takes its place.
            () = letters.closed() => return,
            job = jobs.recv() => job,
        };
        let Some(job) = job else { return };
        if let Some(row) = taken_back(&job, jobs.is_empty(), &dropped) {
            let result = Err(SubmitError::Refused { reason: "it was taken back".to_owned() });
            reply(&letters, SessionInput::Submitted { row, result }).await;
            continue;
        }
        let given_to = match &*job {
            // What begins there is heard of and ended, which it is not once the thread is closed.
            Job::Leave { thread } if doubtful.as_ref() == Some(thread) => continue,
            Job::Submit { thread, .. } => Some(thread.clone()),
            _ => None,
        };
        let answer = tokio::select! {
            biased;
            () = shared.ending.cancelled() => return,
            answer = run_job(&shared, &key, *job).boxed() => answer,
        };
        if let Some(SessionInput::Submitted { result: Err(SubmitError::Unknown { .. }), .. }) = &answer {
            doubtful = given_to;
        }
        if let Some(answer) = answer {
            reply(&letters, answer).await;
        }
    }
}

/// The input of a job that was taken back. What does not wait in the lane any more was handed over, and need not be remembered.
fn taken_back(job: &Job, last: bool, dropped: &Mutex<BTreeSet<InputId>>) -> Option<InputId> {
    let mut dropped = dropped.lock().unwrap_or_else(PoisonError::into_inner);
    let taken_back = match job {
        Job::Submit { input, .. } if dropped.contains(&input.id) => Some(input.id.clone()),
        _ => None,
    };
    if last {
        dropped.clear();
    }
    taken_back
}

/// What the conversation is about, if that can be had at once.
async fn topic(shared: &Shared, key: &ThreadKey) -> Option<String> {
    let conversation = key.conversation_key();
    let topic = shared.parts.transport.conversation_topic(&conversation);
    tokio::time::timeout(NAME_LIMIT, topic).await.ok().and_then(Result::ok).flatten()
}

async fn run_job(shared: &Shared, key: &ThreadKey, job: Job) -> Option<SessionInput> {
    let runtime = &shared.parts.runtime;
    let answer = match job {
        Job::Open { mut spec, mut place, known } => {
            if shared.settings.workspaces == Workspaces::OnDisk
                && let Err(error) = workspace::prepare(&spec.workspace).await
            {
                let reason =
                    format!("the workspace cannot be made: {error}; check the disk and who owns SESSIONS_ROOT");
                return Some(SessionInput::Opened(Err(OpenError::Unavailable { reason })));
            }
            place.channel_topic = topic(shared, key).await;
            spec.instructions = prompt::instructions(&place);
            let result = runtime.open(&spec, known).await;
            match &result {
                Ok(opened) => shared.registry.bind(&opened.thread, key),
                Err(error) => tracing::warn!(session = %key, %error, "the agent's thread is not open"),
            }
            SessionInput::Opened(result)
        }
        Job::Submit { thread, input, overflow, workspace, .. } => {
            let row = input.id.clone();
            if shared.settings.workspaces == Workspaces::OnDisk
                && let Some(overflow) = overflow
                && let Err(error) = workspace::write_overflow(&workspace, &overflow).await
            {
                let reason = format!("the long message could not be written into the workspace: {error}");
                return Some(SessionInput::Submitted { row, result: Err(SubmitError::Refused { reason }) });
            }
            let result = runtime.submit(&thread, &input).await;
            match &result {
                Ok(submitted) => {
                    tracing::info!(session = %key, input = %row, turn = %submitted.turn, "given to the agent")
                }
                Err(error) => tracing::warn!(session = %key, input = %row, %error, "not given to the agent"),
            }
            SessionInput::Submitted { row, result }
        }
        Job::ReadFates { thread, ids } => {
            let result = runtime.fate(&thread, &ids).await;
            if let Err(error) = &result {
                tracing::warn!(session = %key, %error, "what became of an input is not known yet");
            }
            SessionInput::Fates(result)
        }
        Job::Leave { thread } => {
            if let Err(error) = runtime.release(&thread).await {
                tracing::debug!(session = %key, %error, "a thread that was left stays open");
            }
            return None;
        }
    };
    Some(answer)
}
