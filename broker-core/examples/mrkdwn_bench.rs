//! How long the renderer takes for one megabyte of hostile Markdown: `cargo run --release -p broker-core --example mrkdwn_bench`.
//!
//! Each text is rendered three times at the width of a Slack message, and the best time is printed: what is asked is what
//! the text costs, not what else the machine does. An argument keeps the texts whose name holds it.
#![forbid(unsafe_code)]

use std::time::Duration;

use broker_core::chat::{Mentionable, PersonId};
use broker_core::mrkdwn::render;

/// The size of each text, in bytes.
const SIZE: usize = 1_000_000;
/// The width of a message, in characters.
const WIDTH: usize = 3_500;
const TIMES: usize = 3;

fn many(piece: &str) -> String {
    piece.repeat(SIZE / piece.len())
}

/// Pieces that differ by a number, until the text is long enough.
fn numbered(mut piece: impl FnMut(usize) -> String) -> String {
    let mut out = String::with_capacity(SIZE + 64);
    let mut number = 0;
    while out.len() < SIZE {
        out.push_str(&piece(number));
        number += 1;
    }
    out
}

/// Half of the text opens, the other half closes.
fn nested(open: &str, inside: &str, close: &str) -> String {
    let times = SIZE / (open.len() + close.len());
    open.repeat(times) + inside + &close.repeat(times)
}

fn table(columns: usize, header: &str, row: &str) -> String {
    let head = format!("|{header}").repeat(columns) + "|\n" + &"|-".repeat(columns) + "|\n";
    let rows = SIZE.saturating_sub(head.len()) / row.len();
    head + &row.repeat(rows)
}

/// A pseudo-random mixture of pieces that mean something; the same each time.
fn mixture(pieces: &[&str]) -> String {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    numbered(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pieces[usize::try_from(state % pieces.len() as u64).unwrap_or(0)].to_owned()
    })
}

const PIECES: [&str; 40] = [
    "*",
    "**",
    "_",
    "__",
    "~~",
    "`",
    "``",
    "```\n",
    "\n",
    "\n\n",
    "\n> ",
    "> ",
    "\n- ",
    "\n  - ",
    "\n1. ",
    "\n# ",
    "<b>",
    "</b>",
    "<a href=x>",
    "</a>",
    "<code>",
    "<!--",
    "-->",
    "<div>\n",
    "[",
    "]",
    "](",
    "](https://a.b)",
    "![",
    "[^1]",
    "\n[^1]: ",
    "|",
    "\n| a | b |\n|--|--|\n",
    "@Ann Lee",
    "<@U1>",
    "https://x.y/_z_",
    "&amp;",
    "\\",
    "word ",
    "中\u{301}👍🏽",
];

fn blocks() -> Vec<(&'static str, String)> {
    vec![
        ("quotes, one line", many("> ")),
        ("quotes without spaces", many(">")),
        ("quotes, a thousand lines of a thousand", (">".repeat(999) + "\n").repeat(1000)),
        ("quotes that end lazily", ("> ".repeat(500) + "a\nb\n").repeat(1000)),
        ("lists, one line", many("- ")),
        ("numbered lists, one line", many("1. ")),
        ("lists that end lazily", ("- ".repeat(500) + "a\nb\n").repeat(1000)),
        ("lists, deep, with blank lines", ("- ".repeat(400) + "a\n\n\n").repeat(1200)),
        ("lists, ever deeper", numbered(|n| format!("{}- a\n", "  ".repeat(n)))),
        ("list items", many("\n- a\n  ")),
        ("empty list items", many("-\n")),
        ("items of quotes", many("> - ")),
        ("lists and quotes by turns", many("- > 1. ")),
        ("headings", many("# a\n")),
        ("headings of one word each", many("# a\n\nb\n\n")),
        ("underlined headings", many("a\n=\n")),
        ("rules", many("---\n")),
        ("fences", many("```\n")),
        ("fences in quotes", many("> ```\n")),
        ("fences of all lengths", numbered(|n| format!("{}\n", "`".repeat(n % 900 + 3)))),
        ("one fence of short lines", format!("```\n{}", many("a\n"))),
        ("one fence of one line", format!("```\n{}", many("&"))),
        ("indented code", many("    a\n\n")),
        ("reference definitions", numbered(|n| format!("[{n}]: x\n"))),
        ("references to one definition", format!("[a]: https://x.y/{}\n\n{}", "z".repeat(1000), many("[a] "))),
        ("references to one long title", format!("[a]: /x '{}'\n\n{}", "z".repeat(SIZE / 2), "[a]".repeat(SIZE / 6))),
        ("unused definitions of one name", many("[a]: x\n")),
        ("footnotes", numbered(|n| format!("[^{n}]: x\n\n"))),
        ("footnotes within footnotes", many("[^1]: ")),
        ("footnote references", format!("[^1]: x\n\n{}", many("[^1]"))),
        ("missing footnotes", numbered(|n| format!("[^{n}]"))),
    ]
}

