//! The paged cache of keys and values, in the layout that kernels/rows.cuh describes.

use super::attend::attend_name;
use super::{Device, args, int};
use crate::backend::{CacheSpec, PageId};
use crate::error::{Error, Result};
use crate::tensor::TensorType;
use cudarc::driver::CudaSlice;

/// Values in a block of q8_0.
const BLOCK: usize = 32;
/// Positions of the smallest page: their scales start a multiple of 16 bytes apart.
const PAGE_LEN_LEAST: usize = 8;
/// Bytes of the scale of a block.
const SCALE: usize = 2;

/// Keys and values of all layers.
pub struct Cache {
    data: CudaSlice<u8>,
    spec: CacheSpec,
    strip: Strip,
    /// The kernel of attend.cu for such heads and such a cache.
    attend_kernel: String,
}

/// One head's keys, or its values, in one page.
#[derive(Clone, Copy)]
struct Strip {
    ty: TensorType,
    page_len: usize,
    head_dim: usize,
}

impl Strip {
    /// Bytes of one position as [`crate::backend::Backend::read_page`] gives it.
    fn row_bytes(&self) -> usize {
        self.ty.row_bytes(self.head_dim).unwrap_or(0)
    }

    fn bytes(&self) -> usize {
        self.row_bytes() * self.page_len
    }

    /// Where the bytes of a position's row lie in the strip: pairs of (in the row, in the strip, how many).
    fn places(&self, slot: usize) -> Vec<(usize, usize, usize)> {
        if self.ty != TensorType::Q8_0 {
            return vec![(0, slot * self.row_bytes(), self.row_bytes())];
        }
        let blocks = self.head_dim / BLOCK;
        let scales = self.page_len * self.head_dim;
        let place = |b: usize| {
            let (row, at) = (b * (BLOCK + SCALE), slot * blocks + b);
            [(row, scales + at * SCALE, SCALE), (row + SCALE, at * BLOCK, BLOCK)]
        };
        (0..blocks).flat_map(place).collect()
    }
}

impl Cache {
    pub(super) fn new(device: &Device, spec: &CacheSpec) -> Result<Self> {
        if !matches!(spec.ty, TensorType::F32 | TensorType::F16 | TensorType::Q8_0) {
            return Err(Error::argument("cache type", format!("{} is none of f32, f16 and q8_0", spec.ty)));
        }
        if spec.ty.row_bytes(spec.head_dim).is_none() {
            let (ty, block, head) = (spec.ty, spec.ty.block_len(), spec.head_dim);
            return Err(Error::argument("cache type", format!("{ty} has blocks of {block} values, heads have {head}")));
        }
        let Some(attend_kernel) = attend_name(spec.head_dim, spec.ty) else {
            return Err(device.unsupported(format_args!("heads of {} with a cache of {}", spec.head_dim, spec.ty)));
        };
        if !spec.page_len.is_power_of_two() || spec.page_len < PAGE_LEN_LEAST {
            let least = PAGE_LEN_LEAST;
            return Err(device.unsupported(format_args!("pages of {}, no power of two from {least}", spec.page_len)));
        }
        let strip = Strip { ty: spec.ty, page_len: spec.page_len, head_dim: spec.head_dim };
        let factors = [strip.bytes(), spec.kv_heads, 2, spec.layers, spec.pages];
        let bytes = factors.into_iter().try_fold(1usize, usize::checked_mul);
        let Some(bytes) = bytes else {
            let tokens = spec.pages.saturating_mul(spec.page_len);
            return Err(Error::argument("context", format!("no memory for the cache of {tokens} tokens")));
        };
        Ok(Self { data: device.zeros(bytes)?, spec: *spec, strip, attend_kernel })
    }

    pub(super) fn spec(&self) -> &CacheSpec {
        &self.spec
    }

    pub(super) fn attend_kernel(&self) -> &str {
        &self.attend_kernel
    }

    pub(super) fn args(&self, device: &Device, layer: usize) -> args::Cache {
        let CacheSpec { layers, kv_heads, head_dim, page_len, ty, .. } = self.spec;
        args::Cache {
            data: device.address(&self.data),
            layers: int(layers),
            kv_heads: int(kv_heads),
            head_dim: int(head_dim),
            page_len: int(page_len),
            ty: match ty {
                TensorType::F32 => 0,
                TensorType::F16 => 1,
                _ => 2,
            },
            layer: int(layer),
        }
    }

