//! Bytes on their way to the device through page-locked memory, so that a copy goes on while the next bytes are made.

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtrMut, DriverError, PinnedHostSlice};
use cudarc::driver::{result, sys};
use std::sync::Arc;

/// Bytes of a buffer: a copy of so many takes a hundred times as long as it takes to start.
const BUFFER_BYTES: usize = 4 << 20;

/// Two buffers, filled in turn: one is copied while the other is filled.
pub(super) struct Staging {
    buffers: [Buffer; 2],
    next: usize,
}

struct Buffer {
    host: PinnedHostSlice<u8>,
    /// Recorded behind the last copy from the buffer.
    copied: CudaEvent,
}

impl Buffer {
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        // SAFETY: `upload` writes what it copies. Combined writes: nothing here reads it.
        let host = unsafe { context.alloc_pinned_with_flags(BUFFER_BYTES, sys::CU_MEMHOSTALLOC_WRITECOMBINED) }?;
        Ok(Self { host, copied: context.new_event(None)? })
    }
}

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        Ok(Self { buffers: [Buffer::new(context)?, Buffer::new(context)?], next: 0 })
    }

    /// A copy of `bytes` on the device, which is complete for whatever comes behind it on `stream`.
    pub(super) fn upload(&mut self, stream: &Arc<CudaStream>, bytes: &[u8]) -> Result<CudaSlice<u8>, DriverError> {
        // SAFETY: every byte is written below before anything on the stream reads it.
        let mut to = unsafe { stream.alloc::<u8>(bytes.len()) }?;
        let pieces = bytes.chunks(BUFFER_BYTES).enumerate();
        for (at, piece) in pieces {
            let buffer = &mut self.buffers[self.next];
            self.next = 1 - self.next;
            buffer.copied.synchronize()?;
            let host = &mut buffer.host.as_mut_slice()?[..piece.len()];
            host.copy_from_slice(piece);
            let start = to.device_ptr_mut(stream).0 + (at * BUFFER_BYTES) as u64;
            // SAFETY: the piece's place is inside `to`; the buffer is not touched before `copied` has happened.
            let copy = unsafe { result::memcpy_htod_async(start, host, stream.cu_stream()) };
            if let Err(e) = copy.and_then(|()| buffer.copied.record(stream)) {
                // Without the event nothing else says when the buffer is free.
                stream.synchronize()?;
                return Err(e);
            }
        }
        Ok(to)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for buffer in &self.buffers {
            // A failure is the device's, and there is nobody left to hear of it.
            let _ = buffer.copied.synchronize();
        }
    }
}
