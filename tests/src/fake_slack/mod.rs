//! Slack on the loopback: Web API and Socket Mode, in Slack's own words, for one app in one workspace.
//!
//! What comes in is checked against Slack's documentation and kept; [`FakeSlack::violations`] lists what Slack would not
//! have taken well. People say things through the handle ([`FakeSlack::mention`], [`FakeSlack::reply`], …); a test looks at
//! what the broker did with [`FakeSlack::wait_for`] and never sleeps.
//!
//! Texts are Slack's markup as it travels: `&`, `<` and `>` are the caller's to escape ([`escape`]).

mod edits;
mod events;
mod faults;
mod files;
mod methods;
mod people;
mod socket;
mod state;
mod web_api;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message as Frame;

pub use faults::Trouble;
pub use files::{Content, EMPTY_SUM, SharedFile, Upload, sum};
pub use people::{Channel, ChannelKind, Kind, User};
pub use socket::{Connection, Envelope};
pub use state::{Call, Ephemeral, Message, Redelivery, State, StatusChange};

use crate::watched::Watched;
use crate::wire::{self, Server};

/// The app-level token that opens the socket.
pub const APP_TOKEN: &str = "xapp-1-A0BROKER-1111111111111-0fake0app0token0";
/// The bot token of every other call.
pub const BOT_TOKEN: &str = "xoxb-222222222222-3333333333333-0fake0bot0token0";
/// The installing workspace.
pub const TEAM: &str = "T0TEAM";
/// Its name.
pub const TEAM_NAME: &str = "Broker Test";
/// The organisation on the other side of shared channels.
pub const OTHER_TEAM: &str = "T0OTHER";
/// The app.
pub const APP: &str = "A0BROKER";
/// The app's bot.
pub const BOT: &str = "B0BROKER";
/// The app's bot user: `<@U0BROKER>` mentions it.
pub const BOT_USER: &str = "U0BROKER";
/// A full member.
pub const ALICE: &str = "U0ALICE";
/// Another full member.
pub const BOB: &str = "U0BOB";
/// A guest of the workspace.
pub const GUEST: &str = "U0GUEST";
/// Somebody of another organisation.
pub const STRANGER: &str = "U0STRANGER";
/// A deactivated account.
pub const GONE: &str = "U0GONE";
/// The user of another bot.
pub const OTHER_BOT_USER: &str = "U0OTHERBOT";
/// The other bot.
pub const OTHER_BOT: &str = "B0OTHERBOT";
/// A public channel that the bot is in.
pub const CHANNEL: &str = "C0GENERAL";

/// Escapes what Slack escapes in texts: <https://docs.slack.dev/messaging/formatting-message-text/#escaping>.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The `envelope_id` of a frame, by its look: the frame may be no JSON.
pub fn envelope_id(text: &str) -> Option<String> {
    let rest = text.split_once("\"envelope_id\"")?.1.trim_start().strip_prefix(':')?;
    rest.trim_start().strip_prefix('"')?.split_once('"').map(|(id, _)| id.to_owned())
}

/// What the parts of the fake share.
#[derive(Debug)]
struct Shared {
    state: Watched<State>,
    address: OnceLock<SocketAddr>,
}

impl Shared {
    fn address(&self) -> SocketAddr {
        *self.address.get().expect("the server runs")
    }
}

/// The handle. The fake ends when it is dropped.
#[derive(Debug)]
pub struct FakeSlack {
    shared: Arc<Shared>,
    server: Server,
}

