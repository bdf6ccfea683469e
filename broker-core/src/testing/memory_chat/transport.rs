//! What the broker can do with the platform.

use super::*;

impl MemoryChat {
    /// What is to go wrong with this call.
    fn fault(&self, op: &ChatOp) -> Option<Fault> {
        let mut state = self.state();
        let faults = match op {
            ChatOp::Post { .. } | ChatOp::Ephemeral { .. } | ChatOp::Upload { .. } => &mut state.faults,
            ChatOp::Status { .. } | ChatOp::React { .. } => &mut state.status_faults,
        };
        faults.pop_front()
    }
}

#[async_trait]
impl ChatTransport for MemoryChat {
    fn capabilities(&self) -> ChatCapabilities {
        ChatCapabilities {
            read_back: true,
            read_back_after: Duration::from_secs(30),
            ephemeral: true,
            status: true,
            files: true,
            reactions: true,
            part_chars: PART_CHARS,
        }
    }

    fn parse(&self, raw: &RawEnvelope) -> Parsed {
        match serde_json::from_slice::<ChatMessage>(&raw.raw) {
            Ok(message) if message.author == Author::Own => Parsed::Ignored { reason: "own message" },
            Ok(message) if raw.kind == EDIT => Parsed::Edited(Box::new(message)),
            Ok(message) if raw.kind == DELETION => Parsed::Deleted(Box::new(message)),
            Ok(message) => Parsed::Message(Box::new(message)),
            Err(error) => Parsed::Unreadable { reason: error.to_string() },
        }
    }

    fn render(&self, text: &AgentText) -> Vec<PartBody> {
        let breaks = self.state().breaks_on.take_if(|breaks_on| text.markdown().contains(breaks_on.as_str()));
        assert!(breaks.is_none(), "as it was told to");
        let parts = crate::mrkdwn::render(text.markdown(), PART_CHARS, text.mentionable());
        parts.into_iter().map(|markup| PartBody::Text { markup }).collect()
    }

    async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), LinkError> {
        self.health.send_modify(|health| health.socket = PartHealth::well());
        let mut changed = self.changed.subscribe();
        while !stop.is_cancelled() {
            changed.mark_unchanged();
            let next = self.state().undelivered.pop_front();
            if let Some(envelope) = next {
                if intake.accept(envelope.clone()).await.is_err() {
                    self.state().undelivered.push_front(envelope);
                    tokio::task::yield_now().await;
                }
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                _ = changed.changed() => {}
            }
        }
        self.health.send_modify(|health| {
            health.gaps += 1;
            health.socket = PartHealth::ill("closed");
        });
        Ok(())
    }

    async fn perform(&self, key: &OpKey, op: &ChatOp) -> Result<Receipt, DeliverError> {
        let fault = self.fault(op);
        if let Some(Fault::Hang) = fault {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if state.is_down && fault.is_none() {
            return Err(DeliverError::Unknown { reason: "http_503".to_owned() });
        }
        if let Some(Fault::Fail(error)) = fault {
            return Err(error);
        }
        let mut uploaded = None;
        let done = match op {
            ChatOp::Upload { file } => {
                state.uploads += 1;
                let id = format!("F{}", state.uploads);
                uploaded = Some(id.clone());
                let (name, size) = (Some(file.name.clone()), Some(file.bytes));
                state.uploaded.push(FileRef { id, name, size, ..FileRef::default() });
                None
            }
            ChatOp::Post { thread, body: PartBody::File { file } } => {
                let known = state.uploaded.iter().find(|known| Some(&known.id) == file.uploaded.as_ref()).cloned();
                let Some(known) = known else {
                    return Err(DeliverError::Refused { code: "file_not_found".to_owned() });
                };
                let root = Some(thread.root.clone());
                let mut message = message(&mut state, thread.conversation_key(), root, Author::Own, &file.comment);
                let (id, carried) = (message.id.clone(), OpKey::new(known.id.clone()));
                message.files.push(known);
                state.messages.push((message, Some(carried)));
                Some(id)
            }
            ChatOp::Post { thread, body: PartBody::Text { markup } } => {
                let root = Some(thread.root.clone());
                let message = message(&mut state, thread.conversation_key(), root, Author::Own, markup);
                let id = message.id.clone();
                state.messages.push((message, Some(key.clone())));
                Some(id)
            }
            ChatOp::Ephemeral { thread, person, text } => {
                state.ephemerals.push((thread.clone(), person.clone(), text.clone()));
                None
            }
            ChatOp::Status { thread, text } => {
                state.statuses.push((thread.clone(), text.clone()));
                None
            }
            ChatOp::React { thread, name, on } => {
                state.reactions.retain(|known| known != &(thread.clone(), name.clone()));
                if *on {
                    state.reactions.push((thread.clone(), name.clone()));
                }
                None
            }
        };
        drop(state);
        self.tell();
        match fault {
            Some(Fault::Panic) => panic!("as it was told to"),
            Some(_) => Err(DeliverError::Unknown { reason: "the answer was lost".to_owned() }),
            None => Ok(Receipt { message: done, file: uploaded }),
        }
    }

    async fn find(&self, thread: &ThreadKey, keys: &[OpKey], since: ChatTime) -> Result<Vec<Found>, HistoryError> {
        let state = self.state();
        if state.is_down {
            return Err(HistoryError::Unavailable { reason: "http_503".to_owned(), retry_after: None });
        }
        let found = state.messages.iter().filter(|(message, _)| message.thread() == *thread && message.at >= since);
        Ok(found
            .filter_map(|(message, key)| {
                let key = key.as_ref().filter(|key| keys.contains(key))?;
                Some(Found { key: key.clone(), message: message.id.clone() })
            })
            .collect())
    }

    async fn fetch(&self, file: &FileRef, most: u64, into: &mut FileSink) -> Result<Fetched, FetchError> {
        let shared = self.state().shared.iter().find(|shared| shared.shown.id == file.id).cloned();
        let shared = shared.ok_or(FetchError::Refused { reason: "there is no such file".to_owned() })?;
        if shared.bytes.len() as u64 > most {
            return Err(FetchError::Refused { reason: "it is too large".to_owned() });
        }
        let not_written = |error: std::io::Error| FetchError::Refused { reason: error.to_string() };
        into.write_all(&shared.bytes).await.map_err(not_written)?;
        into.flush().await.map_err(not_written)?;
        if shared.hangs {
            std::future::pending::<()>().await;
        }
        Ok(Fetched { bytes: shared.bytes.len() as u64, name: shared.name, media_type: shared.media_type })
    }

    async fn person(&self, id: &PersonId) -> Result<Person, LookupError> {
        let known = {
            let mut state = self.state();
            state.looked_up.push(id.clone());
            if state.lost.contains(id) {
                return Err(LookupError::NotFound);
            }
            state.people.get(id).cloned()
        };
        Ok(known.unwrap_or_else(|| Person {
            id: id.clone(),
            display_name: Some(id.as_str().to_lowercase()),
            real_name: None,
            username: None,
            email: None,
            team: Some(INSTALLATION.to_owned()),
            standing: Standing::Member,
        }))
    }

    async fn conversation_name(&self, conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        if self.state().keeps_names {
            std::future::pending::<()>().await;
        }
        Ok(Some(conversation.conversation.as_str().to_lowercase()))
    }

    async fn channel_name(&self, conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        // What begins with a `P` is private.
        let is_private = conversation.conversation.as_str().starts_with('P');
        if is_private { Ok(None) } else { self.conversation_name(conversation).await }
    }

    fn health(&self) -> watch::Receiver<LinkHealth> {
        self.health.subscribe()
    }
}

