//! What is posted: tool calls, final texts, notices.

use serde_json::Value;

use super::draft::Draft;
use super::machine::{PendingCall, TurnPost};
use super::{
    CallId, Caller, Effect, MAX_OPEN_PARTS, MAX_PARTS, MAX_TEXT_PARTS, NOTICE_INTERVAL, NamedPost, Pin, PostFate,
    PostOutcome, SessionMachine, TOOL_ANSWER_LIMIT,
};
use crate::agent::{RequestId, TurnId};
use crate::chat::{AgentText, OpKey, OutContent, OutFile, PartBody};
use crate::clock::Timestamp;
use crate::outgoing::{Pinned, Refusal};
use crate::prompt;
use crate::store::{Fingerprint, PartRow, PartState, PostId, PostKind};
use crate::thread_tools::{self, ToolAnswer, ToolCommand};

/// How much of a post an agent is reminded of, in characters.
const BEGINNING: usize = 200;

/// Posts of a turn that an agent is reminded of after a crash: the latest.
const MAX_REMINDED: usize = 50;

/// Posts that were refused and are remembered for whoever asks at that moment.
const MAX_REFUSED: usize = 16;

/// The beginning of a part.
pub(super) fn beginning(body: &PartBody) -> String {
    match body {
        PartBody::Text { markup } => markup.chars().take(BEGINNING).collect(),
        PartBody::File { file } => {
            let said = file.comment.chars().take(BEGINNING).collect::<String>();
            format!("(the file {}) {said}", file.name)
        }
    }
}

impl SessionMachine {
    /// Posts something of the broker's own.
    pub(super) fn post(&mut self, kind: PostKind, markdown: &str, now: Timestamp, draft: &mut Draft) {
        self.post_for(kind, markdown, None, now, draft);
    }

    /// Posts a text, cut to the longest post there is. `false` when nothing is left of it once it is rendered.
    pub(super) fn post_for(
        &mut self,
        kind: PostKind,
        markdown: &str,
        turn: Option<TurnId>,
        now: Timestamp,
        draft: &mut Draft,
    ) -> bool {
        let text = AgentText::new(markdown);
        // What the broker says itself mentions nobody: it quotes what others wrote.
        let text = if turn.is_some() { text.mentioning(self.record.people.clone()) } else { text };
        let mut bodies = self.rendered(&text);
        if bodies.len() > MAX_PARTS {
            let left_out = bodies.len() - (MAX_PARTS - 1);
            bodies.truncate(MAX_PARTS - 1);
            bodies.extend((self.around.render)(&AgentText::new(prompt::cut_answer(left_out))));
        }
        if bodies.is_empty() {
            return false;
        }
        self.plan(kind, bodies, (turn, None), now, draft);
        true
    }

    /// The parts of a text. A long one is its beginning and a file with the whole of it.
    fn rendered(&self, text: &AgentText) -> Vec<PartBody> {
        let mut bodies = (self.around.render)(text);
        if (self.around.sends_files)() && bodies.len() > MAX_TEXT_PARTS {
            bodies.truncate(MAX_TEXT_PARTS - 1);
            let whole = text.markdown().to_owned();
            bodies.push(PartBody::File {
                file: Box::new(OutFile {
                    name: prompt::WHOLE_TEXT_NAME.to_owned(),
                    title: None,
                    alt_text: None,
                    snippet_type: Some("markdown".to_owned()),
                    content_type: Some("text/markdown".to_owned()),
                    comment: prompt::WHOLE_TEXT.to_owned(),
                    bytes: whole.len() as u64,
                    content: OutContent::Text { text: whole },
                    uploaded: None,
                }),
            });
        }
        bodies
    }

