//! Memory in whole cache lines: a vector of 64 bytes that lies in two of them takes twice as long to read or to write.

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// A cache line of values.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line([f32; 16]);

// SAFETY: all zero bytes are sixteen zeros.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: an array of 64 bytes aligned to 64 has no padding, and every bit pattern is valid.
unsafe impl bytemuck::Pod for Line {}

/// The first `n` values, whatever they are, of a buffer that grows to hold them.
pub fn lines<T: bytemuck::Pod>(buffer: &mut Vec<Line>, n: usize) -> &mut [T] {
    let needed = (n * size_of::<T>()).div_ceil(LINE);
    if buffer.len() < needed {
        buffer.resize(needed, bytemuck::Zeroable::zeroed());
    }
    &mut bytemuck::cast_slice_mut(buffer)[..n]
}
