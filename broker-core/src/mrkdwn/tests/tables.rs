//! Tables, narrow and wide.

use super::Cases;

pub(super) const NARROW: Cases = &[
    (
        "| Name | Qty |\n|:--|--:|\n| apple | 3 |\n| **kiwi** | 12 |",
        "```\nName  | Qty\n------+----\napple |   3\nkiwi  |  12\n```",
    ),
    ("|a|b|\n|-|-|\n|`x<y`|[l](https://a.b)|", "```\na   | b\n----+----------------\nx&lt;y | l (https://a.b)\n```"),
    ("|a|b|c|\n|-|-|-|\n|1|", "```\na | b | c\n--+---+--\n1\n```"),
    ("|a|b|c|\n|-|-|:-:|\n||2|333|", "```\na | b |  c\n--+---+----\n  | 2 | 333\n```"),
    ("|a|b|\n|-|-|", "```\na | b\n--+--\n```"),
    ("a|b\n-|-\n1|2", "```\na | b\n--+--\n1 | 2\n```"),
    ("|a|\n|-|\n|b|", "```\na\n-\nb\n```"),
    ("|a|\n|-|\n|x \\| y|", "```\na\n-----\nx | y\n```"),
    // What the parser leaves out for want of a column is kept.
    ("|a|\n|-|\n|b|c|d|", "```\na\n--+----\nb | c|d\n```"),
    ("|名前|x|\n|-|-|\n|a|b|", "```\n名前 | x\n-----+--\na    | b\n```"),
    ("|ok|x|\n|-|-|\n|✅|b|", "```\nok | x\n---+--\n✅ | b\n```"),
    ("|é|x|\n|-|-|\n|e\u{301}e|b|", "```\né  | x\n---+--\ne\u{301}e | b\n```"),
    ("|a|\n|-|\n|~~x~~ <br> _y_|", "```\na\n-----\nx   y\n```"),
    ("|a|\n|-|\n|@Ann <@U2>|", "```\na\n-------------\n@Ann Lee @Bob\n```"),
    ("|a|\n|-|\n|```|", "```\na\n---\n``¦`\n```"),
    ("|a|\n|-|\n|<https://x.y>|", "```\na\n-----------\nhttps://x.y\n```"),
    ("x\n\n|a|\n|-|\n|b|\n\ny", "x\n\n```\na\n-\nb\n```\n\ny"),
    ("> |a|\n> |-|\n> |b|", "```\na\n-\nb\n```"),
    ("- x\n\n  |a|\n  |-|\n  |b|", "• x\n\n```\na\n-\nb\n```"),
];

/// Cells of 40 letters: two of them are wider than what is aligned.
macro_rules! forty {
    () => {
        "abcdefghij klmnopqrs tuvwxyzabc defghijkl"
    };
}

pub(super) const WIDE: Cases = &[
    (
        concat!("|Name|What it does|\n|-|-|\n|`a.rs`|", forty!(), forty!(), "|\n|b|", forty!(), forty!(), " **x**|"),
        concat!(
            "*Name | What it does*\n• *`a.rs`*\n  What it does: ",
            forty!(),
            forty!(),
            "\n• *b*\n  What it does: ",
            forty!(),
            forty!(),
            " *x*"
        ),
    ),
    (
        concat!("|A|B|C|\n|-|-|-|\n|[l](https://x.y)|", forty!(), "|", forty!(), "|"),
        concat!("*A | B | C*\n• *<https://x.y|l>*\n  B: ", forty!(), "\n  C: ", forty!()),
    ),
    // An empty cell has no line, an empty row no item; a first cell that is empty leaves its bullet to the next.
    (
        concat!("|A|B|C|\n|-|-|-|\n|a||", forty!(), "|\n||||\n||", forty!(), "|c|"),
        concat!("*A | B | C*\n• *a*\n  C: ", forty!(), "\n• B: ", forty!(), "\n  C: c"),
    ),
    (
        concat!("|A|B|\n|-|-|\n|", forty!(), "|", forty!(), "|more|"),
        concat!("*A | B*\n• *", forty!(), "*\n  B: ", forty!(), "\n  more"),
    ),
    // A long name of a column is whole once.
    (
        concat!("|A|", forty!(), " and more|\n|-|-|\n|", forty!(), "|c|"),
        concat!("*A | ", forty!(), " and more*\n• *", forty!(), "*\n  abcdefghij klmnopqrs tuvwxyzabc defghij…: c"),
    ),
    (
        concat!("|A|B **c**||\n|-|-|-|\n|", forty!(), "|", forty!(), "|x|"),
        concat!("*A | B c*\n• *", forty!(), "*\n  B *c*: ", forty!(), "\n  x"),
    ),
    (concat!("|", forty!(), "|", forty!(), "|\n|-|-|"), concat!("*", forty!(), " | ", forty!(), "*")),
    (
        concat!("|Who|What|\n|-|-|\n|@Ann|", forty!(), forty!(), " <@U2>|"),
        concat!("*Who | What*\n• *<@U1>*\n  What: ", forty!(), forty!(), " <@U2>"),
    ),
    (
        concat!("- x\n\n  |A|B|\n  |-|-|\n  |", forty!(), "|", forty!(), "|"),
        concat!("• x\n\n  *A | B*\n    ◦ *", forty!(), "*\n      B: ", forty!()),
    ),
    (
        concat!("> |A|B|\n> |-|-|\n> |", forty!(), "|", forty!(), "|"),
        concat!("> *A | B*\n> • *", forty!(), "*\n>   B: ", forty!()),
    ),
];
