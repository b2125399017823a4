//! What a conversation is made of, as the templates of Hugging Face transformers read it.

use serde_json::{Map, Value as Json, json};

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool` or what else the template knows.
    pub role: String,
    /// What is said; of an assistant, without its thought.
    pub content: String,
    /// What the assistant thought before it spoke (`reasoning_content`), without the tags.
    pub thought: Option<String>,
    /// The tools that the assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's answer: the tool.
    pub name: Option<String>,
    /// Of a tool's answer: the call that it answers.
    pub tool_call_id: Option<String>,
}

/// A call of a tool by the assistant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// What the tool's answer names; some templates ask for nine letters or digits.
    pub id: Option<String>,
    pub name: String,
    /// An object for most templates; a few want its JSON text, as a string.
    pub arguments: Json,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// An assistant's message from what was generated: what it thought, if anything, and what it said.
    pub fn assistant(thought: impl Into<String>, content: impl Into<String>) -> Self {
        let thought = Some(thought.into()).filter(|t| !t.is_empty());
        Self { thought, ..Self::new("assistant", content) }
    }

    /// The message in OpenAI's shape, with the thought where a template of this habit looks for it.
    pub(super) fn json(&self, habit: &ThoughtHabit) -> Json {
        let mut fields = Map::new();
        fields.insert("role".into(), json!(self.role));
        fields.insert("content".into(), json!(self.content));
        if let Some(thought) = &self.thought {
            match habit {
                ThoughtHabit::Field(name) => drop(fields.insert((*name).into(), json!(thought))),
                ThoughtHabit::Part => {
                    let parts = json!([
                        {"type": "thinking", "thinking": thought},
                        {"type": "text", "text": self.content},
                    ]);
                    fields.insert("content".into(), parts);
                }
                ThoughtHabit::Inside(open, close) => {
                    let text = format!("{open}\n{}\n{close}\n\n{}", thought.trim_matches('\n'), self.content);
                    fields.insert("content".into(), json!(text));
                }
                ThoughtHabit::Nowhere => {}
            }
        }
        if !self.tool_calls.is_empty() {
            fields.insert("tool_calls".into(), self.tool_calls.iter().map(ToolCall::json).collect());
        }
        for (key, value) in [("name", &self.name), ("tool_call_id", &self.tool_call_id)] {
            if let Some(value) = value {
                fields.insert(key.into(), json!(value));
            }
        }
        Json::Object(fields)
    }
}

impl ToolCall {
    fn json(&self) -> Json {
        let function = json!({"name": self.name, "arguments": self.arguments});
        match &self.id {
            Some(id) => json!({"id": id, "type": "function", "function": function}),
            None => json!({"type": "function", "function": function}),
        }
    }
}

/// Where a template looks for the thought of an earlier answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ThoughtHabit {
    /// In a field of the message.
    Field(&'static str),
    /// In a part of the content, of type `thinking`.
    Part,
    /// In the content, between these tags.
    Inside(String, String),
    /// It knows none; the thought is left out.
    Nowhere,
}

impl ThoughtHabit {
    /// Reads it off the template's source, which was found to have these tags.
    pub fn of(source: &str, tags: Option<(&str, &str)>) -> Self {
        let field = |name: &str| {
            [format!("message.{name}"), format!("msg.{name}"), format!("['{name}']"), format!("[\"{name}\"]")]
                .iter()
                .any(|access| source.contains(access))
        };
        if source.contains("block['thinking']") {
            return Self::Part;
        }
        for name in ["reasoning_content", "thinking", "reasoning", "thought"] {
            if field(name) {
                return Self::Field(name);
            }
        }
        match tags {
            Some((open, close)) => Self::Inside(open.into(), close.into()),
            None => Self::Nowhere,
        }
    }
}

/// What a conversation is rendered with, besides its messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RenderOptions {
    /// Ends the prompt where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Whether the model shall think, for templates that ask (`enable_thinking`, or `thinking`); `None` leaves it to
    /// them.
    pub thinking: Option<bool>,
    /// The tools that the model may call, each in OpenAI's shape
    /// (`{"type": "function", "function": {"name", "description", "parameters"}}`).
    pub tools: Vec<Json>,
    /// Variables for the template (`chat_template_kwargs`); these win over all others but the messages.
    pub variables: Map<String, Json>,
    /// The time that the template is told, in seconds since 1970; `None` for the clock's.
    pub now: Option<u64>,
}

impl RenderOptions {
    /// To have the model answer.
    pub fn answer() -> Self {
        Self { add_generation_prompt: true, ..Self::default() }
    }

    /// The context of a render.
    pub(super) fn context(&self, messages: Vec<Json>, bos_text: &str, eos_text: &str) -> Map<String, Json> {
        let mut context = Map::new();
        context.insert("bos_token".into(), json!(bos_text));
        context.insert("eos_token".into(), json!(eos_text));
        for name in ["enable_thinking", "thinking"] {
            if let Some(thinking) = self.thinking {
                context.insert(name.into(), json!(thinking));
            }
        }
        // transformers passes these two always.
        context.insert("tools".into(), if self.tools.is_empty() { Json::Null } else { json!(self.tools) });
        context.insert("documents".into(), Json::Null);
        context.insert("add_generation_prompt".into(), json!(self.add_generation_prompt));
        context.extend(self.variables.clone());
        context.insert("messages".into(), Json::Array(messages));
        context
    }
}
