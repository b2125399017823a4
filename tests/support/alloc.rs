//! An allocator that counts: how often memory was asked for, and what the largest request was.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting the requests of all threads. A test program makes it its
/// `#[global_allocator]`.
pub struct Counting {
    requests: AtomicUsize,
    largest: AtomicUsize,
}

impl Counting {
    pub const fn new() -> Self {
        Self { requests: AtomicUsize::new(0), largest: AtomicUsize::new(0) }
    }

    /// Requests so far; growing counts as one.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Bytes of the largest request so far.
    pub fn largest(&self) -> usize {
        self.largest.load(Ordering::SeqCst)
    }

    fn count(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.largest.fetch_max(bytes, Ordering::SeqCst);
    }
}

// SAFETY: every call goes to `System`, which keeps the trait's promises, with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.count(size);
        // SAFETY: as the caller vouches.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(start, layout) }
    }
}