    /// Plans the parts of a post.
    fn plan(
        &mut self,
        kind: PostKind,
        bodies: Vec<PartBody>,
        (turn, named): (Option<TurnId>, Option<(PostId, Fingerprint)>),
        now: Timestamp,
        draft: &mut Draft,
    ) -> PostId {
        let number = self.number(draft);
        let (post, fingerprint) = match named {
            Some((post, fingerprint)) => (post, Some(fingerprint)),
            None => (PostId::new(format!("{}-p{number}", self.record.id)), None),
        };
        let of = u32::try_from(bodies.len()).unwrap_or(u32::MAX);
        self.open_parts += bodies.len();
        if let Some(planned) = &mut self.planned_since_count {
            *planned += bodies.len();
        }
        if turn.is_some()
            && let Some(first) = bodies.first()
        {
            if self.turn_posts.len() == MAX_REMINDED {
                self.turn_posts.remove(0);
            }
            self.turn_posts.push(TurnPost { post: post.clone(), beginning: beginning(first), arrived: true });
        }
        for (number, body) in (1..).zip(bodies) {
            let place = self.number(draft);
            draft.parts.push(PartRow {
                id: OpKey::new(format!("{post}.{number}")),
                thread: self.key().clone(),
                post: post.clone(),
                place,
                number,
                of,
                kind,
                turn: turn.clone(),
                fingerprint: fingerprint.clone(),
                body,
                state: PartState::Queued,
                attempts: 0,
                attempted_at: None,
                first_attempt_at: None,
                look_ups: 0,
                not_before: now,
                message: None,
                error: None,
                created_at: now,
            });
        }
        if !draft.effects.contains(&Effect::Flush) {
            draft.effects.push(Effect::Flush);
        }
        post
    }

    /// Tells the thread of a failure, unless it was told of the same one a moment ago.
    pub(super) fn notify(&mut self, cause: &str, text: &str, now: Timestamp, draft: &mut Draft) {
        if let Some((known, at)) = &self.record.last_notice
            && known == cause
            && now.since(*at) < NOTICE_INTERVAL
        {
            return;
        }
        self.record.last_notice = Some((cause.to_owned(), now));
        self.post(PostKind::Notice, text, now, draft);
    }

    /// The agent calls a tool.
    pub(super) fn tool_call(
        &mut self,
        turn: &TurnId,
        request: RequestId,
        tool: &str,
        arguments: &Value,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        self.adopt(turn, now, draft);
        let caller = Caller::Agent(request);
        let runs = self.turn.as_ref().is_some_and(|known| known.id == *turn && !known.stopped);
        if !runs {
            return answer(caller, ToolAnswer::refused("stopped", prompt::STOPPED_BY_PERSON), draft);
        }
        match thread_tools::parse(tool, arguments) {
            Err(refusal) => answer(caller, ToolAnswer::refused(refusal.code, refusal.message), draft),
            Ok(command) => self.command(caller, command, None, now, draft),
        }
    }

    /// Somebody beside the agent asks for what its tools can do. What is done while a turn runs counts as done in it: it is
    /// the turn's own command that asks.
    pub(super) fn asked(
        &mut self,
        call: CallId,
        command: ToolCommand,
        post: Option<NamedPost>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let caller = Caller::Beside(call);
        let other = || ToolAnswer::refused("idempotency_key_reused", prompt::KEY_REUSED);
        let named = match post {
            None => None,
            Some(NamedPost { id, fingerprint, known: Some(fate) }) => {
                // Rows of an earlier version do not say what was asked for.
                if fate.fingerprint.as_ref().is_some_and(|known| *known != fingerprint) {
                    return answer(caller, other(), draft);
                }
                return self.asked_again(caller, id, fate, now, draft);
            }
            Some(NamedPost { id, fingerprint, known: None }) => Some((id, fingerprint)),
        };
        if let Some((id, fingerprint)) = &named
            && let Some((known, waiting)) = self.pinning.get_mut(id)
        {
            if known != fingerprint {
                return answer(caller, other(), draft);
            }
            return waiting.push(caller);
        }
        let speaks = matches!(command, ToolCommand::Post { .. } | ToolCommand::File(_) | ToolCommand::State { .. });
        if speaks && self.turn.as_ref().is_some_and(|turn| turn.stopped) {
            return answer(caller, ToolAnswer::refused("stopped", prompt::STOPPED_BY_PERSON), draft);
        }
        if matches!(command, ToolCommand::State { .. }) && self.turn.is_none() {
            return answer(caller, ToolAnswer::refused("no_turn", prompt::NO_TURN_TO_END), draft);
        }
        self.command(caller, command, named, now, draft);
    }

