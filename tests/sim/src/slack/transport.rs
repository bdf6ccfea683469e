//! The broker's way to the platform, and what its calls do.

use super::*;

/// What the platform leaves in the place of a deleted root that has replies.
fn left_of(root: ChatMessage) -> ChatMessage {
    ChatMessage { author: Author::Unknown, ..root.into_deleted() }
}

/// The broker's way to the platform.
#[derive(Debug, Clone)]
pub struct SimSlack {
    world: World,
    came: Arc<Notify>,
    health: watch::Sender<LinkHealth>,
}

impl SimSlack {
    /// The way of one broker.
    pub fn new(world: &World) -> Self {
        let health = watch::Sender::new(LinkHealth::new(PartHealth::ill("not connected"), PartHealth::well()));
        let came = {
            let mut state = world.lock();
            state.slack.health = Some(health.clone());
            Arc::clone(&state.slack.came)
        };
        Self { world: world.clone(), came, health }
    }

    async fn take(&self, frame: (usize, u64, usize, usize), intake: Arc<dyn Intake>) {
        let envelope = {
            let state = self.world.lock();
            let mut envelope = raw(&state.slack.envelopes[frame.2], frame.3);
            envelope.received_at = broker_core::clock::Clock::now(&Clocked(state.now()));
            envelope
        };
        match intake.accept(envelope).await {
            Ok(_) => {
                let mut state = self.world.lock();
                if state.ended.is_none() {
                    state.acknowledged(frame);
                }
            }
            Err(error) => self.world.lock().say(format!("an event could not be stored: {error}")),
        }
    }

    /// How long a call takes.
    fn latency(&self, call: Call, count: u32, most: u64) -> u64 {
        2 + self.world.lock().draw(call.name(), u64::from(count) << 32, most)
    }

    /// Asks for something that has no effect.
    async fn ask(&self, call: Call, about: &str) -> Result<(), HistoryError> {
        let (count, fault) = self.world.enter(call, about).await;
        self.world.sleep(self.latency(call, count, 60)).await;
        match fault {
            None => Ok(()),
            Some(Fault::Slow(millis)) => {
                self.world.sleep(millis.min(LIMIT - 1_000)).await;
                Ok(())
            }
            Some(Fault::Fails(millis)) => {
                let retry_after = Some(Duration::from_millis(millis)).filter(|_| millis > 0);
                Err(HistoryError::Unavailable { reason: "ratelimited".to_owned(), retry_after })
            }
            Some(Fault::Refused) => Err(HistoryError::Refused { code: "not_in_channel".to_owned() }),
            Some(Fault::Vanishes) => {
                Err(HistoryError::Unavailable { reason: "http_503".to_owned(), retry_after: None })
            }
            Some(Fault::AnswerLost | Fault::Late(_)) => {
                self.world.sleep(LIMIT).await;
                Err(HistoryError::Unavailable { reason: "no answer in time".to_owned(), retry_after: None })
            }
        }
    }
}

#[derive(Debug)]
struct Clocked(u64);

#[async_trait]
impl broker_core::clock::Clock for Clocked {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(BEGINNING + self.0).unwrap_or(i64::MAX))
    }

    async fn sleep_until(&self, _at: Timestamp) {}
}

#[async_trait]
impl ChatTransport for SimSlack {
    fn capabilities(&self) -> ChatCapabilities {
        ChatCapabilities {
            read_back: true,
            read_back_after: Duration::from_secs(30),
            ephemeral: true,
            status: true,
            reactions: true,
            files: false,
            part_chars: PART_CHARS,
        }
    }

    fn parse(&self, raw: &RawEnvelope) -> Parsed {
        match serde_json::from_slice::<ChatMessage>(&raw.raw) {
            Ok(message) if raw.kind == EDIT => Parsed::Edited(Box::new(message)),
            Ok(message) if raw.kind == DELETION => Parsed::Deleted(Box::new(message)),
            Ok(message) => Parsed::Message(Box::new(message)),
            Err(error) => Parsed::Unreadable { reason: error.to_string() },
        }
    }

