//! A model whose layers lie on several devices: portions that hand the residual stream on.

use super::forward::{Part, Stage};
use super::logits::Logits;
use crate::backend::{Batch, PageId};
use crate::error::Result;
use crate::valve::Adapter;
use std::sync::Arc;

/// Portions in the order of their layers, the first with the embedding and the last with the head.
pub struct Chain {
    parts: Vec<Box<dyn Part>>,
    /// Values of a row between two portions.
    width: usize,
    /// Bytes of a position of one layer in [`Stage::read_page`].
    layer_bytes: usize,
    /// `[rows, width]`
    hidden: Vec<f32>,
    /// A page of one portion.
    page: Vec<u8>,
    adapters: Vec<Arc<Adapter>>,
}

impl Chain {
    /// A model of these portions, whose rows have `width` values between two of them; a cached position of one layer
    /// takes `layer_bytes` bytes.
    pub fn new(parts: Vec<Box<dyn Part>>, width: usize, layer_bytes: usize) -> Self {
        Self { parts, width, layer_bytes, hidden: Vec::new(), page: Vec::new(), adapters: Vec::new() }
    }

    /// For each portion, where its part of a position starts among the bytes of all layers, and how long it is.
    fn places(&self) -> Vec<(usize, usize)> {
        let sizes = self.parts.iter().map(|part| part.layers() * self.layer_bytes);
        let mut start = 0;
        let place = |bytes| {
            start += bytes;
            (start - bytes, bytes)
        };
        sizes.map(place).collect()
    }

    fn position_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.layers()).sum::<usize>() * self.layer_bytes
    }
}

impl Stage for Chain {
    fn attach(&mut self, adapters: &[Arc<Adapter>]) -> Result<()> {
        let attached = self.parts.iter_mut().try_for_each(|part| part.attach(adapters));
        match attached {
            Ok(()) => self.adapters = adapters.to_vec(),
            // All portions or none: those before the one that failed go back.
            Err(_) => self.parts.iter_mut().try_for_each(|part| part.attach(&self.adapters))?,
        }
        attached
    }

    fn step(&mut self, batch: &Batch<'_>, logits: &mut Logits) -> Result<()> {
        self.hidden.resize(batch.tokens.len() * self.width, 0.0);
        self.parts.iter_mut().try_for_each(|part| part.run(batch, &mut self.hidden, logits))
    }

    fn copy_page(&mut self, from: PageId, to: PageId) -> Result<()> {
        self.parts.iter_mut().try_for_each(|part| part.copy_page(from, to))
    }

    fn read_page(&mut self, page: PageId, out: &mut [u8]) -> Result<()> {
        let (places, position) = (self.places(), self.position_bytes());
        for (part, (start, bytes)) in self.parts.iter_mut().zip(places) {
            self.page.resize(out.len() / position * bytes, 0);
            part.read_page(page, &mut self.page)?;
            for (to, from) in out.chunks_exact_mut(position).zip(self.page.chunks_exact(bytes)) {
                to[start..start + bytes].copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn write_page(&mut self, page: PageId, data: &[u8]) -> Result<()> {
        let (places, position) = (self.places(), self.position_bytes());
        for (part, (start, bytes)) in self.parts.iter_mut().zip(places) {
            self.page.clear();
            data.chunks_exact(position).for_each(|from| self.page.extend_from_slice(&from[start..start + bytes]));
            part.write_page(page, &self.page)?;
        }
        Ok(())
    }
}
