use std::fmt::Write as _;

use proptest::prelude::*;

use super::render as render_for;

fn render(markdown: &str, width: usize) -> Vec<String> {
    render_for(markdown, width, &[])
}

/// One message, zero-width spaces shown as `¦` and word joiners as `^`.
fn whole(markdown: &str) -> String {
    let parts = render(markdown, 1_000_000);
    assert!(parts.len() <= 1, "{parts:?}");
    parts.concat().replace('\u{200B}', "¦").replace('\u{2060}', "^")
}

fn check(cases: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (markdown, expected) in cases {
        let got = whole(markdown);
        if got != *expected {
            let _ = writeln!(wrong, "\n{markdown:?}\n  expected {expected:?}\n  got      {got:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn emphasis() {
    check(&[
        ("*x*", "_x_"),
        ("_x_", "_x_"),
        ("**x**", "*x*"),
        ("__x__", "*x*"),
        ("***x***", "*_x_*"),
        ("~~x~~", "~x~"),
        ("**a _b_ c**", "*a _b_ c*"),
        ("_**x** y_", "_*x* y_"),
        ("**~~x~~**", "*~x~*"),
        ("**a** **b**", "*a* *b*"),
        ("**bold** and *it*.", "*bold* and _it_."),
        ("**one\ntwo**", "*one*\n*two*"),
        ("un**frigging**believable", "un¦*frigging*¦believable"),
        ("中文**粗体**中文", "中文¦*粗体*¦中文"),
        ("**a**_b_", "*a*¦_b_"),
        ("(**x**)", "(*x*)"),
        ("**`x`**", "*`x`*"),
        ("**[x](https://a.b)**", "*<https://a.b|x>*"),
        ("[**x**](https://a.b)", "*<https://a.b|x>*"),
    ]);
}

#[test]
fn escapes_and_literal_marks() {
    check(&[
        ("a & b < c > d", "a &amp; b &lt; c &gt; d"),
        ("&lt;!channel&gt; &amp;", "&lt;!channel&gt; &amp;"),
        (r"\*not bold\*", "*¦not bold¦*"),
        (r"\_not\_ \~x\~", "_¦not¦_ ~¦x¦~"),
        (r"\`x\`", "`¦x¦`"),
        ("snake_case_name", "snake_case_name"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("see ~/.config", "see ~/.config"),
        ("from ~/a to ~/b", "from ~/a to ~/b"),
        (r"**a \* b\*c**", "*a * b*c*"),
        (r"\```", "`¦`¦`"),
        (r"\> no quote", "¦&gt; no quote"),
        ("a\u{7}b", "ab"),
    ]);
}

#[test]
fn nothing_pings() {
    check(&[
        ("<!channel>", "&lt;!channel&gt;"),
        ("hi <!here> and <!subteam^S1|x>", "hi &lt;!here&gt; and &lt;!subteam^S1|x&gt;"),
        ("<@U1> <#C1|x>", "&lt;@U1&gt; &lt;#C1|x&gt;"),
        ("[x](!channel)", "x (!channel)"),
        ("[x](<@U1>)", "x (@U1)"),
        ("[<!here>](https://a.b)", "<https://a.b|&lt;!here&gt;>"),
        ("[x](https://a.b/%3E<!channel>)", "<https://a.b/%3E%3C!channel%3E|x>"),
        ("@channel, @Here and @everyone", "@^channel, @^Here and @^everyone"),
        ("me@here.com @channels", "me@here.com @channels"),
        ("&#64;channel", "@^channel"),
        ("`<!channel>`", "`&lt;!channel&gt;`"),
        ("```\n<!channel>\n```", "```\n&lt;!channel&gt;\n```"),
    ]);
}

#[test]
fn code() {
    check(&[
        ("`a < b`", "`a &lt; b`"),
        ("`` a`b ``", "`a\u{2CB}b`"),
        ("two `Vec`s", "two `Vec`¦s"),
        ("`a``b`", "`a\u{2CB}\u{2CB}b`"),
        ("```rust\nlet a = 1 && 2;\n```", "```\nlet a = 1 &amp;&amp; 2;\n```"),
        ("````\n```\nx\n```\n````", "```\n``¦`\nx\n``¦`\n```"),
        ("    indented\n    code", "```\nindented\ncode\n```"),
        ("```\nunclosed", "```\nunclosed\n```"),
        ("```\r\na\r\nb\r\n```", "```\na\nb\n```"),
        ("text\n```\n*a* _b_ @channel\n```\nmore", "text\n```\n*a* _b_ @channel\n```\nmore"),
        ("```\n\n```", ""),
    ]);
}

#[test]
fn links() {
    check(&[
        ("[a](https://x.y/?a=1&b=2)", "<https://x.y/?a=1&amp;b=2|a>"),
        ("[a](https://x.y/a|b)", "<https://x.y/a%7Cb|a>"),
        ("<https://x.y>", "<https://x.y>"),
        ("<a@b.cd>", "<mailto:a@b.cd|a@b.cd>"),
        ("see https://x.y/_a_b_c_.", "see <https://x.y/_a_b_c>¦_¦."),
        ("https://x.y/__init__.py **b**", "<https://x.y/__init__.py> *b*"),
        ("(https://x.y/a_(b))", "(<https://x.y/a_(b)>)"),
        ("[https://x.y](https://x.y)", "<https://x.y>"),
        ("![alt](https://x.y/i.png)", "<https://x.y/i.png|alt>"),
        ("![](https://x.y/i.png)", "<https://x.y/i.png>"),
        ("[![badge](https://x.y/i.png)](https://x.y)", "<https://x.y|badge>"),
        ("[main.rs](src/main.rs)", "main.rs (src/main.rs)"),
        ("[x](javascript:alert(1))", "x (javascript:alert(1))"),
        ("[a][r]\n\n[r]: https://x.y", "<https://x.y|a>"),
    ]);
}

#[test]
fn blocks() {
    check(&[
        ("# Title", "*Title*"),
        ("# A **b** c", "*A b c*"),
        ("# A _b_ `c`", "*A _b_ `c`*"),
        ("Title\n===\ntext", "*Title*\ntext"),
        ("a\n\nb", "a\n\nb"),
        ("a\nb", "a\nb"),
        ("a  \nb\\\nc", "a\nb\nc"),
        ("a\n\n---\n\nb", "a\n\n──────────\n\nb"),
        ("> a\n> b", "> a\n> b"),
        ("> a\n>\n> b\n\nc", "> a\n>\n> b\n\nc"),
        ("> a\n\n<!-- -->\n\n> b", "> a\n\n> b"),
        ("> > deep", "> &gt; deep"),
        ("> **a\n> b**", "> *a*\n> *b*"),
        ("> [!WARNING]\n> hot", "> *Warning*\n> hot"),
        ("> ```\n> code\n> ```\n> x", "```\ncode\n```\n> x"),
        ("", ""),
        (" \n\t\n", ""),
        ("&nbsp;", ""),
        ("\u{200B}", ""),
    ]);
}

#[test]
fn lists() {
    check(&[
        ("- a\n- b", "• a\n• b"),
        ("* a\n\n* b", "• a\n• b"),
        ("intro\n- a\n- b\n\nend", "intro\n• a\n• b\n\nend"),
        ("3. a\n4. b", "3. a\n4. b"),
        ("- a\n  - b\n    - c\n- d", "• a\n    ◦ b\n        ▪ c\n• d"),
        ("1. a\n   - b\n2. c", "1. a\n    ◦ b\n2. c"),
        ("- a\n\n  more\n- b", "• a\n\n  more\n• b"),
        ("- [ ] a\n- [x] b", "☐ a\n☑ b"),
        ("1. [x] a", "1. ☑ a"),
        ("- a\n  b", "• a\n  b"),
        ("-\n- b", "•\n• b"),
        ("- - x", "•\n    ◦ x"),
        ("1. run\n   ```\n   x\n   ```\n2. done", "1. run\n```\nx\n```\n2. done"),
        ("- > q", "> • q"),
        ("> - a\n> - b", "> • a\n> • b"),
        ("- # T\n- b", "• *T*\n• b"),
    ]);
}

#[test]
fn tables() {
    check(&[
        (
            "| Name | Qty |\n|:--|--:|\n| apple | 3 |\n| **kiwi** | 12 |",
            "```\nName  | Qty\n------+----\napple |   3\nkiwi  |  12\n```",
        ),
        (
            "|a|b|\n|-|-|\n|`x<y`|[l](https://a.b)|",
            "```\na   | b\n----+----------------\nx&lt;y | l (https://a.b)\n```",
        ),
        ("|a|b|c|\n|-|-|-|\n|1|", "```\na | b | c\n--+---+--\n1\n```"),
        ("|a|b|c|\n|-|-|:-:|\n||2|333|", "```\na | b |  c\n--+---+----\n  | 2 | 333\n```"),
    ]);
}

#[test]
fn html_and_footnotes() {
    check(&[
        ("a<br>b", "a\nb"),
        ("<b>x</b> <kbd>y</kbd>", "*x* `y`"),
        ("Vec<T> and <Foo>", "Vec&lt;T&gt; and &lt;Foo&gt;"),
        ("a <!-- no --> b", "a  b"),
        ("<details>\n<summary>S</summary>\n\ntext\n\n</details>", "*S*\n\ntext"),
        ("<div>a < b <!channel></div>", "a &lt; b &lt;!channel&gt;"),
        ("a[^1]\n\n[^1]: note", "a[1]\n\n[1] note"),
    ]);
}

#[test]
fn a_long_fence_is_closed_and_opened_again() {
    let lines: Vec<String> = (0..30).map(|n| format!("line {n} & more")).collect();
    let parts = render(&format!("intro\n\n```sh\n{}\n```\n\nend", lines.join("\n")), 200);
    assert!(parts.len() > 2);
    let mut code = Vec::new();
    for part in &parts {
        assert!(part.chars().count() <= 200, "{part}");
        let Some(inside) = part.split("```").nth(1) else { continue };
        code.extend(inside.trim_matches('\n').split('\n').map(str::to_owned));
    }
    assert_eq!(code.join("\n").replace("&amp;", "&"), lines.join("\n"));
    assert!(parts[0].starts_with("intro\n\n```\nline 0"));
    assert!(parts.last().unwrap().ends_with("end"));
}

#[test]
fn blocks_before_lines_before_words() {
    let (a, b) = ("a ".repeat(40), "b ".repeat(40));
    let parts = render(&format!("{a}\n\n{b}"), 100);
    assert_eq!(parts, [a.trim(), b.trim()], "at the block");
    let list: String = (0..20).map(|n| format!("- item number {n}\n")).collect();
    for part in render(&list, 100) {
        assert!(part.lines().all(|line| line.starts_with("• item number ")), "at the line: {part}");
    }
    for part in render(&"word ".repeat(100), 64) {
        assert!(part.split(' ').all(|word| word == "word"), "at the word: {part}");
    }
    let parts = render(&"x".repeat(150), 64);
    assert_eq!(parts.concat(), "x".repeat(150), "at the character");
}

#[test]
fn emphasis_and_entities_and_links_stay_whole() {
    let parts = render(&format!("**{}**", "word ".repeat(60).trim()), 64);
    assert!(parts.iter().all(|part| part.starts_with("*word") && part.ends_with("word*")), "{parts:?}");
    for part in render(&"&".repeat(200), 64) {
        assert_eq!(part.replace("&amp;", ""), "", "an entity is not cut");
    }
    for part in render(&"[a b](https://x.y/z) ".repeat(20), 64) {
        assert_eq!(part.replace("<https://x.y/z|a b>", "").trim(), "", "a link is not cut");
    }
    let family = "👨‍👩‍👧‍👦";
    for part in render(&family.repeat(30), 64) {
        assert_eq!(part.replace(family, ""), "", "a joined emoji is not cut");
    }
    let long = format!("[label](https://x.y/{})", "z".repeat(300));
    let parts = render(&long, 64);
    assert!(parts[0].starts_with("label") && !parts.concat().contains('<'), "{parts:?}");
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

/// Every `<` begins an address, every `&` an entity, every other `>` marks a quote.
fn assert_no_control(part: &str) {
    for (at, _) in part.match_indices('&') {
        assert!(["&amp;", "&lt;", "&gt;"].iter().any(|entity| part[at..].starts_with(entity)), "{part:?}");
    }
    for line in part.lines() {
        let line = line.strip_prefix('>').unwrap_or(line);
        let mut rest = line;
        while let Some(at) = rest.find(['<', '>']) {
            let from = &rest[at..];
            assert!(
                super::escape::SCHEMES.iter().any(|scheme| from[1..].starts_with(&format!("{scheme}:"))),
                "{part:?}"
            );
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
            "<!channel>", "<@U1>", "@here", "&amp;", "\\*", "\n| a | b |\n|--|--|\n| c", " | ", "[x](https://a.bc/d)",
            "![", "](https://q.r)", "[", "<https://h.ij>", "https://k.lm/n_o ", "\n---\n", "    ", "\n\n    ", "- [x] ", "`` ` ``",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    proptest::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
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
