//! One question, answered while a valve sets how long the model thinks.
//!
//! `cargo run --release --example answer -- MODEL.gguf REASONER.gguf VALVE.gguf 0.5 "How much is 3 times 4?"`

use cotvalve::chat::Message;
use cotvalve::engine::{Engine, EngineOptions};
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::valve::{Dial, Scope};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, reasoner, valve, alpha, question] = &args[..] else {
        return Err("usage: answer MODEL REASONER VALVE ALPHA QUESTION".into());
    };
    let model = Model::open(model)?;
    let engine = Engine::new(model.clone(), &EngineOptions::default())?;
    let (reasoner, valve) = (engine.attach(reasoner)?, engine.attach(valve)?);
    let mut session = engine.session();
    session.set(&reasoner, Dial::constant(1.0)?, Scope::All)?;
    session.set(&valve, Dial::constant(alpha.parse()?)?, Scope::All)?;
    let text = model.render_chat(&[Message::new("user", question.as_str())])?;
    session.prompt(&model.tokenizer().encode(&text, true, true)?)?;
    for event in session.generate(&Sampling::greedy(), 400)? {
        print!("{}", event?.text);
    }
    println!();
    Ok(())
}
