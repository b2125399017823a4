//! `valve chat`, driven through pipes.

use super::{Folder, feed, succeed};

/// Answers on standard output, and what was said on standard error after the greeting.
fn chat(folder: &Folder, args: &[&str], input: &str) -> (String, Vec<String>) {
    let args = [&["--temp", "0", "-n", "16"], args].concat();
    let (stdout, stderr) = succeed(feed(folder.command("chat", &args), input));
    let mut lines = stderr.lines().map(str::to_owned);
    let greeting = lines.next().unwrap();
    assert!(greeting.contains("model.gguf") && greeting.contains("/help"), "{greeting}");
    (stdout, lines.collect())
}

/// Tokens that the last answer found in the cache, as `/stats` says.
fn cached(stats: &str) -> usize {
    let (before, _) = stats.split_once(" from the cache").unwrap_or_else(|| panic!("{stats}"));
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn turns_go_on_from_the_cache() {
    let folder = Folder::new();
    let (answers, said) = chat(&folder, &[], "the hint\n/stats\nand the ring\n/stats\n/exit\nnot read\n");
    assert!(answers.starts_with(&folder.greedy(&[])), "{answers:?}");
    assert!(answers.len() > folder.greedy(&[]).len() + 1);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said.iter().all(|stats| stats.starts_with("16 tokens, ")), "{said:?}");
    assert_eq!(cached(&said[0]), 0);
    assert!(cached(&said[1]) > 0, "{said:?}");
}

#[test]
fn a_reset_conversation_starts_over() {
    let folder = Folder::new();
    let once = chat(&folder, &["-sys", "be on the wing"], "the hint\n").0;
    let twice = chat(&folder, &["-sys", "be on the wing"], "the hint\n/reset\nthe hint\n").0;
    assert_eq!(twice, once.repeat(2));
    let unforgotten = chat(&folder, &["-sys", "be on the wing"], "the hint\nthe hint\n").0;
    assert_ne!(unforgotten, twice);
    assert_ne!(chat(&folder, &[], "the hint\n").0, once);
}

#[test]
fn the_valve_turns_between_answers() {
    let folder = Folder::new();
    let valve = folder.path("a.gguf");
    let input = "/alpha\nthe hint\n/reset\n/alpha 1\nthe hint\n/reset\n/alpha 0\nthe hint\n/alpha 0=0.25,64=1\n";
    let (answers, said) = chat(&folder, &["--valve", &valve, "--alpha", "0.5"], input);
    let answer = |alpha| folder.greedy(&["--valve", &valve, "--alpha", alpha]);
    assert_eq!(answers, answer("0.5") + &answer("1") + &answer("0"));
    assert_eq!(said, ["alpha 0.5", "alpha 1", "alpha 0", "alpha 0=0.25,64=1"]);
}

#[test]
fn a_bad_opening_changes_nothing() {
    let folder = Folder::new();
    let valve = folder.path("a.gguf");
    let bad = "/alpha nan\n/alpha much\n/alpha 4=1,2=1\n/alpha\n";
    let (answers, said) = chat(&folder, &["--valve", &valve, "--alpha", "0.5"], bad);
    assert_eq!(answers, "");
    assert!(said[..3].iter().all(|line| line.starts_with("valve: alpha: ")), "{said:?}");
    assert_eq!(said[3..], ["alpha 0.5"]);
}

#[test]
fn commands_explain_themselves() {
    let folder = Folder::new();
    let (answers, said) = chat(&folder, &[], "/help\n\n   \n/sing loud\n/stats\n/alpha\n/quit\n");
    assert_eq!(answers, "");
    for command in ["/alpha", "/reset", "/stats", "/help", "/exit"] {
        assert!(said.iter().any(|line| line.starts_with(command)), "{said:?}");
    }
    let rest = &said[said.len() - 3..];
    assert!(rest[0].starts_with("valve: ") && rest[0].contains("/sing"), "{said:?}");
    assert_eq!(rest[1], "no answer yet");
    assert!(rest[2].contains("no valve"), "{said:?}");
}

#[test]
fn a_message_too_long_for_the_context_leaves_the_conversation_as_it_was() {
    let folder = Folder::new();
    let long = "zq".repeat(200);
    let input = format!("the hint\n/reset\n{long}\nthe hint\n");
    let (answers, said) = chat(&folder, &["-c", "100"], &input);
    assert_eq!(answers, chat(&folder, &["-c", "100"], "the hint\n").0.repeat(2));
    assert!(said.len() == 1 && said[0].starts_with("valve: ") && said[0].contains("context"), "{said:?}");
}
