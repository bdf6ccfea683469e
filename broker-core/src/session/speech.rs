//! What is posted: tool calls, final texts, notices.

use std::time::Duration;

use serde_json::Value;

use super::machine::{Draft, PendingCall, TurnPost};
use super::{Effect, MAX_PARTS, MAX_TEXT_PARTS, NOTICE_INTERVAL, PostOutcome, SessionMachine, TOOL_ANSWER_LIMIT};
use crate::agent::{AgentAnswer, RequestId, TurnId};
use crate::chat::{AgentText, OpKey, OutContent, OutFile, PartBody};
use crate::clock::Timestamp;
use crate::outgoing::{Pinned, Refusal};
use crate::prompt;
use crate::store::{PartRow, PartState, PostId, PostKind};
use crate::thread_tools::{self, FileWish, ToolCommand};

/// How much of a post an agent is reminded of, in characters.
const BEGINNING: usize = 200;

/// Posts of a turn that an agent is reminded of after a crash: the latest.
const MAX_REMINDED: usize = 50;

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
        self.plan(kind, bodies, turn, now, draft);
        true
    }

    /// The parts of a text. A long one is its beginning and a file with the whole of it.
    fn rendered(&self, text: &AgentText) -> Vec<PartBody> {
        let mut bodies = (self.around.render)(text);
        if self.around.sends_files && bodies.len() > MAX_TEXT_PARTS {
            bodies.truncate(MAX_TEXT_PARTS - 1);
            let whole = text.markdown().to_owned();
            bodies.push(PartBody::File {
                file: Box::new(OutFile {
                    name: prompt::WHOLE_TEXT_NAME.to_owned(),
                    title: None,
                    alt_text: None,
                    snippet_type: Some("markdown".to_owned()),
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
        turn: Option<TurnId>,
        now: Timestamp,
        draft: &mut Draft,
    ) -> PostId {
        let number = self.number(draft);
        let post = PostId::new(format!("{}-p{number}", self.record.id));
        let of = u32::try_from(bodies.len()).unwrap_or(u32::MAX);
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
        let runs = self.turn.as_ref().is_some_and(|known| known.id == *turn && !known.stopped);
        if !runs {
            return answer(request, false, prompt::STOPPED_BY_PERSON, draft);
        }
        match thread_tools::parse(tool, arguments) {
            Err(refusal) => answer(request, false, &refusal.message, draft),
            Ok(ToolCommand::Help) => answer(request, true, &thread_tools::help(), draft),
            Ok(ToolCommand::History { before, limit }) => {
                let limit = limit.unwrap_or(self.around.history_limit).min(self.around.history_limit);
                draft.effects.push(Effect::AnswerHistory { request, before, limit });
            }
            Ok(ToolCommand::State { kind, reason }) => {
                if kind == PostKind::Wait {
                    return answer(request, false, prompt::NO_JOB_TO_WAIT_FOR, draft);
                }
                self.signal(kind, reason, draft);
                answer(request, true, "noted", draft);
            }
            Ok(ToolCommand::File(wish)) => {
                if wish.kind == PostKind::Wait {
                    return answer(request, false, prompt::NO_JOB_TO_WAIT_FOR, draft);
                }
                if !self.around.sends_files {
                    return answer(request, false, "files cannot be posted here; nothing was posted", draft);
                }
                let (turn, thread) = (turn.clone(), self.record.agent_thread.clone());
                draft.effects.push(Effect::Pin { request, turn, thread, wish });
            }
            Ok(ToolCommand::Post { text, kind, reason }) => {
                self.tool_post(turn, request, &text, (kind, reason), now, draft);
            }
        }
    }

    fn tool_post(
        &mut self,
        turn: &TurnId,
        request: RequestId,
        text: &str,
        (kind, reason): (PostKind, Option<String>),
        now: Timestamp,
        draft: &mut Draft,
    ) {
        if kind == PostKind::Wait {
            return answer(request, false, prompt::NO_JOB_TO_WAIT_FOR, draft);
        }
        let text = AgentText::new(text).mentioning(self.record.people.clone());
        let bodies = self.rendered(&text);
        if bodies.is_empty() {
            return answer(
                request,
                false,
                "nothing is left of the text once it is rendered; nothing was posted",
                draft,
            );
        }
        if bodies.len() > MAX_PARTS {
            let text =
                format!("the text makes {} messages, {MAX_PARTS} are the most; nothing was posted", bodies.len());
            return answer(request, false, &text, draft);
        }
        let post = self.plan(kind, bodies, Some(turn.clone()), now, draft);
        if kind != PostKind::Progress {
            self.signal(kind, reason, draft);
        }
        self.calls.push(PendingCall { request, post, until: now.plus(TOOL_ANSWER_LIMIT) });
    }

    /// A file that the agent wants to post was checked and copied, or refused. A copy that is not posted after all is
    /// removed at the next start.
    pub(super) fn pinned(
        &mut self,
        request: RequestId,
        turn: &TurnId,
        wish: FileWish,
        result: Result<Pinned, Refusal>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        if !self.turn.as_ref().is_some_and(|known| known.id == *turn && !known.stopped) {
            return answer(request, false, prompt::STOPPED_BY_PERSON, draft);
        }
        let pinned = match result {
            Ok(pinned) => pinned,
            Err(refusal) => return answer(request, false, &refusal.message, draft),
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
            comment,
            bytes: pinned.bytes,
            content,
            uploaded: None,
        };
        bodies.push(PartBody::File { file: Box::new(file) });
        let post = self.plan(wish.kind, bodies, Some(turn.clone()), now, draft);
        if wish.kind != PostKind::Progress {
            self.signal(wish.kind, wish.reason, draft);
        }
        self.calls.push(PendingCall { request, post, until: now.plus(TOOL_ANSWER_LIMIT) });
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
        if let Some(known) = self.turn_posts.iter_mut().find(|known| known.post == *post) {
            known.arrived = *arrived > 0;
        }
        if let Some(index) = self.calls.iter().position(|call| call.post == *post) {
            let call = self.calls.remove(index);
            match error {
                None => answer(call.request, true, &format!("posted ({of} message{})", plural(*of)), draft),
                Some(code) => {
                    let text = format!("{arrived} of {of} messages arrived; the rest was refused by Slack ({code})");
                    answer(call.request, false, &text, draft);
                }
            }
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

    /// Answers tool calls whose post is still on its way.
    pub(super) fn answer_late_calls(&mut self, now: Timestamp, draft: &mut Draft) {
        let (late, waiting): (Vec<_>, Vec<_>) = self.calls.drain(..).partition(|call| call.until <= now);
        self.calls = waiting;
        for call in late {
            let seconds = Duration::as_secs(&TOOL_ANSWER_LIMIT);
            let text = format!(
                "queued as {}: Slack did not take it within {seconds} s; it will be posted, do not post it again",
                call.post
            );
            answer(call.request, true, &text, draft);
        }
    }
}

fn plural(n: u32) -> &'static str {
    if n == 1 { "" } else { "s" }
}

fn answer(request: RequestId, success: bool, text: &str, draft: &mut Draft) {
    draft.effects.push(Effect::Answer { request, answer: AgentAnswer::Tool { success, text: text.to_owned() } });
}
