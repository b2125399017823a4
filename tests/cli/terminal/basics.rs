//! Typing, stopping and turning.

use super::*;

#[test]
fn what_is_typed_is_answered_and_recalled() {
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &[]);
    let expected = on_screen(&folder.greedy(&[]));
    assert_eq!(answer(&terminal.say("the hint")), expected);
    terminal.say("/reset");
    // Two back in the history; then letters are put before the last one, and taken out.
    terminal.press(UP);
    terminal.wait("the last line", |t| t.line() == "> /reset");
    terminal.press(UP);
    terminal.wait("the line before", |t| t.line() == "> the hint");
    terminal.press(&format!("{LEFT}xy"));
    terminal.wait("the insertion", |t| t.line() == "> the hinxyt");
    terminal.press("\x7f\x7f");
    terminal.wait("the deletion", |t| t.line() == "> the hint");
    assert_eq!(answer(&terminal.enter()), expected);
    terminal.press(CTRL_D);
    assert_eq!(terminal.end(), 0);
    // The history outlives the program.
    let mut terminal = Terminal::chat(&folder, &[]);
    terminal.press(UP);
    terminal.wait("the last line of the last program", |t| t.line() == "> the hint");
}

#[test]
fn a_history_can_be_refused() {
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &["--no-history"]);
    terminal.say("the hint");
    terminal.press(UP);
    terminal.wait("the line", |t| t.line() == "> the hint");
    terminal.enter();
    terminal.press(CTRL_D);
    assert_eq!(terminal.end(), 0);
    assert!(!std::path::Path::new(&folder.path("state")).exists());
}

#[test]
fn several_lines_are_one_message() {
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &["-n", "2"]);
    terminal.write("one\\");
    terminal.press("\r");
    terminal.write("two");
    terminal.enter();
    terminal.write("\"\"\"/three");
    terminal.press("\r");
    terminal.write("four\\");
    terminal.press("\r");
    terminal.write("\"\"\"");
    terminal.enter();
    // What is pasted does not end at its newlines.
    terminal.press("\x1b[200~five\r\n  six\x1b[201~");
    terminal.wait("the pasted text", |t| t.line().trim_start() == "six");
    terminal.enter();
    let saved = saved(&mut terminal, &folder);
    let said = saved["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
    let said: Vec<_> = said.map(|message| message["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["one\ntwo", "/three\nfour\\", "five\n  six"]);
}

#[test]
fn ctrl_c_stops_an_answer_and_keeps_its_beginning() {
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &["-n", "1000000", "-c", "1001000"]);
    let row = terminal.row();
    terminal.write("the hint");
    terminal.press("\r");
    terminal.wait("the beginning", |t| t.row() > row + 2);
    terminal.press(CTRL_C);
    terminal.wait("the next prompt", Terminal::is_ready);
    terminal.wait_for("stopped · answered ");
    let saved = saved(&mut terminal, &folder);
    assert_eq!(saved["messages"][1]["end"], "stopped");
    let kept = saved["messages"][1]["content"].as_str().unwrap();
    let whole = folder.stdout("run", &["--temp", "0", "-n", "40", "-p", "the hint"]);
    let shared = kept.chars().zip(whole.chars()).take_while(|(a, b)| a == b).count();
    assert!(shared >= 100, "{kept:?} {whole:?}");
    // The conversation goes on from what was kept, in the cache.
    terminal.press("and the ring\r");
    terminal.wait_for("> and the ring");
    terminal.wait("more", |t| !t.line().contains("ring"));
    terminal.press(CTRL_C);
    terminal.wait("the next prompt", Terminal::is_ready);
    let stats = terminal.say("/stats").join("\n");
    let (before, _) = stats.split_once(" from the cache").unwrap();
    let cached: usize = before.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(cached > kept.split(' ').count(), "{stats}");
}

#[test]
fn ctrl_c_leaves_when_pressed_twice() {
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &[]);
    terminal.write("not sent");
    terminal.press(CTRL_C);
    terminal.wait_for("Ctrl-C once more leaves");
    terminal.wait("the next prompt", Terminal::is_ready);
    // Something in between, and it counts anew.
    assert_eq!(terminal.say("/stats"), ["no answer yet"]);
    terminal.press(CTRL_C);
    terminal.wait("the second hint", |t| t.screen().matches("once more").count() == 2);
    terminal.wait("the next prompt", Terminal::is_ready);
    terminal.press(CTRL_C);
    assert_eq!(terminal.end(), 0);
}

#[test]
fn the_valve_turns_and_the_question_is_answered_again() {
    let folder = readable(None);
    let valve = folder.path("a.gguf");
    let mut terminal = Terminal::chat(&folder, &["--valve", &valve]);
    let expected = |alpha| on_screen(&folder.greedy(&["--valve", &valve, "--alpha", alpha]));
    assert_eq!(answer(&terminal.say("the hint")), expected("0"));
    assert_eq!(answer(&terminal.say("/regen")), expected("0"));
    assert!(terminal.screen().contains("tokens/s · α 0 · "), "{}", terminal.screen());
    assert_eq!(terminal.say("/alpha 1"), ["alpha 1"]);
    let shown = terminal.say("/regen");
    assert_eq!(answer(&shown), expected("1"));
    assert!(shown.last().unwrap().contains("α 1 · 0 cached"), "{shown:?}");
    // The same opening again: all of the prompt but its last token is in the cache.
    let shown = terminal.say("/regen");
    assert_eq!(answer(&shown), expected("1"));
    assert!(!shown.last().unwrap().contains(" 0 cached"), "{shown:?}");
    assert_eq!(saved(&mut terminal, &folder)["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn the_last_question_can_be_edited() {
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &[]);
    terminal.say("and the ring");
    assert_eq!(answer(&terminal.say("/edit the hint")), on_screen(&folder.greedy(&[])));
    terminal.write("/edit");
    terminal.press("\r");
    terminal.wait("the question", |t| t.line() == "> the hint");
    terminal.press("\x7f");
    terminal.wait("the deletion", |t| t.line() == "> the hin");
    terminal.enter();
    let saved = saved(&mut terminal, &folder);
    assert_eq!(saved["messages"].as_array().unwrap().len(), 2);
    assert_eq!(saved["messages"][0]["content"], "the hin");
}