impl FakeSlack {
    /// Starts a workspace with a few people and one channel.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared { state: Watched::new(State::new()), address: OnceLock::new() });
        let stop = tokio_util::sync::CancellationToken::new();
        let (serving, stopped) = (Arc::clone(&shared), stop.clone());
        let server = wire::serve(move |request| web_api::serve(Arc::clone(&serving), stopped.clone(), request)).await;
        shared.address.get_or_init(|| server.address);
        let pump = socket::pump(Arc::clone(&shared), server.stop.clone());
        tokio::spawn(pump);
        let ended = server.stop.clone();
        tokio::spawn(async move {
            ended.cancelled().await;
            stop.cancel();
        });
        Self { shared, server }
    }

    /// The value of `SLACK_API_BASE_URL`.
    pub fn api_base(&self) -> String {
        format!("http://{}/api", self.server.address)
    }

    // People.

    /// Somebody writes at the top level; returns the message's `ts`.
    pub fn say(&self, channel: &str, user: &str, text: &str) -> String {
        self.write(channel, None, user, text)
    }

    /// Somebody replies in a thread.
    pub fn reply(&self, channel: &str, root: &str, user: &str, text: &str) -> String {
        self.write(channel, Some(root), user, text)
    }

    /// Somebody mentions the bot at the top level: an `app_mention` and a `message` event with the same `ts`.
    pub fn mention(&self, channel: &str, user: &str, text: &str) -> String {
        self.write(channel, None, user, &format!("<@{BOT_USER}> {text}"))
    }

    /// Somebody mentions the bot in a thread.
    pub fn mention_in(&self, channel: &str, root: &str, user: &str, text: &str) -> String {
        self.write(channel, Some(root), user, &format!("<@{BOT_USER}> {text}"))
    }

    /// Somebody writes a direct message to the bot; returns its channel and `ts`.
    pub fn dm(&self, user: &str, text: &str) -> (String, String) {
        let id = user.replacen('U', "D", 1);
        self.shared.state.change(|state| {
            state
                .channels
                .entry(id.clone())
                .or_insert_with(|| Channel { with: Some(user.to_owned()), ..Channel::new(&id, "", ChannelKind::Im) });
        });
        let ts = self.write(&id, None, user, text);
        (id, ts)
    }

    /// Somebody replies in a thread and sends it to the channel too.
    pub fn broadcast(&self, channel: &str, root: &str, user: &str, text: &str) -> String {
        let mut fields = self.human(user, text);
        fields.insert("subtype".to_owned(), json!("thread_broadcast"));
        self.add(channel, Some(root), fields, true)
    }

    /// Another bot writes.
    pub fn bot_says(&self, channel: &str, root: Option<&str>, text: &str) -> String {
        let Value::Object(fields) = json!({
            "user": OTHER_BOT_USER,
            "bot_id": OTHER_BOT,
            "app_id": "A0OTHERBOT",
            "team": TEAM,
            "text": text,
            "bot_profile": {
                "id": OTHER_BOT,
                "app_id": "A0OTHERBOT",
                "name": "otherbot",
                "icons": {},
                "deleted": false,
                "updated": 1_449_709_280,
                "team_id": TEAM
            }
        }) else {
            unreachable!("an object was written")
        };
        self.add(channel, root, fields, true)
    }

    /// Another bot writes something of which `text` is only a part: its blocks, its attachments.
    pub fn bot_shows(&self, channel: &str, root: Option<&str>, text: &str, more: Value) -> String {
        let (Value::Object(mut fields), Value::Object(more)) = (
            json!({"bot_id": OTHER_BOT, "app_id": "A0OTHERBOT", "subtype": "bot_message", "username": "alerts", "text": text}),
            more,
        ) else {
            unreachable!("objects were written")
        };
        fields.extend(more);
        self.add(channel, root, fields, true)
    }

    /// Somebody writes, and more than text hangs on it: a forwarded message, the preview of a link.
    pub fn shows(&self, channel: &str, root: Option<&str>, user: &str, text: &str, more: Value) -> String {
        let mut fields = self.human(user, text);
        if let Value::Object(more) = more {
            fields.extend(more);
        }
        self.add(channel, root, fields, true)
    }

    /// Somebody writes, and no event tells of it: Slack gave up delivering it, or a frame was lost.
    pub fn unheard(&self, channel: &str, root: Option<&str>, user: &str, text: &str) -> String {
        let fields = self.human(user, text);
        self.add(channel, root, fields, false)
    }

    /// A top-level message that was written `ago`, without an event.
    pub fn seed_root(&self, channel: &str, user: &str, text: &str, ago: Duration) -> String {
        let fields = self.human(user, text);
        self.shared.state.change(|state| {
            let at = u64::try_from(state.now().minus(ago).as_millis()).unwrap_or_default() * 1000;
            state.add_message(channel, None, Some(at), fields).ts
        })
    }

    /// `n` replies, `reply 1` to `reply n`, spread evenly between the root and the present, without events.
    pub fn seed_history(&self, channel: &str, root: &str, n: usize) -> Vec<String> {
        let start = state::micros(root).expect("a ts");
        let now = self.shared.state.read(State::now).as_millis();
        let step = u64::try_from(now).unwrap_or_default().saturating_mul(1000).saturating_sub(start) / (n as u64 + 1);
        (1..=n as u64)
            .map(|k| {
                let fields = self.human(if k % 2 == 0 { ALICE } else { BOB }, &format!("reply {k}"));
                let at = Some(start + k * step.max(1));
                self.shared.state.change(|state| state.add_message(channel, Some(root), at, fields).ts)
            })
            .collect()
    }

    /// Adds somebody, or changes them.
    pub fn add_user(&self, user: User) {
        self.shared.state.change(|state| state.users.insert(user.id.clone(), user));
    }

    /// Adds a conversation, or changes it.
    pub fn add_channel(&self, channel: Channel) {
        self.shared.state.change(|state| state.channels.insert(channel.id.clone(), channel));
    }

    fn write(&self, channel: &str, root: Option<&str>, user: &str, text: &str) -> String {
        let fields = self.human(user, text);
        self.add(channel, root, fields, true)
    }

    /// The fields of a message that a person wrote in a Slack client.
    fn human(&self, user: &str, text: &str) -> Map<String, Value> {
        let (team, number) = self.shared.state.change(|state| {
            let team = state.users.get(user).map_or(TEAM, User::team);
            (team, state.number())
        });
        let mut fields = Map::new();
        fields.insert("client_msg_id".to_owned(), json!(format!("4cf3ba8a-8f6e-4b0f-8d5e-{number:012}")));
        fields.insert("user".to_owned(), json!(user));
        fields.insert("text".to_owned(), json!(text));
        fields.insert("team".to_owned(), json!(team));
        fields.insert("blocks".to_owned(), events::rich_text(text));
        fields
    }

    fn add(&self, channel: &str, root: Option<&str>, fields: Map<String, Value>, announce: bool) -> String {
        self.shared.state.change(|state| {
            let message = state.add_message(channel, root, None, fields);
            if announce {
                state.announce(channel, &message);
            }
            message.ts
        })
    }

    // The socket.

    /// Sends an `events_api` envelope with an event of the test's own; returns its `event_id`.
    pub fn send_event(&self, event: &Value) -> String {
        self.shared.state.change(|state| state.queue_event(event, false))
    }

    /// Sends the events of a message once more, under new event ids.
    pub fn announce_again(&self, channel: &str, ts: &str) -> Vec<String> {
        self.shared.state.change(|state| {
            let message = state.message(channel, ts).expect("a message of the workspace").clone();
            state.announce(channel, &message)
        })
    }

    /// Sends an envelope of any type with a payload of the test's own.
    pub fn send_envelope(&self, kind: &str, payload: Value) {
        self.shared.state.change(|state| state.queue_envelope(kind, payload));
    }

    /// Writes a frame as it is to the newest open connection, once; `false` when there is none. An `envelope_id` in it
    /// counts as sent: see [`State::raw_acks`].
    pub fn send_raw_frame(&self, frame: impl Into<Frame>) -> bool {
        let frame = frame.into();
        let id = match &frame {
            Frame::Text(text) => envelope_id(text.as_str()),
            _ => None,
        };
        self.shared.state.change(|state| {
            let Some(connection) = state.connections.iter().rposition(Connection::is_open) else { return false };
            state.raw_ids.extend(id);
            state.write(connection, frame);
            true
        })
    }

    /// Announces the end of every open connection (`warning`, `refresh_requested`, `link_disabled`), and closes them after
    /// a grace.
    pub fn disconnect(&self, reason: &str, grace: Duration) {
        let open = self.shared.state.change(|state| {
            let open: Vec<_> = (0..state.connections.len()).filter(|n| state.connections[*n].is_open()).collect();
            state.send_disconnect(reason);
            open
        });
        let (shared, stop) = (Arc::clone(&self.shared), self.server.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(grace) => shared.state.change(|state| {
                    for connection in open {
                        state.write(connection, Frame::Close(None));
                    }
                }),
            }
        });
    }

    /// Cuts every connection without a word.
    pub fn drop_sockets(&self) {
        self.shared.state.change(|state| {
            for connection in &state.connections {
                connection.abort.cancel();
            }
        });
    }

    /// How unacknowledged envelopes come again.
    pub fn set_redelivery(&self, redelivery: Redelivery) {
        self.shared.state.change(|state| state.redelivery = redelivery);
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.state.read(State::open_connections)
    }

    /// Whether the envelope with this `envelope_id` or `event_id` was acknowledged.
    pub fn acked(&self, id: &str) -> bool {
        self.shared.state.read(|state| {
            let mut all = state.envelopes.iter();
            let known = |e: &&Envelope| e.event_id.as_deref() == Some(id) || e.ids.iter().any(|known| known == id);
            all.find(known).map_or(!state.raw_acks(id).is_empty(), |envelope| envelope.acked.is_some())
        })
    }

    // The Web API.

    /// The next `times` calls of `method` meet `trouble`.
    pub fn trouble(&self, method: &str, trouble: Trouble, times: usize) {
        self.add_fault(method, trouble, None, times);
    }

    /// The next `times` calls of `method` whose arguments hold `text` meet `trouble`.
    pub fn trouble_when(&self, method: &str, holding: &str, trouble: Trouble, times: usize) {
        self.add_fault(method, trouble, Some(holding.to_owned()), times);
    }

    fn add_fault(&self, method: &str, trouble: Trouble, holding: Option<String>, times: usize) {
        assert!(times > 0, "a trouble that never comes");
        let fault = faults::Fault { method: method.to_owned(), trouble, holding, times };
        self.shared.state.change(|state| state.faults.push(fault));
    }

    /// Ends every trouble.
    pub fn no_more_trouble(&self) {
        self.shared.state.change(|state| state.faults.clear());
    }

    /// The scopes that `x-oauth-scopes` names.
    pub fn set_scopes(&self, scopes: &[&str]) {
        self.shared.state.change(|state| state.scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect());
    }

    /// Whether `conversations.replies` repeats the root on pages after the first: reports differ, the default is yes.
    pub fn set_root_on_every_page(&self, on: bool) {
        self.shared.state.change(|state| state.root_on_every_page = on);
    }

    // What was seen.

    /// What the client did that Slack would not take well.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state.read(|state| state.violations.clone())
    }

    /// Looks at everything.
    pub fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.shared.state.read(look)
    }

    /// The messages of a thread, root first.
    pub fn messages_in(&self, channel: &str, root: &str) -> Vec<Message> {
        self.look(|state| state.messages_in(channel, root))
    }

    /// The texts that the broker posted into a thread, in order.
    pub fn answers(&self, channel: &str, root: &str) -> Vec<String> {
        self.look(|state| state.answers(channel, root))
    }

    /// The ephemeral lines so far.
    pub fn ephemerals(&self) -> Vec<Ephemeral> {
        self.look(|state| state.ephemerals().to_vec())
    }

    /// Waits until `look` finds something.
    ///
    /// # Panics
    ///
    /// When the limit is over; the message names `what` and shows what the workspace holds.
    #[track_caller]
    pub fn wait_for<R>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn(&State) -> Option<R>,
    ) -> impl Future<Output = R> {
        let caller = std::panic::Location::caller();
        async move {
            match self.shared.state.wait_for(look, limit).await {
                Some(found) => found,
                None => panic!("{caller}: within {limit:?} no {what}; {}", self.look(State::summary)),
            }
        }
    }

    /// Waits until `look` finds something, at most so long.
    pub async fn until<R>(&self, limit: Duration, look: impl Fn(&State) -> Option<R>) -> Option<R> {
        self.shared.state.wait_for(look, limit).await
    }

    /// Waits for an answer of the broker in a thread that `fits`; returns its text.
    #[track_caller]
    pub fn wait_for_answer(
        &self,
        channel: &str,
        root: &str,
        what: &str,
        limit: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> impl Future<Output = String> {
        let (channel, root) = (channel.to_owned(), root.to_owned());
        self.wait_for(what, limit, move |state| state.answers(&channel, &root).into_iter().find(|text| fits(text)))
    }
}