fn tables() -> Vec<(&'static str, String)> {
    vec![
        ("table of short rows", table(3_000, "a", "|\n")),
        ("table of full rows", table(30, "a", "|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t|u|v|w|x|y|z|a|b|c|d|e\n")),
        ("table, wide, one letter", table(2, "a", "|b|c\n") + &format!("|{}|\n", "w".repeat(200))),
        (
            "table, long labels",
            table(30, &"label ".repeat(10), "|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t|u|v|w|x|y|z|a|b|c|d|e\n"),
        ),
        ("table of many columns", table(100_000, "a", "|b|c|d|e\n")),
        ("table of late cells", table(3_000, "a", "||||b\n")),
        ("table, wide, of links", table(3, &"name ".repeat(9), "|[a](https://x.y)|**b**|`c`\n")),
        ("table, extra cells", table(1, "a", "|b|c|d|e|f\n")),
        ("many small tables", many("|a|\n|-|\n|b|\n\n")),
        ("pipes", many("|")),
        ("headers without a table", many("|a|b\n")),
        ("table of backticks", table(2, "a", "|`|`b\n")),
    ]
}

fn inlines() -> Vec<(&'static str, String)> {
    vec![
        ("brackets", many("[")),
        ("brackets, nested", nested("[", "a", "]")),
        ("links, nested", nested("[", "a", "](b)")),
        ("images, nested", nested("![", "a", "](b)")),
        ("images that do not end", many("![a")),
        ("links that do not end", many("[a](b")),
        ("links with pointed brackets", many("[a](<b")),
        ("links with titles that do not end", many("[a](b \"")),
        ("parentheses in a link", format!("[a]({})", "(".repeat(SIZE))),
        ("bracket and parenthesis", many("](")),
        ("backticks", many("`")),
        ("backtick runs of all lengths", numbered(|n| "`".repeat(n % 1_400 + 1) + "a")),
        ("backticks, one and two", many("a`b``")),
        ("code spans", many("`a` ")),
        ("escaped backticks", many("\\`")),
        ("stars", many("*")),
        ("stars and letters", many("*a ")),
        ("stars within words", many("a**b")),
        ("stars and underscores", many("_*")),
        ("emphasis that does not end", many("**a_ ")),
        ("emphasis runs of all lengths", numbered(|n| "*".repeat(n % 1_400 + 1) + "a ")),
        ("emphasis, nested", nested("*a **", "b", "** c*")),
        ("emphasis, closers first", many("a* b_ c~~ ")),
        ("strikes", many("~~a~")),
        ("literal signs", many("\\*a\\* ")),
        ("hard breaks", many("a\\\n")),
        ("entities", many("&lt;")),
        ("named entities", many("&CounterClockwiseContourIntegral;")),
        ("ampersands", many("&")),
        ("numeric entities", many("&#x1F600;")),
        ("entities that do not end", many("&#x")),
        ("autolinks that do not end", many("<http:x ")),
        ("mail autolinks that do not end", many("<a@b")),
        ("images in brackets", many("![[]()")),
        ("escaped parentheses in a link", format!("[a]({}", many("\\("))),
        ("backslashes", many("\\")),
    ]
}

