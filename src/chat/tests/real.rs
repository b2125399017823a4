//! Real templates, which are not ours to store: `COTVALVE_TEST_TEMPLATES` names a folder that has them.

use super::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::Path;

/// tests/data/chat/conversations.json
#[derive(Deserialize)]
struct Conversations {
    now: u64,
    bos_token: String,
    eos_token: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Json>,
    #[serde(default)]
    tools: Vec<Json>,
    add_generation_prompt: Option<bool>,
    #[serde(default)]
    kwargs: serde_json::Map<String, Json>,
}

/// tests/data/chat/templates.json
#[derive(Deserialize)]
struct Expected {
    templates: std::collections::BTreeMap<String, Marks>,
}

/// A mark is length and hash of a file or text; none stands for a refusal.
#[derive(Deserialize)]
struct Marks {
    file: String,
    texts: Vec<Option<String>>,
}

fn mark(data: &[u8]) -> String {
    let hash: String = Sha256::digest(data)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hash}:{}", data.len())
}

fn stored<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

impl Conversations {
    fn render(&self, template: &Template, case: &Case) -> Result<String> {
        let options = RenderOptions {
            add_generation_prompt: case.add_generation_prompt.unwrap_or(true),
            tools: case.tools.clone(),
            variables: case.kwargs.clone(),
            now: Some(self.now),
            ..RenderOptions::default()
        };
        template.render_json(case.messages.clone(), &options)
    }
}

/// What minijinja does otherwise than jinja2, and the conversations of which a template shows it.
const OTHERWISE: [(&str, usize); 2] = [
    // It writes what `map` leaves as JSON, which Python refuses.
    ("llama-cpp-deepseek-r1.jinja", 14),
    // `safe` makes jinja2 escape, as HTML, all text that is added to what is safe, though escaping is off.
    ("meetkai-functionary-medium-v3.1.jinja", 14),
];

#[test]
fn real_templates_render_what_jinja2_makes_of_them() {
    let Some(folder) = std::env::var_os("COTVALVE_TEST_TEMPLATES") else {
        println!("skipped: COTVALVE_TEST_TEMPLATES names no folder of templates");
        return;
    };
    let (conversations, expected): (Conversations, Expected) = (stored("conversations.json"), stored("templates.json"));
    println!("| template | equal | of them refused by both | not equal |\n|---|---|---|---|");
    let mut otherwise = Vec::new();
    for (name, marks) in &expected.templates {
        let source = std::fs::read(Path::new(&folder).join(name)).unwrap();
        assert_eq!(mark(&source), marks.file, "{name} is not the file that jinja2 was given");
        let source = String::from_utf8(source).unwrap();
        let template = Template::new(&source, &conversations.bos_token, &conversations.eos_token).unwrap();
        let (mut equal, mut refused, mut unequal) = (0, 0, Vec::new());
        for (case, expected) in conversations.cases.iter().zip(&marks.texts) {
            let text = conversations.render(&template, case).ok().map(|text| mark(text.as_bytes()));
            equal += usize::from(text == *expected);
            refused += usize::from(text.is_none() && expected.is_none());
            unequal.extend((text != *expected).then_some(&*case.name));
        }
        println!("| {name} | {equal} | {refused} | {} |", unequal.join(", "));
        if !unequal.is_empty() {
            otherwise.push((&**name, unequal.len()));
        }
    }
    assert_eq!(otherwise, OTHERWISE);
    let (all, equal) = (expected.templates.len(), expected.templates.len() - otherwise.len());
    println!("{equal} of {all} templates render all {} conversations as jinja2 does", conversations.cases.len());
}

/// A thought in the history is where the template looks for it, or the template drops it: no template is given text
/// that it takes for something else.
#[test]
fn real_templates_find_the_thought_of_an_earlier_answer() {
    let Some(folder) = std::env::var_os("COTVALVE_TEST_TEMPLATES") else {
        println!("skipped: COTVALVE_TEST_TEMPLATES names no folder of templates");
        return;
    };
    let expected: Expected = stored("templates.json");
    let turns = [Message::new("user", "How much?"), Message::assistant("3 times 4.", "It is 12.")];
    let mut found = 0;
    for name in expected.templates.keys() {
        let source = std::fs::read_to_string(Path::new(&folder).join(name)).unwrap();
        let template = Template::new(&source, "<s>", "</s>").unwrap();
        let Ok(text) = template.render(&turns, false) else { continue };
        let thought = text.rfind("3 times 4.");
        let answer = text.rfind("It is 12.").unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(thought.is_none_or(|thought| thought < answer), "{name}: {text}");
        found += usize::from(thought.is_some());
        println!("{name}: {}", if thought.is_some() { "kept" } else { "dropped" });
    }
    assert!(found >= 30, "{found}");
}

/// The budget of work is no limit to a long conversation: 1000 messages, with tools.
#[test]
fn real_templates_render_long_conversations() {
    let Some(folder) = std::env::var_os("COTVALVE_TEST_TEMPLATES") else {
        println!("skipped: COTVALVE_TEST_TEMPLATES names no folder of templates");
        return;
    };
    let conversations: Conversations = stored("conversations.json");
    let expected: Expected = stored("templates.json");
    let tools = conversations.cases.iter().find(|case| case.name == "tools").unwrap().tools.clone();
    for name in expected.templates.keys() {
        let source = std::fs::read_to_string(Path::new(&folder).join(name)).unwrap();
        let template = Template::new(&source, "<s>", "</s>").unwrap();
        let turn = |i| [Message::new("user", format!("question {i}")), Message::assistant("hm", format!("answer {i}"))];
        let render = |turns: usize| {
            let mut messages: Vec<Message> = (0..turns).flat_map(turn).collect();
            messages.push(Message::new("user", "the last question"));
            template.render_with(&messages, &RenderOptions { tools: tools.clone(), ..RenderOptions::answer() })
        };
        if render(1).is_err() {
            println!("{name} refuses such conversations");
            continue;
        }
        let start = std::time::Instant::now();
        let text = render(500).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains("the last question"), "{name}");
        println!("{name}: {:?}", start.elapsed());
    }
}
