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

#[test]
fn real_templates_render_what_jinja2_makes_of_them() {
    let Some(folder) = std::env::var_os("COTVALVE_TEST_TEMPLATES") else {
        println!("skipped: COTVALVE_TEST_TEMPLATES names no folder of templates");
        return;
    };
    let (conversations, expected) =
        (stored::<Conversations>("conversations.json"), stored::<Expected>("templates.json"));
    let dump = std::env::var_os("COTVALVE_DUMP");
    let mut equal = 0;
    for (name, marks) in &expected.templates {
        let source = std::fs::read(Path::new(&folder).join(name)).unwrap();
        assert_eq!(mark(&source), marks.file, "{name} is of another release");
        let source = String::from_utf8(source).unwrap();
        let template = match Template::new(&source, &conversations.bos_token, &conversations.eos_token) {
            Ok(t) => t,
            Err(e) => {
                println!("{name}: {e}");
                continue;
            }
        };
        let mut unequal = Vec::new();
        for (case, expected) in conversations.cases.iter().zip(&marks.texts) {
            let text = conversations.render(&template, case);
            let ok = text.as_ref().ok().map(|text| mark(text.as_bytes())) == *expected;
            if !ok {
                unequal.push(format!(
                    "{}: {}",
                    case.name,
                    match &text {
                        Ok(_) =>
                            if expected.is_none() {
                                "not refused".into()
                            } else {
                                "differs".into()
                            },
                        Err(e) => e.to_string(),
                    }
                ));
                if let (Some(d), Ok(t)) = (&dump, &text) {
                    std::fs::write(Path::new(d).join(format!("{}.{}", name.trim_end_matches(".jinja"), case.name)), t)
                        .unwrap();
                }
            }
        }
        if unequal.is_empty() {
            equal += 1;
        }
        println!("{name} | {} of {} | {}", marks.texts.len() - unequal.len(), marks.texts.len(), unequal.join("; "));
    }
    println!("{equal} of {}", expected.templates.len());
}
