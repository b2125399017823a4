//! A team of threads for short parallel regions.
//!
//! Work inside a region is claimed piece by piece, and a region ends when no piece is left and every thread that
//! came has gone: the caller never waits for a thread that did not come. So a busy neighbour on one core costs
//! that core's share, not the whole speed. Between regions workers spin for a moment, then yield, then sleep, and
//! an idle engine uses no processor. No result depends on who claims what.

use super::ahead::{Ahead, Wanted};
use super::claims::Claims;
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

type Job = *const (dyn Fn(usize) + Sync);

/// Rounds of `spin_loop` before a waiting thread yields its processor: some 20 µs.
const SPINS: u32 = 2_000;
/// Yields before a worker sleeps: some milliseconds on a quiet machine.
const YIELDS: u32 = 500;

struct Shared {
    /// The region's number in the high half, [`OPEN`] while workers may join it, and how many are inside.
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Workers that have come up.
    started: AtomicUsize,
    sleeping: AtomicUsize,
    stop: AtomicBool,
    claims: Claims,
    /// What each thread will read.
    ahead: Vec<Ahead>,
    lock: Mutex<()>,
    wake: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Shared {
    fn new(threads: usize) -> Self {
        Self {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            started: AtomicUsize::new(0),
            sleeping: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            claims: Claims::new(threads),
            ahead: (0..threads).map(|_| Ahead::default()).collect(),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        }
    }
}

/// Set while the region may be joined.
const OPEN: u64 = 1 << 31;
/// Workers inside the region.
const INSIDE: u64 = OPEN - 1;
/// One region further.
const REGION: u64 = 1 << 32;

// SAFETY: `job` is written by the one thread inside `Pool::run` (which takes `&mut self`) while the region is
// closed and nobody is inside, before it opens the next with release order; workers read it only after joining
// an open region with acquire order. The pointee is `Sync` and outlives the region, because `run` closes it and
// waits until nobody is inside before it returns.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Threads that run regions together; the caller is thread 0.
pub struct Pool {
    shared: Arc<Shared>,
    /// What the calling thread still asks for.
    wanted: Wanted,
    workers: Vec<JoinHandle<()>>,
    regions: u64,
}

impl Pool {
    /// A team of `threads` threads, at least 1, the calling one included.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(threads.max(1)));
        let mut pool = Self { shared, wanted: Wanted::NOTHING, workers: Vec::new(), regions: 0 };
        for index in 1..threads.max(1) {
            let shared = pool.shared.clone();
            let name = format!("valve-{index}");
            pool.workers.push(std::thread::Builder::new().name(name).spawn(move || work(&shared, index))?);
        }
        // A thread's first moments allocate; they are over before any region.
        while pool.shared.started.load(Ordering::Acquire) < pool.workers.len() {
            std::thread::yield_now();
        }
        Ok(pool)
    }

    /// Threads of the team.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Regions run so far: the count a test compares with and without a valve.
    pub fn regions(&self) -> u64 {
        self.regions
    }

    /// Says that after the next region `thread` will read `bytes`: it asks for them while it waits.
    pub fn expect(&self, thread: usize, bytes: &[u8]) {
        self.shared.ahead[thread].set(bytes);
    }

