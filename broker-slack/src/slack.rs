//! [`Slack`]: the chat transport.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::chat::{
    AgentText, ChatCapabilities, ChatOp, ChatTime, ChatTransport, ConversationKey, DeliverError, FetchError, Fetched,
    FileRef, FileSink, Found, Intake, LinkError, LinkHealth, LookupError, MessageId, OpKey, Parsed, PartBody, Person,
    PersonId, RawEnvelope, Receipt, ThreadKey,
};
use broker_core::clock::Clock;
use broker_core::health::PartHealth;
use broker_core::history::HistoryError;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{
    ADD_REACTION, Api, CONVERSATION_INFO, POST_EPHEMERAL, POST_MESSAGE, REMOVE_REACTION, SET_STATUS, USER_INFO,
};
use crate::config::{ConnectError, SlackConfig, mend};
use crate::failure::Failure;
use crate::identity::Identity;
use crate::limiter::Priority;
use crate::names::{Known, Names};
use crate::scopes::Granted;
use crate::socket::Keeper;
use crate::status::Board;
use crate::{lenient, parse, people, text, ts};

/// The longest part, in characters of finished markup. Slack advises 4,000 and splits what is longer.
const PART_CHARS: usize = 3500;
/// How long after an attempt "not found" may be believed.
const READ_BACK_AFTER: Duration = Duration::from_secs(30);
/// What the metadata of the broker's messages is called.
pub(crate) const METADATA_TYPE: &str = "broker_part";

/// A Slack workspace (or organisation), seen through one installed app.
#[derive(Debug)]
pub struct Slack {
    pub(crate) api: Arc<Api>,
    pub(crate) identity: Identity,
    /// As it was heard last.
    granted: RwLock<Granted>,
    board: Arc<Board>,
    config: SlackConfig,
    pub(crate) names: Names,
}

