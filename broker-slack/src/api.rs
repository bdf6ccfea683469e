//! The Web API: slack-morphism's HTTP session with requests and responses of ours.
//!
//! slack-morphism takes any 200 that is not JSON for success, `{"ok":false}` without a code too, and fails on an answer
//! that its model does not expect although Slack did the thing. So every answer is read as plain JSON, and `ok` is
//! checked here. Each call has a time limit and goes through the one [`Limiter`].

use std::time::Duration;

use broker_core::telemetry;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use slack_morphism::errors::SlackClientError;
use slack_morphism::hyper_tokio::{SlackClientHyperConnector, SlackHyperClient};
use slack_morphism::{ClientResult, SlackApiToken, SlackApiTokenValue, SlackClient};
use tokio::time::{Instant, timeout};

use crate::config::ConnectError;
use crate::failure::Failure;
use crate::lenient;
use crate::limiter::{Lane, Limiter, Priority, Turn};
use crate::scopes::Granted;

/// A Web API method and how long its answer is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    limit: Duration,
}

const fn method(name: &'static str, seconds: u64) -> Method {
    Method { name, limit: Duration::from_secs(seconds) }
}

pub(crate) const AUTH_TEST: Method = method("auth.test", 10);
pub(crate) const OPEN_CONNECTION: Method = method("apps.connections.open", 10);
/// Longer than the others: giving up early means a read-back.
pub(crate) const POST_MESSAGE: Method = method("chat.postMessage", 15);
pub(crate) const POST_EPHEMERAL: Method = method("chat.postEphemeral", 5);
/// Slack documents no limit for its answer. Giving up early would leave open whether a status stands.
pub(crate) const SET_STATUS: Method = method("assistant.threads.setStatus", 15);
pub(crate) const ADD_REACTION: Method = method("reactions.add", 10);
pub(crate) const REMOVE_REACTION: Method = method("reactions.remove", 10);
pub(crate) const REPLIES: Method = method("conversations.replies", 10);
pub(crate) const HISTORY: Method = method("conversations.history", 10);
pub(crate) const MY_CONVERSATIONS: Method = method("users.conversations", 10);
pub(crate) const CONVERSATION_INFO: Method = method("conversations.info", 5);
pub(crate) const USER_INFO: Method = method("users.info", 5);
pub(crate) const FILE_INFO: Method = method("files.info", 10);
pub(crate) const UPLOAD_URL: Method = method("files.getUploadURLExternal", 10);
/// Longer, as with `chat.postMessage`: giving up early means a read-back.
pub(crate) const COMPLETE_UPLOAD: Method = method("files.completeUploadExternal", 30);

/// The longest answer of `auth.test` that is read; Slack's is below a kilobyte.
const MAX_AUTH_ANSWER: usize = 64 * 1024;

/// Parameters of a method that is called by GET; absent ones are left out.
pub(crate) type Params<'a> = Vec<(&'a str, Option<String>)>;

