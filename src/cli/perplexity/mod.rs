//! `valve perplexity`: how well a model predicts a text, and how far its predictions are from another's or from its
//! own at other openings. Numbers and words are llama-perplexity's.

mod words;

use super::merge::check_free;
use super::options::{Loaded, ModelArgs};
use clap::Args;
use cotvalve::engine::Session;
use cotvalve::error::{Error, Result};
use cotvalve::eval::{
    BaseFile, BaseRow, BaseWriter, Chunks, Cut, Divergence, Moments, Scorer, negative_log_likelihood,
};
use cotvalve::valve::Dial;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Args)]
#[command(mut_arg("context", |arg| arg.default_value("512").help("Tokens of a chunk")))]
#[command(mut_arg("batch", |arg| arg.default_value("2048").help("Rows of a step: several chunks go side by side")))]
pub struct Perplexity {
    #[command(flatten)]
    model: ModelArgs,
    /// Text file, tokenized without a template; a line end at its end does not count
    #[arg(short, long, value_name = "TEXT", required_unless_present = "kl_divergence")]
    file: Option<PathBuf>,
    /// Chunks to read; -1 reads all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    chunks: i64,
    /// Tokens from one chunk to the next, all scored; 0 cuts the text into chunks and scores their second halves
    #[arg(long, value_name = "N", default_value_t = 0)]
    ppl_stride: usize,
    /// What is said of a chunk: 0 gives the estimate so far, 1 a line with its mean and error too
    #[arg(long, value_name = "TYPE", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=1))]
    ppl_output_type: u8,
    /// File of log-probabilities, llama.cpp's: written, or with --kl-divergence read
    #[arg(long, visible_aliases = ["save-all-logits", "kl-divergence-base"], value_name = "FILE")]
    save_logits: Option<PathBuf>,
    /// Measure the distance from the predictions in --kl-divergence-base, over the text that is in that file
    #[arg(long, requires = "save_logits")]
    kl_divergence: bool,
    /// Openings of the valves, one after the other, each measured against the closed valves: 0,0.5,1
    #[arg(long, value_name = "ALPHA,...", value_delimiter = ',', allow_hyphen_values = true)]
    #[arg(conflicts_with_all = ["alpha", "save_logits"])]
    alphas: Vec<f32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// llama.cpp lengthens the chunks of a text that is read in strides by half a stride, and gives its cache room in
/// multiples of this.
const STRIDED_CONTEXT_MULTIPLE: usize = 256;

impl Perplexity {
    pub fn run(self) -> Result<()> {
        match &self.save_logits {
            Some(path) if self.kl_divergence => self.divergence(&BaseFile::open(path)?),
            _ if !self.alphas.is_empty() => self.sweep(),
            path => self.perplexity(path.as_deref()),
        }
    }

    fn chunks(&self) -> Result<Option<usize>> {
        let bad = || Error::Argument { name: "chunks", reason: format!("{} is neither a number nor -1", self.chunks) };
        if self.chunks == -1 { Ok(None) } else { usize::try_from(self.chunks).map(Some).map_err(|_| bad()) }
    }

    /// Tokens of a chunk of a text.
    fn context(&self) -> Result<usize> {
        let Some(stride) = self.stride() else { return Ok(self.model.context) };
        let context = self.model.context.checked_add(stride / 2);
        context.and_then(|context| context.checked_next_multiple_of(STRIDED_CONTEXT_MULTIPLE)).ok_or_else(|| {
            Error::Argument { name: "ppl-stride", reason: format!("{stride} with chunks of {}", self.model.context) }
        })
    }

    fn stride(&self) -> Option<usize> {
        Some(self.ppl_stride).filter(|stride| *stride > 0)
    }

    /// Chunks of `context` tokens that go side by side.
    fn beside(&self, context: usize) -> usize {
        (self.model.batch / context.max(1)).max(1)
    }

    /// Reads the text and cuts it.
    fn cut(&self, loaded: &Loaded, context: usize) -> Result<Chunks> {
        let path = self.file.as_deref().unwrap_or(Path::new(""));
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Chunks::new(loaded.engine.model(), text, Cut { context, stride: self.stride(), chunks: self.chunks()? })
    }

    fn perplexity(&self, save: Option<&Path>) -> Result<()> {
        save.map_or(Ok(()), |path| check_free(path, self.force))?;
        let context = self.context()?;
        let loaded = self.model.load_for(context, self.beside(context))?;
        let chunks = self.cut(&loaded, context)?;
        let mut out = match save {
            Some(path) => Some(BaseWriter::create(path, &chunks, loaded.engine.model().config().vocab)?),
            None => None,
        };
        let coded = out.is_some();
        let (mut nll, mut estimates) = (Moments::default(), Vec::new());
        let row = |chunk: usize, row: usize, logits: &[f32]| {
            let code = coded.then(|| BaseWriter::code(logits));
            (negative_log_likelihood(logits, chunks.targets(chunk)[row]), code)
        };
        let ended = self.each_chunk(&loaded, &chunks, row, |chunk, rows| {
            for (value, code) in rows {
                nll.add(value);
                out.as_mut().zip(code).map_or(Ok(()), |(out, code)| out.row(&code))?;
            }
            estimates.push(nll.mean());
            self.say(&words::chunk(self.ppl_output_type, chunk, chunks.step(), nll.mean()))
        });
        unless_stopped(ended, estimates.len(), &chunks)?;
        self.say(&words::estimate(self.ppl_output_type, nll.mean()))?;
        self.report(|| words::estimate_json(&self.facts(&loaded, &chunks, estimates.len()), &estimates, &nll))?;
        // Of a file that is not whole nothing is left.
        out.map_or(Ok(()), BaseWriter::finish)
    }