    fn render(&self, text: &AgentText) -> Vec<PartBody> {
        let parts = broker_core::mrkdwn::render(text.markdown(), PART_CHARS, text.mentionable());
        parts.into_iter().map(|markup| PartBody::Text { markup }).collect()
    }

    async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), LinkError> {
        {
            let mut state = self.world.lock();
            state.slack.linked = true;
            for index in 0..state.slack.sockets.len() {
                let wait = 20 + state.draw("connect", index as u64, 200);
                state.after(wait, Event::Slack(SlackEvent::Up(index)));
            }
        }
        self.world.tell();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.came.notified() => {}
            }
            loop {
                let frame = self.world.lock().slack.frames.pop_front();
                let Some(frame) = frame else { break };
                let (link, intake) = (self.clone(), Arc::clone(&intake));
                tokio::spawn(async move { link.take(frame, intake).await });
            }
        }
        self.world.lock().unlink();
        self.health.send_modify(|health| health.socket = PartHealth::ill("closed"));
        Ok(())
    }

    async fn perform(&self, key: &OpKey, op: &ChatOp) -> Result<Receipt, DeliverError> {
        let call = if matches!(op, ChatOp::Post { .. }) { Call::Post } else { Call::Status };
        let (count, fault) = self.world.enter(call, about(op)).await;
        let latency = self.latency(call, count, 250);
        let unknown = |reason: &str| Err(DeliverError::Unknown { reason: reason.to_owned() });
        // What was written to the platform has its effect whatever becomes of the broker.
        let lands = match fault {
            None | Some(Fault::AnswerLost) => Some(latency / 2),
            Some(Fault::Slow(millis)) => Some(latency + millis.min(LIMIT - 1_000)),
            Some(Fault::Late(millis)) => Some(LIMIT + millis),
            Some(Fault::Fails(_) | Fault::Vanishes | Fault::Refused) => None,
        };
        {
            let mut state = self.world.lock();
            if call == Call::Post {
                let now = state.now();
                state.facts.performed.push((now, key.clone()));
            }
            if let Some(fault) = fault {
                state.say(format!("{} {count} [{key}] goes wrong: {fault:?}", call.name()));
            }
            if let Some(after) = lands {
                let number = if call == Call::Post { count } else { 0 };
                let life = state.life;
                state.after(after, Event::Slack(SlackEvent::Land(number, key.clone(), op.clone(), life)));
            }
        }
        self.world.tell();
        let wait = match fault {
            Some(Fault::Slow(millis)) => latency + millis.min(LIMIT - 1_000) + 1,
            Some(Fault::Late(_)) => LIMIT,
            _ => latency,
        };
        self.world.sleep(wait).await;
        self.world.leave(call, count).await;
        match fault {
            None | Some(Fault::Slow(_)) => {
                let message = self.world.lock().slack.landed.get(&count).filter(|_| call == Call::Post).cloned();
                Ok(Receipt { message, file: None })
            }
            Some(Fault::Fails(millis)) => Err(DeliverError::Temporary {
                reason: "ratelimited".to_owned(),
                retry_after: Some(Duration::from_millis(millis)),
            }),
            Some(Fault::Refused) => {
                if call == Call::Post {
                    self.world.lock().facts.refused.insert(key.clone());
                }
                Err(DeliverError::Refused { code: "is_archived".to_owned() })
            }
            Some(Fault::Vanishes) => unknown("http_503"),
            Some(Fault::AnswerLost) => unknown("a broken answer"),
            Some(Fault::Late(_)) => unknown("no answer in time"),
        }
    }

    async fn find(&self, thread: &ThreadKey, keys: &[OpKey], since: ChatTime) -> Result<Vec<Found>, HistoryError> {
        self.ask(Call::Find, thread.conversation.as_str()).await?;
        let state = self.world.lock();
        let stands = state.slack.own(thread).filter(|written| written.message.at >= since);
        let found = stands.filter_map(|written| {
            let key = written.key.clone().filter(|key| keys.contains(key))?;
            Some(Found { key, message: written.message.id.clone() })
        });
        Ok(found.collect())
    }

    async fn fetch(&self, _file: &FileRef, _most: u64, _into: &mut FileSink) -> Result<Fetched, FetchError> {
        Err(FetchError::Refused { reason: "there are no files".to_owned() })
    }

    async fn person(&self, id: &PersonId) -> Result<Person, LookupError> {
        if let Err(error) = self.ask(Call::Person, "").await {
            return Err(LookupError::Unavailable { reason: error.to_string() });
        }
        let standing = if id.as_str().starts_with('G') { Standing::Guest } else { Standing::Member };
        let id = id.clone();
        Ok(Person { id, display_name: None, real_name: None, username: None, email: None, team: None, standing })
    }

    async fn conversation_name(&self, _conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        Ok(None)
    }

    fn health(&self) -> watch::Receiver<LinkHealth> {
        self.health.subscribe()
    }
}

