//! Memory that a thread will read, asked for while it waits for others.

use super::simd;
use std::ptr::without_provenance;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Lines asked for between two looks at what the thread waits for.
const LINES: usize = 8;

/// Where a thread is told what it will read.
#[derive(Default)]
pub struct Ahead {
    /// An address: whether the memory is still there is for nobody to care, since it is only asked for.
    start: AtomicUsize,
    bytes: AtomicUsize,
}

impl Ahead {
    /// Says that the thread will read `bytes`. Whoever takes this must see it: the stores are relaxed.
    pub fn set(&self, bytes: &[u8]) {
        self.start.store(bytes.as_ptr().addr(), Ordering::Relaxed);
        self.bytes.store(bytes.len(), Ordering::Relaxed);
    }

    /// Replaces `wanted` by what was said since the last call, if anything was.
    pub fn take(&self, wanted: &mut Wanted) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        if bytes > 0 {
            *wanted = Wanted { next: self.start.load(Ordering::Relaxed), lines: bytes.div_ceil(simd::LINE) };
        }
    }
}

/// What is still to be asked for.
pub struct Wanted {
    next: usize,
    lines: usize,
}

impl Wanted {
    pub const NOTHING: Self = Self { next: 0, lines: 0 };

    /// Asks for the next few lines; false if there are none.
    pub fn ask(&mut self) -> bool {
        let lines = self.lines.min(LINES);
        for line in 0..lines {
            simd::prefetch(without_provenance(self.next.wrapping_add(line * simd::LINE)));
        }
        self.next = self.next.wrapping_add(lines * simd::LINE);
        self.lines -= lines;
        lines > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_asked_for_once_to_the_end() {
        let (ahead, mut wanted) = (Ahead::default(), Wanted::NOTHING);
        assert!(!wanted.ask());
        let bytes = vec![0; simd::LINE * LINES * 2 + 1];
        ahead.set(&bytes);
        ahead.take(&mut wanted);
        assert_eq!(std::iter::from_fn(|| wanted.ask().then_some(())).count(), 3);
        assert_eq!(wanted.next, bytes.as_ptr().addr() + simd::LINE * (LINES * 2 + 1));
        ahead.take(&mut wanted);
        assert!(!wanted.ask(), "said once, taken once");
    }

    #[test]
    fn what_is_said_later_replaces_what_is_left() {
        let (ahead, mut wanted) = (Ahead::default(), Wanted::NOTHING);
        let (first, second) = ([0; simd::LINE * LINES * 4], [0; 1]);
        ahead.set(&first);
        ahead.take(&mut wanted);
        assert!(wanted.ask());
        ahead.set(&second);
        ahead.take(&mut wanted);
        assert_eq!((wanted.next, wanted.lines), (second.as_ptr().addr(), 1));
    }
}