    /// The post was made when it was asked for the first time.
    fn asked_again(&mut self, caller: Caller, post: PostId, fate: PostFate, now: Timestamp, draft: &mut Draft) {
        let PostFate { arrived, of, open, error, .. } = fate;
        if let Some(refused) = self.refused.iter().find(|known| known.post == post) {
            return answer(caller, told(refused), draft);
        }
        match error {
            _ if open => self.calls.push(PendingCall { caller, post, until: now.plus(TOOL_ANSWER_LIMIT) }),
            None => answer(caller, ToolAnswer::Posted { post, messages: of }, draft),
            Some(code) => answer(caller, ToolAnswer::Undelivered { post, arrived, of, code }, draft),
        }
    }

    /// Does what was asked for, whoever did.
    fn command(
        &mut self,
        caller: Caller,
        command: ToolCommand,
        named: Option<(PostId, Fingerprint)>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        if matches!(command, ToolCommand::Post { .. } | ToolCommand::File(_)) {
            if self.open_parts >= MAX_OPEN_PARTS / 2 {
                self.count_parts(&mut draft.effects);
            }
            if self.open_parts >= MAX_OPEN_PARTS {
                let message = prompt::too_many_open(self.open_parts);
                return answer(caller, ToolAnswer::refused("too_many_open_posts", message), draft);
            }
        }
        match command {
            ToolCommand::Help => answer(caller, ToolAnswer::Text(thread_tools::help()), draft),
            ToolCommand::React { name, on } => draft.effects.push(Effect::React { caller, name, on }),
            ToolCommand::History { before, limit } => match caller {
                Caller::Agent(request) => {
                    let limit = limit.unwrap_or(self.around.history_limit).min(self.around.history_limit);
                    draft.effects.push(Effect::AnswerHistory { request, before, limit });
                }
                // It is read without the session.
                Caller::Beside(_) => answer(caller, ToolAnswer::Done, draft),
            },
            ToolCommand::State { kind, reason } => {
                if kind == PostKind::Wait {
                    return answer(caller, ToolAnswer::refused("no_job", prompt::NO_JOB_TO_WAIT_FOR), draft);
                }
                self.signal(kind, reason, draft);
                answer(caller, ToolAnswer::Done, draft);
            }
            ToolCommand::File(wish) => {
                if wish.kind == PostKind::Wait {
                    return answer(caller, ToolAnswer::refused("no_job", prompt::NO_JOB_TO_WAIT_FOR), draft);
                }
                if !(self.around.sends_files)() {
                    let message = "files cannot be posted here; nothing was posted";
                    return answer(caller, ToolAnswer::refused("not_supported", message), draft);
                }
                if let Some((id, fingerprint)) = named.clone() {
                    self.pinning.insert(id, (fingerprint, Vec::new()));
                }
                self.pins += 1;
                let turn = self.turn.as_ref().map(|turn| turn.id.clone());
                let thread = self.record.agent_thread.clone();
                let until = now.plus(TOOL_ANSWER_LIMIT);
                draft.effects.push(Effect::Pin { pin: Pin { caller, turn, wish, named, until }, thread });
            }
            ToolCommand::Post { text, kind, reason } => {
                self.tool_post(caller, &text, (kind, reason), named, now, draft);
            }
        }
    }