#[async_trait]
impl HistoryProvider for MemoryChat {
    async fn page(
        &self,
        thread: &ThreadKey,
        range: Range<ChatTime>,
        limit: usize,
        cursor: Option<Cursor>,
        urgency: Urgency,
    ) -> Result<Page, HistoryError> {
        let skip = cursor.and_then(|cursor| cursor.as_str().parse::<usize>().ok()).unwrap_or(0);
        let mut state = self.state();
        state.asked.push((thread.clone(), urgency));
        let all: Vec<&ChatMessage> = state
            .messages
            .iter()
            .map(|(message, _)| message)
            .filter(|message| message.thread() == *thread && range.contains(&message.at))
            .collect();
        let messages: Vec<ChatMessage> = all.iter().skip(skip).take(limit).map(|message| (*message).clone()).collect();
        let end = skip + messages.len();
        let next = (end < all.len()).then(|| Cursor::new(end.to_string()));
        Ok(Page { messages, next })
    }

    async fn heads(
        &self,
        conversation: &ConversationKey,
        since: ChatTime,
        _cursor: Option<Cursor>,
    ) -> Result<HeadsPage, HistoryError> {
        let state = self.state();
        let roots = state.messages.iter().map(|(message, _)| message);
        let roots = roots.filter(|message| {
            message.conversation == *conversation && message.thread_root.is_none() && message.at >= since
        });
        let mut heads: Vec<_> = roots
            .map(|root| {
                let replies =
                    state.messages.iter().filter(|(message, _)| message.thread_root.as_ref() == Some(&root.id));
                let latest_reply = replies.map(|(message, _)| message.at).max();
                crate::history::Head { root: root.clone(), latest_reply }
            })
            .collect();
        heads.reverse();
        Ok(HeadsPage { heads, next: None })
    }

    fn time_of(&self, message: &MessageId) -> Option<ChatTime> {
        message.as_str().parse().ok().map(ChatTime::from_micros)
    }

    async fn conversations(&self) -> Result<Vec<ConversationKey>, HistoryError> {
        let mut all: Vec<_> = self.state().messages.iter().map(|(message, _)| message.conversation.clone()).collect();
        all.sort();
        all.dedup();
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::testing::chat_suite::{self, ChatWorld};

    #[derive(Default)]
    struct World {
        chat: MemoryChat,
        conversations: AtomicUsize,
    }

    #[async_trait]
    impl ChatWorld for World {
        fn transport(&self) -> Arc<dyn ChatTransport> {
            Arc::new(self.chat.clone())
        }

        fn history(&self) -> Arc<dyn HistoryProvider> {
            Arc::new(self.chat.clone())
        }

        async fn conversation(&self) -> ConversationKey {
            MemoryChat::conversation(&format!("C{}", self.conversations.fetch_add(1, Ordering::Relaxed)))
        }

        async fn write(&self, conversation: &ConversationKey, root: Option<&MessageId>, text: &str) -> ThreadKey {
            self.chat.say(conversation.conversation.as_str(), root, "U1", text)
        }

        async fn garble(&self) {
            self.chat.deliver_raw("event:garbled", b"\xff{");
        }

        async fn lose_next_answer(&self) {
            self.chat.fail_next(Fault::LoseAnswer);
        }
    }

    #[tokio::test]
    async fn it_is_a_chat_platform() {
        chat_suite::all(&World::default()).await;
    }
}
