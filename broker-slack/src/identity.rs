//! Who the broker is on Slack: what `auth.test` says of the bot token.

use broker_core::chat::{InstallationId, PersonId};
use serde_json::Value;

use crate::lenient;

/// Who the broker is on Slack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What every session key begins with: the enterprise for an org-wide install, else the workspace.
    pub installation: InstallationId,
    /// The workspace that the token belongs to.
    pub team: String,
    /// The Enterprise Grid organisation, when there is one.
    pub enterprise: Option<String>,
    /// Whether the app is installed for the whole organisation rather than for one workspace.
    pub org_wide: bool,
    /// The bot user: what a mention of the broker names.
    pub user: PersonId,
    /// The bot's own id, as messages carry it in `bot_id`.
    pub bot: String,
    /// The app's id, when `auth.test` says; events carry it anyway, as `api_app_id`.
    pub app: Option<String>,
    /// Where the workspace is in a browser, such as `https://example.slack.com/`.
    pub url: Option<String>,
}

impl Identity {
    /// Reads the answer of `auth.test` (<https://docs.slack.dev/reference/methods/auth.test>). `Err` names the field that
    /// is missing.
    pub(crate) fn read(answer: &Value) -> Result<Self, &'static str> {
        let team = lenient::text(answer, "team_id").ok_or("team_id")?.to_owned();
        let user = lenient::text(answer, "user_id").ok_or("user_id")?;
        let bot = lenient::text(answer, "bot_id").ok_or("bot_id")?.to_owned();
        let enterprise = lenient::text(answer, "enterprise_id").map(str::to_owned);
        let org_wide = lenient::flag(answer, "is_enterprise_install");
        let installation = match &enterprise {
            Some(enterprise) if org_wide => enterprise.clone(),
            _ => team.clone(),
        };
        Ok(Self {
            installation: InstallationId::new(installation),
            team,
            enterprise,
            org_wide,
            user: PersonId::new(user),
            bot,
            app: lenient::text(answer, "app_id").map(str::to_owned),
            url: lenient::text(answer, "url").filter(|url| url.starts_with("https://")).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_org_wide_install_is_known_by_its_enterprise() {
        let answer = |org_wide: bool| {
            json!({"ok": true, "team_id": "T1", "user_id": "U1", "bot_id": "B1", "enterprise_id": "E1",
                   "is_enterprise_install": org_wide})
        };
        assert_eq!(Identity::read(&answer(true)).unwrap().installation.as_str(), "E1");
        let workspace = Identity::read(&answer(false)).unwrap();
        assert_eq!(workspace.installation.as_str(), "T1");
        assert_eq!(workspace.enterprise.as_deref(), Some("E1"));
    }

    #[test]
    fn a_token_without_a_bot_is_no_bot_token() {
        assert_eq!(Identity::read(&json!({"ok": true, "team_id": "T1", "user_id": "U1"})), Err("bot_id"));
    }
}
