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
    let mut second = Terminal::chat(&folder, &args);
    assert_eq!(second.say(&format!("/load {file}")), ["2 messages; alpha 0.5"]);
    assert_eq!(second.say("/scope"), ["scope generation"]);
    assert!(second.say("/set").contains(&"top-k 7".to_owned()));
    assert_eq!(answer(&second.say("and the ring")), whole);
    assert_ne!(answer(&second.say("/edit the ring")), whole);
}
