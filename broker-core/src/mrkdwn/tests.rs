use std::fmt::Write as _;

use proptest::prelude::*;

use super::render as render_for;
use crate::chat::{Mentionable, PersonId};

mod blocks;
mod html;
mod inline;
mod links;
mod mentions;
mod split;
mod tables;

/// Markdown, and the mrkdwn that it becomes: zero-width spaces shown as `¦`, word joiners as `^`.
type Cases = &'static [(&'static str, &'static str)];

const TOPICS: [(&str, Cases); 21] = [
    ("emphasis", inline::EMPHASIS),
    ("emphasis within words", inline::WORDS),
    ("emphasis over lines", inline::LINES),
    ("code spans", inline::CODE_SPANS),
    ("literal signs", inline::SIGNS),
    ("emoji", inline::EMOJI),
    ("links", links::LINKS),
    ("images", links::IMAGES),
    ("addresses", links::ADDRESSES),
    ("headings", blocks::HEADINGS),
    ("paragraphs", blocks::PARAGRAPHS),
    ("quotes", blocks::QUOTES),
    ("fences", blocks::FENCES),
    ("lists", blocks::LISTS),
    ("tasks", blocks::TASKS),
    ("footnotes", blocks::FOOTNOTES),
    ("narrow tables", tables::NARROW),
    ("wide tables", tables::WIDE),
    ("tags", html::TAGS),
    ("blocks of HTML", html::BLOCKS),
    ("mentions", mentions::SOMEBODY),
];

fn person(id: &str, names: &[&str]) -> Mentionable {
    Mentionable { id: PersonId::new(id), names: names.iter().map(|name| (*name).to_owned()).collect() }
}

/// Who may be mentioned in the tests.
fn people() -> Vec<Mentionable> {
    vec![
        person("U1", &["Ann Lee", "Ann", "ann.lee"]),
        person("U2", &["Bob"]),
        person("U3", &["José Núñez", "Jose"]),
        person("U4", &["张三"]),
        person("U5", &["Sam"]),
        person("U6", &["sam", "here", " "]),
        person("U7", &["Ann Lee Smith"]),
        person("!channel", &["Channel"]),
    ]
}

fn render(markdown: &str, width: usize) -> Vec<String> {
    render_for(markdown, width, &people())
}

fn whole(markdown: &str) -> String {
    let parts = render(markdown, 1_000_000);
    assert!(parts.len() <= 1, "{parts:?}");
    parts.concat().replace('\u{200B}', "¦").replace('\u{2060}', "^")
}

/// What is wrong with the cases of a topic.
fn complaints(topic: &str, cases: Cases) -> String {
    let mut wrong = String::new();
    for (markdown, expected) in cases {
        let got = whole(markdown);
        if got != *expected {
            let _ = writeln!(wrong, "\n{topic}: {markdown:?}\n  expected {expected:?}\n  got      {got:?}");
        }
    }
    wrong
}

