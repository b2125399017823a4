//! Pages of the cache as a whole: copied, read and written.

use super::cache::Cache;
use super::columns;
use crate::backend::PageId;

impl Cache {
    /// Where the parts of all heads of a page lie, in bytes, layer by layer: the keys' and the values' alike.
    fn parts(&self, page: PageId) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let (first, step) = (self.start(0, page, 0), self.start(1, 0, 0));
        let len = self.spec.kv_heads * self.part;
        (0..self.spec.layers).map(move |layer| first + layer * step..first + layer * step + len)
    }

    /// Copies the keys and values of page `from` to page `to`.
    pub fn copy_page(&mut self, from: PageId, to: PageId) {
        for (from, to) in self.parts(from).zip(self.parts(to)) {
            self.keys.copy_within(from.clone(), to.start);
            self.values.copy_within(from, to.start);
        }
    }

    /// Copies the first positions of a page to `out`, as many as fit:
    /// `[position][layer][keys, values][kv_head][head_dim]`, little endian as the cache is.
    pub fn read_page(&self, page: PageId, out: &mut [u8]) {
        let (ty, page_len, row) = (self.spec.ty, self.spec.page_len, self.row_bytes);
        let mut heads = out.chunks_exact_mut(row);
        for (slot, layer) in self.places(heads.len()) {
            let head = self.heads(layer, page);
            for (start, to) in head.clone().zip(&mut heads) {
                columns::take(ty, &self.keys[start..start + self.part], slot, page_len, to);
            }
            for (start, to) in head.zip(&mut heads) {
                to.copy_from_slice(&self.values[start + slot * row..][..row]);
            }
        }
    }

    /// The reverse of [`Cache::read_page`].
    pub fn write_page(&mut self, page: PageId, data: &[u8]) {
        let (ty, page_len, row) = (self.spec.ty, self.spec.page_len, self.row_bytes);
        let mut heads = data.chunks_exact(row);
        for (slot, layer) in self.places(heads.len()) {
            let head = self.heads(layer, page);
            for (start, from) in head.clone().zip(&mut heads) {
                columns::put(ty, from, slot, page_len, &mut self.keys[start..start + self.part]);
            }
            for (start, from) in head.zip(&mut heads) {
                self.values[start + slot * row..][..row].copy_from_slice(from);
            }
        }
    }

    /// Positions and layers, in order, that `heads` vectors of keys and values belong to.
    fn places(&self, heads: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let layers = self.spec.layers;
        let positions = heads / (2 * layers * self.spec.kv_heads);
        (0..positions).flat_map(move |slot| (0..layers).map(move |layer| (slot, layer)))
    }

    /// Where each head's part of a page starts in a layer.
    fn heads(&self, layer: usize, page: PageId) -> impl Iterator<Item = usize> + Clone + use<> {
        let (first, part) = (self.start(layer, page, 0), self.part);
        (0..self.spec.kv_heads).map(move |head| first + head * part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::CacheSpec;
    use crate::cpu::simd::{Kernels, Level};
    use crate::tensor::TensorType;

    const SPEC: CacheSpec =
        CacheSpec { layers: 2, kv_heads: 3, head_dim: 32, pages: 4, page_len: 8, ty: TensorType::F16 };
    const TABLE: [PageId; 2] = [2, 0];

    /// Positions 0..12 filled with values that differ everywhere.
    fn filled(ty: TensorType) -> Cache {
        let mut cache = Cache::new(&CacheSpec { ty, ..SPEC }).unwrap();
        for layer in 0..SPEC.layers {
            for position in 0..12 {
                let n = SPEC.kv_heads * SPEC.head_dim;
                let row = |kind: usize| -> Vec<f32> {
                    (0..n).map(|i| ((layer * 100 + position * 7 + kind * 50 + i) % 1999) as f32).collect()
                };
                let (k, v) = (row(0), row(1));
                let (page, slot) = (TABLE[position / SPEC.page_len], position % SPEC.page_len);
                cache.layer(layer).take(page).store(Kernels::at(Level::detect()), slot, [&k, &v]);
            }
        }
        cache
    }

    fn position_bytes(ty: TensorType) -> usize {
        2 * SPEC.layers * SPEC.kv_heads * ty.row_bytes(SPEC.head_dim).unwrap()
    }

    #[test]
    fn what_is_read_is_position_by_position_and_can_be_written_elsewhere() {
        for ty in [TensorType::F16, TensorType::F32, TensorType::Q8_0] {
            let mut cache = filled(ty);
            let read = |cache: &Cache, page, positions| {
                let mut out = vec![0; positions * position_bytes(ty)];
                cache.read_page(page, &mut out);
                out
            };
            let (first, second) = (read(&cache, 2, 8), read(&cache, 0, 4));
            assert_eq!(first[..3 * position_bytes(ty)], read(&cache, 2, 3), "{ty}: a part is the start of all");
            let mut key = [0.0; SPEC.head_dim];
            crate::quant::dequantize(ty, &first[..ty.row_bytes(SPEC.head_dim).unwrap()], &mut key);
            let near = |(i, v): (usize, &f32)| (v - i as f32).abs() < 0.2;
            assert!(key.iter().enumerate().all(near), "{ty}: the first position's first key comes first");
            cache.write_page(1, &first);
            cache.write_page(3, &second);
            assert_eq!((read(&cache, 1, 8), read(&cache, 3, 4)), (first.clone(), second.clone()), "{ty}");
            assert_eq!((read(&cache, 2, 8), read(&cache, 0, 4)), (first, second), "{ty}: the others stay");
        }
    }

    #[test]
    fn a_copy_is_the_whole_page_and_no_more() {
        let mut cache = filled(TensorType::F16);
        let read = |cache: &Cache, page| {
            let mut out = vec![0; SPEC.page_len * position_bytes(TensorType::F16)];
            cache.read_page(page, &mut out);
            out
        };
        let before = [0, 1, 2, 3].map(|page| read(&cache, page));
        cache.copy_page(2, 1);
        let after = [0, 1, 2, 3].map(|page| read(&cache, page));
        assert_eq!([&after[0], &after[2], &after[3]], [&before[0], &before[2], &before[3]]);
        assert_eq!(after[1], before[2]);
    }
}
