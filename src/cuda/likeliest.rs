//! The likeliest tokens of a step's logits, found on the device: kernels/likeliest.cu.

use super::{Buf, Cuda, Device, args, int};
use crate::backend::Likely;
use crate::error::{Error, Result};
use cudarc::driver::{CudaSlice, PinnedHostSlice};

/// Logits that a block of the first kernel looks through, and keys that the second can.
const CHUNK: usize = 4096;
const THREADS: u32 = 256;
/// Rounds of a launch at most: more take longer than the logits' way to the host.
const MOST: usize = 128;
/// Keys there is room for at first; more make it grow.
const KEYS: usize = 1024;

pub(super) fn likeliest_names() -> Vec<String> {
    ["likeliest_logits", "likeliest_keys"].map(String::from).to_vec()
}

/// Where keys lie.
pub(super) struct Likeliest {
    /// `[rows, chunks, k]`
    chunks: CudaSlice<u64>,
    /// `[rows, k]`
    rows: CudaSlice<u64>,
    host: PinnedHostSlice<u64>,
}

impl Likeliest {
    pub(super) fn new(device: &Device) -> Result<Self> {
        Ok(Self { chunks: device.zeros(KEYS)?, rows: device.zeros(KEYS)?, host: device.pinned_for_reading(KEYS)? })
    }

    /// Room for the keys of `chunks` chunks and `rows` rows.
    fn reserve(&mut self, device: &Device, chunks: usize, rows: usize) -> Result<()> {
        if chunks > self.chunks.len() {
            self.chunks = device.zeros(chunks.next_power_of_two())?;
        }
        if rows > self.rows.len() {
            let keys = rows.next_power_of_two();
            (self.rows, self.host) = (device.zeros(keys)?, device.pinned_for_reading(keys)?);
        }
        Ok(())
    }
}

/// What `key_of` of likeliest.cu made a key of; `None` of 0, which is no token.
fn token_of(key: u64) -> Option<Likely> {
    const SIGN: u32 = 1 << 31;
    let (ordered, token) = ((key >> 32) as u32, !(key as u32));
    let bits = if ordered & SIGN == 0 { !ordered } else { ordered ^ SIGN };
    (key != 0).then(|| Likely { token, logit: f32::from_bits(bits) })
}

impl Cuda {
    /// [`crate::backend::Backend::likeliest`]
    pub(super) fn likeliest_rows(&mut self, logits: &Buf, k: usize, out: &mut Vec<Likely>) -> Result<bool> {
        let (rows, n) = (self.step.outputs(), logits.cols);
        let chunks = n.div_ceil(CHUNK);
        if logits.rows < rows {
            return Err(Error::argument("logits", format!("a buffer of fewer than {rows} rows")));
        }
        if rows == 0 || k == 0 || k > MOST || k > n || chunks * k > CHUNK {
            return Ok(false);
        }
        let d = &self.device;
        self.likeliest.reserve(d, rows * chunks * k, rows * k)?;
        let (of_chunks, of_rows) = (d.address(&self.likeliest.chunks), d.address(&self.likeliest.rows));
        let first = args::Likeliest { from: d.address(&logits.data), to: of_chunks, n: int(n), k: int(k) };
        let second = args::Likeliest { from: of_chunks, to: of_rows, n: int(chunks * k), k: int(k) };
        let shape = format_args!("the likeliest {k} of {n}, {rows} rows");
        // SAFETY: the kernels take this struct; the logits have the rows, as was checked, and `reserve` made room for
        // the keys of each chunk and of each row.
        unsafe {
            d.launch("likeliest_logits", (chunks, rows), THREADS, &first, shape)?;
            d.launch("likeliest_keys", (1, rows), THREADS, &second, shape)?;
        }
        self.launches += 2;
        // SAFETY: there are so many keys of rows.
        let keys = unsafe { d.read_back(of_rows, &mut self.likeliest.host, rows * k) }?;
        out.clear();
        out.extend(keys.iter().copied().map_while(token_of));
        // A row of fewer tokens is for who sees all its logits.
        Ok(out.len() == rows * k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_its_token_and_logit_back() {
        let key = |ordered: u32, token: u32| u64::from(ordered) << 32 | u64::from(!token);
        let found = |key| token_of(key).map(|likely| (likely.token, likely.logit));
        assert_eq!(found(key(1.5f32.to_bits() | 1 << 31, 7)), Some((7, 1.5)));
        assert_eq!(found(key(!(-1.5f32).to_bits(), 0)), Some((0, -1.5)));
        assert_eq!(found(key(1 << 31, 128_255)), Some((128_255, 0.0)));
        assert_eq!(found(0), None);
    }
}