#[test]
fn every_case_becomes_what_it_should() {
    let wrong: String = TOPICS.iter().map(|(topic, cases)| complaints(topic, cases)).collect();
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn nothing_pings() {
    let wrong = complaints("nobody", mentions::NOBODY);
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn there_are_enough_cases() {
    let count = TOPICS.iter().map(|(_, cases)| cases.len()).sum::<usize>() + mentions::NOBODY.len();
    assert!(count >= 400, "{count}");
}

/// The text without what a split may change: spaces, prefixes and the marks around it.
fn visible(parts: &[String]) -> String {
    let text: String = parts
        .iter()
        .flat_map(|part| part.chars())
        .filter(|c| !c.is_whitespace() && !matches!(c, '*' | '_' | '~' | '`' | '>' | '<' | '|' | '\u{200B}'))
        .collect();
    // Quotes within quotes are text, and repeated in each message. A link that fits into no message is shown as text; in one that fits, the address may stand for the label.
    ADDRESSES.iter().fold(text, |text, address| text.replace(address, "")).replace(['(', ')'], "").replace("&gt;", "")
}

const ADDRESSES: [&str; 4] = ["https://a.bc/d", "https://q.r", "https://h.ij", "https://k.lm/no"];

fn assert_sound(markdown: &str, width: usize) {
    let parts = render(markdown, width);
    for part in &parts {
        assert!(part.chars().count() <= width, "{} > {width}: {part:?}", part.chars().count());
        assert!(!part.trim().is_empty());
        assert_eq!(part.matches("```").count() % 2, 0, "an open fence in {part:?}");
        assert_no_control(part);
    }
    assert_eq!(parts, render(markdown, width), "deterministic");
}

/// Every `<` begins an address or mentions somebody who may be mentioned, every `&` an entity, every other `>` marks a quote.
fn assert_no_control(part: &str) {
    for (at, _) in part.match_indices('&') {
        assert!(["&amp;", "&lt;", "&gt;"].iter().any(|entity| part[at..].starts_with(entity)), "{part:?}");
    }
    for line in part.lines() {
        let line = line.strip_prefix('>').unwrap_or(line);
        let mut rest = line;
        while let Some(at) = rest.find(['<', '>']) {
            let from = &rest[at..];
            let link = super::escape::SCHEMES.iter().any(|scheme| from[1..].starts_with(&format!("{scheme}:")));
            let mention = ["@U1>", "@U2>", "@U3>", "@U4>", "@U7>"].iter().any(|known| from[1..].starts_with(known));
            assert!(link || mention, "{part:?}");
            let end = from[1..].find(['<', '>']).expect("a link ends on its line") + 1;
            assert!(from[end..].starts_with('>'), "{part:?}");
            rest = &from[end + 1..];
        }
    }
}

fn markdown() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z]{1,12} ",
        1 => "[a-z&<>é中👍]{1,90}",
        3 => proptest::sample::select(vec![
            "*", "**", "_", "~~", "`", "```\n", "\n```\n", "\n", "\n\n", "\n> ", "\n- ", "\n  - ", "\n1. ", "\n# ", "<b>",
            "<!channel>", "<@U1>", "<@U2|x>", "<@U9>", "@Ann Lee", "@Sam", "@bob ", "</b>", "<code>", "</code>", "<br>", "<ul><li>", "@here", ":x:", "&amp;", "\\*", "\n| a | b |\n|--|--|\n| c", " | ", "[x](https://a.bc/d)",
            "![", "](https://q.r)", "[", "<https://h.ij>", "https://k.lm/n_o ", "\n---\n", "    ", "\n\n    ", "- [x] ", "`` ` ``",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    proptest::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

/// What may be the name of an emoji is counted in characters: a bound in bytes would lie within one.
#[test]
fn a_long_text_before_a_colon_is_looked_at_by_characters() {
    for text in ["👍中é>&é👍a中a👍&👍<👍中<>中中中👍a&中é中中*¡Σ::x:\n- ", &format!("{}::x:", "中".repeat(200))]
    {
        assert_sound(text, 64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_text_is_safe_and_fits(text in markdown(), width in 64_usize..400) {
        assert_sound(&text, width);
    }

    #[test]
    fn splitting_keeps_the_visible_text(text in markdown(), width in 128_usize..400) {
        let whole = visible(&render(&text, 1_000_000));
        let parts = visible(&render(&text, width));
        prop_assert_eq!(parts, whole);
    }
}

#[test]
fn hostile_texts_are_read() {
    let many = |piece: &str| piece.repeat(1_000_000 / piece.len());
    let table = |row: &str| format!("{}\n{}\n{}", "|a".repeat(3000), "|-".repeat(3000), row.repeat(100_000));
    let texts = [
        many(">"),
        many("> "),
        many("- "),
        many("1. "),
        many("["),
        many("![a"),
        many("]("),
        many("[a](b"),
        many("`"),
        many("a`b``"),
        many("*a "),
        many("**a_ "),
        many("a**b"),
        many("_*"),
        many("~~a~"),
        many("<"),
        many("<!--"),
        many("<div>\n"),
        many("<b "),
        many("\\`"),
        many("http://"),
        many("https://a)"),
        many("@here"),
        many("&"),
        many(" a"),
        many("\u{200D}"),
        many("x"),
        many("```\n"),
        many("> - "),
        many("\n- a\n  "),
        many("[^1]: "),
        format!("x{}y", " ".repeat(1_000_000)),
        table("|\n"),
        table("||||b\n"),
    ];
    for text in &texts {
        for part in render(text, 3500) {
            assert!(part.chars().count() <= 3500, "{}", &text[..20.min(text.len())]);
        }
    }
}