fn markup() -> Vec<(&'static str, String)> {
    vec![
        ("pointed brackets", many("<")),
        ("tags that do not end", many("<b ")),
        ("tags with attributes", many("<a b='c' d=e f ")),
        ("tags in text, nested", format!("a {}", nested("<b>", "x", "</b>"))),
        ("tags in text, all kinds", format!("a {}", many("<b><i><s><code><a href=x>"))),
        ("tags in text, closed", format!("a {}", many("<b>x</b> "))),
        ("tags in text, crossed", format!("a {}", nested("<b>a<i>", "x", "</b>b</i>"))),
        ("links in text", format!("a {}", many("<a href=https://x.y>b</a> "))),
        ("comments that do not end", many("<!--")),
        ("comments in text that do not end", format!("a {}", many("<!-- "))),
        ("declarations and instructions", format!("a {}", many("<!A <? <![CDATA["))),
        ("block, tags", many("<div>\n")),
        ("block, comments", format!("<div>\n{}", many("<!-- --> <!--"))),
        ("block, lists, nested", format!("<div>{}", nested("<ul><li>", "x", "</ul>"))),
        ("block, items", format!("<ul>{}", many("<li>"))),
        ("block, entities", format!("<div>{}", many("&cent;"))),
        ("block, ampersands", format!("<div>{}", many("&"))),
        ("block, long entity", format!("<div>&{}", many("a"))),
        ("block, entities that do not end", format!("<div>{}", many("&am"))),
        ("block, scripts", format!("<div>{}", nested("<script>", "x", "</script>"))),
        ("block, preformatted", format!("<div>{}", many("<pre>a</pre>"))),
        ("block, one tag of attributes", format!("<div><a {}>", many("b='c' "))),
    ]
}

fn words() -> Vec<(&'static str, String)> {
    vec![
        ("one word", many("x")),
        ("one letter words", many(" a")),
        ("one space", format!("x{}y", " ".repeat(SIZE))),
        ("one paragraph of short lines", many("a\n")),
        ("paragraphs", many("a\n\n")),
        ("zero-width joiners", many("\u{200D}")),
        ("one letter with accents", format!("a{}", many("\u{301}"))),
        ("flags", many("🇩")),
        ("joined emoji", many("👨\u{200D}")),
        ("zero-width spaces", many("a\u{200B}")),
        ("nulls", many("\0a")),
        ("schemes", many("http://")),
        ("addresses", many("https://a) ")),
        ("address and full stops", many("http://a....")),
        ("one address", format!("https://x.y/{}", many("_a_"))),
        ("at signs", many("@")),
        ("pings", many("@here ")),
        ("names, beginnings of", many("@Ann Ann ")),
        ("names, long", many("@a a a a a a a a a a a a a a a a a a a a a a a a a a a a b ")),
        ("names", many("@Ann Lee, ")),
        ("ids", many("<@U1>")),
        ("ids that do not end", many("<@U1|")),
        ("colons", many(":a")),
        ("emoji", many(":smile: ")),
        ("paths", many("std::vec::")),
        ("mixture", mixture(&PIECES)),
        ("mixture of delimiters", mixture(&PIECES[..10])),
        ("mixture of brackets", mixture(&PIECES[16..31])),
        ("mixture of blocks", mixture(&PIECES[7..16])),
    ]
}

/// As many as are looked for, with names that begin alike.
fn people() -> Vec<Mentionable> {
    let mut people: Vec<Mentionable> = (0..196)
        .map(|n| Mentionable {
            id: PersonId::new(format!("U1{n:03}")),
            names: vec![format!("{}{n}", "a ".repeat(n % 39))],
        })
        .collect();
    people.push(Mentionable { id: PersonId::new("U1"), names: vec!["Ann Lee".to_owned(), "Ann".to_owned()] });
    people
}

fn best(text: &str, people: &[Mentionable]) -> (Duration, usize) {
    let mut best = Duration::MAX;
    let mut parts = 0;
    for _ in 0..TIMES {
        let start = tokio::time::Instant::now();
        parts = render(text, WIDTH, people).len();
        best = best.min(start.elapsed());
    }
    (best, parts)
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let people = people();
    let texts = [blocks(), tables(), inlines(), markup(), words()].concat();
    let mut worst = (Duration::ZERO, "");
    let mut count = 0;
    for (name, text) in texts.iter().filter(|(name, _)| name.contains(&filter)) {
        let (time, parts) = best(text, &people);
        worst = worst.max((time, *name));
        count += 1;
        println!("{:>8.1} ms  {:>5} parts  {:>7} bytes  {name}", time.as_secs_f64() * 1e3, parts, text.len());
    }
    println!("{count} texts; the worst: {:.1} ms, {}", worst.0.as_secs_f64() * 1e3, worst.1);
}