    /// Calls `f(thread)` on this thread and on every other that comes before this one is done. `f` must claim its
    /// work piece by piece and return when none is left. A panic on any of them is raised here.
    pub fn run(&mut self, f: &(dyn Fn(usize) + Sync)) {
        self.regions += 1;
        if self.workers.is_empty() {
            return f(0);
        }
        let shared = &*self.shared;
        let job: *const (dyn Fn(usize) + Sync + '_) = f;
        // SAFETY: only the lifetime is erased. No worker touches the job once the region is closed and nobody is
        // inside, which is awaited below before `f` can go out of scope, on the panicking path too.
        let job: Job = unsafe { std::mem::transmute(job) };
        // SAFETY: the last region is closed and empty and no other can be open (`&mut self`), so no worker reads
        // the cell now.
        unsafe { *shared.job.get() = Some(job) };
        let last = shared.state.load(Ordering::Relaxed);
        shared.state.store((last & !(REGION - 1)).wrapping_add(REGION) | OPEN, Ordering::SeqCst);
        if shared.sleeping.load(Ordering::SeqCst) > 0 {
            drop(shared.lock.lock());
            shared.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        shared.ahead[0].take(&mut self.wanted);
        let mut inside = shared.state.fetch_and(!OPEN, Ordering::AcqRel) & INSIDE;
        let mut waited = 0;
        while inside > 0 {
            if !self.wanted.ask() {
                pause(&mut waited);
            }
            inside = shared.state.load(Ordering::Acquire) & INSIDE;
        }
        let others = shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(payload) = own.err().or(others) {
            resume_unwind(payload);
        }
    }

    /// [`Pool::run`] with what `f` claims its work from: the pieces below `n`.
    pub fn deal(&mut self, n: usize, f: impl Fn(usize, &Claims) + Sync) {
        let shared = self.shared.clone();
        shared.claims.deal(n);
        self.run(&|thread| f(thread, &shared.claims));
    }

    /// Calls `f(thread, i)` for every `i < n`, each claimed by one thread.
    pub fn each(&mut self, n: usize, f: impl Fn(usize, usize) + Sync) {
        if n <= 1 || self.workers.is_empty() {
            return (0..n).for_each(|i| f(0, i));
        }
        self.deal(n, |thread, claims| {
            while let Some(i) = claims.take(thread) {
                f(thread, i);
            }
        });
    }

    /// Calls `f(thread, i, chunk)` for every chunk of `len` items of `data`; the last may be shorter.
    pub fn chunks<T: Send>(&mut self, data: &mut [T], len: usize, f: impl Fn(usize, usize, &mut [T]) + Sync) {
        let total = data.len();
        let base = Shareable(data.as_mut_ptr());
        self.each(total.div_ceil(len), |thread, i| {
            let start = i * len;
            // SAFETY: `each` gives every i to one thread once, so the chunks are disjoint; they lie inside
            // `data`, which is borrowed mutably for the whole call.
            let chunk = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), len.min(total - start)) };
            f(thread, i, chunk);
        });
    }

    /// Calls `f(thread, item)` for every item, each taken by one thread; `n` is how many there are.
    pub fn items<I>(&mut self, n: usize, items: I, f: impl Fn(usize, I::Item) + Sync)
    where
        I: Iterator + Send,
    {
        if n <= 1 || self.workers.is_empty() {
            return items.for_each(|item| f(0, item));
        }
        let items = Mutex::new(items);
        let take = || items.lock().unwrap_or_else(|e| e.into_inner()).next();
        self.run(&|thread| {
            while let Some(item) = take() {
                f(thread, item);
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.state.fetch_add(REGION, Ordering::SeqCst);
        drop(self.shared.lock.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker never panics: jobs run inside catch_unwind.
            let _ = worker.join();
        }
    }
}

/// A pointer that may be copied to other threads by a region that gives each a part of its own.
struct Shareable<T>(*mut T);

impl<T> Shareable<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: used in `Pool::chunks` alone, where threads reach disjoint parts of a `&mut [T]` with `T: Send`.
unsafe impl<T: Send> Sync for Shareable<T> {}

/// One round of waiting, of which `waited` counts how many there were: spins first, then yields the processor.
pub(super) fn pause(waited: &mut u32) {
    *waited += 1;
    if *waited < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// A worker's life: wait for a region, join it if it is still open, do its job, leave.
fn work(shared: &Shared, index: usize) {
    shared.started.fetch_add(1, Ordering::Release);
    let (mut seen, mut wanted) = (0, Wanted::NOTHING);
    loop {
        let state = await_region(shared, seen, &mut wanted);
        seen = state >> 32;
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        if !join(shared, seen) {
            continue;
        }
        // SAFETY: this thread is inside an open region: `Pool::run` has set the job and waits for it to leave.
        if let Some(job) = unsafe { *shared.job.get() } {
            // SAFETY: the job outlives the region; see `Pool::run`.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(index) }));
            if let Err(payload) = result {
                *shared.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(payload);
            }
        }
        shared.ahead[index].take(&mut wanted);
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

/// Enters region `region`; false if it is closed or over.
fn join(shared: &Shared, region: u64) -> bool {
    let enter = |state: u64| (state >> 32 == region && state & OPEN != 0).then_some(state + 1);
    shared.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_ok()
}

/// Returns the state once its region is no longer `seen`.
fn await_region(shared: &Shared, seen: u64, wanted: &mut Wanted) -> u64 {
    let mut waited = 0;
    while waited < SPINS + YIELDS {
        let state = shared.state.load(Ordering::Acquire);
        if state >> 32 != seen {
            return state;
        }
        if !wanted.ask() {
            pause(&mut waited);
        }
    }
    let mut guard = shared.lock.lock().unwrap_or_else(|e| e.into_inner());
    shared.sleeping.fetch_add(1, Ordering::SeqCst);
    loop {
        let state = shared.state.load(Ordering::SeqCst);
        if state >> 32 != seen {
            shared.sleeping.fetch_sub(1, Ordering::SeqCst);
            return state;
        }
        guard = shared.wake.wait(guard).unwrap_or_else(|e| e.into_inner());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_runs_once() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads).unwrap();
            for n in [0, 1, 2, 7, 1000] {
                let hits: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
                pool.each(n, |_, i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1), "{threads} threads, {n} items");
            }
        }
    }

    #[test]
    fn chunks_cover_the_slice() {
        let mut pool = Pool::new(3).unwrap();
        let mut data = vec![0usize; 103];
        pool.chunks(&mut data, 10, |_, i, chunk| chunk.iter_mut().enumerate().for_each(|(j, x)| *x = i * 10 + j));
        assert!(data.iter().enumerate().all(|(i, x)| i == *x));
    }

    /// A job that ends on any thread only once `threads` of them have come.
    fn meet(come: &AtomicUsize, threads: usize) {
        come.fetch_add(1, Ordering::SeqCst);
        while come.load(Ordering::SeqCst) < threads {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let mut pool = Pool::new(2).unwrap();
        for culprit in [0, 1] {
            let come = AtomicUsize::new(0);
            let job = |thread| {
                meet(&come, 2);
                assert!(thread != culprit, "thread {thread} fails");
            };
            assert!(catch_unwind(AssertUnwindSafe(|| pool.run(&job))).is_err());
        }
        let sum = AtomicU64::new(0);
        pool.each(100, |_, i| {
            sum.fetch_add(i as u64, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }

    #[test]
    fn sleepers_wake() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            let come = AtomicUsize::new(0);
            pool.run(&|_| meet(&come, 3));
            assert_eq!(come.into_inner(), 3);
        }
    }

    #[test]
    fn the_caller_does_not_wait_for_a_thread_that_does_not_come() {
        // A worker that never looks at the regions: to wait for it would be to wait for ever.
        let absent = std::thread::spawn(|| ());
        let mut pool =
            Pool { shared: Arc::new(Shared::new(2)), wanted: Wanted::NOTHING, workers: vec![absent], regions: 0 };
        let sum = AtomicU64::new(0);
        pool.each(100, |thread, i| {
            assert_eq!(thread, 0);
            sum.fetch_add(i as u64, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }

    #[test]
    fn the_caller_waits_for_a_thread_that_came() {
        let mut pool = Pool::new(2).unwrap();
        let (come, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
        pool.run(&|thread| {
            meet(&come, 2);
            std::thread::sleep(std::time::Duration::from_millis(20 * thread as u64));
            left.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(left.into_inner(), 2);
    }
}
