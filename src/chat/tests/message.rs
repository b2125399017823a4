//! What a template is given.

use super::*;
use serde_json::json;

fn rendered(source: &str, messages: &[Message], options: &RenderOptions) -> String {
    Template::new(source, "<s>", "</s>").unwrap().render_with(messages, options).unwrap()
}

/// What a template that ends in a comment with this text is given for a message.
fn given(message: &Message, habit: &str) -> Json {
    let source = format!("{{{{ messages[0] | tojson }}}}{{# {habit} #}}");
    serde_json::from_str(&rendered(&source, std::slice::from_ref(message), &RenderOptions::default())).unwrap()
}

#[test]
fn messages_are_in_the_shape_of_openai() {
    let call = ToolCall { id: Some("c1".into()), name: "add".into(), arguments: json!({"b": 1, "a": 2.5}) };
    let asks = Message {
        tool_calls: vec![call, ToolCall { id: None, name: "now".into(), arguments: json!("{}") }],
        ..Message::assistant("", "")
    };
    assert_eq!(
        rendered("{{ messages[0] | tojson }}", &[asks], &RenderOptions::default()),
        "{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [\
         {\"id\": \"c1\", \"type\": \"function\", \"function\": \
         {\"name\": \"add\", \"arguments\": {\"b\": 1, \"a\": 2.5}}}, \
         {\"type\": \"function\", \"function\": {\"name\": \"now\", \"arguments\": \"{}\"}}]}"
    );
    let answer = Message { name: Some("add".into()), tool_call_id: Some("c1".into()), ..Message::new("tool", "3.5") };
    assert_eq!(given(&answer, ""), json!({"role": "tool", "content": "3.5", "name": "add", "tool_call_id": "c1"}));
}

#[test]
fn a_thought_goes_where_the_template_looks_for_it() {
    let message = Message::assistant("why", "so");
    for (habit, expected) in [
        ("message.reasoning_content", json!({"role": "assistant", "content": "so", "reasoning_content": "why"})),
        ("message['thinking'] <think>", json!({"role": "assistant", "content": "so", "thinking": "why"})),
        ("message.reasoning", json!({"role": "assistant", "content": "so", "reasoning": "why"})),
        ("content.split('</think>')", json!({"role": "assistant", "content": "<think>\nwhy\n</think>\n\nso"})),
        ("nothing", json!({"role": "assistant", "content": "so"})),
        (
            "[THINK] block['thinking']",
            json!({"role": "assistant", "content":
                [{"type": "thinking", "thinking": "why"}, {"type": "text", "text": "so"}]}),
        ),
    ] {
        assert_eq!(given(&message, habit), expected, "{habit}");
    }
    assert_eq!(given(&Message::assistant("", "so"), "<think>"), json!({"role": "assistant", "content": "so"}));
}

#[test]
fn tools_and_variables_are_passed_as_transformers_does() {
    let source = "{{ tools is none }} {{ documents is none }} {{ enable_thinking | default('unset') }}";
    assert_eq!(rendered(source, &[], &RenderOptions::answer()), "True True unset");
    let options = RenderOptions {
        thinking: Some(false),
        tools: vec![json!({"type": "function", "function": {"name": "f", "b": 1, "a": 2}})],
        variables: json!({"date_string": "1 May", "add_generation_prompt": 7}).as_object().unwrap().clone(),
        now: Some(1_763_901_296),
        ..RenderOptions::answer()
    };
    let source = "{{ tools | tojson }} {{ enable_thinking }} {{ thinking }} {{ date_string }} \
        {{ add_generation_prompt }} {{ strftime_now('%Y-%m-%d') }}";
    assert_eq!(
        rendered(source, &[], &options),
        "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"b\": 1, \"a\": 2}}] \
         False False 1 May 7 2025-11-23"
    );
}

#[test]
fn json_is_written_as_python_writes_it() {
    let write = |expression: &str| rendered(&format!("{{{{ {expression} }}}}"), &[], &RenderOptions::default());
    for (expression, expected) in [
        ("'é😀' | tojson(ensure_ascii=true)", "\"\\u00e9\\ud83d\\ude00\""),
        ("{'b': 1, 'a': [2]} | tojson(sort_keys=true, separators=(',', ':'))", "{\"a\":[2],\"b\":1}"),
        ("[1e20, 1e-5, 1.0, 100] | tojson", "[1e+20, 1e-05, 1.0, 100]"),
        ("[1e20, 'a', none, true, ('x',)]", "[1e+20, 'a', None, True, ('x',)]"),
        ("(1e20 | float) ~ none", "1e+20None"),
        ("[1] + [2, 3]", "[1, 2, 3]"),
        ("1 + 2.5", "3.5"),
    ] {
        assert_eq!(write(expression), expected, "{expression}");
    }
}

#[test]
fn loops_follow_python() {
    let write = |source: &str| Template::new(source, "", "").unwrap().render(&[], false).map_err(|e| e.to_string());
    assert_eq!(write("{% for x in missing %}{% else %}none{% endfor %}").unwrap(), "none");
    assert!(write("{% for x in none %}{% endfor %}").unwrap_err().contains("none is no list"));
    let nested = "{% for x in [1, 2, 3] recursive %}{% if x is iterable %}({{ loop(x) }})\
        {% elif x == 2 %}{% continue %}{% else %}{{ x }}{% endif %}{% if loop.last %}.{% endif %}{% endfor %}";
    assert_eq!(write(nested).unwrap(), "13.");
    assert_eq!(write(&nested.replace("[1, 2, 3]", "[1, [2, 3], 4]")).unwrap(), "1(3.)4.");
    let scope = "{% set a = 1 %}{%- generation -%} {{ a }}{% set a = 2 %} {%- endgeneration -%} {{ a }}";
    assert_eq!(write(scope).unwrap(), "11");
}
