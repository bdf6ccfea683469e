//! What every [`AgentRuntime`] has to do, as functions that panic where one does not.
//!
//! An implementation runs [`all`] on an [`AgentBench`], through `Arc<dyn AgentRuntime>` as the engine does. What the
//! agent does in a turn is chosen by the text that it is given ([`AgentTexts`]), so that a scripted agent and a real
//! one with a scripted model can both be asked.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::agent::{
    AgentAnswer, AgentEvent, AgentInput, AgentRuntime, AgentThreadId, Fate, InputId, InterruptError, OpenError, Opened,
    RequestId, SubmitError, ThreadSpec, ToolSpec, TurnId, TurnOutcome,
};
use crate::chat::{ConversationId, InstallationId, MessageId, ThreadKey};

/// The tool that [`AgentTexts::tool`] makes the agent call.
pub const TOOL: &str = "post";

/// How long anything may take before the suite gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Inputs that make the agent under test do something.
#[derive(Debug, Clone)]
pub struct AgentTexts {
    /// The turn ends soon, with a final text.
    pub finish: String,
    /// The turn goes on until it is interrupted (or until another input moves it on).
    pub hold: String,
    /// The turn fails.
    pub fail: String,
    /// The agent calls [`TOOL`] once, with an object for arguments, and ends the turn after the answer.
    pub tool: String,
}

/// A runtime under test, with its events.
pub struct AgentBench {
    runtime: Arc<dyn AgentRuntime>,
    events: mpsc::Receiver<AgentEvent>,
    texts: AgentTexts,
    workspaces: PathBuf,
    sessions: u32,
    inputs: u32,
}

impl std::fmt::Debug for AgentBench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentBench").field("texts", &self.texts).finish_non_exhaustive()
    }
}

impl AgentBench {
    /// A bench for a runtime whose events nobody has taken. Workspaces are made as `<workspaces>/<n>/workspace`.
    pub fn new(runtime: Arc<dyn AgentRuntime>, texts: AgentTexts, workspaces: &Path) -> Self {
        let events = runtime.events();
        Self { runtime, events, texts, workspaces: workspaces.to_path_buf(), sessions: 0, inputs: 0 }
    }

    async fn spec(&mut self) -> ThreadSpec {
        self.sessions += 1;
        let workspace = self.workspaces.join(self.sessions.to_string()).join("workspace");
        if let Err(error) = crate::workspace::prepare(&workspace).await {
            panic!("the workspace {} cannot be made: {error}", workspace.display());
        }
        ThreadSpec {
            session: ThreadKey {
                installation: InstallationId::new("T1"),
                conversation: ConversationId::new("C1"),
                root: MessageId::new(format!("{}.000100", self.sessions)),
            },
            workspace,
            instructions: "This is a conformance test.".to_owned(),
            tools: vec![ToolSpec {
                name: TOOL,
                description: "Posts a message.",
                input_schema: json!({"type": "object", "properties": {"text": {"type": "string"}}}),
            }],
            api: None,
        }
    }

    async fn open(&mut self) -> AgentThreadId {
        let spec = self.spec().await;
        self.open_as(&spec, None).await.thread
    }

    async fn open_as(&self, spec: &ThreadSpec, known: Option<AgentThreadId>) -> Opened {
        match timeout(PATIENCE, self.runtime.open(spec, known)).await {
            Ok(Ok(opened)) => opened,
            other => panic!("the thread is not open: {other:?}"),
        }
    }

    fn input(&mut self, text: &str) -> AgentInput {
        self.inputs += 1;
        AgentInput { id: InputId::new(format!("suite-{}", self.inputs)), text: text.to_owned(), images: Vec::new() }
    }

    async fn submit(&self, thread: &AgentThreadId, input: &AgentInput) -> TurnId {
        match timeout(PATIENCE, self.runtime.submit(thread, input)).await {
            Ok(Ok(submitted)) => submitted.turn,
            other => panic!("the input was not taken: {other:?}"),
        }
    }