impl Slack {
    /// Checks the tokens and asks Slack who they belong to. No socket is opened yet: [`ChatTransport::run`] does that.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Refused`] when an operator has to mend something; [`ConnectError::Unavailable`] when another try
    /// may succeed.
    pub async fn connect(config: SlackConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, ConnectError> {
        let base = config.checked_base()?;
        let api = Api::new(base, &config.app_token, config.bot_token.clone(), config.post_rate)?;
        let (answer, granted) = api.auth_test().await.map_err(|failure| match failure {
            Failure::Refused { code } => ConnectError::Refused { mend: mend(&code, "SLACK_BOT_TOKEN"), code },
            other => ConnectError::Unavailable { reason: other.reason().to_owned() },
        })?;
        let identity = Identity::read(&answer).map_err(|field| {
            let mend = "SLACK_BOT_TOKEN has to be the bot token of an app with a bot user";
            ConnectError::refused(&format!("no_{field}"), mend)
        })?;
        let board = Arc::new(Board::new(clock, granted.health(), config.connections.max(1)));
        let (api, granted) = (Arc::new(api), RwLock::new(granted));
        Ok(Arc::new(Self { api, identity, granted, board, config, names: Names::new() }))
    }

    /// Who the broker is on Slack.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the bot token has a scope, as far as that is known.
    pub(crate) fn may(&self, scope: &str) -> bool {
        self.granted.read().unwrap_or_else(PoisonError::into_inner).has(scope)
    }

    /// Asks now and then what the bot token may do.
    async fn keep_scopes(&self) {
        loop {
            tokio::time::sleep(self.config.scopes_every).await;
            match self.api.auth_test().await {
                Ok((_, granted)) => {
                    let health = granted.health();
                    *self.granted.write().unwrap_or_else(PoisonError::into_inner) = granted;
                    self.board.may(health);
                }
                Err(Failure::Refused { code }) => {
                    let mend = mend(&code, "SLACK_BOT_TOKEN");
                    self.board.may(PartHealth::ill(format!("slack refuses the bot token ({code}): {mend}")));
                }
                // That Slack cannot be reached says nothing of the token.
                Err(_) => {}
            }
        }
    }

    async fn post(&self, key: &OpKey, thread: &ThreadKey, markup: &str) -> Result<Receipt, DeliverError> {
        let channel = thread.conversation.as_str();
        // `parse` stays at its default: that links addresses and nothing else, since names are linked only on request.
        let request = json!({
            "channel": channel,
            "thread_ts": thread.root.as_str(),
            "text": markup,
            "mrkdwn": true,
            "link_names": false,
            "unfurl_links": false,
            "unfurl_media": false,
            "metadata": { "event_type": METADATA_TYPE, "event_payload": { "key": key.as_str() } },
        });
        let answer = self.api.post(POST_MESSAGE, Priority::Answer, &request).await?;
        match lenient::ts(&answer, "ts") {
            Some(ts) => Ok(Receipt { message: Some(MessageId::new(ts)), file: None }),
            None => Err(DeliverError::Unknown { reason: "an answer without a ts".to_owned() }),
        }
    }

    async fn whisper(&self, thread: &ThreadKey, person: &PersonId, line: &str) -> Result<Receipt, DeliverError> {
        let request = json!({
            "channel": thread.conversation.as_str(),
            "thread_ts": thread.root.as_str(),
            "user": person.as_str(),
            "text": text::escape(line),
            "link_names": false,
        });
        self.api.post(POST_EPHEMERAL, Priority::Answer, &request).await?;
        Ok(Receipt::default())
    }

    /// Shows a status beside the thread, or takes it away: an empty one does that
    /// (<https://docs.slack.dev/reference/methods/assistant.threads.setStatus>).
    async fn show_status(&self, thread: &ThreadKey, text: Option<&str>) -> Result<Receipt, DeliverError> {
        let request = json!({
            "channel_id": thread.conversation.as_str(),
            "thread_ts": thread.root.as_str(),
            "status": text.unwrap_or_default(),
        });
        let answer = self.api.post(SET_STATUS, Priority::Status, &request).await;
        answer.map(|_| Receipt::default()).map_err(Failure::of_extra)
    }

    async fn react(&self, thread: &ThreadKey, name: &str, on: bool) -> Result<Receipt, DeliverError> {
        let request = json!({
            "channel": thread.conversation.as_str(),
            "timestamp": thread.root.as_str(),
            "name": name,
        });
        let method = if on { ADD_REACTION } else { REMOVE_REACTION };
        match self.api.post(method, Priority::Status, &request).await {
            // It is as it should be; where the message is gone, so is its reaction.
            Err(Failure::Refused { code }) if matches!(code.as_str(), "already_reacted" | "no_reaction") => {}
            Err(Failure::Refused { code }) if !on && code == "message_not_found" => {}
            Err(failure) => return Err(failure.of_extra()),
            Ok(_) => {}
        }
        Ok(Receipt::default())
    }
}

#[async_trait]
impl ChatTransport for Slack {
    fn capabilities(&self) -> ChatCapabilities {
        ChatCapabilities {
            read_back: true,
            read_back_after: READ_BACK_AFTER,
            ephemeral: true,
            status: true,
            // An operator may grant it while the broker runs, and take it away.
            files: self.may("files:write"),
            reactions: true,
            part_chars: PART_CHARS,
        }
    }

    fn parse(&self, raw: &RawEnvelope) -> Parsed {
        parse::parse(&self.identity, &raw.raw)
    }

    fn render(&self, text: &AgentText) -> Vec<PartBody> {
        let parts = broker_core::mrkdwn::render(text.markdown(), PART_CHARS, text.mentionable());
        parts.into_iter().map(|markup| PartBody::Text { markup }).collect()
    }