/// The Web API, with both tokens.
pub(crate) struct Api {
    client: SlackHyperClient,
    connector: HttpsConnector<HttpConnector>,
    base: String,
    bot: SlackApiToken,
    app: SlackApiToken,
    bot_token: SecretString,
    limiter: Limiter,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Api {
    /// A client for the API at `base`, which has no trailing slash.
    pub(crate) fn new(
        base: String,
        app_token: &SecretString,
        bot_token: SecretString,
        post_rate: f64,
    ) -> Result<Self, ConnectError> {
        let connector = connector(&base)?;
        let hyper = SlackClientHyperConnector::with_connector(connector.clone()).with_slack_api_url(&base);
        let token = |token: &SecretString| SlackApiToken::new(SlackApiTokenValue(token.expose_secret().to_owned()));
        Ok(Self {
            client: SlackClient::new(hyper),
            connector,
            base,
            bot: token(&bot_token),
            app: token(app_token),
            bot_token,
            limiter: Limiter::new(post_rate),
        })
    }

    /// Where the API is, without a trailing slash.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// For requests of a client of its own.
    pub(crate) fn connector(&self) -> HttpsConnector<HttpConnector> {
        self.connector.clone()
    }

    pub(crate) fn bot_token(&self) -> &SecretString {
        &self.bot_token
    }

    /// Calls a method that reads. Slack takes JSON only for methods that write, so these go by GET.
    pub(crate) async fn get(&self, method: Method, priority: Priority, params: &Params<'_>) -> Result<Value, Failure> {
        let session = self.client.open_session(&self.bot);
        let call = session.http_session_api.http_get::<Value, _, _>(method.name, params, None);
        let channel = params.iter().find(|(name, _)| *name == "channel").and_then(|(_, channel)| channel.as_deref());
        self.limited(method, lane(method, channel), priority, call).await
    }

    /// Calls a method that writes.
    pub(crate) async fn post(&self, method: Method, priority: Priority, request: &Value) -> Result<Value, Failure> {
        let session = self.client.open_session(&self.bot);
        let call = session.http_session_api.http_post::<_, Value>(method.name, request, None);
        let channel = lenient::text(request, "channel").or_else(|| lenient::text(request, "channel_id"));
        self.limited(method, lane(method, channel), priority, call).await
    }

    /// Asks for a socket's address. It is a ticket: whoever has it receives the app's events, so it is never logged.
    pub(crate) async fn open_connection(&self) -> Result<SecretString, Failure> {
        let session = self.client.open_session(&self.app);
        let request = serde_json::json!({});
        let call = session.http_session_api.http_post::<_, Value>(OPEN_CONNECTION.name, &request, None);
        let answer = self.limited(OPEN_CONNECTION, Lane::Workspace, Priority::Answer, call).await?;
        let url = lenient::text(&answer, "url").ok_or_else(|| Failure::unanswered("an answer without a url"))?;
        Ok(SecretString::from(url))
    }

    async fn limited(
        &self,
        method: Method,
        lane: Lane<'_>,
        priority: Priority,
        call: impl Future<Output = ClientResult<Value>>,
    ) -> Result<Value, Failure> {
        let asked = Instant::now();
        let turn = self.limiter.turn(method.name, lane, priority).await.map_err(|none| Failure::NotSent {
            reason: "waiting for the rate limit".to_owned(),
            retry_after: Some(none.retry_after),
        })?;
        metrics::histogram!(telemetry::LIMITER_SECONDS).record(asked.elapsed());
        let began = Instant::now();
        let answer = self.called(method, turn, call).await;
        metrics::histogram!(telemetry::SLACK_SECONDS).record(began.elapsed());
        let result = answer.as_ref().map_or_else(Failure::kind, |_| "ok");
        metrics::counter!(telemetry::SLACK_CALLS, "method" => method.name, "result" => result).increment(1);
        answer
    }

    async fn called(
        &self,
        method: Method,
        turn: Turn<'_>,
        call: impl Future<Output = ClientResult<Value>>,
    ) -> Result<Value, Failure> {
        let outcome = match timeout(method.limit, call).await {
            Err(_) => return Err(Failure::unanswered("no answer in time")),
            Ok(outcome) => outcome,
        };
        let failure = match outcome {
            Err(SlackClientError::RateLimitError(error)) => {
                let retry_after = Some(turn.limited(error.retry_after));
                return Err(Failure::NotSent { reason: "ratelimited".to_owned(), retry_after });
            }
            Err(error) => Failure::of_client(&error),
            Ok(answer) => match checked(answer) {
                Ok(answer) => {
                    turn.answered();
                    return Ok(answer);
                }
                Err(failure) => failure,
            },
        };
        match &failure {
            Failure::NotSent { reason, .. } if reason.starts_with("rate") => drop(turn.limited(None)),
            Failure::Refused { .. } => turn.answered(),
            _ => {}
        }
        tracing::debug!(method = method.name, reason = failure.reason(), "a slack call failed");
        Err(failure)
    }

    /// Asks who the bot token belongs to, and what it may do.
    ///
    /// Straight through hyper, since slack-morphism does not hand out response headers, and the scopes are in one.
    pub(crate) async fn auth_test(&self) -> Result<(Value, Granted), Failure> {
        let _turn = self.limiter.turn(AUTH_TEST.name, Lane::Workspace, Priority::Answer).await.map_err(|none| {
            Failure::NotSent { reason: "waiting for the rate limit".to_owned(), retry_after: Some(none.retry_after) }
        })?;
        let call = self.auth_test_unlimited();
        timeout(AUTH_TEST.limit, call).await.unwrap_or_else(|_| Err(Failure::unanswered("no answer in time")))
    }

    async fn auth_test_unlimited(&self) -> Result<(Value, Granted), Failure> {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(self.connector.clone());
        let request = hyper::Request::post(format!("{}/{}", self.base, AUTH_TEST.name))
            .header(hyper::header::AUTHORIZATION, format!("Bearer {}", self.bot_token.expose_secret()))
            .header(hyper::header::CONTENT_TYPE, "application/json; charset=utf-8")
            .body(Full::from("{}"))
            .map_err(|_| Failure::not_sent("the request could not be made"))?;
        let response = client.request(request).await.map_err(|error| Failure::of_connection(&error))?;
        let status = response.status();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        if status == hyper::StatusCode::TOO_MANY_REQUESTS {
            let seconds = header("retry-after").and_then(|value| value.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            return Err(Failure::NotSent { reason: "ratelimited".to_owned(), retry_after });
        }
        if status != hyper::StatusCode::OK {
            return Err(Failure::of_status(status.as_u16()));
        }
        let granted = Granted::read(header("x-oauth-scopes"));
        let body = Limited::new(response.into_body(), MAX_AUTH_ANSWER).collect().await;
        let body = body.map_err(|_| Failure::unanswered("a broken answer"))?.to_bytes();
        let answer = serde_json::from_slice(&body).map_err(|_| Failure::unanswered("not an answer of slack's"))?;
        Ok((checked(answer)?, granted))
    }
}

/// Which limits a call draws on.
fn lane(method: Method, channel: Option<&str>) -> Lane<'_> {
    match channel {
        None => Lane::Workspace,
        // Slack limits the posts of a channel, and nothing else by channel.
        Some(channel) if method.name == POST_MESSAGE.name => Lane::Posts(channel),
        Some(channel) => Lane::Channel(channel),
    }
}

/// Lets through only what says `"ok": true`.
fn checked(answer: Value) -> Result<Value, Failure> {
    match (answer.get("ok"), lenient::text(&answer, "error")) {
        (Some(Value::Bool(true)), _) => Ok(answer),
        (Some(Value::Bool(false)), Some(code)) => Err(Failure::of_code(code)),
        _ => Err(Failure::unanswered("not an answer of slack's")),
    }
}

/// TLS with the system's root certificates, and plain HTTP where the base says so.
fn connector(base: &str) -> Result<HttpsConnector<HttpConnector>, ConnectError> {
    let tls = match rustls::ClientConfig::builder().with_native_roots() {
        Ok(tls) => tls.with_no_client_auth(),
        // A proxy or a fake next door needs none.
        Err(_) if base.starts_with("http://") => {
            rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
        }
        Err(_) => {
            return Err(ConnectError::refused(
                "no_root_certificates",
                "install the system's root certificates (the package ca-certificates), or name a file of them in SSL_CERT_FILE",
            ));
        }
    };
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_all_versions().build())
}