    /// The next event of a thread that is not a sign of life. Events of other threads are passed over.
    async fn next(&mut self, thread: &AgentThreadId) -> AgentEvent {
        loop {
            match timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(AgentEvent::Progress { .. })) => {}
                Ok(Some(AgentEvent::Down { reason, .. })) => panic!("the runtime went down: {reason}"),
                Ok(Some(event)) if event.thread() == Some(thread) => return event,
                Ok(Some(_)) => {}
                Ok(None) => panic!("the events ended"),
                Err(_) => panic!("no event within {PATIENCE:?}"),
            }
        }
    }

    /// Events up to the end of a turn; the end is the last.
    async fn until_end(&mut self, thread: &AgentThreadId, turn: &TurnId) -> Vec<AgentEvent> {
        let mut events = Vec::new();
        loop {
            events.push(self.next(thread).await);
            if matches!(events.last(), Some(AgentEvent::TurnEnded { turn: ended, .. }) if ended == turn) {
                return events;
            }
        }
    }

    /// Waits until the input stands in the history.
    async fn until_recorded(&mut self, thread: &AgentThreadId, wanted: &InputId) {
        loop {
            if matches!(self.next(thread).await, AgentEvent::InputRecorded { input, .. } if input == *wanted) {
                return;
            }
        }
    }

    async fn fates(&self, thread: &AgentThreadId, ids: &[InputId]) -> Vec<Fate> {
        let fates = match timeout(PATIENCE, self.runtime.fate(thread, ids)).await {
            Ok(Ok(fates)) => fates,
            other => panic!("the history cannot be read: {other:?}"),
        };
        let named: Vec<&InputId> = fates.iter().map(|(id, _)| id).collect();
        assert_eq!(named, ids.iter().collect::<Vec<_>>(), "fates are told of what was asked, in that order");
        fates.into_iter().map(|(_, fate)| fate).collect()
    }
}

fn recorded(events: &[AgentEvent]) -> Vec<InputId> {
    let input = |event: &AgentEvent| match event {
        AgentEvent::InputRecorded { input, .. } => Some(input.clone()),
        _ => None,
    };
    events.iter().filter_map(input).collect()
}

fn outcome(events: Vec<AgentEvent>) -> TurnOutcome {
    match events.into_iter().next_back() {
        Some(AgentEvent::TurnEnded { outcome, .. }) => outcome,
        other => panic!("the turn's end was expected, not {other:?}"),
    }
}

/// Runs every function of the suite.
pub async fn all(bench: &mut AgentBench) {
    events_have_one_taker(bench);
    a_turn_runs_to_its_end(bench).await;
    every_input_is_recorded_once(bench).await;
    an_input_joins_the_running_turn(bench).await;
    an_interrupt_ends_the_turn(bench).await;
    a_failed_turn_keeps_its_input(bench).await;
    a_tool_call_is_answered_once(bench).await;
    an_unknown_thread_is_told_apart(bench).await;
    a_thread_can_be_opened_again(bench).await;
}

/// Every later taker gets a closed channel, and takes nothing away from the first.
pub fn events_have_one_taker(bench: &AgentBench) {
    let mut second = bench.runtime.events();
    assert_eq!(second.try_recv(), Err(mpsc::error::TryRecvError::Disconnected), "events have one taker");
}

