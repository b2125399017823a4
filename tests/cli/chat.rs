//! `valve chat`, driven through pipes.

use super::{Folder, feed, piped, succeed};
use std::io::{Read, Write};

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
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said.iter().step_by(2).all(|stats| stats.starts_with("16 tokens, ")), "{said:?}");
    assert_eq!(cached(&said[0]), 0);
    assert!(said[1].starts_with("context ") && said[1].contains(" of 4096 tokens, 2 messages; cache "), "{said:?}");
    // All of the first turn, as it was drawn, but for the last token, which was never computed.
    let (context, _) = said[1]["context ".len()..].split_once(' ').unwrap();
    assert_eq!(cached(&said[2]) + 1, context.parse::<usize>().unwrap(), "{said:?}");
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
    assert!(rest[0].starts_with("valve: command: ") && rest[0].contains("/sing"), "{said:?}");
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

#[test]
fn a_reader_that_leaves_ends_the_chat_quietly() {
    let folder = Folder::new();
    let mut child = piped(folder.command("chat", &["--temp", "0", "-n", "2000", "-c", "4000"]));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"the hint\n").unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    // It may have left already.
    stdin.write_all(b"and the ring\n").ok();
    let (_, stderr) = succeed(child.wait_with_output().unwrap());
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn messages_that_nobody_reads_end_nothing() {
    let folder = Folder::new();
    let mut child = piped(folder.command("chat", &["--temp", "0", "-n", "16"]));
    drop(child.stderr.take());
    child.stdin.take().unwrap().write_all(b"/stats\nthe hint\n/sing\n").unwrap();
    assert_eq!(succeed(child.wait_with_output().unwrap()).0, folder.greedy(&[]));
}

#[test]
fn sampling_can_be_set() {
    let folder = Folder::new();
    let drawn =
        |args: &[&str], input: &str| succeed(feed(folder.command("chat", &[&["-n", "24"], args].concat()), input));
    let flags = ["--temp", "2", "--top-k", "9", "--top-p", "0.9", "--min-p", "0.01", "-s", "4"];
    let typed = "/set temp 2\n/set top-k 9\n/set top-p 0.9\n/set min-p 0.01\n/set seed 4\nthe hint\n";
    assert_eq!(drawn(&["--temp", "0"], typed).0, drawn(&flags, "the hint\n").0);
    let biased = [&flags[..], &["--ignore-eos", "-l", "40+9"]].concat();
    let typed = drawn(&flags, "/set ignore-eos\n/set l 40+9\nthe hint\n").0;
    assert_eq!(typed, drawn(&biased, "the hint\n").0);
    assert_ne!(typed, drawn(&flags, "the hint\n").0);
    let bad = "/set temp hot\n/set temp -1\n/set warmth 1\n/set top-p 2\n/set top-k\nthe hint\n";
    let (answers, said) = drawn(&flags, bad);
    assert_eq!(answers, drawn(&flags, "the hint\n").0);
    let complaints: Vec<&str> = said.lines().skip(1).collect();
    assert!(complaints.len() == 5 && complaints.iter().all(|line| line.starts_with("valve: ")), "{said}");
    for (line, named) in complaints.iter().zip(["temp", "temperature", "warmth", "top_p", "top-k"]) {
        assert!(line.contains(named), "{line}");
    }
}

#[test]
fn the_same_seed_gives_the_same_answers_and_another_on_demand() {
    let folder = Folder::new();
    let args = ["--temp", "2", "-n", "24", "-s", "4"];
    let told = |input: &str| succeed(feed(folder.command("chat", &args), input)).0;
    let once = told("the hint\n");
    let again = told("the hint\n/regen\n");
    let other = again.strip_prefix(&once).unwrap();
    assert!(!other.is_empty() && other != once, "{again:?}");
    assert_eq!(told("the hint\n/regen\n"), again);
    // Nothing to answer again, and a question after that.
    assert_eq!(told("/regen\n/edit x\nthe hint\n"), once);
}

#[test]
fn the_system_message_can_be_changed() {
    let folder = Folder::new();
    let input = "/system be on the wing\nthe hint\n/reset\n/system -\nthe hint\n/system\n";
    let (answers, said) = chat(&folder, &[], input);
    assert_eq!(
        answers,
        chat(&folder, &["-sys", "be on the wing"], "the hint\n").0 + &chat(&folder, &[], "the hint\n").0
    );
    assert_eq!(said, ["no system message"]);
}

#[test]
fn what_is_attached_is_described() {
    let folder = Folder::new();
    let lora = format!("{}:0.5", folder.path("b.gguf"));
    let (_, said) =
        chat(&folder, &["--valve", &folder.path("a.gguf"), "--lora", &lora, "--alpha", "0.25"], "/valves\n");
    let said = said.join("\n");
    for expected in ["b.gguf: stays at 0.5\n", "a.gguf: alpha 0.25, scope all\n", "14 pairs", "attention, mlp, rank 4"]
    {
        assert!(said.contains(expected), "{said}");
    }
    assert!(said.ends_with("curve: 0:; 0.5:; 1:"), "{said}");
}

#[test]
fn a_file_that_is_no_conversation_changes_nothing() {
    let folder = Folder::new();
    let saved = folder.path("saved.json");
    let input = format!("the hint\n/save {saved}\n");
    let told = chat(&folder, &[], &input).0;
    let good = std::fs::read_to_string(&saved).unwrap();
    let cut = (0..good.len() - 1).step_by(7);
    let mut bad: Vec<Vec<u8>> = cut.map(|end| good.as_bytes()[..end].into()).collect();
    for (from, to) in [
        ("cotvalve conversation 1", "cotvalve conversation 2"),
        ("\"alpha\":\"0\"", "\"alpha\":\"nan\""),
        ("\"scope\":\"all\"", "\"scope\":\"some\""),
        ("\"temp\":\"0\"", "\"temp\":\"-1\""),
        ("\"temp\"", "\"warmth\""),
        ("\"role\"", "\"rule\""),
        ("\"limit\"", "\"tired\""),
    ] {
        assert!(good.contains(from), "{from} is not in {good}");
        bad.push(good.replace(from, to).into());
    }
    let names: Vec<String> = (0..bad.len()).map(|i| folder.write(&format!("{i}.json"), &bad[i])).collect();
    let loads: String = names.iter().map(|name| format!("/load {name}\n")).collect();
    let missing = folder.path("missing/x.json");
    let input = format!("the hint\n{loads}/load {missing}\n/load\n/save {missing}\n/regen\n");
    let (answers, said) = chat(&folder, &[], &input);
    assert_eq!(answers, told.repeat(2));
    assert_eq!(said.len(), names.len() + 3, "{said:?}");
    for (line, name) in said.iter().zip(&names) {
        assert!(line.starts_with("valve: ") && line.contains(name), "{line} does not name {name}");
    }
}
