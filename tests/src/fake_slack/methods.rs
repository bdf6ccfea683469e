//! The methods, each after its page below <https://docs.slack.dev/reference/methods>.

use serde_json::{Map, Value, json};

use super::people::{Channel, ChannelKind};
use super::state::{Ephemeral, Message, State, micros};
use super::web_api::{Answer, Args};
use super::{APP, BOT, BOT_USER, TEAM, TEAM_NAME, events, files};

/// Over this Slack cuts a text off, says its page on `chat.postMessage`.
const TEXT_LIMIT: usize = 40_000;
/// Over this Slack makes several messages of one, as somebody measured: never wanted.
const ONE_MESSAGE: usize = 4_040;

pub(super) fn call(state: &mut State, method: &str, args: &mut Args) -> Answer {
    match method {
        "auth.test" => Ok(auth_test()),
        "chat.postMessage" => post_message(state, args),
        "chat.postEphemeral" => post_ephemeral(state, args),
        "chat.update" => update(state, args),
        "conversations.replies" => replies(state, args),
        "conversations.history" => history(state, args),
        "conversations.info" => {
            args.ignore(&["include_locale", "include_num_members"]);
            channel(state, args).map(|channel| json!({ "channel": channel.object() }))
        }
        "users.conversations" => users_conversations(state, args),
        "users.info" => users_info(state, args),
        "reactions.add" => react(state, args, true),
        "reactions.remove" => react(state, args, false),
        "assistant.threads.setStatus" => set_status(state, args),
        "files.info" => files::info(state, args),
        "files.completeUploadExternal" => files::complete(state, args),
        _ => Err("unknown_method"),
    }
}

fn auth_test() -> Value {
    json!({
        "url": "https://broker-test.slack.com/",
        "team": TEAM_NAME,
        "user": "broker",
        "team_id": TEAM,
        "user_id": BOT_USER,
        "bot_id": BOT,
        "app_id": APP,
        "is_enterprise_install": false
    })
}

/// The conversation of an argument, if the workspace has it.
fn channel(state: &State, args: &mut Args) -> Result<Channel, &'static str> {
    let Some(id) = args.text("channel") else { return Err("channel_not_found") };
    state.channels.get(&id).cloned().ok_or("channel_not_found")
}

/// The conversation, if the bot is in it.
fn own_channel(state: &State, args: &mut Args) -> Result<Channel, &'static str> {
    let channel = channel(state, args)?;
    if channel.member { Ok(channel) } else { Err("not_in_channel") }
}

/// The conversation, if the bot is in it and can write there. Slack's code for an archived one is on each method's page.
fn writable_channel(state: &State, args: &mut Args) -> Result<Channel, &'static str> {
    let channel = own_channel(state, args)?;
    if channel.archived { Err("is_archived") } else { Ok(channel) }
}

/// The `text` of a message, checked.
fn text(args: &mut Args) -> Result<String, &'static str> {
    let Some(text) = args.text("text").filter(|text| !text.is_empty()) else { return Err("no_text") };
    let chars = text.chars().count();
    if chars > TEXT_LIMIT {
        return Err("msg_too_long");
    }
    if chars > ONE_MESSAGE {
        args.wrong.push(format!("a text of {chars} characters would become several messages"));
    }
    if ["<!channel>", "<!here>", "<!everyone>"].iter().any(|word| text.contains(word)) {
        args.wrong.push(format!("a text calls everybody: {text}"));
    }
    if text.contains('\0') {
        args.wrong.push("a text holds a NUL".to_owned());
    }
    Ok(text)
}

/// `metadata`, after <https://docs.slack.dev/messaging/message-metadata>.
fn metadata(args: &mut Args) -> Result<Option<Value>, &'static str> {
    let Some(metadata) = args.structure("metadata") else { return Ok(None) };
    let named = metadata["event_type"].as_str().is_some_and(|name| !name.is_empty());
    let only = metadata.as_object().is_some_and(|fields| fields.len() == 2);
    if !named || !metadata["event_payload"].is_object() || !only {
        args.wrong.push(format!("metadata has another shape: {metadata}"));
        return Err("invalid_metadata_format");
    }
    Ok(Some(metadata))
}

fn post_message(state: &mut State, args: &mut Args) -> Answer {
    args.ignore(&["unfurl_links", "unfurl_media", "link_names", "parse", "mrkdwn", "client_msg_id"]);
    let channel = writable_channel(state, args)?;
    let thread = thread_argument(state, args, &channel)?;
    let text = text(args)?;
    let metadata = metadata(args)?;
    let broadcast = args.switch("reply_broadcast");
    let mut fields = events::own_fields();
    fields.insert("text".to_owned(), json!(text));
    fields.insert("blocks".to_owned(), events::rich_text(&text));
    if let Some(metadata) = metadata {
        fields.insert("metadata".to_owned(), metadata);
    }
    if broadcast && thread.is_some() {
        fields.insert("subtype".to_owned(), json!("thread_broadcast"));
    }
    let message = state.add_message(&channel.id, thread.as_deref(), None, fields);
    state.announce(&channel.id, &message);
    // A reply of the app takes its status away: https://docs.slack.dev/reference/methods/assistant.threads.setStatus.
    if let Some(thread) = &thread {
        state.standing.remove(&(channel.id.clone(), thread.clone()));
    }
    let object = state.object(&channel.id, &message, true);
    Ok(json!({ "channel": channel.id, "ts": message.ts, "message": object }))
}

