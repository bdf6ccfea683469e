//! Which names a request may call this server by.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// The names that are ours.
///
/// A page that rebinds its own name to our address makes the browser send *its* name as `Host`. So names are allowed one
/// by one, while an address can only be ours: it is what the browser really connected to.
#[derive(Debug)]
pub(crate) struct Hosts {
    names: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    /// Bound to every address of the machine: any address may be one of them.
    any_address: bool,
}

impl Hosts {
    /// `localhost` and the loopback addresses, the host that the listener is bound to, and `more`.
    pub(crate) fn new(bind_host: &str, more: &[String]) -> Self {
        let mut hosts =
            Self { names: BTreeSet::from(["localhost".to_owned()]), addresses: BTreeSet::new(), any_address: false };
        for host in std::iter::once(bind_host).chain(more.iter().map(String::as_str)) {
            match address(host) {
                Some(ip) if ip.is_unspecified() => hosts.any_address = true,
                Some(ip) => drop(hosts.addresses.insert(ip)),
                None => drop(hosts.names.insert(host.to_ascii_lowercase())),
            }
        }
        hosts
    }

    /// Whether a `Host` header (a host, perhaps with a port) names us.
    pub(crate) fn allow(&self, header: &str) -> bool {
        let Some(host) = without_port(header) else { return false };
        match address(host) {
            Some(ip) => ip.is_loopback() || self.any_address || self.addresses.contains(&ip),
            None => self.names.contains(&host.to_ascii_lowercase()),
        }
    }
}

/// The address that a text is, with or without the brackets of IPv6.
fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().filter(IpAddr::is_ipv6),
        None => host.parse().ok(),
    }
}

/// The host of `host[:port]`; nothing when the port is not a number.
fn without_port(header: &str) -> Option<&str> {
    let end = match header.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => header.find(':').unwrap_or(header.len()),
    };
    let (host, port) = header.split_at_checked(end)?;
    let well_formed = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    (well_formed && !host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_allowed() {
        let hosts = Hosts::new("10.1.2.3", &["Broker.internal".to_owned()]);
        for ours in [
            "localhost",
            "LOCALHOST:3000",
            "127.0.0.1:3000",
            "[::1]",
            "[::1]:3000",
            "10.1.2.3:3000",
            "broker.internal:80",
        ] {
            assert!(hosts.allow(ours), "{ours}");
        }
        for foreign in [
            "",
            ":3000",
            "evil.example",
            "evil.example:3000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.1.2.4",
            "[::2]",
            "[::1",
            "[::1]x",
            "[127.0.0.1]",
            "localhost:",
            "localhost:99999",
            "localhost:30 00",
            "user@localhost",
        ] {
            assert!(!hosts.allow(foreign), "{foreign}");
        }
    }

    #[test]
    fn bound_to_every_address_any_address_is_ours_but_no_name() {
        for bind in ["0.0.0.0", "::", "[::]"] {
            let hosts = Hosts::new(bind, &[]);
            assert!(hosts.allow("192.0.2.7:3000"));
            assert!(hosts.allow("[2001:db8::1]:3000"));
            assert!(!hosts.allow("evil.example"));
        }
    }
}
