//! The app-server's notifications, turned into the broker's events. Pure: no I/O, and the time comes with each call.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use broker_core::agent::{Activity, AgentEvent, AgentThreadId, FailureCause, InputId, TokenUsage, TurnId, TurnOutcome};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::failure;
use crate::wire::clip;

/// Turns that may run at once; what is beyond has no final text and no progress, but still an end.
const MAX_TURNS: usize = 4096;

/// Ended turns that are remembered, so that an interrupt that comes too late need not wait for a beginning.
const MAX_ENDED: usize = 256;

/// Items of a turn that are under way at once; of more than that the oldest are forgotten.
const MAX_UNDER_WAY: usize = 64;

/// At most one sign of life per turn in this time.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Notifications that nobody here reads; the app-server keeps them to itself.
pub(crate) const NOT_WANTED: [&str; 3] =
    ["turn/diff/updated", "thread/readState/changed", "account/rateLimits/updated"];

#[derive(Debug)]
struct Turn {
    thread: AgentThreadId,
    /// The last message that is an answer.
    final_text: Option<String>,
    /// The last error that will not be retried.
    failure: Option<(FailureCause, String)>,
    progress_at: Option<Instant>,
    /// Items under way of which people are told, in the order in which they began. Bounded.
    under_way: Vec<(String, Activity)>,
    /// What was told last.
    told: Activity,
}

impl Turn {
    fn new(thread: AgentThreadId) -> Self {
        Self {
            thread,
            final_text: None,
            failure: None,
            progress_at: None,
            under_way: Vec::new(),
            told: Activity::Thinking,
        }
    }

    /// What it does now, when that has changed: the item that began last of those under way.
    fn doing(&mut self, turn: &TurnId) -> Option<AgentEvent> {
        let activity = self.under_way.last().map_or(Activity::Thinking, |(_, activity)| *activity);
        if std::mem::replace(&mut self.told, activity) == activity {
            return None;
        }
        Some(AgentEvent::Doing { thread: self.thread.clone(), turn: turn.clone(), activity })
    }
}

/// What is known of the turns that run in one process. Dropped with the process.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    running: HashMap<TurnId, Turn>,
    ended: VecDeque<TurnId>,
}

/// The part that every notification about a thread has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    thread_id: Option<String>,
    turn_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TurnNote {
    thread_id: String,
    turn: TurnBody,
}