    /// Returns only when it is stopped: a refusal shows in [`ChatTransport::health`] and is tried again once a minute,
    /// since an operator may mend it while the broker runs.
    async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), LinkError> {
        let numbers = Arc::new(AtomicU64::new(0));
        let keepers = (0..self.config.connections.max(1)).map(|slot| {
            let keeper = Keeper {
                slot,
                api: Arc::clone(&self.api),
                limits: self.config.link,
                board: Arc::clone(&self.board),
                intake: Arc::clone(&intake),
                numbers: Arc::clone(&numbers),
            };
            keeper.run(stop.clone())
        });
        // A link outlives the word to stop: it has to acknowledge what is in hand.
        let scopes = stop.run_until_cancelled(self.keep_scopes());
        tokio::join!(futures_util::future::join_all(keepers), scopes);
        Ok(())
    }

    async fn perform(&self, key: &OpKey, op: &ChatOp) -> Result<Receipt, DeliverError> {
        match op {
            ChatOp::Post { thread, body: PartBody::Text { markup } } => self.post(key, thread, markup).await,
            ChatOp::Post { thread, body: PartBody::File { file } } => self.post_file(thread, file).await,
            ChatOp::Upload { file } => self.upload(file).await,
            ChatOp::Ephemeral { thread, person, text } => self.whisper(thread, person, text).await,
            ChatOp::Status { thread, text } => self.show_status(thread, text.as_deref()).await,
            ChatOp::React { thread, name, on } => self.react(thread, name, *on).await,
            other => Err(DeliverError::Refused { code: format!("{}_is_not_supported", other.name()) }),
        }
    }

    async fn find(&self, thread: &ThreadKey, keys: &[OpKey], since: ChatTime) -> Result<Vec<Found>, HistoryError> {
        self.find_keys(thread, keys, since).await
    }

    async fn fetch(&self, file: &FileRef, most: u64, into: &mut FileSink) -> Result<Fetched, FetchError> {
        self.fetch_file(file, most, into).await
    }

    async fn person(&self, id: &PersonId) -> Result<Person, LookupError> {
        let params = vec![("user", Some(id.as_str().to_owned()))];
        let answer = self.api.get(USER_INFO, Priority::Status, &params).await?;
        people::read(&self.identity, id, &answer["user"])
    }

    async fn conversation_name(&self, conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        Ok(self.conversation(conversation).await?.name)
    }

    async fn channel_name(&self, conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        let known = self.conversation(conversation).await?;
        Ok(known.name.filter(|_| known.is_public))
    }

    async fn conversation_topic(&self, conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        Ok(self.conversation(conversation).await?.topic)
    }

    fn health(&self) -> watch::Receiver<LinkHealth> {
        self.board.subscribe()
    }
}

impl Slack {
    /// What a conversation is called and is about.
    async fn conversation(&self, conversation: &ConversationKey) -> Result<Known, LookupError> {
        let channel = conversation.conversation.as_str();
        let asked = self.names.of(channel);
        let ask = async || {
            let params = vec![("channel", Some(channel.to_owned()))];
            let answer =
                match self.api.get(CONVERSATION_INFO, Priority::Status, &params).await.map_err(LookupError::from) {
                    // Whoever mentions it is in it, and the broker is not.
                    Err(LookupError::NotFound) => return Ok(Known::default()),
                    answer => answer?,
                };
            let info = &answer["channel"];
            self.names.learn(channel, info);
            // A direct message has no name; its `user` is not one.
            let name = lenient::text(info, "name").map(str::to_owned);
            let topic = info.get("topic").and_then(|topic| lenient::text(topic, "value")).map(str::to_owned);
            let is_public = self.names.kind(channel) == Some("channel");
            Ok::<_, LookupError>(Known { name, is_public, topic })
        };
        asked.get_or_try_init(ask).await.cloned()
    }
}

/// When a message was written, by its id.
pub(crate) fn time_of(message: &MessageId) -> Option<ChatTime> {
    ts::time(message.as_str())
}
