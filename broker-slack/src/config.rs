//! How to reach Slack, and why that may fail at once.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// Where Slack's Web API is.
pub const DEFAULT_API_BASE: &str = "https://slack.com/api";

/// How to reach Slack.
#[derive(Debug, Clone)]
pub struct SlackConfig {
    /// App-level token (`xapp-…`) with `connections:write`: opens the socket and nothing else.
    pub app_token: SecretString,
    /// Bot token (`xoxb-…`): reads and writes messages.
    pub bot_token: SecretString,
    /// Where every Web API call goes, without a method: `http://…` or `https://…`.
    pub api_base: String,
    /// Messages a second and channel, in short bursts of three; 0 waits only when Slack says so. Slack allows about one.
    pub post_rate: f64,
    /// Socket connections at once: with two, one may break and nothing is missed. At least one; Slack allows ten for all
    /// programs of an app (<https://docs.slack.dev/apis/events-api/using-socket-mode>).
    pub connections: usize,
    /// How often Slack is asked anew what the bot token may do: an operator may reinstall the app, or revoke the token, while
    /// the broker runs. Five minutes.
    pub scopes_every: Duration,
    /// The time limits of the socket.
    pub link: LinkLimits,
}

impl SlackConfig {
    /// The configuration for Slack itself, with the default rate.
    pub fn new(app_token: SecretString, bot_token: SecretString) -> Self {
        let api_base = DEFAULT_API_BASE.to_owned();
        let scopes_every = Duration::from_secs(5 * 60);
        Self {
            app_token,
            bot_token,
            api_base,
            post_rate: 1.0,
            connections: 2,
            scopes_every,
            link: LinkLimits::default(),
        }
    }

    /// Checks what can be checked without a connection. Returns the base without a trailing slash, which would make
    /// every method unknown to Slack.
    pub(crate) fn checked_base(&self) -> Result<String, ConnectError> {
        let kinds = [
            (&self.app_token, "xapp-", "SLACK_APP_TOKEN has to be the app-level token, which begins with xapp-"),
            (&self.bot_token, "xoxb-", "SLACK_BOT_TOKEN has to be the bot token, which begins with xoxb-"),
        ];
        for (token, prefix, mend) in kinds {
            let token = token.expose_secret();
            // A token goes into an HTTP header, and Slack's consist of these characters.
            let plain = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            if !plain || token.len() <= prefix.len() || !token.starts_with(prefix) {
                return Err(ConnectError::refused("wrong_token_kind", mend));
            }
        }
        let base = self.api_base.trim_end_matches('/');
        match url::Url::parse(base) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(base.to_owned()),
            _ => Err(ConnectError::refused(
                "wrong_base_url",
                "SLACK_API_BASE_URL has to be an http:// or https:// address, such as https://slack.com/api",
            )),
        }
    }
}

/// The time limits of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLimits {
    /// For `apps.connections.open`, for the connection with its handshake, and for `hello`: each.
    pub step: Duration,
    /// How often the broker pings.
    pub ping: Duration,
    /// A link on which a ping of the broker has no answer for this long is dead.
    pub pong: Duration,
    /// Once Slack has pinged a link, one on which nothing but answers to the broker's pings came for this long is dead:
    /// what answers may be something in between.
    pub silence: Duration,
    /// How long reading waits for a store that takes nothing more. After that what comes is read and left to Slack, which
    /// will deliver it again: a link that is not read is closed.
    pub patience: Duration,
    /// How long a link that is being replaced goes on acknowledging.
    pub drain: Duration,
    /// A link that is being replaced is closed once nothing came on it for so long, and so long Slack's farewell is waited
    /// for.
    pub quiet: Duration,
    /// How long envelopes in hand are waited for when the broker stops.
    pub stop: Duration,
    /// The first wait after a failure; each further one is twice as long, with jitter.
    pub min_wait: Duration,
    /// The longest wait after a failure.
    pub max_wait: Duration,
    /// The wait after a refusal that an operator has to mend.
    pub refused_wait: Duration,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            step: Duration::from_secs(10),
            ping: Duration::from_secs(10),
            pong: Duration::from_secs(15),
            silence: Duration::from_secs(30),
            patience: Duration::from_secs(3),
            drain: Duration::from_secs(10),
            quiet: Duration::from_secs(1),
            stop: Duration::from_secs(5),
            min_wait: Duration::from_millis(500),
            max_wait: Duration::from_secs(30),
            refused_wait: Duration::from_secs(60),
        }
    }
}

/// Why there is no connection to Slack's Web API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Slack refuses the credentials, or they cannot be right. Trying again changes nothing.
    #[error("slack refuses the credentials ({code}): {mend}")]
    Refused {
        /// Slack's code, or one of ours.
        code: String,
        /// What mends it.
        mend: String,
    },
    /// No answer, or none that can be read: try again.
    #[error("slack cannot be reached for now ({reason})")]
    Unavailable {
        /// A code or a short reason.
        reason: String,
    },
}

impl ConnectError {
    pub(crate) fn refused(code: &str, mend: &str) -> Self {
        Self::Refused { code: code.to_owned(), mend: mend.to_owned() }
    }
}

/// What mends a refusal of a token. `name` is the variable that holds it.
pub(crate) fn mend(code: &str, name: &str) -> String {
    let what = match code {
        "invalid_auth" | "not_authed" | "token_expired" => {
            "it is not a valid token: copy it again from the app's settings"
        }
        "token_revoked" | "account_inactive" => "it was revoked: reinstall the app and copy the new token",
        "not_allowed_token_type" => "it is a token of the wrong kind",
        "missing_scope" if name == "SLACK_APP_TOKEN" => "it lacks connections:write: make a new app-level token",
        "missing_scope" => "it lacks a scope: reinstall the app from slack-app-manifest.yaml",
        "org_login_required" => "the organisation has to finish its migration",
        "accesslimited" => "the workspace accepts calls from certain networks only",
        _ => "see the code on Slack's pages",
    };
    format!("{name}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(app: &str, bot: &str, base: &str) -> SlackConfig {
        let mut config = SlackConfig::new(app.into(), bot.into());
        base.clone_into(&mut config.api_base);
        config
    }

    #[test]
    fn tokens_are_known_by_their_shape() {
        for (app, bot) in
            [("xoxb-1", "xoxb-1"), ("xapp-1", "xapp-1"), ("xapp-1", "xoxp-1"), ("", ""), ("xapp-1", "xoxb-1\n")]
        {
            let refused = config(app, bot, DEFAULT_API_BASE).checked_base().unwrap_err();
            assert!(matches!(refused, ConnectError::Refused { code, .. } if code == "wrong_token_kind"), "{app} {bot}");
        }
        for (base, expected) in [
            ("https://slack.com/api/", Some("https://slack.com/api")),
            ("ftp://x", None),
            ("slack.com/api", None),
            ("", None),
        ] {
            assert_eq!(config("xapp-1", "xoxb-1", base).checked_base().ok().as_deref(), expected, "{base}");
        }
    }

    #[test]
    fn no_token_is_printed() {
        let printed = format!("{:?}", config("xapp-verysecret", "xoxb-verysecret", DEFAULT_API_BASE));
        assert!(!printed.contains("verysecret"), "{printed}");
    }
}