#[derive(Deserialize)]
struct TurnBody {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    error: Option<ErrorBody>,
    /// Of a completed turn: its last agent message.
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody {
    #[serde(default)]
    message: String,
    #[serde(default)]
    codex_error_info: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorNote {
    turn_id: Option<String>,
    error: ErrorBody,
    #[serde(default)]
    will_retry: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsageNote {
    thread_id: String,
    token_usage: Usage,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    last: Tokens,
    total: Tokens,
    #[serde(default)]
    model_context_window: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tokens {
    total_tokens: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemNote {
    thread_id: String,
    turn_id: String,
    item: Item,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    id: String,
    client_id: Option<String>,
    text: Option<String>,
    phase: Option<String>,
}

impl Item {
    /// What people are told while it is under way. The broker's own tools are over at once, and what they post is seen.
    fn activity(&self) -> Option<Activity> {
        match self.kind.as_str() {
            "commandExecution" => Some(Activity::RunningCommand),
            "fileChange" => Some(Activity::EditingFiles),
            "webSearch" => Some(Activity::SearchingWeb),
            "imageView" | "imageGeneration" => Some(Activity::Images),
            "mcpToolCall" | "collabAgentToolCall" => Some(Activity::UsingTool),
            "contextCompaction" => Some(Activity::Compacting),
            _ => None,
        }
    }

    /// The text of a message that is an answer. A provider that names no phase leaves it open, so it counts.
    fn answer(self) -> Option<String> {
        let is_answer =
            self.kind == "agentMessage" && self.phase.as_deref().is_none_or(|phase| phase == "final_answer");
        if is_answer { self.text.filter(|text| !text.trim().is_empty()) } else { None }
    }
}

impl Turns {
    /// Reads one notification.
    ///
    /// # Errors
    ///
    /// When it has not the shape that its method promises; it is then as if it had not come.
    pub(crate) fn read(
        &mut self,
        method: &str,
        params: &str,
        now: Instant,
    ) -> Result<Vec<AgentEvent>, serde_json::Error> {
        match method {
            "turn/started" => Ok(self.started(serde_json::from_str(params)?)),
            "turn/completed" => Ok(vec![self.completed(serde_json::from_str(params)?)]),
            "item/started" => Ok(self.item_started(serde_json::from_str(params)?, now)),
            "item/completed" => Ok(self.item(serde_json::from_str(params)?, now)),
            "error" => {
                let note: ErrorNote = serde_json::from_str(params)?;
                let turn = note.turn_id.clone();
                self.failed(note);
                Ok(turn.and_then(|turn| self.progress(&TurnId::new(turn), now)).into_iter().collect())
            }
            // Every delta names its turn: signs of life, whatever they are about.
            _ if method.starts_with("item/") || method.starts_with("turn/") => {
                let place: Place = serde_json::from_str(params)?;
                Ok(place.turn_id.and_then(|turn| self.progress(&TurnId::new(turn), now)).into_iter().collect())
            }
            "thread/tokenUsage/updated" => {
                let UsageNote { thread_id, token_usage } = serde_json::from_str(params)?;
                let usage = TokenUsage {
                    last: token_usage.last.total_tokens,
                    total: token_usage.total.total_tokens,
                    window: token_usage.model_context_window,
                };
                Ok(vec![AgentEvent::Usage { thread: AgentThreadId::new(thread_id), usage }])
            }
            "thread/closed" => {
                let place: Place = serde_json::from_str(params)?;
                if let Some(thread) = place.thread_id {
                    self.forget_thread(&AgentThreadId::new(thread));
                }
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// A turn that was found running when its thread was opened.
    pub(crate) fn found(&mut self, thread: &AgentThreadId, turn: &TurnId) {
        if self.running.len() < MAX_TURNS && !self.has_ended(turn) {
            self.running.entry(turn.clone()).or_insert_with(|| Turn::new(thread.clone()));
        }
    }

    /// Whether the end of a turn was seen, not long ago.
    pub(crate) fn has_ended(&self, turn: &TurnId) -> bool {
        self.ended.contains(turn)
    }

    /// Forgets the turns of a thread whose events no longer come.
    pub(crate) fn forget_thread(&mut self, thread: &AgentThreadId) {
        self.running.retain(|_, turn| turn.thread != *thread);
    }

    fn started(&mut self, note: TurnNote) -> Vec<AgentEvent> {
        let (thread, turn) = (AgentThreadId::new(note.thread_id), TurnId::new(note.turn.id));
        self.found(&thread, &turn);
        vec![AgentEvent::TurnStarted { thread, turn }]
    }

    fn item_started(&mut self, note: ItemNote, now: Instant) -> Vec<AgentEvent> {
        let turn = TurnId::new(note.turn_id);
        let mut events: Vec<AgentEvent> = self.progress(&turn, now).into_iter().collect();
        if let (Some(known), Some(activity)) = (self.running.get_mut(&turn), note.item.activity()) {
            if known.under_way.len() == MAX_UNDER_WAY {
                known.under_way.remove(0);
            }
            known.under_way.push((note.item.id, activity));
            events.extend(known.doing(&turn));
        }
        events
    }

    fn item(&mut self, note: ItemNote, now: Instant) -> Vec<AgentEvent> {
        let turn = TurnId::new(note.turn_id);
        let mut events: Vec<AgentEvent> = self.progress(&turn, now).into_iter().collect();
        if let Some(known) = self.running.get_mut(&turn) {
            known.under_way.retain(|(id, _)| *id != note.item.id);
            events.extend(known.doing(&turn));
        }
        match note.item {
            Item { kind, client_id: Some(input), .. } if kind == "userMessage" => {
                let thread = AgentThreadId::new(note.thread_id);
                events.push(AgentEvent::InputRecorded { thread, turn, input: InputId::new(input) });
            }
            item => {
                // A background command may end after its turn: only a turn that runs takes anything.
                if let (Some(known), Some(text)) = (self.running.get_mut(&turn), item.answer()) {
                    known.final_text = Some(text);
                }
            }
        }
        events
    }

    fn failed(&mut self, note: ErrorNote) {
        let known = note.turn_id.and_then(|turn| self.running.get_mut(&TurnId::new(turn)));
        if let (Some(turn), false) = (known, note.will_retry) {
            turn.failure = Some((failure::cause(&note.error.codex_error_info), clip(&note.error.message)));
        }
    }

    fn progress(&mut self, turn: &TurnId, now: Instant) -> Option<AgentEvent> {
        let known = self.running.get_mut(turn)?;
        if known.progress_at.is_some_and(|last| now.duration_since(last) < PROGRESS_EVERY) {
            return None;
        }
        known.progress_at = Some(now);
        Some(AgentEvent::Progress { thread: known.thread.clone(), turn: turn.clone() })
    }

    fn completed(&mut self, note: TurnNote) -> AgentEvent {
        let turn = TurnId::new(note.turn.id);
        let known = self.running.remove(&turn);
        if self.ended.len() == MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(turn.clone());
        let (final_text, failure) = known.map_or((None, None), |known| (known.final_text, known.failure));
        let outcome = match note.turn.status.as_str() {
            "interrupted" => TurnOutcome::Interrupted,
            "failed" => {
                let told = note.turn.error.map(|error| (failure::cause(&error.codex_error_info), clip(&error.message)));
                let (cause, message) =
                    told.or(failure).unwrap_or_else(|| (FailureCause::Other, "Codex did not say why".to_owned()));
                TurnOutcome::Failed { cause, message }
            }
            _ => {
                let last = || {
                    let items = note.turn.items.into_iter().rev();
                    items.filter_map(|item| serde_json::from_value::<Item>(item).ok()).find_map(Item::answer)
                };
                TurnOutcome::Completed { final_text: final_text.or_else(last) }
            }
        };
        AgentEvent::TurnEnded { thread: AgentThreadId::new(note.thread_id), turn, outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notifications as Codex 0.169.0 writes them, shortened to what stands in them for us.
    fn feed(turns: &mut Turns, notes: &[(&str, &str)]) -> Vec<AgentEvent> {
        let now = Instant::now();
        notes.iter().flat_map(|(method, params)| turns.read(method, params, now).expect("well-formed")).collect()
    }

    fn thread() -> AgentThreadId {
        AgentThreadId::new("th")
    }

    fn turn() -> TurnId {
        TurnId::new("tu")
    }

    const STARTED: (&str, &str) =
        ("turn/started", r#"{"threadId":"th","turn":{"id":"tu","status":"inProgress","items":[],"error":null}}"#);

    #[test]
    fn a_plain_turn_records_its_input_and_ends_with_the_answer() {
        let events = feed(
            &mut Turns::default(),
            &[
                STARTED,
                (
                    "item/completed",
                    r#"{"threadId":"th","turnId":"tu","item":{"type":"userMessage","id":"1","clientId":"row-1","content":[]}}"#,
                ),
                (
                    "item/completed",
                    r#"{"threadId":"th","turnId":"tu","item":{"type":"agentMessage","id":"2","text":"let me look","phase":"commentary"}}"#,
                ),
                (
                    "item/completed",
                    r#"{"threadId":"th","turnId":"tu","item":{"type":"agentMessage","id":"3","text":"done","phase":"final_answer"}}"#,
                ),
                (
                    "turn/completed",
                    r#"{"threadId":"th","turn":{"id":"tu","status":"completed","error":null,"items":[]}}"#,
                ),
            ],
        );
        let expected = [
            AgentEvent::TurnStarted { thread: thread(), turn: turn() },
            AgentEvent::Progress { thread: thread(), turn: turn() },
            AgentEvent::InputRecorded { thread: thread(), turn: turn(), input: InputId::new("row-1") },
            AgentEvent::TurnEnded {
                thread: thread(),
                turn: turn(),
                outcome: TurnOutcome::Completed { final_text: Some("done".to_owned()) },
            },
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn a_message_without_a_phase_is_an_answer_and_commentary_is_not() {
        let mut turns = Turns::default();
        let answer = r#"{"threadId":"th","turnId":"tu","item":{"type":"agentMessage","text":"yes","phase":null}}"#;
        feed(&mut turns, &[STARTED, ("item/completed", answer)]);
        assert_eq!(turns.running[&turn()].final_text.as_deref(), Some("yes"));
        let ended = r#"{"threadId":"th","turn":{"id":"x","status":"completed","items":
            [{"type":"agentMessage","text":"hm","phase":"commentary"}]}}"#;
        let events = feed(&mut turns, &[("turn/completed", ended)]);
        assert!(matches!(
            &events[..],
            [AgentEvent::TurnEnded { outcome: TurnOutcome::Completed { final_text: None }, .. }]
        ));
    }

    #[test]
    fn a_failure_keeps_its_cause_even_when_the_end_does_not_say_it() {
        let error = r#"{"error":{"message":"limit","codexErrorInfo":"usageLimitExceeded"},"willRetry":false,
            "threadId":"th","turnId":"tu"}"#;
        let retry = r#"{"error":{"message":"Reconnecting... 1/5","codexErrorInfo":"other"},"willRetry":true,
            "threadId":"th","turnId":"tu"}"#;
        let ended = r#"{"threadId":"th","turn":{"id":"tu","status":"failed","error":null}}"#;
        let events =
            feed(&mut Turns::default(), &[STARTED, ("error", error), ("error", retry), ("turn/completed", ended)]);
        let Some(AgentEvent::TurnEnded { outcome: TurnOutcome::Failed { cause, message }, .. }) = events.last() else {
            panic!("an end, not {events:?}");
        };
        assert_eq!((*cause, message.as_str()), (FailureCause::UsageLimit, "limit"));
    }

    #[test]
    fn what_comes_after_the_end_leaves_no_trace() {
        let mut turns = Turns::default();
        let late = r#"{"threadId":"th","turnId":"tu","item":{"type":"commandExecution","id":"c"}}"#;
        let ended = r#"{"threadId":"th","turn":{"id":"tu","status":"interrupted"}}"#;
        let events = feed(&mut turns, &[STARTED, ("turn/completed", ended), ("item/completed", late)]);
        assert_eq!(events.len(), 2);
        assert!(turns.running.is_empty());
        assert!(turns.has_ended(&turn()));
    }

    #[test]
    fn progress_comes_once_a_second() {
        let mut turns = Turns::default();
        feed(&mut turns, &[STARTED]);
        let start = Instant::now();
        let delta = r#"{"threadId":"th","turnId":"tu","itemId":"i","delta":"x"}"#;
        let mut count = 0;
        for step in 0..50 {
            let now = start + Duration::from_millis(100 * step);
            count += turns.read("item/agentMessage/delta", delta, now).expect("well-formed").len();
        }
        assert_eq!(count, 5);
    }

    #[test]
    fn what_the_agent_does_is_told_when_it_changes() {
        let mut turns = Turns::default();
        let item = |kind: &str, id: &str| {
            format!(r#"{{"threadId":"th","turnId":"tu","startedAtMs":1,"item":{{"type":"{kind}","id":"{id}"}}}}"#)
        };
        let (command, search, thought) =
            (item("commandExecution", "c"), item("webSearch", "s"), item("reasoning", "r"));
        let notes = [
            STARTED,
            ("item/started", thought.as_str()),
            ("item/started", command.as_str()),
            ("item/started", search.as_str()),
            ("item/completed", search.as_str()),
            ("item/completed", command.as_str()),
            ("item/completed", thought.as_str()),
        ];
        let told: Vec<_> = feed(&mut turns, &notes)
            .into_iter()
            .filter_map(|event| match event {
                AgentEvent::Doing { activity, .. } => Some(activity),
                _ => None,
            })
            .collect();
        let expected = [Activity::RunningCommand, Activity::SearchingWeb, Activity::RunningCommand, Activity::Thinking];
        assert_eq!(told, expected);
        for n in 0..MAX_UNDER_WAY + 10 {
            feed(&mut turns, &[("item/started", item("fileChange", &n.to_string()).as_str())]);
        }
        assert_eq!(turns.running[&turn()].under_way.len(), MAX_UNDER_WAY);
    }

    #[test]
    fn tokens_are_counted_by_thread() {
        // As Codex 0.169.0 writes them, the parts of each sum left out.
        let note = r#"{"threadId":"th","turnId":"tu","tokenUsage":{"total":{"totalTokens":2100},
            "last":{"totalTokens":1050},"modelContextWindow":258400}}"#;
        let mut turns = Turns::default();
        let read = turns.read("thread/tokenUsage/updated", note, Instant::now()).expect("as documented");
        let usage = TokenUsage { last: 1050, total: 2100, window: Some(258_400) };
        assert_eq!(read, [AgentEvent::Usage { thread: thread(), usage }]);
        let note = note.replace(",\"modelContextWindow\":258400", "");
        let read = turns.read("thread/tokenUsage/updated", &note, Instant::now()).expect("a window is not needed");
        assert!(matches!(&read[..], [AgentEvent::Usage { usage: TokenUsage { window: None, .. }, .. }]));
        assert!(turns.read("thread/tokenUsage/updated", "{}", Instant::now()).is_err());
    }

    #[test]
    fn the_table_is_bounded_and_oddities_are_errors() {
        let mut turns = Turns::default();
        for id in 0..MAX_TURNS + 10 {
            turns.found(&thread(), &TurnId::new(id.to_string()));
        }
        assert_eq!(turns.running.len(), MAX_TURNS);
        turns.forget_thread(&thread());
        assert!(turns.running.is_empty());
        let now = Instant::now();
        assert!(turns.read("turn/completed", r#"{"threadId":3}"#, now).is_err());
        assert!(turns.read("item/completed", r#"{"threadId":"th","turnId":"tu"}"#, now).is_err());
        assert!(turns.read("some/thing/new", "null", now).expect("ignored").is_empty());
    }
}