/// `thread_ts`: a root. That of a reply makes a mess in Slack's clients.
fn thread_argument(state: &State, args: &mut Args, channel: &Channel) -> Result<Option<String>, &'static str> {
    let Some(thread) = args.text("thread_ts") else { return Ok(None) };
    match state.message(&channel.id, &thread) {
        Some(root) if root.thread.is_none() => Ok(Some(thread)),
        Some(_) => {
            args.wrong.push(format!("`thread_ts` {thread} is a reply and not a root"));
            Ok(Some(thread))
        }
        None => Err("thread_not_found"),
    }
}

fn post_ephemeral(state: &mut State, args: &mut Args) -> Answer {
    args.ignore(&["link_names", "parse"]);
    let channel = writable_channel(state, args)?;
    let thread = thread_argument(state, args, &channel)?;
    let Some(user) = args.text("user") else { return Err("user_not_in_channel") };
    if !state.users.contains_key(&user) {
        return Err("user_not_in_channel");
    }
    let text = text(args)?;
    state.ephemerals.push(Ephemeral { channel: channel.id, thread, user, text });
    let ts = format!("1502210682.{:06}", state.number());
    Ok(json!({ "message_ts": ts }))
}

fn update(state: &mut State, args: &mut Args) -> Answer {
    args.ignore(&["link_names", "parse"]);
    let channel = writable_channel(state, args)?;
    let text = text(args)?;
    let metadata = metadata(args)?;
    let Some(ts) = args.text("ts") else { return Err("message_not_found") };
    let place = micros(&ts).ok_or("message_not_found")?;
    let message = state.messages.get_mut(&channel.id).and_then(|all| all.get_mut(&place)).ok_or("message_not_found")?;
    if !message.is_own() {
        return Err("cant_update_message");
    }
    message.text.clone_from(&text);
    message.fields.insert("text".to_owned(), json!(text));
    message.fields.insert("edited".to_owned(), json!({ "user": BOT_USER, "ts": ts }));
    if metadata.is_some() {
        message.metadata = metadata;
    }
    let object = Value::Object(message.fields.clone());
    Ok(json!({ "channel": channel.id, "ts": ts, "text": text, "message": object }))
}

/// A range of time. Both bounds are left out of it unless `inclusive` says otherwise.
struct Range {
    oldest: Option<u64>,
    latest: Option<u64>,
    inclusive: bool,
}

impl Range {
    fn of(args: &mut Args) -> Result<Self, &'static str> {
        let inclusive = args.switch("inclusive");
        let mut bound = |name: &str, error| match args.text(name) {
            None => Ok(None),
            Some(ts) => micros(&ts).map(Some).ok_or(error),
        };
        let oldest = bound("oldest", "invalid_ts_oldest")?;
        let latest = bound("latest", "invalid_ts_latest")?;
        Ok(Self { oldest, latest, inclusive })
    }

    fn holds(&self, at: u64) -> bool {
        let after = self.oldest.is_none_or(|oldest| at > oldest || (self.inclusive && at == oldest));
        let before = self.latest.is_none_or(|latest| at < latest || (self.inclusive && at == latest));
        after && before
    }
}

/// `limit` and `cursor`; the cursor is the place of the last message shown.
fn paging(args: &mut Args, default: usize) -> Result<(usize, Option<u64>), &'static str> {
    let limit = args.number("limit").unwrap_or(default);
    if limit == 0 || limit > 1000 {
        return Err("invalid_limit");
    }
    let cursor = match args.text("cursor").filter(|cursor| !cursor.is_empty()) {
        None => None,
        Some(cursor) => {
            let place = cursor.strip_prefix("bmV4dF90czo").and_then(|rest| rest.parse().ok());
            Some(place.ok_or("invalid_cursor")?)
        }
    };
    Ok((limit, cursor))
}

fn next_cursor(last: Option<&Message>) -> Value {
    json!({ "next_cursor": last.map(|last| format!("bmV4dF90czo{}", last.micros)).unwrap_or_default() })
}

