//! A text as people see it: the platform's control sequences resolved, its entities decoded.
//!
//! The sequences: <https://docs.slack.dev/messaging/formatting-message-text>.

use crate::chat::{MentionedChannel, Person, PersonId};

/// The name under which people know somebody; their id where no name is known.
pub(super) fn label(person: &Person) -> &str {
    [&person.display_name, &person.real_name, &person.username]
        .into_iter()
        .flatten()
        .map(|name| name.trim())
        .find(|name| !name.is_empty())
        .unwrap_or(person.id.as_str())
}

/// Somebody among people of whom something is known.
pub(super) fn known<'a>(people: &'a [Person], id: &PersonId) -> Option<&'a Person> {
    people.iter().find(|person| person.id == *id)
}

/// Whose names are known to whoever reads a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) people: &'a [Person],
    pub(super) channels: &'a [MentionedChannel],
}

/// The text with mentions as `@name`, channels as `#name`, links as their text, and entities decoded.
pub(super) fn resolved(text: &str, names: Names<'_>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        decode(&rest[..at], &mut out);
        let inside = &rest[at + 1..];
        match inside.find(['<', '>']) {
            Some(end) if inside[end..].starts_with('>') => {
                decode(&sequence(&inside[..end], names), &mut out);
                rest = &inside[end + 1..];
            }
            _ => {
                out.push('<');
                rest = inside;
            }
        }
    }
    decode(rest, &mut out);
    out
}

/// What is seen of one control sequence, without its brackets.
fn sequence(inside: &str, names: Names<'_>) -> String {
    let (target, label) = match inside.split_once('|') {
        Some((target, label)) if !label.trim().is_empty() => (target, Some(label)),
        Some((target, _)) => (target, None),
        None => (inside, None),
    };
    if let Some(id) = target.strip_prefix('@') {
        let known = known(names.people, &PersonId::new(id)).map(self::label);
        // Names are looked up by us and hold no entities; a label is as it came.
        return match known {
            Some(name) => format!("@{}", name.replace('&', "&amp;")),
            None => format!("@{}", label.unwrap_or(id).trim_start_matches('@')),
        };
    }
    if let Some(id) = target.strip_prefix('#') {
        let looked_up = names.channels.iter().find(|channel| channel.id.as_str() == id);
        let name = looked_up.and_then(|channel| channel.name.as_ref()).map(|name| name.replace('&', "&amp;"));
        return format!("#{}", label.or(name.as_deref()).unwrap_or(id).trim_start_matches('#'));
    }
    if let Some(command) = target.strip_prefix('!') {
        // `!subteam^S1`, `!date^…`, or a word such as `!here`.
        let name = command.split('^').nth(1).filter(|_| command.starts_with("subteam^")).unwrap_or(command);
        return label.map_or_else(|| format!("@{name}"), str::to_owned);
    }
    label.unwrap_or(target.strip_prefix("mailto:").unwrap_or(target)).to_owned()
}

fn decode(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let entity =
            [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>')].into_iter().find(|(name, _)| rest.starts_with(name));
        let (length, c) = entity.map_or((1, '&'), |(name, c)| (name.len(), c));
        out.push(c);
        rest = &rest[length..];
    }
    out.push_str(rest);
}