    fn tool_post(
        &mut self,
        caller: Caller,
        text: &str,
        (kind, reason): (PostKind, Option<String>),
        named: Option<(PostId, Fingerprint)>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        if kind == PostKind::Wait {
            return answer(caller, ToolAnswer::refused("no_job", prompt::NO_JOB_TO_WAIT_FOR), draft);
        }
        let text = AgentText::new(text).mentioning(self.record.people.clone());
        let bodies = self.rendered(&text);
        if bodies.is_empty() {
            let message = "nothing is left of the text once it is rendered; nothing was posted";
            return answer(caller, ToolAnswer::refused("empty", message), draft);
        }
        if bodies.len() > MAX_PARTS {
            let message =
                format!("the text makes {} messages, {MAX_PARTS} are the most; nothing was posted", bodies.len());
            return answer(caller, ToolAnswer::refused("too_long", message), draft);
        }
        let turn = self.turn.as_ref().map(|turn| turn.id.clone());
        let post = self.plan(kind, bodies, (turn, named), now, draft);
        if kind != PostKind::Progress {
            self.signal(kind, reason, draft);
        }
        self.calls.push(PendingCall { caller, post, until: now.plus(TOOL_ANSWER_LIMIT) });
    }

    /// A file that somebody wants to post was checked and copied, or refused.
    pub(super) fn pinned(&mut self, pin: Pin, result: Result<Pinned, Refusal>, now: Timestamp, draft: &mut Draft) {
        let Pin { caller, turn, wish, named, until } = pin;
        self.pins = self.pins.saturating_sub(1);
        let copy = result.as_ref().ok().map(|pinned| pinned.copy.clone());
        let mut callers =
            named.as_ref().and_then(|(id, _)| self.pinning.remove(id)).map(|(_, waiting)| waiting).unwrap_or_default();
        callers.insert(0, caller);
        // What was asked for in a turn counts as done in that one, or is not done at all.
        let pinned = match (&turn, &self.turn) {
            (Some(asked), Some(known)) if known.id == *asked && known.stopped => {
                Err(ToolAnswer::refused("stopped", prompt::STOPPED_BY_PERSON))
            }
            (Some(asked), known) if known.as_ref().is_none_or(|known| known.id != *asked) => {
                Err(ToolAnswer::refused("turn_over", prompt::TURN_OVER))
            }
            _ => result.map_err(|refusal| ToolAnswer::refused(refusal.code, refusal.message)),
        };
        let pinned = match pinned {
            Ok(pinned) => pinned,
            Err(refused) => {
                draft.effects.extend(copy.map(|copy| Effect::DropCopy { copy }));
                return callers.into_iter().for_each(|caller| answer(caller, refused.clone(), draft));
            }
        };
        let said = AgentText::new(wish.comment.unwrap_or_default()).mentioning(self.record.people.clone());
        let mut bodies = self.rendered(&said);
        // One message where the words fit beside the file.
        let comment = match bodies.as_slice() {
            [PartBody::Text { markup }] => markup.clone(),
            _ => String::new(),
        };
        if !comment.is_empty() {
            bodies.clear();
        }
        let content = OutContent::Copy { path: pinned.copy };
        let file = OutFile {
            name: pinned.name,
            title: wish.title,
            alt_text: wish.alt_text,
            snippet_type: wish.snippet_type,
            content_type: wish.content_type,
            comment,
            bytes: pinned.bytes,
            content,
            uploaded: None,
        };
        bodies.push(PartBody::File { file: Box::new(file) });
        let in_turn = turn.is_some();
        let post = self.plan(wish.kind, bodies, (turn, named), now, draft);
        if in_turn && wish.kind != PostKind::Progress {
            self.signal(wish.kind, wish.reason, draft);
        }
        self.calls.extend(callers.into_iter().map(|caller| PendingCall { caller, post: post.clone(), until }));
    }

