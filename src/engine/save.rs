//! A session in a file: its timeline, the openings it was computed with, and its keys and values.

use super::core::{Core, SequenceId};
use super::openings::Openings;
use super::session::Session;
use crate::error::{Error, Result};
use crate::gguf::write::{Data, Writer};
use crate::gguf::{Gguf, StoredType, Strings};
use crate::kv::{PAGE_LEN, Pages};
use crate::model::Model;
use crate::valve::{Adapter, Origins};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::path::Path;

const VERSION: u32 = 1;
const KIND: &str = "session";
const KV: &str = "kv";
const HASH: &str = "sha256";
/// `ggml_type` of a signed byte.
const I8: u32 = 24;

fn key(name: &str) -> String {
    format!("valve.session.{name}")
}

/// A refusal; `what` starts with the field at fault.
fn refuse(path: &Path, what: impl Into<String>) -> Error {
    Error::Session { path: path.to_path_buf(), what: what.into() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All that a file says but for the keys and values.
#[derive(Debug, PartialEq)]
struct Record {
    model: String,
    precision: String,
    cache_type: String,
    tokens: Vec<u32>,
    generated_from: u32,
    thought: Vec<u32>,
    forgotten: u32,
    adapters: Vec<String>,
    adapter_names: Vec<String>,
    openings: Vec<f32>,
    sets: Vec<u32>,
    note: String,
    /// `[head_dim, kv_heads, 2 · layers, positions]`
    shape: [usize; 4],
}

impl Record {
    fn read(gguf: &Gguf) -> Result<Self> {
        let path = gguf.path();
        if gguf.str("general.type")? != Some(KIND) {
            return Err(refuse(path, "general.type: it is no saved session"));
        }
        let version = gguf.require(&key("version"), Gguf::u32)?;
        if version != VERSION {
            return Err(refuse(path, format!("version: {version}, and this program reads {VERSION}")));
        }
        let str = |name| gguf.require(&key(name), Gguf::str).map(str::to_owned);
        let u32 = |name| gguf.require(&key(name), Gguf::u32);
        let u32s = |name| gguf.require(&key(name), Gguf::u32s).map(|v| v.into_owned());
        let strings = |name| -> Result<Vec<String>> {
            Ok(gguf.require(&key(name), Gguf::strings)?.iter().map(str::to_owned).collect())
        };
        let kv = gguf.info(KV).ok_or_else(|| refuse(path, "kv: the tensor is missing"))?;
        Ok(Self {
            model: str("model")?,
            precision: str("precision")?,
            cache_type: str("cache_type")?,
            tokens: u32s("tokens")?,
            generated_from: u32("generated_from")?,
            thought: u32s("thought")?,
            forgotten: u32("forgotten")?,
            adapters: strings("adapters")?,
            adapter_names: strings("adapter_names")?,
            openings: gguf.require(&key("openings"), Gguf::f32s)?.into_owned(),
            sets: u32s("sets")?,
            note: str("note")?,
            shape: kv.dims.clone().try_into().map_err(|_| refuse(path, "kv: it has not four dimensions"))?,
        })
    }

    fn write_to(&self, writer: &mut Writer<'_>) -> Result<()> {
        let strings = |items: &[String]| items.iter().collect::<Strings>();
        writer.set("general.type", KIND)?;
        writer.set(&key("version"), VERSION)?;
        writer.set(&key("model"), &*self.model)?;
        writer.set(&key("precision"), &*self.precision)?;
        writer.set(&key("cache_type"), &*self.cache_type)?;
        writer.set(&key("tokens"), self.tokens.clone())?;
        writer.set(&key("generated_from"), self.generated_from)?;
        writer.set(&key("thought"), self.thought.clone())?;
        writer.set(&key("forgotten"), self.forgotten)?;
        writer.set(&key("adapters"), strings(&self.adapters))?;
        writer.set(&key("adapter_names"), strings(&self.adapter_names))?;
        writer.set(&key("openings"), self.openings.clone())?;
        writer.set(&key("sets"), self.sets.clone())?;
        writer.set(&key("note"), &*self.note)
    }

    /// A hash of everything, each field behind its length.
    fn hash(&self) -> Sha256 {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        let words = |items: &[u32]| items.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        [&self.model, &self.precision, &self.cache_type, &self.note].into_iter().for_each(|s| add(s.as_bytes()));
        add(&words(&self.tokens));
        add(&words(&self.thought));
        add(&words(&[VERSION, self.generated_from, self.forgotten, self.adapters.len() as u32]));
        self.adapters.iter().chain(&self.adapter_names).for_each(|s| add(s.as_bytes()));
        add(&words(&self.openings.iter().map(|v| v.to_bits()).collect::<Vec<_>>()));
        add(&words(&self.sets));
        add(&self.shape.iter().flat_map(|n| (*n as u64).to_le_bytes()).collect::<Vec<u8>>());
        hash
    }

    /// Slots of the adapters in this record.
    fn slots(&self) -> usize {
        let sets = self.sets.iter().max().map_or(0, |set| *set as usize + 1);
        self.openings.len() / sets.max(1)
    }

    /// Whether it is one of this model, and agrees with itself.
    fn check(&self, path: &Path, expected: &Self) -> Result<()> {
        for (name, found, wanted) in [
            ("model", &self.model, &expected.model),
            ("precision", &self.precision, &expected.precision),
            ("cache_type", &self.cache_type, &expected.cache_type),
        ] {
            if found != wanted {
                return Err(refuse(path, format!("{name}: saved with {found:?}, and this engine has {wanted:?}")));
            }
        }
        let (positions, len) = (self.shape[3], self.tokens.len());
        if self.shape[..3] != expected.shape[..3] {
            return Err(refuse(path, format!("kv: shape {:?}, and the cache has {:?}", self.shape, expected.shape)));
        }
        if positions > len || self.sets.len() < positions || self.sets.len() > len {
            let sets = self.sets.len();
            return Err(refuse(path, format!("sets: {sets} for {positions} positions in the cache of {len} tokens")));
        }
        let sets = self.sets.iter().max().map_or(0, |set| *set as usize + 1);
        if self.slots().checked_mul(sets) != Some(self.openings.len()) {
            return Err(refuse(path, format!("openings: {} values for {sets} sets", self.openings.len())));
        }
        if let Some(alpha) = self.openings.iter().find(|alpha| !alpha.is_finite()) {
            return Err(refuse(path, format!("openings: {alpha} is not a finite number")));
        }
        if self.thought.len() != 2 {
            return Err(refuse(
                path,
                format!("thought: {} values, and a start and an end are wanted", self.thought.len()),
            ));
        }
        if self.adapters.len() != self.adapter_names.len() {
            return Err(refuse(path, "adapter_names: not one for each adapter"));
        }
        Ok(())
    }
}

impl Session {
    /// Writes the timeline, its openings, and its keys and values to a file, with a `note` of the caller's that
    /// [`Session::load`] gives back. Under a temporary name in the same folder first, then synced and renamed: so
    /// `path` has its old content or all of the new. The engine's other sessions wait.
    ///
    /// # The file
    /// It is a GGUF, so any tool that lists one lists it.
    ///
    /// | key `valve.session.` | what it holds |
    /// |---|---|
    /// | `version` | 1 |
    /// | `model` | SHA-256 of the model's file, in hex ([`Model::fingerprint`]) |
    /// | `precision`, `cache_type` | what the keys and values were computed and are stored with |
    /// | `tokens` | the timeline |
    /// | `generated_from` | where the answer starts |
    /// | `thought` | where its thought starts and ends |
    /// | `forgotten` | how many tokens were forgotten to make room |
    /// | `adapters` | content hashes of those that were open at some token, in the order of their slots |
    /// | `adapter_names` | what their files were called |
    /// | `openings` | `[sets, slots]`: the sets of openings that occur, −0 as 0 |
    /// | `sets` | for each token that was computed, or is to be again as it was, which set it has |
    /// | `note` | what the caller wants to find again |
    ///
    /// Tensor `kv`, `[head_dim, kv_heads, 2 · layers, positions]` of the cache's type, has the keys and the values of
    /// each layer, in turn, position by position; positions beyond those are not computed. Tensor `sha256` is the
    /// hash of all of this. No padding has a meaning, nothing depends on the machine.
    ///
    /// Dials are not in the file: what counts for the cache is what was used, and what comes next is the caller's.
    ///
    /// # Errors
    /// [`Error::Argument`] if nothing is computed yet; [`Error::Io`]; a device's error.
    pub fn save(&mut self, path: impl AsRef<Path>, note: &str) -> Result<()> {
        let model = self.engine().model().clone();
        self.engine().lock().save(self.id(), path.as_ref(), &model, note)
    }

    /// Makes the timeline the one of a file that [`Session::save`] wrote, and returns its note. What comes next has
    /// the bits that it would have had if it had not been saved, at the same dials; those are not in the file, and
    /// stand as they are. What is loaded is not shared with other sessions: a file may say what it likes.
    ///
    /// # Errors
    /// [`Error::Session`] naming the field, for a file of another model, precision or type of cache, or with
    /// openings of adapters that are not attached in that order; [`Error::Malformed`] for one that is damaged;
    /// [`Error::ContextFull`], [`Error::CacheFull`]. The session is then unchanged. After a device's error it is
    /// empty.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<String> {
        let gguf = Gguf::open(path.as_ref())?;
        let model = self.engine().model().clone();
        self.engine().lock().load(self.id(), &gguf, &model)
    }
}

impl Core {
    fn save(&mut self, id: SequenceId, path: &Path, model: &Model, note: &str) -> Result<()> {
        let computed = self.sequence(id).computed;
        if computed == 0 {
            return Err(Error::argument("session", "nothing is computed that could be saved"));
        }
        let record = self.describe(id, model, note);
        let (ty, position_bytes) = (self.limits.kv_type, self.position_bytes(&record));
        let hash = RefCell::new(record.hash());
        let Self { sequences, stage, .. } = self;
        let table = &sequences[id].as_ref().expect("a session outlived its sequence").pages;
        let pages = (0..computed).step_by(PAGE_LEN).zip(table).map(|(first, page)| {
            let mut bytes = vec![0; PAGE_LEN.min(computed - first) * position_bytes];
            stage.read_page(*page, &mut bytes)?;
            hash.borrow_mut().update(&bytes);
            Ok(bytes)
        });
        // Asked for when all pages are written.
        let sum = std::iter::once_with(|| Ok(hash.borrow().clone().finalize().to_vec()));
        let mut writer = Writer::new();
        record.write_to(&mut writer)?;
        writer.tensor(KV, ty as u32, &record.shape, Data::Chunks(Box::new(pages)))?;
        writer.tensor(HASH, I8, &[Sha256::output_size()], Data::Chunks(Box::new(sum)))?;
        writer.write(path)
    }

    fn load(&mut self, id: SequenceId, gguf: &Gguf, model: &Model) -> Result<String> {
        let path = gguf.path();
        let record = Record::read(gguf)?;
        record.check(path, &self.describe(id, model, ""))?;
        let (Some(kv), Some(sum)) = (gguf.info(KV), gguf.info(HASH)) else {
            return Err(refuse(path, "sha256: the tensor is missing"));
        };
        if StoredType::from_id(self.limits.kv_type as u32) != Some(kv.ty) {
            return Err(refuse(path, format!("kv: it is of type {}", kv.ty)));
        }
        if *sum.data != *record.hash().chain_update(&*kv.data).finalize() {
            return Err(Error::malformed(path, "the content does not have the hash that the file gives it"));
        }
        record.tokens.iter().try_for_each(|token| self.check_token(*token))?;
        let context = self.limits.context;
        // The last token may have been drawn in a context that was full.
        if record.tokens.len() > context + 1 || record.shape[3] > context {
            return Err(Error::ContextFull { needed: record.tokens.len(), capacity: context });
        }
        let slots = self.slots_of(path, &record)?;
        self.install(id, &record, &slots, &kv.data)?;
        Ok(record.note)
    }

    /// What a file of this sequence says.
    fn describe(&mut self, id: SequenceId, model: &Model, note: &str) -> Record {
        let (config, limits) = (model.config(), self.limits);
        let adapters = self.adapters().to_vec();
        let s = self.sequence(id);
        let rows: Vec<&[f32]> = (0..s.tokens.len()).map_while(|position| s.known_row(position)).collect();
        let mut first = 0;
        let (mut open, mut columns) = (Vec::new(), Vec::new());
        for adapter in &adapters {
            let slots = first..first + adapter.parts().len();
            first = slots.end;
            if rows.iter().any(|row| row[slots.clone()].iter().any(|alpha| *alpha != 0.0)) {
                columns.extend(slots);
                open.push(adapter);
            }
        }
        let (mut openings, mut sets) = (Vec::new(), Vec::with_capacity(rows.len()));
        for (position, row) in rows.iter().enumerate() {
            let before = position.checked_sub(1).map(|before| rows[before]);
            if before != Some(*row) {
                openings.extend(columns.iter().map(|slot| row[*slot]));
            }
            let last = sets.last().copied();
            sets.push(last.map_or(0, |set: u32| set + u32::from(before != Some(*row))));
        }
        let name = |adapter: &&Adapter| adapter.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let open: Vec<&Adapter> = open.into_iter().map(|adapter| &**adapter).collect();
        Record {
            model: hex(&model.fingerprint()),
            precision: format!("{:?}", limits.precision).to_lowercase(),
            cache_type: limits.kv_type.name().to_owned(),
            tokens: s.tokens.clone(),
            generated_from: s.origins.generation,
            thought: vec![s.origins.thought.0, s.origins.thought.1],
            forgotten: s.forgotten as u32,
            adapters: open.iter().map(|adapter| hex(adapter.content_hash())).collect(),
            adapter_names: open.iter().map(name).collect(),
            openings,
            sets,
            note: note.to_owned(),
            shape: [config.heads.head_dim, config.heads.kv_heads, 2 * config.layers, s.computed],
        }
    }

    /// Bytes of the keys and values of one position.
    fn position_bytes(&self, record: &Record) -> usize {
        let [head_dim, kv_heads, halves, _] = record.shape;
        self.limits.kv_type.row_bytes(head_dim).unwrap_or_default() * kv_heads * halves
    }

    /// Which slots of this engine the slots of a record are.
    fn slots_of(&self, path: &Path, record: &Record) -> Result<Vec<usize>> {
        let hashes: Vec<String> = self.adapters().iter().map(|adapter| hex(adapter.content_hash())).collect();
        let (mut next, mut slots) = (0, Vec::new());
        for (hash, name) in record.adapters.iter().zip(&record.adapter_names) {
            let Some(found) = (next..hashes.len()).find(|i| hashes[*i] == *hash) else {
                let why = if hashes.contains(hash) { "attached in another order" } else { "not attached" };
                return Err(refuse(path, format!("adapters: {name:?} ({hash}) is {why}")));
            };
            let parts = |adapters: &[std::sync::Arc<Adapter>]| adapters.iter().map(|a| a.parts().len()).sum::<usize>();
            slots.extend(parts(&self.adapters()[..found])..parts(&self.adapters()[..=found]));
            next = found + 1;
        }
        if slots.len() != record.slots() {
            let what = format!("openings: sets of {} for {} slots of the adapters", record.slots(), slots.len());
            return Err(refuse(path, what));
        }
        Ok(slots)
    }

    /// Makes a record that was checked the timeline of `id`.
    fn install(&mut self, id: SequenceId, record: &Record, slots: &[usize], kv: &[u8]) -> Result<()> {
        let (positions, position_bytes) = (record.shape[3], self.position_bytes(record));
        let Self { sequences, pages, stage, thoughts, .. } = self;
        let s = sequences[id].as_mut().expect("a session outlived its sequence");
        let room = pages.room(&s.pages);
        if Pages::needed(positions) > room {
            return Err(Error::CacheFull { needed: positions, free: room * PAGE_LEN });
        }
        s.forget();
        s.keep(0);
        s.tokens.clear();
        s.settled.truncate(0);
        pages.shrink(&mut s.pages, 0);
        pages.grow(&mut s.pages, positions)?;
        for (page, data) in s.pages.iter().zip(kv.chunks(PAGE_LEN * position_bytes)) {
            stage.write_page(*page, data)?;
        }
        s.tokens.extend_from_slice(&record.tokens);
        let thought = (record.thought[0], record.thought[1]);
        s.origins = Origins { generation: record.generated_from, thought };
        s.forgotten = record.forgotten as usize;
        s.settled = Openings::new(s.used.slots(), record.sets.len());
        let mut row = vec![0.0; s.used.slots()];
        for (position, set) in record.sets.iter().enumerate() {
            let values = &record.openings[*set as usize * slots.len()..][..slots.len()];
            slots.iter().zip(values).for_each(|(slot, alpha)| row[*slot] = *alpha);
            s.settled.push(&row);
            if position < positions {
                s.used.push(&row);
            }
        }
        s.computed = positions;
        s.private = true;
        if let Some(thoughts) = thoughts {
            thoughts.resume(s);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
