//! What must be true after every run.

use std::collections::{BTreeMap, BTreeSet};

use broker_core::agent::InputId;
use broker_core::chat::{Author, ConversationKind, OpKey, PartBody, ThreadKey};
use broker_core::command::Command;
use broker_core::outbox::MAYBE_DUPLICATE;
use broker_core::store::{InboxKind, InboxRow, InboxState, OwnerId, PartState, PostKind, SessionRecord, StateStore};
use broker_store::SqliteStore;

use crate::facts::Given;
use crate::slack::Written;
use crate::world::{State, World};

/// A failure that was told this long before is not told again, in milliseconds.
const TOLD: u64 = 5 * 60 * 1000 + 5_000;

/// What is wrong with a run that has come to rest.
pub async fn judge(world: &World, store: &SqliteStore) -> Vec<String> {
    let mut wrong = std::mem::take(&mut world.lock().facts.wrong);
    let accepted = world.lock().facts.accepted.clone();
    for key in accepted {
        let envelope = world.lock().envelope(&key);
        let Some(envelope) = envelope else { continue };
        match store.accept(vec![envelope]).await {
            Ok(rows) if rows.iter().any(|row| row.fresh) => {
                wrong.push(format!("{key} was acknowledged and is not in the journal"));
            }
            Ok(_) => {}
            Err(error) => wrong.push(error.to_string()),
        }
    }
    let threads: BTreeSet<ThreadKey> =
        world.lock().slack.messages.iter().map(|written| written.message.thread()).collect();
    let mut sessions = BTreeMap::new();
    for key in threads {
        match store.session(&key).await {
            Ok(Some(record)) => {
                if let Ok((_, rows)) = store.claim(&key, &OwnerId::new("the judge")).await {
                    world.lock().facts.loaded(&key, &rows);
                }
                sessions.insert(key, record);
            }
            Ok(None) => {}
            Err(error) => wrong.push(error.to_string()),
        }
    }
    wrong.append(&mut world.lock().facts.wrong);
    let posts: BTreeSet<_> = world.lock().facts.parts.values().map(|planned| planned.part.post.clone()).collect();
    for post in posts {
        // A change that was half written when the broker was killed is there, or it is not: what counts is what is stored.
        match store.post(&post).await {
            Ok(parts) => world.lock().facts.stored(parts),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    let state = world.lock();
    let judge = Judge { state: &state, sessions: &sessions };
    for written in state.slack.messages.iter().filter(|written| written.number.is_some()) {
        judge.message(written, &mut wrong);
    }
    judge.deletions(&mut wrong);
    judge.order(&mut wrong);
    judge.parts(&mut wrong);
    judge.answers(&mut wrong);
    judge.stops(&mut wrong);
    judge.direct_stops(&mut wrong);
    for (thread, status) in &state.slack.standing {
        wrong.push(format!("`{status}` is left standing beside {thread}"));
    }
    wrong
}

struct Judge<'a> {
    state: &'a State,
    sessions: &'a BTreeMap<ThreadKey, SessionRecord>,
}

fn is_member(written: &Written) -> bool {
    matches!(&written.message.author, Author::Person { id, .. } if id.as_str().starts_with('U'))
}

fn is_command(written: &Written) -> bool {
    Command::read(&written.message).is_some()
}

fn opens(written: &Written) -> bool {
    let direct = written.message.conversation_kind == ConversationKind::Direct;
    is_member(written) && !is_command(written) && (direct || written.message.mentions_self)
}

impl Judge<'_> {
    /// How often a message stands in the agent's history.
    fn given(&self, written: &Written) -> usize {
        let is_it = |id: &InputId| {
            self.state.facts.rows.get(id).is_some_and(|row| {
                row.kind == InboxKind::Message
                    && row.message.as_ref().is_some_and(|known| known.id == written.message.id)
            })
        };
        let count = |lost: bool| {
            let threads = self.state.codex.threads.values().filter(|thread| thread.lost == lost);
            threads.flat_map(|thread| &thread.history).filter(|recorded| is_it(&recorded.input.id)).count()
        };
        // What was lost with a thread may have to be given again.
        let given = count(false);
        if given > 0 { given } else { count(true).min(1) }
    }

    /// Each message for the broker stands in the agent's history exactly once, or the thread was told.
    fn message(&self, written: &Written, wrong: &mut Vec<String>) {
        let (Some(number), message) = (written.number, &written.message) else { return };
        let thread = message.thread();
        let given = self.given(written);
        if given > 1 {
            wrong.push(format!("m{number} was given to the agent {given} times"));
        }
        let is_row = |row: &&InboxRow| row.message.as_ref().is_some_and(|known| known.id == message.id);
        // What became a command may have been given before.
        if is_command(written) && written.edited {
            return;
        }
        if is_command(written) {
            let rows = self.state.facts.rows.values().filter(is_row).count();
            if rows > 1 {
                wrong.push(format!("m{number} was carried out {rows} times"));
            }
            if given > 0 {
                wrong.push(format!("m{number} is no word to the agent and was given to it"));
            }
            return;
        }
        if given == 1 || written.deleted.is_some() {
            return;
        }
        if !is_member(written) {
            return;
        }
        let first = self.state.slack.messages.iter().filter(|first| opens(first) && first.message.thread() == thread);
        let first = first.min_by_key(|first| first.message.at);
        let Some(first) = first.filter(|first| first.message.at <= message.at) else { return };
        let stopped = self.state.facts.stops.iter().any(|stop| stop.session == thread && stop.before > message.at);
        if stopped {
            return;
        }
        // A `-new` takes back what the agent was at, or about to be, and nothing else.
        let renewed = self.state.facts.renewals.iter().any(|new| new.session == thread && new.at > message.at);
        let taken_back = |row: &InboxRow| self.state.facts.taken_back.contains(&row.id);
        if renewed && self.state.facts.rows.values().filter(is_row).any(taken_back) {
            return;
        }
        let Some(session) = self.sessions.get(&thread) else {
            if first.deleted.is_none() {
                wrong.push(format!("m{number} is for the broker and there is no session in {thread}"));
            }
            return;
        };
        // What was written before the message that began the session went along as its history.
        if message.at < session.watermark {
            return;
        }
        let parked = self.state.facts.rows.values().any(|row| {
            row.state == InboxState::Parked && row.message.as_ref().is_some_and(|known| known.id == message.id)
        });
        let told = |text: &str| self.state.slack.own(&thread).any(|post| post.message.text.contains(text));
        // The platform itself may have refused the notice for good: then there is nobody whom it could be told.
        let refused = |text: &str| {
            self.state.facts.parts.values().any(|planned| {
                let part = &planned.part;
                let says = matches!(&part.body, PartBody::Text { markup } if markup.contains(text));
                part.thread == thread && part.state == PartState::Refused && says
            })
        };
        if parked && (told("could not be given to the agent") || refused("could not be given to the agent")) {
            return;
        }
        wrong.push(format!("m{number} was never given to the agent, and nobody was told"));
    }

    /// Of a deletion the agent hears once, and only of what was deleted; one that it heard of is no longer told of as it was. Of
    /// changes and deletions only a conversation hears that has the message.
    fn deletions(&self, wrong: &mut Vec<String>) {
        for (id, thread) in &self.state.codex.threads {
            let (mut told, mut has) = (BTreeSet::new(), BTreeSet::new());
            for recorded in &thread.history {
                let Some(row) = self.state.facts.rows.get(&recorded.input.id) else { continue };
                let Some(message) = row.message.as_ref() else { continue };
                if row.kind != InboxKind::Edit {
                    has.insert(&message.id);
                    continue;
                }
                if !has.contains(&message.id) {
                    wrong.push(format!("{id} was told what became of {}, which it never had", message.id));
                }
                let deleted = |written: &Written| written.message.id == message.id && written.deleted.is_some();
                if message.deleted && !told.insert(&message.id) {
                    wrong.push(format!("{id} was told twice that {} was deleted", message.id));
                }
                if message.deleted && !self.state.slack.messages.iter().any(deleted) {
                    wrong.push(format!("{id} was told that {} was deleted, which it was not", message.id));
                }
                if !message.deleted && told.contains(&message.id) {
                    wrong.push(format!("{id} was told of a change of {} after its deletion", message.id));
                }
            }
        }
    }

    /// Messages stand in the order of their time, or are marked as late.
    fn order(&self, wrong: &mut Vec<String>) {
        for (id, thread) in &self.state.codex.threads {
            let mut newest = None;
            for recorded in &thread.history {
                let Some(row) = self.state.facts.rows.get(&recorded.input.id) else {
                    wrong.push(format!("{} stands in {id} and is no row", recorded.input.id));
                    continue;
                };
                if row.kind != InboxKind::Message {
                    continue;
                }
                if newest.is_some_and(|newest| newest > row.at) && !row.late {
                    wrong.push(format!("{} stands in {id} after a newer one and is not marked late", row.id));
                }
                newest = newest.max(Some(row.at));
                if row.session != thread.session {
                    wrong.push(format!("{} was given to the agent of {}", row.id, thread.session));
                }
            }
        }
    }

    /// No part twice without the mark, in order, and none lost without a word.
    fn parts(&self, wrong: &mut Vec<String>) {
        let mut standing: BTreeMap<&OpKey, Vec<&Written>> = BTreeMap::new();
        let mut places: BTreeMap<ThreadKey, u64> = BTreeMap::new();
        for written in &self.state.slack.messages {
            let Some(key) = &written.key else { continue };
            let posts = standing.entry(key).or_default();
            posts.push(written);
            let unmarked = posts.iter().filter(|post| !post.message.text.starts_with(MAYBE_DUPLICATE)).count();
            if unmarked > 1 {
                wrong.push(format!("{key} stands in the thread {unmarked} times without the mark"));
            }
            if posts.len() > 1 {
                continue;
            }
            let Some(planned) = self.state.facts.parts.get(key) else { continue };
            let place = places.entry(planned.part.thread.clone()).or_default();
            if planned.part.place < *place {
                wrong.push(format!("{key} stands after a later part"));
            }
            *place = planned.part.place.max(*place);
        }
        for (key, planned) in &self.state.facts.parts {
            let part = &planned.part;
            let stands = standing.contains_key(key);
            let later = |kind: PostKind| {
                self.state.facts.parts.values().any(|other| {
                    other.part.thread == part.thread && other.part.kind == kind && other.when >= planned.when
                })
            };
            match part.state {
                PartState::Sent if !stands => wrong.push(format!("{key} counts as sent and stands nowhere")),
                PartState::Sent => {}
                // Silence of the platform is no refusal, however long it lasts.
                PartState::Refused if !self.state.facts.refused.contains(key) && self.state.calm() => {
                    wrong.push(format!("{key} was given up ({:?}) and the platform has refused nothing", part.error));
                }
                PartState::Refused if part.kind == PostKind::Notice || later(PostKind::Notice) => {}
                PartState::Refused => wrong.push(format!("{key} was refused and nobody was told")),
                PartState::Dropped => {
                    let refused = |other: &&crate::facts::Planned| {
                        other.part.post == part.post && other.part.state == PartState::Refused
                    };
                    let stops = &self.state.facts.stop_rows;
                    let stopped = stops.iter().any(|(thread, when)| *thread == part.thread && *when >= planned.when);
                    if !stopped && !self.state.facts.parts.values().any(|other| refused(&other)) {
                        wrong.push(format!("{key} was dropped for no reason"));
                    }
                }
                state => wrong.push(format!("{key} is still {}", state.as_str())),
            }
        }
        // The same words of the agent under two keys are a post twice as well.
        let mut words: BTreeMap<String, &OpKey> = BTreeMap::new();
        for (key, posts) in &standing {
            for post in posts {
                let Some(word) = word_of(&post.message.text) else { continue };
                if words.insert(word.clone(), key).is_some_and(|known| known != *key) {
                    wrong.push(format!("`{word}` of the agent stands under two keys"));
                }
            }
        }
    }

    /// Whoever wrote to the agent hears something.
    fn answers(&self, wrong: &mut Vec<String>) {
        for thread in self.state.codex.threads.values() {
            let refuses = self.state.facts.refused.iter().any(|key| {
                self.state.facts.parts.get(key).is_some_and(|planned| planned.part.thread == thread.session)
            });
            for recorded in &thread.history {
                let Some(row) = self.state.facts.rows.get(&recorded.input.id) else { continue };
                if row.kind != InboxKind::Message || refuses {
                    continue;
                }
                let stopped =
                    self.state.facts.stops.iter().any(|stop| stop.session == row.session && stop.before > row.at);
                let heard = self.state.slack.own(&thread.session).any(|post| {
                    let notice = post.key.as_ref().and_then(|key| self.state.facts.parts.get(key));
                    let notice = notice.is_some_and(|planned| planned.part.kind == PostKind::Notice);
                    post.at >= recorded.at || (notice && post.at + TOLD >= recorded.at)
                });
                if !stopped && !heard {
                    wrong.push(format!("{} was given and nobody heard a word after that", row.id));
                }
            }
        }
    }

    /// What was said before a `-stop` is not given after it, and nothing to a conversation that was given up.
    fn stops(&self, wrong: &mut Vec<String>) {
        for Given { when, input: id, thread } in &self.state.facts.submitted {
            let left = self.state.facts.renewals.iter().filter(|new| new.left.as_ref() == Some(thread));
            for new in left.filter(|new| new.when < *when) {
                wrong.push(format!(
                    "{id} was given {} ms after the `-new` that gave its conversation up",
                    when - new.when
                ));
            }
            let Some(row) = self.state.facts.rows.get(id).filter(|row| row.kind == InboxKind::Message) else {
                continue;
            };
            if let Some(cancelled) = self.state.facts.cancelled.get(id).filter(|cancelled| *cancelled < when) {
                wrong.push(format!("{id} was given {} ms after it was taken back", when - cancelled));
            }
            let stops = self.state.facts.stops.iter().filter(|stop| stop.session == row.session);
            for stop in stops.filter(|stop| stop.before > row.at && stop.when < *when) {
                wrong.push(format!("{id} was given {} ms after the `-stop` that took it back", when - stop.when));
            }
        }
    }

    /// Once a `-stop` of the whole direct message is answered, nothing is given that was written before it, however it comes. What
    /// comes to another broker is another matter: that an event is so late is remembered in the process.
    fn direct_stops(&self, wrong: &mut Vec<String>) {
        let is_stop = |written: &&Written| {
            let message = &written.message;
            let direct = message.conversation_kind == ConversationKind::Direct && message.thread_root.is_none();
            direct && is_member(written) && Command::read(message) == Some(Command::Stop)
        };
        for stop in self.state.slack.messages.iter().filter(is_stop) {
            let thread = stop.message.thread();
            let keys: Vec<&OpKey> = self.state.slack.own(&thread).filter_map(|post| post.key.as_ref()).collect();
            let answers = self.state.facts.performed.iter().filter(|(_, key)| keys.contains(&key));
            let Some(answered) = answers.map(|(when, _)| when).min() else { continue };
            let next = self.state.facts.begun.iter().find(|begun| *begun > answered);
            for Given { when, input, .. } in &self.state.facts.submitted {
                let Some(row) = self.state.facts.rows.get(input) else { continue };
                let meant = row.kind == InboxKind::Message
                    && row.session.conversation_key() == stop.message.conversation
                    && row.at < stop.message.at;
                if meant && when > answered && next.is_none_or(|next| when < next) {
                    wrong
                        .push(format!("{input} was given {} ms after the direct message was stopped", when - answered));
                }
            }
        }
    }
}

/// The word by which a text of the agent's is known.
fn word_of(text: &str) -> Option<String> {
    let start = text.find("[f").or_else(|| text.find("[p"))?;
    let end = text[start..].find(']')?;
    Some(text[start..=start + end].to_owned())
}