    /// Asks how many parts are not yet sent.
    pub(super) fn count_parts(&mut self, effects: &mut Vec<Effect>) {
        if self.planned_since_count.is_none() {
            self.planned_since_count = Some(0);
            effects.push(Effect::CountParts);
        }
    }

    /// They were counted, at some moment since that was asked for.
    pub(super) fn parts_counted(&mut self, count: Option<usize>) {
        let planned = self.planned_since_count.take().unwrap_or_default();
        self.open_parts = count.map_or(self.open_parts, |count| count + planned);
    }

    fn signal(&mut self, kind: PostKind, reason: Option<String>, draft: &mut Draft) {
        if let Some(turn) = &mut self.turn {
            turn.signal = Some((kind, reason));
            draft.turn(turn);
        }
    }

    /// The running turn owes an answer again.
    pub(super) fn unsignal(&mut self, draft: &mut Draft) {
        if let Some(turn) = &mut self.turn
            && turn.signal.take().is_some()
        {
            draft.turn(turn);
        }
    }

    /// The sender is through with a post.
    pub(super) fn post_settled(&mut self, outcome: &PostOutcome, now: Timestamp, draft: &mut Draft) {
        let PostOutcome { post, kind, arrived, of, error } = outcome;
        self.open_parts = self.open_parts.saturating_sub(usize::try_from(*of).unwrap_or(usize::MAX));
        if let Some(known) = self.turn_posts.iter_mut().find(|known| known.post == *post) {
            known.arrived = *arrived > 0;
        }
        let (waited, waiting): (Vec<_>, Vec<_>) = self.calls.drain(..).partition(|call| call.post == *post);
        self.calls = waiting;
        for call in waited {
            answer(call.caller, told(outcome), draft);
        }
        if error.is_some() {
            if self.refused.len() == MAX_REFUSED {
                self.refused.pop_front();
            }
            self.refused.push_back(outcome.clone());
        }
        // Nothing of what was to close the turn stands in the thread: it owes an answer still.
        let ours = self.turn_posts.iter().any(|known| known.post == *post);
        if error.is_some() && *arrived == 0 && ours && *kind != PostKind::Progress {
            self.unsignal(draft);
        }
        // A notice about a notice would go the way of the first.
        if let Some(code) = error
            && *kind != PostKind::Notice
            && code != "dropped"
        {
            self.post(PostKind::Notice, &prompt::parts_lost(*arrived, *of, code), now, draft);
        }
    }

    /// Those beside the agent who wait for a post that is planned.
    pub(crate) fn waiting_beside(&self) -> Vec<(CallId, PostId)> {
        let beside = |call: &PendingCall| match call.caller {
            Caller::Beside(id) => Some((id, call.post.clone())),
            Caller::Agent(_) => None,
        };
        self.calls.iter().filter_map(beside).collect()
    }

    /// Answers tool calls whose post is still on its way.
    pub(super) fn answer_late_calls(&mut self, now: Timestamp, draft: &mut Draft) {
        let (late, waiting): (Vec<_>, Vec<_>) = self.calls.drain(..).partition(|call| call.until <= now);
        self.calls = waiting;
        for call in late {
            answer(call.caller, ToolAnswer::Queued { post: call.post }, draft);
        }
    }
}

/// What whoever waits for a post is told of it.
fn told(outcome: &PostOutcome) -> ToolAnswer {
    let PostOutcome { post, arrived, of, error, .. } = outcome;
    let post = post.clone();
    match error {
        None => ToolAnswer::Posted { post, messages: *of },
        Some(code) => ToolAnswer::Undelivered { post, arrived: *arrived, of: *of, code: code.clone() },
    }
}

/// Answers whoever called.
pub(super) fn answer(caller: Caller, answer: ToolAnswer, draft: &mut Draft) {
    draft.effects.push(match caller {
        Caller::Agent(request) => Effect::Answer { request, answer: answer.for_agent() },
        Caller::Beside(call) => Effect::Reply { call, answer },
    });
}
