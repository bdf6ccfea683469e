//! What is cut where.

use super::render;

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

#[test]
fn a_heading_stays_with_what_follows_it() {
    for width in [64, 100, 200] {
        for filler in 0..width {
            let text = format!("{}\n\n# Head\n\n{}", "x".repeat(filler), "word ".repeat(80));
            let parts = render(&text, width);
            assert!(parts.iter().all(|part| !part.ends_with("*Head*")), "{width} {filler}: {parts:?}");
            let fence = format!("{}\n\n# Head\n\n```\n{}```", "x".repeat(filler), "a line\n".repeat(60));
            let parts = render(&fence, width);
            assert!(parts.iter().all(|part| !part.ends_with("*Head*")), "{width} {filler}: {parts:?}");
            let list = format!("{}\n\n# One\n\n## Two\n\n{}", "x".repeat(filler), "- an item\n".repeat(40));
            let parts = render(&list, width);
            assert!(
                parts.iter().all(|part| !part.ends_with("e*") && !part.ends_with("o*")),
                "{width} {filler}: {parts:?}"
            );
        }
    }
}

#[test]
fn what_is_seen_as_one_character_stays_whole() {
    for one in ["🇩🇪", "👩🏽‍🚀", "e\u{301}\u{323}", "नि", "각", "1️⃣", "🏴\u{E0067}\u{E0062}\u{E007F}"]
    {
        for part in render(&one.repeat(100), 64) {
            assert_eq!(part.replace(one, ""), "", "{one}");
        }
        for part in render(&format!("```\n{}\n```", one.repeat(100)), 64) {
            assert_eq!(part.replace(one, ""), "```\n\n```", "{one}");
        }
    }
}

#[test]
fn mentions_stay_whole() {
    let parts = render(&"**<@U1>** @Bob, ".repeat(40), 64);
    assert!(parts.len() > 5);
    for part in &parts {
        assert_eq!(part.replace("*<@U1>*", "").replace("<@U2>,", "").trim(), "", "{part}");
    }
    let parts = render(&"x@Bob@Bob".repeat(40), 64);
    assert!(!parts.concat().contains('<'), "{parts:?}");
}

#[test]
fn the_rows_of_a_wide_table_are_broken_between_lines() {
    let row = format!("|key|{}|{}|\n", "a ".repeat(30), "b ".repeat(30));
    let parts = render(&format!("|A|B|C|\n|-|-|-|\n{}", row.repeat(20)), 200);
    let lines: Vec<&str> = parts.iter().flat_map(|part| part.lines()).collect();
    assert_eq!(lines.iter().filter(|line| **line == "• *key*").count(), 20);
    assert_eq!(lines.iter().filter(|line| line.starts_with("  B: a a")).count(), 20);
    assert!(parts[0].starts_with("*A | B | C*\n• *key*"));
}

#[test]
fn a_space_at_the_beginning_is_no_word() {
    let text = format!("# {}\n\n- &#32;{}", "a".repeat(100), "b".repeat(200));
    for width in 64..200 {
        for part in render(&text, width) {
            assert!(part.chars().count() <= width, "{width}: {part}");
            assert!(!part.ends_with("•") && !part.ends_with("• "), "{width}: {part}");
        }
    }
}