    fn divergence(&self, base: &BaseFile) -> Result<()> {
        let context = base.chunks().context();
        let loaded = self.model.load_for(context, self.beside(context))?;
        let chunks = Chunks::from_file(loaded.engine.model(), base, self.chunks()?)?;
        let row = |chunk: usize, row: usize, logits: &[f32]| {
            let base = BaseRow::Coded(base.row(chunk, row)?);
            Ok::<_, Error>(base.divergence(logits, chunks.targets(chunk)[row]))
        };
        let (mut sums, mut estimates) = (Divergence::default(), Vec::new());
        self.say(words::DIVERGENCE_HEAD)?;
        let ended = self.each_chunk(&loaded, &chunks, row, |chunk, rows| {
            rows.into_iter().try_for_each(|row| row.map(|row| sums.add(&row)))?;
            estimates.push(words::chunk_divergence_json(&sums));
            self.say(&words::chunk_divergence(chunk, &sums))
        });
        let done = estimates.len();
        unless_stopped(ended, done, &chunks)?;
        self.say(&words::divergence(&sums))?;
        self.report(|| words::divergence_json(&self.facts(&loaded, &chunks, done), estimates, &sums))
    }

    /// Every chunk once with the valves closed, then with each opening, the openings side by side.
    fn sweep(&self) -> Result<()> {
        let context = self.context()?;
        let mut loaded = self.model.load_for(context, self.alphas.len() + 1)?;
        if loaded.valves.is_empty() {
            return Err(Error::Argument { name: "alphas", reason: "there is no valve to turn".into() });
        }
        let chunks = self.cut(&loaded, context)?;
        let mut open = Vec::with_capacity(self.alphas.len());
        for alpha in &self.alphas {
            loaded.dial = Dial::constant(*alpha)?;
            open.push(loaded.session()?);
        }
        (loaded.dial, loaded.parts) = (Dial::constant(0.0)?, Vec::new());
        loaded.own.fill(None);
        let mut closed = [loaded.session()?];
        let scorer = self.scorer(&loaded, &chunks)?;
        let (mut sums, mut done) = (vec![Divergence::default(); self.alphas.len()], 0);
        let shown = std::io::stderr().is_terminal();
        let ended = (0..chunks.count()).try_for_each(|chunk| {
            if shown {
                eprint!("\r{chunk} of {} chunks", chunks.count());
            }
            let base = scorer.score(&mut closed, |_| chunk, |_, _, logits| logits.to_vec())?.concat();
            let rows = scorer.score(
                &mut open,
                |_| chunk,
                |_, row, logits| BaseRow::Logits(&base[row]).divergence(logits, chunks.targets(chunk)[row]),
            )?;
            sums.iter_mut().zip(&rows).for_each(|(sums, rows)| rows.iter().for_each(|row| sums.add(row)));
            done = chunk + 1;
            Ok(())
        });
        if shown {
            eprint!("\r\x1b[K");
        }
        unless_stopped(ended, done, &chunks)?;
        self.say(&words::sweep(&self.alphas, &sums))?;
        self.report(|| words::sweep_json(&self.facts(&loaded, &chunks, done), &self.alphas, &sums))
    }

    /// Reads chunks until Ctrl-C.
    fn scorer<'a>(&self, loaded: &'a Loaded, chunks: &'a Chunks) -> Result<Scorer<'a>> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        super::on_interrupt(move || stopped.store(true, Ordering::Relaxed));
        Ok(Scorer::new(&loaded.engine, chunks, self.model.threads)?.stopped_by(stop))
    }

    /// `row(chunk, row, logits)` for all scored positions, chunks side by side; then `each(chunk, rows)` in order.
    fn each_chunk<T: Send>(
        &self,
        loaded: &Loaded,
        chunks: &Chunks,
        row: impl Fn(usize, usize, &[f32]) -> T + Sync,
        mut each: impl FnMut(usize, Vec<T>) -> Result<()>,
    ) -> Result<()> {
        let scorer = self.scorer(loaded, chunks)?;
        let beside = self.beside(chunks.context()).min(chunks.count());
        let mut sessions = (0..beside).map(|_| loaded.session()).collect::<Result<Vec<Session>>>()?;
        for first in (0..chunks.count()).step_by(beside) {
            let sessions = &mut sessions[..beside.min(chunks.count() - first)];
            let rows = scorer.score(sessions, |i| first + i, |i, at, logits| row(first + i, at, logits))?;
            rows.into_iter().enumerate().try_for_each(|(i, rows)| each(first + i, rows))?;
        }
        Ok(())
    }

    /// What the numbers are of: `done` of the chunks.
    fn facts(&self, loaded: &Loaded, chunks: &Chunks, done: usize) -> words::Facts {
        words::Facts {
            model: loaded.engine.model().path().display().to_string(),
            alpha: (!loaded.valves.is_empty() && self.alphas.is_empty()).then(|| loaded.alpha()),
            context: chunks.context(),
            stride: self.stride(),
            chunks: done,
        }
    }

    /// Prints words, unless JSON is asked for.
    fn say(&self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { super::print(text) }
    }

    fn report(&self, json: impl FnOnce() -> serde_json::Value) -> Result<()> {
        if self.json { super::print(&format!("{}\n", json())) } else { Ok(()) }
    }
}

/// After Ctrl-C the numbers are those of the chunks that were read, if there are any.
fn unless_stopped(ended: Result<()>, done: usize, chunks: &Chunks) -> Result<()> {
    match ended {
        Err(Error::Cancelled) if done > 0 => {
            eprintln!("valve: stopped after {done} of {} chunks", chunks.count());
            Ok(())
        }
        ended => ended,
    }
}
