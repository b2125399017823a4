//! Conversations that outlive the program.

use super::*;

#[test]
fn a_saved_conversation_goes_on_in_another_program() {
    let folder = readable(None);
    let valve = folder.path("a.gguf");
    let args = ["--valve", &*valve, "--temp", "1", "-s", "3"];
    let mut first = Terminal::chat(&folder, &args);
    first.say("/alpha 0.5");
    first.say("/scope generation");
    first.say("/set top-k 7");
    first.say("the hint");
    let file = folder.path("told.json");
    assert!(first.say(&format!("/save {file}"))[0].starts_with("2 messages saved in "));
    let whole = answer(&first.say("and the ring"));
    // In the middle of a text whose tokens nobody would choose, and without computing any of it again.
    let mut second = Terminal::chat(&folder, &args);
    let said = second.say(&format!("/load {file}")).join("");
    assert!(said.starts_with("2 messages; alpha 0.5, ") && said.ends_with(" tokens in the cache"), "{said}");
    assert_eq!(second.say("/scope"), ["scope generation"]);
    assert!(second.say("/set").contains(&"top-k 7".to_owned()));
    let shown = second.say("and the ring");
    assert_eq!(answer(&shown), whole);
    assert!(!shown.last().unwrap().ends_with(" 0 cached"), "{shown:?}");
    assert_ne!(answer(&second.say("/edit the ring")), whole);
    // Without the cache it is computed again, and with one that is damaged too.
    for damaged in [false, true] {
        std::fs::remove_file(format!("{file}.kv")).unwrap();
        if damaged {
            std::fs::write(format!("{file}.kv"), "no cache").unwrap();
        }
        let mut third = Terminal::chat(&folder, &args);
        let said = third.say(&format!("/load {file}")).join("");
        assert_eq!(said.contains("without its cache: "), damaged, "{said}");
        let shown = third.say("and the ring");
        assert_eq!(answer(&shown), whole);
        assert!(shown.last().unwrap().ends_with(" 0 cached"), "{shown:?}");
        std::fs::write(format!("{file}.kv"), "").unwrap();
    }
}
