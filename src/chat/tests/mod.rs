mod hostile;
mod message;
mod real;
mod thought;

use super::*;
use serde::Deserialize;
use std::collections::HashMap;

const SMOLLM2: &str = include_str!("../../../tests/data/chat/smollm2.jinja");

#[derive(Deserialize)]
struct Expected {
    templates: HashMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<(String, String)>,
    prompt: bool,
    text: String,
}

fn messages(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
}

fn smollm2() -> Template {
    Template::new(SMOLLM2, "<|im_start|>", "<|im_end|>").unwrap()
}

#[test]
fn texts_equal_those_of_jinja2() {
    let expected: Expected = serde_json::from_str(include_str!("../../../tests/data/chat/expected.json")).unwrap();
    assert_eq!(expected.templates["smollm2"], SMOLLM2);
    assert!(expected.cases.len() >= 50);
    for case in &expected.cases {
        let template = Template::new(&expected.templates[&case.template], "<s>", "</s>").unwrap();
        let turns: Vec<Message> = case.messages.iter().map(|(r, c)| Message::new(r, c)).collect();
        let text = template.render(&turns, case.prompt).unwrap();
        assert_eq!(text, case.text, "{} {:?}", case.template, case.messages);
    }
}

#[test]
fn a_turn_appends_to_what_was_rendered() {
    let template = smollm2();
    let turns =
        messages(&[("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "")]);
    for known in 0..=turns.len() {
        let before = if known == 0 { String::new() } else { template.render(&turns[..known], false).unwrap() };
        for more in known..=turns.len() {
            if more == 0 {
                continue;
            }
            let whole = template.render(&turns[..more], true).unwrap();
            assert!(whole.starts_with(&before), "{known} of {more}");
            let appended = template.appended(&turns[..more], known, true).unwrap();
            assert_eq!(before.clone() + &appended.unwrap(), whole);
        }
    }
    let appended = template.appended(&turns[..3], 2, true).unwrap().unwrap();
    assert_eq!(appended, "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n");
    assert!(template.appended(&turns, 6, true).is_err());
}

#[test]
fn a_template_that_rewrites_the_past_says_so() {
    let template =
        Template::new("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "", "").unwrap();
    assert_eq!(template.appended(&messages(&[("user", "a"), ("user", "b")]), 1, false).unwrap(), None);
}

#[test]
fn markup_is_left_alone() {
    let template = Template::new("{{ messages[0].content }}{{ messages[0] | tojson }}", "", "").unwrap();
    let text = template.render(&messages(&[("user", "<a&'b'>\"")]), false).unwrap();
    assert_eq!(text, r#"<a&'b'>"{"role": "user", "content": "<a&'b'>\""}"#);
}

#[test]
fn the_date_can_be_asked_for() {
    let template = Template::new("{{ strftime_now('%Y') }}", "", "").unwrap();
    assert!(template.render(&[], false).unwrap().parse::<u32>().unwrap() >= 2025);
}

#[test]
fn errors_name_cause_and_line() {
    let cases = [
        ("\n\n{{ raise_exception('roles must alternate') }}", "line 3", "roles must alternate"),
        ("a\n{{ messages[0].content.x.y }}", "line 2", "undefined"),
        ("{{ 1 + 'a' }}", "line 1", "unsupported types"),
        ("\n{{ messages | no_such_filter }}", "line 2", "no_such_filter"),
        ("{{ strftime_now('%Q') }}", "line 1", "%Q"),
        ("{{ messages[0].content.no_such_method() }}", "line 1", "no_such_method"),
        ("{% include '/etc/passwd' %}", "line 1", "/etc/passwd"),
        ("{% import 'other' as other %}", "line 1", "other"),
    ];
    for (source, line, cause) in cases {
        let error = hostile::run(source).expect_err(source);
        assert!(
            error.starts_with("chat template: ") && error.contains(line) && error.contains(cause),
            "{source}: {error}"
        );
    }
    let error = Template::new("x\n{% for %}", "", "").err().unwrap().to_string();
    assert!(error.contains("line 2") && error.contains("syntax error"), "{error}");
}