/// Begin, input, end, in that order; the answer is the final text; the input stands in the history.
pub async fn a_turn_runs_to_its_end(bench: &mut AgentBench) {
    let thread = bench.open().await;
    let input = bench.input(&bench.texts.finish.clone());
    let turn = bench.submit(&thread, &input).await;
    let events = bench.until_end(&thread, &turn).await;
    let begun = AgentEvent::TurnStarted { thread: thread.clone(), turn: turn.clone() };
    assert_eq!(events.first(), Some(&begun), "a turn begins before anything happens in it");
    assert_eq!(recorded(&events), std::slice::from_ref(&input.id));
    match outcome(events) {
        TurnOutcome::Completed { final_text: Some(text) } => assert!(!text.trim().is_empty()),
        other => panic!("a final text was expected, not {other:?}"),
    }
    let never = InputId::new("suite-never");
    assert_eq!(bench.fates(&thread, &[input.id, never]).await, [Fate::Recorded, Fate::Absent]);
}

/// Several inputs at once are all recorded, once and in their order, whether in one turn or in several.
pub async fn every_input_is_recorded_once(bench: &mut AgentBench) {
    let thread = bench.open().await;
    let text = bench.texts.finish.clone();
    let inputs = [bench.input(&text), bench.input(&text), bench.input(&text)];
    let mut turns = HashSet::new();
    for input in &inputs {
        turns.insert(bench.submit(&thread, input).await);
    }
    let mut events = Vec::new();
    while !turns.is_empty() {
        let event = bench.next(&thread).await;
        if let AgentEvent::TurnEnded { turn, .. } = &event {
            assert!(turns.remove(turn), "a turn ended that nothing was given to, or twice: {turn}");
        }
        events.push(event);
    }
    let ids: Vec<InputId> = inputs.iter().map(|input| input.id.clone()).collect();
    assert_eq!(recorded(&events), ids);
    assert_eq!(bench.fates(&thread, &ids).await, [Fate::Recorded; 3]);
}

/// What is given while a turn runs names that turn, and after the turn's end its fate is decided and agrees with the
/// events.
pub async fn an_input_joins_the_running_turn(bench: &mut AgentBench) {
    let thread = bench.open().await;
    let first = bench.input(&bench.texts.hold.clone());
    let turn = bench.submit(&thread, &first).await;
    let mut seen = HashSet::from([first.id.clone()]);
    bench.until_recorded(&thread, &first.id).await;
    let second = bench.input(&bench.texts.hold.clone());
    assert_eq!(bench.submit(&thread, &second).await, turn, "a running turn is joined");
    interrupt(bench, &thread, &turn).await;
    let events = bench.until_end(&thread, &turn).await;
    seen.extend(recorded(&events));
    assert_eq!(outcome(events), TurnOutcome::Interrupted);
    let ids = [first.id, second.id];
    let expected = ids.clone().map(|id| if seen.contains(&id) { Fate::Recorded } else { Fate::Absent });
    assert_eq!(bench.fates(&thread, &ids).await, expected);
}

async fn interrupt(bench: &AgentBench, thread: &AgentThreadId, turn: &TurnId) {
    match timeout(PATIENCE, bench.runtime.interrupt(thread, turn)).await {
        Ok(Ok(())) => {}
        other => panic!("the turn was not interrupted: {other:?}"),
    }
}

/// An interrupted turn ends as such, once; what it had recorded stays; the next input starts another turn.
pub async fn an_interrupt_ends_the_turn(bench: &mut AgentBench) {
    let thread = bench.open().await;
    let held = bench.input(&bench.texts.hold.clone());
    let turn = bench.submit(&thread, &held).await;
    bench.until_recorded(&thread, &held.id).await;
    interrupt(bench, &thread, &turn).await;
    let events = bench.until_end(&thread, &turn).await;
    assert_eq!(outcome(events), TurnOutcome::Interrupted);
    assert_eq!(bench.runtime.interrupt(&thread, &turn).await, Err(InterruptError::NotRunning));
    assert_eq!(bench.fates(&thread, &[held.id]).await, [Fate::Recorded]);
    let next = bench.input(&bench.texts.finish.clone());
    let other = bench.submit(&thread, &next).await;
    assert_ne!(other, turn, "a turn that has ended is not joined");
    assert!(matches!(outcome(bench.until_end(&thread, &other).await), TurnOutcome::Completed { .. }));
}