    /// Bytes of the keys and values of a position in one layer.
    pub(super) fn position_bytes(&self) -> usize {
        2 * self.spec.kv_heads * self.strip.row_bytes()
    }

    fn page_bytes(&self) -> usize {
        self.spec.layers * 2 * self.spec.kv_heads * self.strip.bytes()
    }

    /// Where page `page` starts, in bytes.
    fn start(&self, page: PageId) -> Result<usize> {
        if page as usize >= self.spec.pages {
            return Err(Error::argument("page", format!("{page} of {}", self.spec.pages)));
        }
        Ok(page as usize * self.page_bytes())
    }

    pub(super) fn copy_page(&mut self, device: &Device, from: PageId, to: PageId) -> Result<()> {
        let (from_at, to_at, bytes) = (self.start(from)?, self.start(to)?, self.page_bytes());
        if from == to {
            return Ok(());
        }
        let first = from_at.min(to_at);
        let (mut head, mut tail) = self.data.split_at_mut(first + bytes);
        let apart = from_at.abs_diff(to_at) - bytes;
        let (mut low, mut high) = (head.slice_mut(first..), tail.slice_mut(apart..apart + bytes));
        let stream = device.stream();
        let copied = match from_at < to_at {
            true => stream.memcpy_dtod(&low, &mut high),
            false => stream.memcpy_dtod(&high, &mut low),
        };
        copied.map_err(|e| device.error(format_args!("copying page {from} to page {to}"), e))
    }

    /// Positions that `bytes` bytes hold, of at most a page.
    fn positions(&self, bytes: usize) -> Result<usize> {
        let position = self.spec.layers * self.position_bytes();
        if position == 0 || !bytes.is_multiple_of(position) || bytes / position > self.spec.page_len {
            return Err(Error::argument("page", format!("{bytes} bytes are no positions of {position} bytes")));
        }
        Ok(bytes / position)
    }

    fn download_page(&self, device: &Device, page: PageId) -> Result<Vec<u8>> {
        let (start, bytes) = (self.start(page)?, self.page_bytes());
        let from = self.data.slice(start..start + bytes);
        let copied = device.stream().clone_dtoh(&from);
        let page = copied.map_err(|e| device.error(format_args!("reading page {page}"), e))?;
        device.synchronize()?;
        Ok(page)
    }

    /// For each row of the first `positions` positions, in the order of `read_page`: its strip, and its slot there.
    fn rows(&self, positions: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let strips = self.spec.layers * 2 * self.spec.kv_heads;
        (0..positions).flat_map(move |slot| (0..strips).map(move |strip| (strip, slot)))
    }

    pub(super) fn read_page(&self, device: &Device, page: PageId, out: &mut [u8]) -> Result<()> {
        let positions = self.positions(out.len())?;
        let data = self.download_page(device, page)?;
        let rows = out.chunks_exact_mut(self.strip.row_bytes());
        for (row, (strip, slot)) in rows.zip(self.rows(positions)) {
            let from = &data[strip * self.strip.bytes()..];
            for (to, at, n) in self.strip.places(slot) {
                row[to..to + n].copy_from_slice(&from[at..at + n]);
            }
        }
        Ok(())
    }

    pub(super) fn write_page(&mut self, device: &Device, page: PageId, data: &[u8]) -> Result<()> {
        let positions = self.positions(data.len())?;
        let mut whole = self.download_page(device, page)?;
        let rows = data.chunks_exact(self.strip.row_bytes());
        for (row, (strip, slot)) in rows.zip(self.rows(positions)) {
            let to = &mut whole[strip * self.strip.bytes()..];
            for (from, at, n) in self.strip.places(slot) {
                to[at..at + n].copy_from_slice(&row[from..from + n]);
            }
        }
        let (start, bytes) = (self.start(page)?, self.page_bytes());
        let mut to = self.data.slice_mut(start..start + bytes);
        let copied = device.stream().memcpy_htod(&whole, &mut to);
        copied.map_err(|e| device.error(format_args!("writing page {page}"), e))?;
        device.synchronize()
    }
}
