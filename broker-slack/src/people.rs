//! People: what `users.info` says (<https://docs.slack.dev/reference/objects/user-object>).

use broker_core::chat::{LookupError, Person, PersonId, Standing};
use serde_json::Value;

use crate::identity::Identity;
use crate::lenient;

/// Reads the `user` object.
pub(crate) fn read(identity: &Identity, id: &PersonId, user: &Value) -> Result<Person, LookupError> {
    if !user.is_object() {
        return Err(LookupError::Unavailable { reason: "an answer without a user".to_owned() });
    }
    let profile = user.get("profile").unwrap_or(&Value::Null);
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Ok(Person {
        id: id.clone(),
        display_name: owned(lenient::text(profile, "display_name")),
        real_name: owned(lenient::text(profile, "real_name").or_else(|| lenient::text(user, "real_name"))),
        username: owned(lenient::text(user, "name")),
        email: owned(lenient::text(profile, "email")),
        team: owned(team(user)),
        standing: standing(identity, id, user),
    })
}

fn team(user: &Value) -> Option<&str> {
    lenient::text(user, "team_id").or_else(|| lenient::text(user.get("profile")?, "team"))
}

/// What somebody is to the installing workspace. Where Slack does not name a team, nobody is taken for a member.
fn standing(identity: &Identity, id: &PersonId, user: &Value) -> Standing {
    if lenient::flag(user, "deleted") {
        return Standing::Deactivated;
    }
    // Slackbot's `is_bot` is false.
    if lenient::flag(user, "is_bot") || id.as_str() == "USLACKBOT" {
        return Standing::Bot;
    }
    if lenient::flag(user, "is_stranger") || !belongs(identity, user) {
        return Standing::External;
    }
    if lenient::flag(user, "is_restricted") || lenient::flag(user, "is_ultra_restricted") {
        return Standing::Guest;
    }
    Standing::Member
}

/// Whether somebody is of the installing workspace, or of the organisation when the app is installed for all of it.
///
/// On Enterprise Grid `team_id` may be another workspace of the organisation, or the organisation itself; the workspaces
/// that somebody is in are listed in `enterprise_user.teams`.
fn belongs(identity: &Identity, user: &Value) -> bool {
    if team(user) == Some(identity.team.as_str()) {
        return true;
    }
    let enterprise = user.get("enterprise_user").unwrap_or(&Value::Null);
    if identity.org_wide {
        let own = identity.enterprise.as_deref();
        return own.is_some() && (lenient::text(enterprise, "enterprise_id") == own || team(user) == own);
    }
    lenient::list(enterprise, "teams").iter().any(|team| team.as_str() == Some(identity.team.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(org_wide: bool) -> Identity {
        Identity::read(&json!({"team_id": "T1", "user_id": "UBOT", "bot_id": "B1", "enterprise_id": "E1",
                               "is_enterprise_install": org_wide}))
        .unwrap()
    }

    #[test]
    fn standings() {
        let grid = |enterprise: &str, team: &str| json!({"team_id": "T7", "enterprise_user": {"enterprise_id": enterprise, "teams": [team]}});
        for (user, workspace, org_wide) in [
            (json!({"team_id": "T1"}), Standing::Member, Standing::Member),
            (json!({"profile": {"team": "T1"}}), Standing::Member, Standing::Member),
            (json!({"team_id": "T1", "is_restricted": true}), Standing::Guest, Standing::Guest),
            (json!({"team_id": "T1", "is_ultra_restricted": 1}), Standing::Guest, Standing::Guest),
            (json!({"team_id": "T1", "is_bot": true}), Standing::Bot, Standing::Bot),
            (json!({"team_id": "T1", "deleted": true, "is_bot": true}), Standing::Deactivated, Standing::Deactivated),
            (json!({"team_id": "T1", "is_stranger": true}), Standing::External, Standing::External),
            (json!({"team_id": "T2"}), Standing::External, Standing::External),
            (json!({"team_id": null}), Standing::External, Standing::External),
            (json!({}), Standing::External, Standing::External),
            (json!({"team_id": "E1"}), Standing::External, Standing::Member),
            (grid("E1", "T1"), Standing::Member, Standing::Member),
            (grid("E1", "T2"), Standing::External, Standing::Member),
            (grid("E2", "T2"), Standing::External, Standing::External),
        ] {
            let is = |org_wide| standing(&identity(org_wide), &PersonId::new("U1"), &user);
            assert_eq!((is(false), is(true)), (workspace, org_wide), "{user}");
        }
    }

    #[test]
    fn odd_fields_cost_nothing_else() {
        let user =
            json!({"team_id": "T1", "name": 5, "real_name": "Ann", "profile": {"display_name": "", "email": []}});
        let person = read(&identity(false), &PersonId::new("U1"), &user).unwrap();
        assert_eq!(person.real_name.as_deref(), Some("Ann"));
        assert_eq!((person.display_name, person.username, person.email), (None, None, None));
        assert!(read(&identity(false), &PersonId::new("U1"), &json!(null)).is_err());
    }
}