/// A turn that fails says so, and its input stands in the history: a retry must not give it again.
pub async fn a_failed_turn_keeps_its_input(bench: &mut AgentBench) {
    let thread = bench.open().await;
    let input = bench.input(&bench.texts.fail.clone());
    let turn = bench.submit(&thread, &input).await;
    let events = bench.until_end(&thread, &turn).await;
    assert_eq!(recorded(&events), std::slice::from_ref(&input.id));
    match outcome(events) {
        TurnOutcome::Failed { message, .. } => assert!(!message.is_empty()),
        other => panic!("a failure was expected, not {other:?}"),
    }
    assert_eq!(bench.fates(&thread, &[input.id]).await, [Fate::Recorded]);
}

/// A tool call names its thread and turn and waits for one answer; a second one is refused.
pub async fn a_tool_call_is_answered_once(bench: &mut AgentBench) {
    let thread = bench.open().await;
    let input = bench.input(&bench.texts.tool.clone());
    let turn = bench.submit(&thread, &input).await;
    let request = loop {
        match bench.next(&thread).await {
            AgentEvent::ToolCall { turn: calling, request, tool, arguments, .. } => {
                assert_eq!((calling, tool.as_str()), (turn.clone(), TOOL));
                assert!(arguments.is_object(), "the arguments are an object, not {arguments}");
                break request;
            }
            AgentEvent::TurnEnded { outcome, .. } => panic!("the turn ended without a call: {outcome:?}"),
            _ => {}
        }
    };
    let answer = AgentAnswer::Tool { success: true, text: "posted".to_owned() };
    if let Err(error) = bench.runtime.answer(&request, answer.clone()).await {
        panic!("the answer was not taken: {error}");
    }
    assert!(matches!(outcome(bench.until_end(&thread, &turn).await), TurnOutcome::Completed { .. }));
    assert!(bench.runtime.answer(&request, answer.clone()).await.is_err(), "a call is answered once");
    let older = RequestId { epoch: crate::agent::Epoch(u64::MAX), id: request.id };
    assert!(bench.runtime.answer(&older, answer).await.is_err(), "a call belongs to its process");
}

/// A thread that is not open takes nothing, and one that never was is lost.
pub async fn an_unknown_thread_is_told_apart(bench: &mut AgentBench) {
    let nobody = AgentThreadId::new("01900000-0000-7000-8000-000000000000");
    let input = bench.input(&bench.texts.finish.clone());
    assert_eq!(bench.runtime.submit(&nobody, &input).await, Err(SubmitError::NotOpen));
    let spec = bench.spec().await;
    assert_eq!(bench.runtime.open(&spec, Some(nobody)).await, Err(OpenError::Lost));
}

/// A thread keeps its name and its history when it is opened again, after a release too.
pub async fn a_thread_can_be_opened_again(bench: &mut AgentBench) {
    let spec = bench.spec().await;
    let opened = bench.open_as(&spec, None).await;
    assert_eq!(opened.running, None, "a new thread is idle");
    let input = bench.input(&bench.texts.finish.clone());
    let turn = bench.submit(&opened.thread, &input).await;
    bench.until_end(&opened.thread, &turn).await;
    assert_eq!(bench.open_as(&spec, Some(opened.thread.clone())).await, opened);
    if let Err(error) = bench.runtime.release(&opened.thread).await {
        panic!("the thread was not released: {error}");
    }
    assert_eq!(bench.open_as(&spec, Some(opened.thread.clone())).await, opened);
    assert_eq!(bench.fates(&opened.thread, &[input.id]).await, [Fate::Recorded]);
    let next = bench.input(&bench.texts.finish.clone());
    let turn = bench.submit(&opened.thread, &next).await;
    assert!(matches!(outcome(bench.until_end(&opened.thread, &turn).await), TurnOutcome::Completed { .. }));
}
