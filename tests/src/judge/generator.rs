//! Texts from a seed: Markdown in pieces, mutations of given texts, and characters of any kind.

use std::iter::repeat_with;

use fastrand::Rng;

/// What inline text is made of: marks in every position, what they stand beside, and what must never reach people.
const INLINE: [&str; 52] = [
    "word",
    "another word",
    " ",
    " ",
    "**bold**",
    "*it*",
    "***both***",
    "~~gone~~",
    "`code`",
    "``a`b``",
    "**",
    "*",
    "_",
    "__",
    "~",
    "~~",
    "`",
    "``",
    "```",
    "in**side**word",
    "snake_case_name",
    "2 * 3 * 4",
    "[label](https://a.example/x)",
    "[rel](/y \"t\")",
    "![i](http://a/b.png)",
    "<https://auto.example/?a=1&b=2>",
    "https://bare.example/a_b_c",
    "<!here>",
    "<!channel>",
    "<@U123ABC>",
    "<#C1|x>",
    "&amp;",
    "&lt;!here&gt;",
    "&",
    "<",
    ">",
    "<b>b</b>",
    "<br>",
    "<i>",
    "</i>",
    "Vec<T>",
    "[^1]",
    "\\*",
    "\\`",
    "\\",
    "|",
    "日本語",
    "é",
    "👩‍👩‍👧",
    "\u{200b}",
    "[",
    "](",
];
/// What a line begins with.
const LEADS: [&str; 16] =
    ["", "", "", "", "- ", "* ", "1. ", "7) ", "> ", ">> ", "> - ", "  - ", "    ", "# ", "### ", "- [x] "];
/// Lines that are something of their own.
const LINES: [&str; 12] = [
    "",
    "",
    "",
    "```",
    "```rust",
    "~~~",
    "---",
    "***",
    "[^1]: a note",
    "[ref]: https://r.example",
    "<div>",
    "<!-- hidden",
];

/// A text for a seed; the same for the same seed and examples.
pub fn text(seed: u64, examples: &[String]) -> String {
    let mut rng = Rng::with_seed(seed);
    match rng.u8(..8) {
        0 => characters(&mut rng),
        1 | 2 if !examples.is_empty() => mutated(&mut rng, examples),
        3 => repeated(&mut rng),
        4 => table(&mut rng),
        _ => lines(&mut rng),
    }
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

fn inline(rng: &mut Rng) -> String {
    let len = rng.usize(..12);
    repeat_with(|| pick(rng, &INLINE)).take(len).collect()
}

fn lines(rng: &mut Rng) -> String {
    let mut text = String::new();
    for _ in 0..rng.usize(1..24) {
        if rng.u8(..3) == 0 {
            text += pick(rng, &LINES);
        } else {
            text += pick(rng, &LEADS);
            text += &inline(rng);
        }
        text.push('\n');
    }
    text
}

fn table(rng: &mut Rng) -> String {
    let columns = rng.usize(1..6);
    let mut text = lines(rng) + "\n";
    for row in 0..rng.usize(2..8) {
        let mut cells = repeat_with(|| if row == 1 { "---".to_owned() } else { inline(rng) });
        let row: Vec<String> = cells.by_ref().take(columns).collect();
        text += &format!("| {} |\n", row.join(" | "));
    }
    text + &lines(rng)
}

fn repeated(rng: &mut Rng) -> String {
    let piece = inline(rng) + pick(rng, &LEADS);
    piece.repeat(rng.usize(1..60)) + &inline(rng)
}

fn characters(rng: &mut Rng) -> String {
    let len = rng.usize(..200);
    repeat_with(|| if rng.bool() { rng.char(' '..='~') } else { rng.char(..) }).take(len).collect()
}

/// Two examples, one behind the other, with a few characters taken out, doubled or put in.
fn mutated(rng: &mut Rng, examples: &[String]) -> String {
    let joined = repeat_with(|| examples[rng.usize(..examples.len())].as_str()).take(2).collect::<Vec<_>>();
    let mut chars: Vec<char> = joined.join(if rng.bool() { "\n" } else { "" }).chars().collect();
    for _ in 0..rng.usize(..6) {
        let at = rng.usize(..=chars.len());
        match rng.u8(..3) {
            0 if at < chars.len() => drop(chars.remove(at)),
            1 => {
                let piece: Vec<char> = pick(rng, &INLINE).chars().collect();
                chars.splice(at..at, piece);
            }
            _ => {
                let copy: Vec<char> = chars[at..chars.len().min(at + 9)].to_vec();
                chars.splice(at..at, copy);
            }
        }
    }
    chars.into_iter().collect()
}