#[async_trait]
impl HistoryProvider for SimSlack {
    async fn page(
        &self,
        thread: &ThreadKey,
        range: Range<ChatTime>,
        limit: usize,
        cursor: Option<Cursor>,
        _urgency: Urgency,
    ) -> Result<Page, HistoryError> {
        self.ask(Call::Page, thread.conversation.as_str()).await?;
        let from = match cursor.and_then(|cursor| cursor.as_str().parse().ok()) {
            Some(micros) => ChatTime::from_micros(micros),
            None => range.start,
        };
        let state = self.world.lock();
        let mut messages: Vec<ChatMessage> = state
            .slack
            .messages
            .iter()
            .filter(|written| written.message.thread() == *thread)
            .filter(|written| written.deleted.is_none() || state.slack.has_replies(&written.message))
            .map(|written| match written.deleted {
                Some(_) => left_of(written.message.clone()),
                None => written.message.clone(),
            })
            .filter(|message| message.at >= from && message.at < range.end)
            .collect();
        messages.sort_by_key(|message| message.at);
        let most = limit.min(PAGE);
        let next = messages.get(most).map(|message| Cursor::new(message.at.as_micros().to_string()));
        messages.truncate(most);
        Ok(Page { messages, next })
    }

    async fn heads(
        &self,
        conversation: &ConversationKey,
        since: ChatTime,
        cursor: Option<Cursor>,
    ) -> Result<HeadsPage, HistoryError> {
        self.ask(Call::Heads, conversation.conversation.as_str()).await?;
        let below = match cursor.and_then(|cursor| cursor.as_str().parse().ok()) {
            Some(micros) => ChatTime::from_micros(micros),
            None => ChatTime::MAX,
        };
        let state = self.world.lock();
        let mut heads = Vec::new();
        for written in state.slack.messages.iter().filter(|written| written.message.conversation == *conversation) {
            let root = &written.message;
            if root.thread_root.is_some() || root.at < since || root.at >= below {
                continue;
            }
            let replies = state.slack.messages.iter().filter(|reply| {
                reply.deleted.is_none() && reply.message.id != root.id && reply.message.thread() == root.thread()
            });
            let latest_reply = replies.map(|reply| reply.message.at).max();
            let mut root = root.clone();
            if written.deleted.is_some() {
                if latest_reply.is_none() {
                    continue;
                }
                root = left_of(root);
            }
            heads.push(Head { root, latest_reply });
        }
        heads.sort_by_key(|head| std::cmp::Reverse(head.root.at));
        let next = (heads.len() > PAGE).then(|| Cursor::new(heads[PAGE - 1].root.at.as_micros().to_string()));
        heads.truncate(PAGE);
        Ok(HeadsPage { heads, next })
    }

    fn time_of(&self, message: &MessageId) -> Option<ChatTime> {
        let (seconds, micros) = message.as_str().split_once('.')?;
        Some(ChatTime::from_micros(seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?))
    }

    async fn conversations(&self) -> Result<Vec<ConversationKey>, HistoryError> {
        self.ask(Call::Heads, "").await?;
        let key = |name: &str| ConversationKey {
            installation: InstallationId::new("T0"),
            conversation: ConversationId::new(name),
        };
        Ok(vec![key("C1"), key("C2"), key("D1")])
    }
}
