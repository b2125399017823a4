use crate::error::Result;
pub struct Message { pub role: String, pub content: String }
impl Message { pub fn new(r: &str, c: &str) -> Self { Self { role: r.into(), content: c.into() } } }
pub struct Template;
impl Template { pub fn new(_: &str, _: &str, _: &str) -> Result<Self> { Ok(Self) } pub fn render(&self, m: &[Message], _: bool) -> Result<String> { Ok(m.iter().map(|m| m.content.clone()).collect()) } }
