mod real;
mod thought;

use super::*;
use serde::Deserialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};

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
        let error = run(source).expect_err(source);
        assert!(
            error.starts_with("chat template: ") && error.contains(line) && error.contains(cause),
            "{source}: {error}"
        );
    }
    let error = Template::new("x\n{% for %}", "", "").err().unwrap().to_string();
    assert!(error.contains("line 2") && error.contains("syntax error"), "{error}");
}

fn run(source: &str) -> std::result::Result<String, String> {
    let render = |template: Template| template.render(&messages(&[("user", "hi")]), true);
    Template::new(source, "", "").and_then(render).map_err(|error| error.to_string())
}

/// Runs a template that must fail, in time. Memory is bounded by the same fuel; the stack by the source's length.
fn refused(source: &str) -> String {
    let start = Instant::now();
    let error = run(source).expect_err(&source[..source.len().min(200)]);
    let time = start.elapsed();
    assert!(time < Duration::from_secs(1), "{time:?}: {}", &source[..source.len().min(200)]);
    error
}

#[test]
fn huge_loops_run_out_of_fuel() {
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{{ range(100000) | map('string') | join(range(100000) | join) }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = ns.x + [1] %}{% endfor %}",
    ] {
        let error = refused(source);
        assert!(error.contains("fuel"), "{error}");
    }
    assert!(refused("{% for i in range(1000000000) %}{% endfor %}").contains("range"));
}

#[test]
fn huge_strings_are_never_made() {
    let long = "{% set x = 'a' * 1000000 %}";
    for source in [
        "{{ 'a' * 1000000000 }}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}\
         {% set ns.x = y %}{% endfor %}"
            .into(),
        format!("{long}{{{{ range(100000) | join(x) }}}}"),
        format!("{long}{{{{ x.join(range(100000)) }}}}"),
        format!("{long}{{{{ x.replace('a', x) }}}}"),
        format!("{long}{{{{ x | replace('a', x) }}}}"),
        "{{ [1] | tojson(indent=4000000000) }}".into(),
        "{{ 'a\nb' | indent(4000000000) }}".into(),
        "{{ '{:>1000000000}'.format('a') }}".into(),
        "{{ ([1] * 1000000000) | length }}".into(),
    ] {
        refused(&source);
    }
}

#[test]
fn output_is_limited() {
    let error = refused("{% set x = 'a' * 100000 %}{% for i in range(11) %}{{ x }}{% endfor %}");
    assert!(error.contains("exceeds 1049"), "{error}");
    let long = "a".repeat(3 << 20);
    let text = smollm2().render(&messages(&[("user", &long)]), true).unwrap();
    assert!(text.len() > long.len(), "a long message is no reason to refuse");
}

/// Forty lists that each hold the one before twice would be written as 2⁴⁰ items.
#[test]
fn shared_lists_are_weighed_before_they_are_written() {
    let list = "{% set ns = namespace(x=[1], m={}) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    for write in [
        "{{ ns.x }}",
        "{% set y = ns.x | string %}",
        "{% set y = ns.x | tojson %}",
        "{% set y = {'a': ns.x} | tojson %}",
        "{% set y = [ns.x] | join %}",
        "{% set y = ''.join([ns.x]) %}",
        "{% set y = '{}'.format(ns.x) %}",
        "{% set y = [ns.x].count(ns.x) %}",
    ] {
        let error = refused(&format!("{list}{write}"));
        assert!(error.contains("too large to be written"), "{error}");
    }
}

#[test]
fn recursion_is_limited() {
    for source in [
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
    ] {
        refused(source);
    }
}

/// Sources nested as deeply as their length allows: an error or a text, and never a stack overflow.
#[test]
fn deep_sources_do_not_overflow_the_stack() {
    let fill = |unit: &str| unit.repeat((SOURCE_BYTES_MAX - 100) / unit.len());
    for (before, unit, after) in [
        ("{{ ", "(", "1 }}"),
        ("{{ ", "[", "1 }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ messages", ".a", " }}"),
        ("{{ messages", "[0]", " }}"),
        ("{{ messages", "()", " }}"),
        ("{{ 'x'", "|upper", " }}"),
        ("{{ 1", "+1", " }}"),
        ("{{ 1", "~1", " }}"),
        ("{{ 1", "**1", " }}"),
        ("{{ 1", " and 1", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{{ 1", "<1", " }}"),
        ("{% if 0 %}", "{% elif 0 %}", "{% endif %}"),
        ("", "{% if 1 %}", ""),
        ("", "{% for x in y %}", ""),
        ("", "{{", ""),
    ] {
        // One tag of all the source's length, and as many tags as fit of the length that is let through.
        let tag = format!("{before}{}{after}", unit.repeat(240));
        for source in [format!("{before}{}{after}", fill(unit)), tag.repeat(SOURCE_BYTES_MAX / tag.len())] {
            let start = Instant::now();
            let _ = run(&source);
            let time = start.elapsed();
            assert!(time < Duration::from_secs(1), "{unit:?}: {time:?}");
        }
    }
    assert_eq!(run(&format!("{{{{ 1{} }}}}", "+1".repeat(490))).unwrap(), "491");
    assert!(refused(&" ".repeat(SOURCE_BYTES_MAX + 1)).contains("131073 bytes"));
}
