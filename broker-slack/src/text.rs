//! Slack's message text: mentions and entities.

use broker_core::chat::{ConversationId, MentionedChannel, PersonId};

/// People whom one message mentions; more are not looked up.
const MAX_MENTIONS: usize = 100;

/// The people whom a text mentions (`<@U1>`, `<@U1|label>`, `W…` ids on Enterprise Grid), in order, each once.
pub(crate) fn mentions(text: &str) -> Vec<PersonId> {
    let mut found: Vec<PersonId> = Vec::new();
    for (_, id) in tokens(text) {
        if found.len() == MAX_MENTIONS {
            break;
        }
        if !found.iter().any(|known| known.as_str() == id) {
            found.push(PersonId::new(id));
        }
    }
    found
}

/// Conversations that one message mentions; more keep their ids.
const MAX_CHANNELS: usize = 20;

/// The conversations that texts mention without a label (`<#C1>`, `<#C1|>`), in order, each once.
pub(crate) fn channels<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<MentionedChannel> {
    let mut found: Vec<MentionedChannel> = Vec::new();
    let tokens = texts.into_iter().flat_map(|text| text.split("<#").skip(1));
    let inside = tokens.filter_map(|token| token.split_once('>')).map(|(inside, _)| inside);
    for id in inside.map(|inside| inside.strip_suffix('|').unwrap_or(inside)) {
        let well_formed = id.starts_with(['C', 'G']) && is_id(id);
        if well_formed && found.len() < MAX_CHANNELS && !found.iter().any(|known| known.id.as_str() == id) {
            found.push(MentionedChannel { id: ConversationId::new(id), name: None });
        }
    }
    found
}

fn is_id(id: &str) -> bool {
    id.len() > 1 && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

/// Whether a text mentions somebody.
pub(crate) fn names(text: &str, person: &PersonId) -> bool {
    tokens(text).any(|(_, id)| id == person.as_str())
}

/// The text without mentions of `own`, entities decoded, trimmed: what a control word is compared with.
pub(crate) fn control(text: &str, own: &PersonId) -> String {
    let mut rest = String::with_capacity(text.len());
    let mut from = 0;
    for (range, _) in tokens(text).filter(|(_, id)| *id == own.as_str()) {
        rest.push_str(&text[from..range.start]);
        from = range.end;
    }
    rest.push_str(&text[from..]);
    // `&amp;` comes last: `&amp;lt;` is the text `&lt;`.
    let decoded = rest.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    decoded.trim().to_owned()
}

/// Escapes text that is not markup (<https://docs.slack.dev/messaging/formatting-message-text>).
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The mention tokens of a text: where each stands, and whom it names.
fn tokens(text: &str) -> impl Iterator<Item = (std::ops::Range<usize>, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let start = from + text[from..].find("<@")?;
            let inside = start + 2;
            from = inside;
            let Some(length) = text[inside..].find('>') else { continue };
            let token = &text[inside..inside + length];
            let id = token.split('|').next().unwrap_or_default();
            if id.starts_with(['U', 'W']) && is_id(id) {
                from = inside + length + 1;
                return Some((start..from, id));
            }
        }
    })
}

/// Whether all that one text says stands in another, whatever marks and spaces lie between.
pub(crate) fn says_all_of(text: &str, other: &str) -> bool {
    let plain = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
    plain(text).contains(&plain(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        mentions(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mentions_of_every_spelling() {
        assert_eq!(ids("<@U1> and <@W2|ann>, <@U1> again"), ["U1", "W2"]);
        assert_eq!(ids("<@> <@U> <@u1> <@U1 <#C1> <!here> <@B1> <@U9"), Vec::<String>::new());
        assert_eq!(ids("<@<@U7>"), ["U7"]);
    }

    #[test]
    fn channels_without_a_label() {
        let found = channels(["<#C1> <#C2|dev> <#C3|> <#C1>", "<#G4>, <#c5> <#U6> <#> <#C7 <@U1>"]);
        let ids: Vec<&str> = found.iter().map(|channel| channel.id.as_str()).collect();
        assert_eq!(ids, ["C1", "C3", "G4"]);
    }

    #[test]
    fn the_control_text_is_without_the_broker() {
        let own = PersonId::new("UBOT");
        assert_eq!(control(" <@UBOT>  -stop ", &own), "-stop");
        assert_eq!(control("<@UBOT|broker> a <@U1> &lt;b&gt; &amp;lt;", &own), "a <@U1> <b> &lt;");
        assert_eq!(control("-stop<@UBOT>", &own), "-stop");
        assert_eq!(control("ü<@UBOT>ß", &own), "üß");
    }
}
