//! HTML within Markdown: mrkdwn has none. Tags that only format vanish, their text stays; whatever else looks like a tag
//! (`<T>`, `<!channel>`) was most likely meant as text, and is shown.

/// What a tag becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// A line break.
    Break,
    /// Nothing.
    Gone,
    /// It is shown as it is written.
    Shown,
}

/// Elements whose tags vanish.
const KNOWN: &[&str] = &[
    "a",
    "abbr",
    "b",
    "blockquote",
    "big",
    "body",
    "center",
    "cite",
    "code",
    "dd",
    "del",
    "details",
    "dfn",
    "div",
    "dl",
    "dt",
    "em",
    "figcaption",
    "figure",
    "font",
    "footer",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hr",
    "html",
    "i",
    "img",
    "ins",
    "kbd",
    "li",
    "main",
    "mark",
    "nobr",
    "ol",
    "p",
    "picture",
    "pre",
    "q",
    "s",
    "samp",
    "section",
    "small",
    "source",
    "span",
    "strong",
    "sub",
    "summary",
    "sup",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "u",
    "ul",
];

/// What becomes of one tag, from `<` to `>`.
pub(super) fn tag(raw: &str) -> Tag {
    if raw.starts_with("<!--") {
        return Tag::Gone;
    }
    let inside = raw.trim_start_matches('<').trim_start_matches('/');
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(inside.len());
    // `<a@b>` or `<b:c>` are no tags of HTML.
    if !inside[end..].starts_with(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>') {
        return Tag::Shown;
    }
    let name = inside[..end].to_ascii_lowercase();
    if name == "br" {
        Tag::Break
    } else if KNOWN.contains(&name.as_str()) {
        Tag::Gone
    } else {
        Tag::Shown
    }
}

/// The text of an HTML block, without the tags that vanish.
pub(super) fn text(block: &str) -> String {
    let mut out = String::with_capacity(block.len());
    let mut rest = block;
    let mut comments_close = true;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if comments_close && rest.starts_with("<!--") {
            if let Some(end) = rest.find("-->") {
                rest = &rest[end + "-->".len()..];
                continue;
            }
            // Looked for once: a text full of openings would otherwise be read again for each.
            comments_close = false;
        }
        let end = rest[1..].find(['<', '>']).map(|end| end + 1).filter(|end| rest[*end..].starts_with('>'));
        let Some(end) = end else {
            out.push('<');
            rest = &rest[1..];
            continue;
        };
        let (raw, tail) = rest.split_at(end + 1);
        match tag(raw) {
            Tag::Break => out.push('\n'),
            Tag::Gone => {}
            Tag::Shown => out.push_str(raw),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}
