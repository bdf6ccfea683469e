//! Taking the port.

use std::io;
use std::time::Duration;

use tokio::net::TcpListener;

/// How long the name of the bind host may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// Why the port was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("{host}:{port} is in use by another process; end it, or set PORT to a free port")]
    InUse {
        /// The host that was asked for.
        host: String,
        /// The port that was asked for.
        port: u16,
    },
    /// The port is one for which this user has no right.
    #[error("this user may not listen on {host}:{port}; set PORT to 1024 or more")]
    Forbidden {
        /// The host that was asked for.
        host: String,
        /// The port that was asked for.
        port: u16,
    },
    /// The host is not an address of this machine, or something else is in the way.
    #[error("cannot listen on {host}:{port} ({source}); set WORKER_BIND_HOST to an address of this machine")]
    Other {
        /// The host that was asked for.
        host: String,
        /// The port that was asked for.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// Takes a port; port 0 takes a free one.
///
/// # Errors
///
/// When the port is taken, forbidden, or the host is not ours. Each error says what mends it.
pub async fn bind(host: &str, port: u16) -> Result<TcpListener, BindError> {
    // A bracketed address is how people write IPv6 beside a port.
    let name = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let bound = match tokio::time::timeout(RESOLVE_LIMIT, TcpListener::bind((name, port))).await {
        Ok(bound) => bound,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name was not resolved in time")),
    };
    bound.map_err(|source| {
        let host = host.to_owned();
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { host, port },
            io::ErrorKind::PermissionDenied => BindError::Forbidden { host, port },
            _ => BindError::Other { host, port, source },
        }
    })
}
