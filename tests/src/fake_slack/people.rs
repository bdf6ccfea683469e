//! The workspace: its people, bots and conversations.

use serde_json::{Value, json};

use super::{APP, BOT, BOT_USER, OTHER_TEAM, TEAM};

/// What somebody is to the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A full member.
    Member,
    /// A multi-channel guest.
    Guest,
    /// A single-channel guest.
    SingleChannelGuest,
    /// Somebody of another organisation, seen through a shared channel.
    External,
    /// A bot user.
    Bot,
    /// A deactivated account.
    Deactivated,
}

/// Somebody whom `users.info` knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// `U…`
    pub id: String,
    /// The handle; the display name is the same, capitalised as given.
    pub name: String,
    /// What they are.
    pub kind: Kind,
}

impl User {
    /// A person or bot user.
    pub fn new(id: &str, name: &str, kind: Kind) -> Self {
        Self { id: id.to_owned(), name: name.to_owned(), kind }
    }

    /// The team that the user belongs to.
    pub fn team(&self) -> &'static str {
        if self.kind == Kind::External { OTHER_TEAM } else { TEAM }
    }

    /// The user object, after <https://docs.slack.dev/reference/objects/user-object>.
    pub(super) fn object(&self) -> Value {
        json!({
            "id": self.id,
            "team_id": self.team(),
            "name": self.name,
            "deleted": self.kind == Kind::Deactivated,
            "color": "9f69e7",
            "real_name": format!("{} Realname", self.name),
            "tz": "Europe/Amsterdam",
            "tz_label": "Central European Time",
            "tz_offset": 3600,
            "profile": {
                "avatar_hash": "ge3b51ca72de",
                "status_text": "",
                "status_emoji": "",
                "real_name": format!("{} Realname", self.name),
                "display_name": self.name,
                "real_name_normalized": format!("{} Realname", self.name),
                "display_name_normalized": self.name,
                "email": format!("{}@example.com", self.name),
                "team": self.team()
            },
            "is_admin": false,
            "is_owner": false,
            "is_primary_owner": false,
            "is_restricted": matches!(self.kind, Kind::Guest | Kind::SingleChannelGuest),
            "is_ultra_restricted": self.kind == Kind::SingleChannelGuest,
            "is_stranger": self.kind == Kind::External,
            "is_bot": self.kind == Kind::Bot,
            "updated": 1_502_138_686,
            "is_app_user": false,
            "has_2fa": false
        })
    }
}

/// What kind of conversation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    /// A public channel.
    Public,
    /// A private channel.
    Private,
    /// A direct message.
    Im,
    /// A direct message among several.
    Mpim,
}

impl ChannelKind {
    /// The `channel_type` of message events.
    pub(super) fn event_name(self) -> &'static str {
        match self {
            Self::Public => "channel",
            Self::Private => "group",
            Self::Im => "im",
            Self::Mpim => "mpim",
        }
    }

    /// The name in the `types` argument of `users.conversations`.
    pub(super) fn list_name(self) -> &'static str {
        match self {
            Self::Public => "public_channel",
            Self::Private => "private_channel",
            Self::Im => "im",
            Self::Mpim => "mpim",
        }
    }
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// `C…`, `G…` or `D…`
    pub id: String,
    /// The name without `#`; empty for direct messages.
    pub name: String,
    /// What kind it is.
    pub kind: ChannelKind,
    /// Whether the bot is in it.
    pub member: bool,
    /// Whether it is shared with another organisation.
    pub shared: bool,
    /// The other person of a direct message.
    pub with: Option<String>,
    /// Whether it is archived: nobody can write there.
    pub archived: bool,
}

impl Channel {
    /// A channel that the bot is in.
    pub fn new(id: &str, name: &str, kind: ChannelKind) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            kind,
            member: true,
            shared: false,
            with: None,
            archived: false,
        }
    }

    /// The conversation object, after <https://docs.slack.dev/reference/objects/conversation-object>.
    pub(super) fn object(&self) -> Value {
        if self.kind == ChannelKind::Im {
            return json!({
                "id": self.id,
                "created": 1_449_709_280,
                "is_im": true,
                "is_org_shared": false,
                "user": self.with,
                "is_user_deleted": false,
                "is_open": true,
                "priority": 0
            });
        }
        json!({
            "id": self.id,
            "name": self.name,
            "is_channel": self.kind == ChannelKind::Public,
            "is_group": self.kind == ChannelKind::Private,
            "is_im": false,
            "is_mpim": self.kind == ChannelKind::Mpim,
            "is_private": self.kind != ChannelKind::Public,
            "created": 1_449_252_889,
            "creator": "U0ALICE",
            "is_archived": self.archived,
            "is_general": false,
            "unlinked": 0,
            "name_normalized": self.name,
            "is_shared": self.shared,
            "is_org_shared": false,
            "is_ext_shared": self.shared,
            "is_member": self.member,
            "context_team_id": TEAM,
            "topic": { "value": "Everything about the broker", "creator": "U0ALICE", "last_set": 1_449_709_280 },
            "purpose": { "value": "", "creator": "", "last_set": 0 },
            "num_members": 4
        })
    }
}

/// The bot profile that hangs on a bot's messages.
pub(super) fn own_bot_profile() -> Value {
    json!({
        "id": BOT,
        "app_id": APP,
        "user_id": BOT_USER,
        "name": "broker",
        "icons": { "image_36": "https://a.slack-edge.com/80588/img/plugins/app/bot_36.png" },
        "deleted": false,
        "updated": 1_449_709_280,
        "team_id": TEAM
    })
}