/// Oldest first within the range, and the root before everything, whatever the range is.
fn replies(state: &State, args: &mut Args) -> Answer {
    let channel = own_channel(state, args)?;
    let with_metadata = args.switch("include_all_metadata");
    let range = Range::of(args)?;
    let (limit, cursor) = paging(args, 1000)?;
    let Some(ts) = args.text("ts") else { return Err("invalid_arguments") };
    let asked = state.message(&channel.id, &ts).ok_or("thread_not_found")?;
    // `ts` may name a reply: then that message alone is the answer.
    let thread = if asked.thread.is_some() { vec![asked] } else { state.thread(&channel.id, &ts) };
    let root = thread.first().copied();
    let wanted: Vec<_> = thread
        .iter()
        .copied()
        .filter(|message| range.holds(message.micros) && cursor.is_none_or(|cursor| message.micros > cursor))
        .collect();
    let has_more = wanted.len() > limit;
    let mut page: Vec<_> = wanted.into_iter().take(limit).collect();
    let last = page.last().copied().filter(|_| has_more);
    if let Some(root) = root {
        let there = page.first().is_some_and(|first| first.ts == root.ts);
        if !there && (cursor.is_none() || state.root_on_every_page) {
            page.insert(0, root);
        }
    }
    let messages: Vec<_> = page.iter().map(|message| state.object(&channel.id, message, with_metadata)).collect();
    let mut answer = Map::new();
    answer.insert("messages".to_owned(), json!(messages));
    answer.insert("has_more".to_owned(), json!(has_more));
    if has_more {
        answer.insert("response_metadata".to_owned(), next_cursor(last));
    }
    Ok(Value::Object(answer))
}

/// The top level, newest first.
fn history(state: &State, args: &mut Args) -> Answer {
    let channel = own_channel(state, args)?;
    let with_metadata = args.switch("include_all_metadata");
    let range = Range::of(args)?;
    let (limit, cursor) = paging(args, 100)?;
    let top = |message: &&Message| message.thread.is_none() || message.broadcast;
    let all = state.messages.get(&channel.id).into_iter().flat_map(|all| all.values().rev());
    let wanted: Vec<_> = all
        .filter(top)
        .filter(|message| range.holds(message.micros) && cursor.is_none_or(|cursor| message.micros < cursor))
        .collect();
    let has_more = wanted.len() > limit;
    let page: Vec<_> = wanted.into_iter().take(limit).collect();
    let last = page.last().copied().filter(|_| has_more);
    let messages: Vec<_> = page.iter().map(|message| state.object(&channel.id, message, with_metadata)).collect();
    Ok(json!({
        "messages": messages,
        "has_more": has_more,
        "pin_count": 0,
        "channel_actions_ts": null,
        "channel_actions_count": 0,
        "response_metadata": next_cursor(last)
    }))
}

fn users_conversations(state: &State, args: &mut Args) -> Answer {
    args.ignore(&["exclude_archived", "user", "team_id"]);
    let types = args.text("types").unwrap_or_else(|| "public_channel".to_owned());
    let (limit, cursor) = paging(args, 100)?;
    let skip = usize::try_from(cursor.unwrap_or(0)).unwrap_or_default();
    let wanted = |channel: &&Channel| channel.member && types.split(',').any(|kind| kind == channel.kind.list_name());
    let all: Vec<_> = state.channels.values().filter(wanted).collect();
    let page: Vec<_> = all.iter().skip(skip).take(limit).map(|channel| channel.object()).collect();
    let seen = skip + page.len();
    let next = if seen < all.len() { format!("bmV4dF90czo{seen}") } else { String::new() };
    Ok(json!({ "channels": page, "response_metadata": { "next_cursor": next } }))
}

fn users_info(state: &State, args: &mut Args) -> Answer {
    args.ignore(&["include_locale"]);
    let Some(id) = args.text("user") else { return Err("user_not_found") };
    state.users.get(&id).map(|user| json!({ "user": user.object() })).ok_or("user_not_found")
}

fn react(state: &mut State, args: &mut Args, add: bool) -> Answer {
    let channel = writable_channel(state, args)?;
    let (name, ts) = (args.text("name"), args.text("timestamp"));
    let (Some(name), Some(ts)) = (name, ts) else { return Err("no_item_specified") };
    if state.message(&channel.id, &ts).is_none() {
        return Err("message_not_found");
    }
    let reaction = (channel.id, ts, name);
    let changed = if add { state.reactions.insert(reaction) } else { state.reactions.remove(&reaction) };
    match (changed, add) {
        (true, _) => Ok(json!({})),
        (false, true) => Err("already_reacted"),
        (false, false) => Err("no_reaction"),
    }
}

fn set_status(state: &mut State, args: &mut Args) -> Answer {
    args.ignore(&["loading_messages", "username", "icon_emoji", "icon_url"]);
    let (channel, thread) = (args.text("channel_id"), args.text("thread_ts"));
    let status = args.values.get("status").and_then(Value::as_str).map(str::to_owned);
    args.ignore(&["status"]);
    let (Some(channel), Some(thread), Some(status)) = (channel, thread, status) else {
        return Err("invalid_arguments");
    };
    let known = state.channels.get(&channel).is_some_and(|known| known.member || known.kind == ChannelKind::Im);
    if !known {
        return Err("channel_not_found");
    }
    state.set_status(channel, thread, status);
    Ok(json!({}))
}
