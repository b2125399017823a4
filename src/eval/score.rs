//! Reads chunks side by side and hands out what the model predicted.

use super::chunks::Chunks;
use super::rows::map_rows;
use crate::engine::{Engine, Session};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What came out of each scored position of a chunk, in order.
pub type ChunkScores<T> = Vec<T>;

/// Reads chunks of a text with an engine.
pub struct Scorer<'a> {
    engine: &'a Engine,
    chunks: &'a Chunks,
    /// Threads for the work on logits.
    threads: usize,
    stop: Arc<AtomicBool>,
}

impl<'a> Scorer<'a> {
    /// # Errors
    /// [`Error::Argument`] if a chunk does not fit the engine's sessions.
    pub fn new(engine: &'a Engine, chunks: &'a Chunks, threads: usize) -> Result<Self> {
        if chunks.context() > engine.context() {
            let reason = format!("{} tokens of a chunk; {} fit a session", chunks.context(), engine.context());
            return Err(Error::argument("ctx-size", reason));
        }
        Ok(Self { engine, chunks, threads, stop: Arc::default() })
    }

    /// From when `stop` is set, reading ends with [`Error::Cancelled`] after the step that is under way.
    pub fn stopped_by(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// Reads the chunk `chunk(i)` with the i-th session, all together, and calls `f(i, row, logits)` for every scored
    /// position on some thread. The dials act as in an answer that begins with the first scored position: to the scope
    /// `generation` what leads up to it is a prompt. Returns the results by session.
    ///
    /// # Errors
    /// The engine's; [`Error::Cancelled`].
    pub fn score<T: Send>(
        &self,
        sessions: &mut [Session],
        chunk: impl Fn(usize) -> usize,
        f: impl Fn(usize, usize, &[f32]) -> T + Sync,
    ) -> Result<Vec<ChunkScores<T>>> {
        for (i, session) in sessions.iter_mut().enumerate() {
            let (lead, scored) = self.chunks.read(chunk(i));
            // What other sessions computed of the lead is found; the scored positions are always computed.
            session.prompt(&lead)?;
            session.append(scored)?;
        }
        let (vocab, first) = (self.engine.model().config().vocab, self.chunks.scored().start);
        let mut results: Vec<ChunkScores<T>> = sessions.iter().map(|_| Vec::new()).collect();
        self.engine.score(sessions, first, |session, position, logits| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let row = position - first;
            results[session].extend(map_rows(self.threads, logits, vocab, |i, logits| f(session, row + i, logits)));
            Ok(())
        })?;
        Ok(results)
    }
}
