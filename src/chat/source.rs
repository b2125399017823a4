//! A template's source before it is compiled.

use super::syntax;
use minijinja::machinery::{Token, tokenize};
use minijinja::{Error, ErrorKind};

/// Most tokens in one tag, and most `elif`s in a template: each may nest one level deeper, and folding constants takes
/// the square of that.
const TAG_TOKENS_MAX: usize = 1000;
const ELIFS_MAX: usize = 1000;

/// What a tag has, as far as it was read.
#[derive(Default)]
struct Tag {
    tokens: usize,
    /// A list written out.
    list: bool,
    /// `*`, which repeats a list without making it.
    repeats: bool,
    /// An operator that looks into its operands.
    looks: bool,
}

/// The source with the tags of transformers that mark the assistant's part (`generation`) as plain scopes.
///
/// # Errors
/// A tag would cost the parser or the folding of constants too much stack, time or memory.
pub(super) fn prepare(source: &str) -> Result<String, Error> {
    let (mut tag, mut elifs) = (Tag::default(), 0);
    let (mut prepared, mut copied) = (String::with_capacity(source.len()), 0);
    // The token before the one at hand.
    let mut last = None;
    for token in tokenize(source, false, syntax()?) {
        let (token, span) = token?;
        let scope = match (&last, &token) {
            (Some(Token::BlockStart), Token::Ident("generation")) => Some("with"),
            (Some(Token::BlockStart), Token::Ident("endgeneration")) => Some("endwith"),
            _ => None,
        };
        if let Some(scope) = scope {
            prepared += &source[copied..span.start_offset as usize];
            prepared += scope;
            copied = span.end_offset as usize;
        }
        match token {
            Token::VariableStart | Token::BlockStart => tag = Tag::default(),
            Token::Ident("elif") => elifs += 1,
            Token::BracketOpen => tag.list |= !ends_operand(last.as_ref()),
            Token::Mul => tag.repeats = true,
            Token::Eq | Token::Ne | Token::Gt | Token::Gte | Token::Lt | Token::Lte => tag.looks = true,
            Token::Tilde | Token::Ident("in") => tag.looks = true,
            _ => {}
        }
        tag.tokens += 1;
        if tag.tokens > TAG_TOKENS_MAX || elifs > ELIFS_MAX {
            return Err(refused(format!("more than {TAG_TOKENS_MAX} tokens in a tag, or {ELIFS_MAX} times elif")));
        }
        if tag.list && tag.repeats && tag.looks {
            return Err(refused("a repeated list is compared or searched where it is written".into()));
        }
        last = Some(token);
    }
    prepared += &source[copied..];
    Ok(prepared)
}

/// Whether a bracket after this token picks an item.
fn ends_operand(token: Option<&Token<'_>>) -> bool {
    use Token::{BraceClose, BracketClose, Ident, ParenClose, Str, String};
    match token {
        Some(Ident(name)) => !["in", "is", "not", "and", "or", "if", "else", "elif", "set"].contains(name),
        Some(Str(_) | String(_) | ParenClose | BracketClose | BraceClose) => true,
        _ => false,
    }
}

fn refused(what: String) -> Error {
    Error::new(ErrorKind::SyntaxError, what)
}
