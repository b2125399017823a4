//! Pieces of work dealt out to a team: to each thread a run of neighbouring ones, and what is left of another's when
//! its own are done.
//!
//! A thread that multiplies one piece of a weight asks for the next one's memory; that help is lost where the next
//! piece is another thread's. So a run is taken from its start by whoever takes from it.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Those of the pieces below `n` that are dealt to thread `t` of `threads`.
pub fn share(n: usize, t: usize, threads: usize) -> Range<usize> {
    t * n / threads..(t + 1) * n / threads
}

/// The pieces that each thread still has.
pub struct Claims(Vec<Run>);

struct Run {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Claims {
    /// No pieces, for `threads` threads.
    pub fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Run { next: AtomicUsize::new(0), end: AtomicUsize::new(0) }).collect())
    }

    /// Deals out the pieces below `n`, when no thread claims any. Whoever claims after this must see it: the stores
    /// are relaxed.
    pub fn deal(&self, n: usize) {
        let threads = self.0.len();
        for (t, run) in self.0.iter().enumerate() {
            let pieces = share(n, t, threads);
            run.next.store(pieces.start, Ordering::Relaxed);
            run.end.store(pieces.end, Ordering::Relaxed);
        }
    }

    /// The next piece of `thread`, or of another where it has none; `None` when all are claimed.
    pub fn take(&self, thread: usize) -> Option<usize> {
        let (before, rest) = self.0.split_at(thread);
        rest.iter().chain(before).find_map(|run| {
            let piece = run.next.fetch_add(1, Ordering::Relaxed);
            (piece < run.end.load(Ordering::Relaxed)).then_some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_takes_its_own_in_order_and_then_those_of_others() {
        let claims = Claims::new(2);
        claims.deal(6);
        assert_eq!([0, 0, 1].map(|t| claims.take(t)), [Some(0), Some(1), Some(3)]);
        assert_eq!([0, 0, 1, 1, 0].map(|t| claims.take(t)), [Some(2), Some(4), Some(5), None, None]);
    }

    #[test]
    fn every_piece_is_claimed_once() {
        for (threads, n) in [(1, 5), (3, 0), (3, 2), (4, 1000), (7, 1001)] {
            let claims = Claims::new(threads);
            claims.deal(n);
            let mut taken = Vec::new();
            std::thread::scope(|scope| {
                let claims = &claims;
                let team = (0..threads).map(|t| scope.spawn(move || std::iter::from_fn(|| claims.take(t)).collect()));
                let team: Vec<std::thread::ScopedJoinHandle<'_, Vec<usize>>> = team.collect();
                team.into_iter().for_each(|member| taken.extend(member.join().unwrap()));
            });
            taken.sort_unstable();
            assert!(taken.into_iter().eq(0..n), "{threads} threads, {n} pieces");
        }
    }
}
