//! Markdown to Slack mrkdwn, and the splitter.
//!
//! A text goes through three rooms. `render` reads Markdown on a real parser and makes a flat list of lines and fences
//! (`block`) whose words carry their style (`inline`). `split` packs these into messages. Marks are written last, by the
//! splitter: so emphasis never crosses a message, a fence is closed and opened again, and the length that is measured is
//! the length that is sent.
//!
//! | file | what it decides |
//! | --- | --- |
//! | `render` | what each Markdown event becomes |
//! | `html` | what a tag of HTML means, and which tags are pairs |
//! | `table` | whether a table is aligned text or a list, and how |
//! | `mention` | which `@` is a mention of whom |
//! | `block` | the lines and fences that a text is made of |
//! | `inline` | words, their styles, and where marks and zero-width spaces stand |
//! | `escape` | the only place where text becomes mrkdwn: entities, addresses, disarmed marks, safe places to cut |
//! | `split` | which line goes into which message |
//!
//! Safety: `<` is written raw only before an address with a scheme of `escape::SCHEMES` and before `@` and the id of
//! somebody who may be mentioned, `>` only behind these and as the mark of a quote at the start of a line. So no text can
//! become a control sequence such as `<!channel>`, nor mention anybody else. Everything is linear in the input and nothing
//! recurs; `examples/mrkdwn_bench.rs` shows it, and `docs/mrkdwn.md` says what each construct becomes.
//!
//! Slack's rules: <https://docs.slack.dev/messaging/formatting-message-text>.

mod block;
mod escape;
mod html;
mod inline;
mod mention;
mod render;
mod split;
mod table;
#[cfg(test)]
mod tests;

use crate::chat::Mentionable;

/// The least width that is honoured, in characters: room for a prefix, a fence, and something between.
pub const MIN_WIDTH: usize = 64;

/// Renders Markdown as Slack mrkdwn and splits it into messages of at most `width` characters each.
///
/// A character is a Unicode scalar value of the finished text: marks, entities and the lines of fences that are opened
/// again count. A width below [`MIN_WIDTH`] is taken as that. Only `people` can be mentioned, by `<@ID>` or `@name`; the first
/// 200 of them count. No text can become another control sequence (`<!channel>`). Input without anything to show gives no
/// message. Pure and deterministic.
pub fn render(markdown: &str, width: usize, people: &[Mentionable]) -> Vec<String> {
    let people = mention::Directory::new(people);
    split::pack(&render::read(markdown, &people), width.max(MIN_WIDTH))
}
