//! A template compiled to minijinja's instructions, with those replaced that the fuel does not see the cost of.

use super::{NAME, guard, syntax};
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, eval, make_string_output, parse};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use std::collections::BTreeMap;

/// No place in minijinja's table of filters that are looked up once.
const NOT_KEPT: u8 = u8::MAX;

pub(super) struct Program<'a> {
    main: Instructions<'a>,
    blocks: BTreeMap<&'a str, Instructions<'a>>,
}

impl<'a> Program<'a> {
    /// Compiles a template.
    pub fn new(source: &'a str) -> Result<Self, Error> {
        let template = parse(source, NAME, syntax()?)?;
        let mut generator = CodeGenerator::new(NAME, source);
        generator.compile_stmt(&template);
        let (main, blocks) = generator.finish();
        let blocks = blocks.iter().map(|(name, block)| Ok((*name, guard(block)?))).collect::<Result<_, Error>>()?;
        Ok(Self { main: guard(&main)?, blocks })
    }

    /// What it writes.
    pub fn run(&self, environment: &'a Environment<'a>, context: Value) -> Result<String, Error> {
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        eval(environment, &self.main, context, &self.blocks, &mut out, AutoEscape::None)?;
        Ok(text)
    }
}

/// The same instructions with guarded tests and filters in the place of operators that look into their operands.
fn guard<'a>(from: &Instructions<'a>) -> Result<Instructions<'a>, Error> {
    // A loop gains an instruction in front: where each instruction comes to stand.
    let mut places = Vec::new();
    let mut place = 0;
    for index in 0.. {
        let Some(instruction) = from.get(index) else { break };
        places.push(place);
        place += 1 + u32::from(matches!(instruction, Instruction::PushLoop(_)));
    }
    places.push(place);
    let mut to = Instructions::new(from.name(), from.source());
    for index in 0.. {
        let Some(instruction) = from.get(index) else { break };
        let line = from.get_line(index).and_then(|line| u16::try_from(line).ok()).unwrap_or(0);
        if let Instruction::PushLoop(_) = instruction {
            to.add_with_line(filter(guard::LOOP, 1), line);
        }
        to.add_with_line(replacement(instruction, |target| places[target as usize])?, line);
    }
    Ok(to)
}

/// What stands for an instruction; `moved` is where a jump's target went.
fn replacement<'a>(from: &Instruction<'a>, moved: impl Fn(u32) -> u32) -> Result<Instruction<'a>, Error> {
    let test = |name| Instruction::PerformTest(name, Some(2), NOT_KEPT);
    Ok(match from {
        Instruction::Eq => test("=="),
        Instruction::Ne => test("!="),
        Instruction::Lt => test("<"),
        Instruction::Lte => test("<="),
        Instruction::Gt => test(">"),
        Instruction::Gte => test(">="),
        Instruction::In => test("in"),
        Instruction::Add => Instruction::CallFunction(guard::ADD, Some(2)),
        Instruction::StringConcat => Instruction::CallFunction(guard::CONCAT, Some(2)),
        Instruction::GetItem => filter(guard::ITEM, 2),
        Instruction::BuildMap(pairs) => {
            filter(guard::MAP, u16::try_from(*pairs * 2).map_err(|_| refused("a dictionary of so many fields"))?)
        }
        Instruction::ApplyFilter(name, parts, kept) => match guard::guarded(name) {
            Some(name) => Instruction::ApplyFilter(name, *parts, NOT_KEPT),
            None => Instruction::ApplyFilter(name, *parts, *kept),
        },
        Instruction::CompareAndPreserve(_) => return Err(refused("a chain of comparisons")),
        Instruction::CallMethod("changed", _) => return Err(refused("loop.changed")),
        Instruction::Iterate(target) => Instruction::Iterate(moved(*target)),
        Instruction::Jump(target) => Instruction::Jump(moved(*target)),
        Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(moved(*target)),
        Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(moved(*target)),
        Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(moved(*target)),
        Instruction::BuildMacro(name, target, flags) => Instruction::BuildMacro(name, moved(*target), *flags),
        other => other.clone(),
    })
}

fn filter(name: &'static str, parts: u16) -> Instruction<'static> {
    Instruction::ApplyFilter(name, Some(parts), NOT_KEPT)
}

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::SyntaxError, format!("{what} is not supported"))
}
