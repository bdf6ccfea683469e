//! How the link to a platform stands, as a whole and connection by connection.

use serde::Serialize;

use crate::clock::Timestamp;
use crate::health::PartHealth;

/// How the link to the platform stands.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkHealth {
    /// How often no connection stood so far: after each time something may have been missed.
    pub gaps: u64,
    /// Whether events arrive.
    pub socket: PartHealth,
    /// Whether the credentials allow what the broker does.
    pub scopes: PartHealth,
    /// Each of the connections that the link consists of, in an order that never changes; none for a platform without.
    pub connections: Vec<ConnectionHealth>,
}

impl LinkHealth {
    /// A link that has never been without a connection, and has none to show.
    pub fn new(socket: PartHealth, scopes: PartHealth) -> Self {
        Self { gaps: 0, socket, scopes, connections: Vec::new() }
    }
}

/// One of the connections of a link. It outlives the sockets that it consists of, one after another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConnectionHealth {
    /// Where it stands.
    pub state: ConnectionState,
    /// Since when it stands there.
    #[serde(rename = "since_ms")]
    pub since: Timestamp,
    /// When anything came on it, an answer to a ping included.
    #[serde(rename = "last_frame_ms")]
    pub last_frame: Option<Timestamp>,
    /// When an event came on it.
    #[serde(rename = "last_event_ms")]
    pub last_event: Option<Timestamp>,
    /// Pings that the broker sent.
    pub pings: u64,
    /// Answers to them.
    pub pongs: u64,
    /// Pings that the platform sent.
    pub platform_pings: u64,
    /// How often it was opened again after the first time.
    pub reconnects: u64,
    /// How the socket before this one ended.
    pub last_end: Option<ConnectionEnd>,
    /// Why the last try to open it failed, and what mends that; absent once it is open.
    pub trouble: Option<String>,
}

impl ConnectionHealth {
    /// A connection that was never open.
    pub fn new(now: Timestamp) -> Self {
        Self {
            state: ConnectionState::Connecting,
            since: now,
            last_frame: None,
            last_event: None,
            pings: 0,
            pongs: 0,
            platform_pings: 0,
            reconnects: 0,
            last_end: None,
            trouble: None,
        }
    }
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// It is being opened.
    Connecting,
    /// Events may come.
    Open,
    /// Events may come still, but the platform has said that it will end it; its successor is being opened.
    Ending,
    /// It could not be opened or broke; the next try comes after a pause.
    Waiting,
    /// It was ended with the broker.
    Stopped,
}

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionEnd {
    /// When.
    #[serde(rename = "at_ms")]
    pub at: Timestamp,
    /// The platform's reason, or what was observed.
    pub reason: String,
}
