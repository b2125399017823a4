//! Steps kept as CUDA graphs: one command for all launches of a step, which reads what changes from step to step
//! (tokens, positions, page tables, openings) from the device's memory.

use super::{Cuda, MAX_GRAPH_ROWS};
use crate::backend::CacheSpec;
use crate::error::Result;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, DriverError};
use std::collections::HashMap;

/// Graphs kept at most; all go when one more is wanted.
const MOST: usize = 64;

/// What the launches of a step depend on, beside the caller's buffers and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    rows: usize,
    outputs: usize,
    slots: usize,
    chunks: usize,
}

/// What tokens and pages of a step are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub vocab: usize,
    pages: usize,
    page_len: usize,
}

impl Limits {
    const NONE: Self = Self { vocab: usize::MAX, pages: usize::MAX, page_len: usize::MAX };

    pub fn cache(&mut self, spec: &CacheSpec) {
        (self.pages, self.page_len) = (spec.pages, spec.page_len);
    }
}

/// How far a kind of step has come.
enum Kept {
    /// It ran once, and allocated what it needs.
    Ran,
    Graph {
        graph: CudaGraph,
        limits: Limits,
        launches: u64,
    },
}

/// The steps kept.
pub(super) struct Graphs {
    kept: HashMap<Key, Kept>,
    /// Of the caller's buffers and weights that they name.
    version: u64,
    /// The step under way, if its verbs run and it may be kept.
    current: Option<Key>,
    recording: bool,
    /// The first failure of the driver to make a graph, since when none is made.
    refused: Option<DriverError>,
    pub limits: Limits,
    launches_before: u64,
    replays: u64,
}

// SAFETY: a graph is used through `Graphs`, which its backend alone holds: by one thread at a time. The driver allows
// that thread to change.
unsafe impl Send for Graphs {}

impl Graphs {
    pub fn new() -> Self {
        Self {
            kept: HashMap::new(),
            version: 0,
            current: None,
            recording: false,
            refused: None,
            limits: Limits::NONE,
            launches_before: 0,
            replays: 0,
        }
    }

    /// Drops all: memory that they name has moved.
    pub fn clear(&mut self) {
        self.kept.clear();
    }
}

impl Cuda {
    /// Steps run as a graph so far.
    pub fn replays(&self) -> u64 {
        self.graphs.replays
    }

    /// Ends a recording whose verbs did not reach their end.
    pub(super) fn abandon(&mut self) {
        self.graphs.current = None;
        if std::mem::take(&mut self.graphs.recording) {
            // What was recorded is not wanted, whatever the driver thinks of it.
            let _ = self.device.stream().end_capture(CUgraphInstantiate_flags(0));
        }
    }

    fn key(&self) -> Option<Key> {
        let (rows, outputs, slots) = (self.step.rows(), self.step.outputs(), self.step.slots());
        let chunks = super::attend::chunk_bucket(self.step.context());
        (rows <= MAX_GRAPH_ROWS && !self.step.has_tiles()).then_some(Key { rows, outputs, slots, chunks })
    }

    pub(super) fn replay_step(&mut self, version: u64) -> Result<bool> {
        self.step.rewind();
        if self.graphs.version != version {
            self.graphs.clear();
            self.graphs.version = version;
        }
        self.graphs.limits = Limits::NONE;
        self.graphs.launches_before = self.launches;
        let Some(key) = self.key().filter(|_| self.graphs.refused.is_none()) else { return Ok(false) };
        let Graphs { kept, replays, .. } = &mut self.graphs;
        match kept.get(&key) {
            Some(Kept::Graph { graph, limits, launches }) => {
                self.step.check_tokens(limits.vocab)?;
                self.step.check_pages(limits.pages, limits.page_len)?;
                let (rows, chunks) = (key.rows, key.chunks);
                let failed = |e| self.device.error(format_args!("the graph of {rows} rows, {chunks} chunks"), e);
                graph.launch().map_err(failed)?;
                (self.launches, *replays) = (self.launches + launches, *replays + 1);
                Ok(true)
            }
            Some(Kept::Ran) => {
                let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
                match self.device.stream().begin_capture(mode) {
                    Ok(()) => (self.graphs.current, self.graphs.recording) = (Some(key), true),
                    Err(e) => self.graphs.refused = Some(e),
                }
                Ok(false)
            }
            None => {
                self.graphs.current = Some(key);
                Ok(false)
            }
        }
    }

    pub(super) fn finish_step(&mut self) -> Result<bool> {
        let Some(key) = self.graphs.current.take() else { return Ok(true) };
        if !std::mem::take(&mut self.graphs.recording) {
            if self.graphs.kept.len() >= MOST {
                self.graphs.clear();
            }
            self.graphs.kept.insert(key, Kept::Ran);
            return Ok(true);
        }
        let recorded = self.device.stream().end_capture(CUgraphInstantiate_flags(0));
        let graph = match recorded.and_then(|graph| graph.ok_or(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE))) {
            Ok(graph) => graph,
            Err(e) => {
                // Nothing of the step has run: its verbs are called again, and run as they come.
                self.graphs.refused = Some(e);
                return Ok(false);
            }
        };
        let failed = |e| self.device.error(format_args!("the graph of {} rows", key.rows), e);
        graph.launch().map_err(failed)?;
        let launches = self.launches - self.graphs.launches_before;
        self.graphs.kept.insert(key, Kept::Graph { graph, limits: self.graphs.limits, launches });
        Ok(true)
    }
}
