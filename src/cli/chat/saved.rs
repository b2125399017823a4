//! Conversations in files.

use super::conversation::Turn;
use super::timeline::{Kept, Timeline};
use super::{Talk, settings};
use cotvalve::engine::Session;
use cotvalve::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

const FORMAT: &str = "cotvalve conversation 1";
/// Says in the file of a cache what it belongs to.
const NOTE: &str = "the cache of a cotvalve conversation";
/// Longest file that is read.
const BYTES_MAX: u64 = 64 << 20;

/// What a file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    format: String,
    /// The model's file, for whoever reads this one.
    model: String,
    alpha: String,
    scope: String,
    /// As `/set` takes them; lists and grammars are not kept.
    sampling: BTreeMap<String, String>,
    messages: Vec<Turn>,
    /// The tokens that the conversation was drawn as, so that it goes on as it would have.
    #[serde(default)]
    timeline: Kept,
}

/// Writes the conversation to `path`, and says so.
pub(super) fn save(talk: &mut Talk<'_>, path: &Path) -> Result<String> {
    let saved = Saved {
        format: FORMAT.into(),
        model: talk.loaded.engine.model().path().display().to_string(),
        alpha: talk.loaded.alpha(),
        scope: settings::scope(talk.loaded.scope),
        sampling: settings::plain_fields(&talk.sampling).collect(),
        messages: talk.conversation.turns.clone(),
        timeline: talk.conversation.timeline.keep(),
    };
    let io = |source| Error::Io { path: path.into(), source };
    let text = serde_json::to_string(&saved).map_err(|e| io(e.into()))?;
    write(path, &(text + "\n")).map_err(io)?;
    let said = format!("{} messages saved in {}", saved.messages.len(), path.display());
    if talk.conversation.session.tokens().is_empty() {
        return Ok(said);
    }
    // The conversation is safe without it.
    let cache = cache_of(path);
    Ok(match talk.conversation.session.save(&cache, NOTE) {
        Ok(()) => format!("{said}, their cache in {}", cache.display()),
        Err(error) => format!("{said}, without their cache: {error}"),
    })
}

/// The file beside a conversation's that holds its cache.
fn cache_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".kv");
    name.into()
}

/// Reads the cache beside a conversation, if there is one. Without it the conversation is computed again; what does
/// not belong to it is found out by its tokens and openings.
fn load_cache(session: &mut Session, path: &Path) -> String {
    let cache = cache_of(path);
    if !cache.exists() {
        return String::new();
    }
    match session.load(&cache) {
        Ok(_) => format!(", {} tokens in the cache", session.tokens().len()),
        Err(error) => format!("; without its cache: {error}"),
    }
}

/// Puts a whole file in the place of `path`, or changes nothing.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.file_name().ok_or(std::io::ErrorKind::InvalidFilename)?.to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut file = std::fs::File::create(&part)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    drop(file);
    written.and_then(|()| std::fs::rename(&part, path)).inspect_err(|_| {
        std::fs::remove_file(&part).ok();
    })
}

/// Reads `path` in the place of the conversation; a file that says anything wrong changes nothing.
pub(super) fn load(talk: &mut Talk<'_>, path: &Path) -> Result<String> {
    let io = |source| Error::Io { path: path.into(), source };
    let malformed = |what: String| Error::Malformed { path: path.into(), what };
    let wrong = |error: Error| malformed(error.to_string());
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > BYTES_MAX {
        return Err(malformed(format!("{bytes} bytes; a conversation has at most {BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let saved: Saved = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
    if saved.format != FORMAT {
        return Err(malformed(format!("format {:?} is not {FORMAT:?}", saved.format)));
    }
    let mut sampling = talk.sampling.clone();
    for (name, value) in &saved.sampling {
        sampling.set(name, value).map_err(wrong)?;
    }
    let scope = settings::parse_scope(&saved.scope).map_err(wrong)?;
    let session = &mut talk.conversation.session;
    settings::turn(&mut talk.loaded, session, Some(&saved.alpha), scope).map_err(wrong)?;
    talk.sampling = sampling;
    let timeline = Timeline::of(saved.timeline, talk.loaded.engine.model().tokenizer());
    talk.conversation.replace(saved.messages, timeline);
    let messages = talk.conversation.turns.len();
    let cache = load_cache(&mut talk.conversation.session, path);
    Ok(format!("{messages} messages; alpha {}{cache}", settings::openings(&talk.loaded)))
}
