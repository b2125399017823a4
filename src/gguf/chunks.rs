//! Writing files that are to be mapped.

use std::io::{self, Write};

/// Bytes of a huge page of the processors in use.
const CHUNK_BYTES: usize = 2 << 20;

/// Writes chunks that start at multiples of a huge page's size, each by one call: the page cache then keeps the file
/// in huge pages where the file system has them, and maps these whole.
#[derive(Debug)]
pub struct ChunkWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
    /// Bytes from the start of the buffer to the next multiple, at least 1.
    room: usize,
}

impl<W: Write> ChunkWriter<W> {
    /// Writes to `out`, which stands `position` bytes after the start of its file.
    pub fn new(out: W, position: u64) -> Self {
        let room = CHUNK_BYTES - (position % CHUNK_BYTES as u64) as usize;
        Self { out, buffer: Vec::with_capacity(CHUNK_BYTES), room }
    }

    /// What is written to; bytes that were not flushed are not there yet.
    pub fn get_ref(&self) -> &W {
        &self.out
    }
}

impl<W: Write> Write for ChunkWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == self.room {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.room -= self.buffer.len();
        if self.room == 0 {
            self.room = CHUNK_BYTES;
        }
        self.buffer.clear();
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths of the calls, and what they wrote.
    #[derive(Default)]
    struct Calls(Vec<usize>, Vec<u8>);

    impl Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len());
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn chunks_start_at_multiples() {
        let data: Vec<u8> = (0..5 * CHUNK_BYTES / 2).map(|i| (i % 251) as u8).collect();
        let mut writer = ChunkWriter::new(Calls::default(), (3 * CHUNK_BYTES - 100) as u64);
        data.chunks(70_001).for_each(|part| writer.write_all(part).unwrap());
        writer.flush().unwrap();
        let Calls(lengths, written) = writer.get_ref();
        assert_eq!(*lengths, [100, CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES / 2 - 100]);
        assert!(*written == data);
    }

    #[test]
    fn a_flush_between_keeps_the_multiples() {
        let mut writer = ChunkWriter::new(Calls::default(), 0);
        writer.write_all(&[1; 10]).unwrap();
        writer.flush().unwrap();
        writer.write_all(&[2; CHUNK_BYTES]).unwrap();
        assert_eq!(writer.get_ref().0, [10, CHUNK_BYTES - 10]);
        writer.flush().unwrap();
        writer.write_all(&[3; CHUNK_BYTES - 10]).unwrap();
        assert_eq!(writer.get_ref().0, [10, CHUNK_BYTES - 10, 10, CHUNK_BYTES - 10]);
    }
}
