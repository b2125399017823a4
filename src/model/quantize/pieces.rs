//! The rows of a tensor on several threads.

use crate::error::Result;
use std::ops::Range;

/// Values of a tensor that are in memory at once, per thread.
pub(crate) const PIECE_VALUES: usize = 1 << 19;

/// The bytes of `rows` in order, `part` making those of `each` rows at a time, on a thread of its own.
///
/// # Errors
/// The first of `part`'s.
pub(crate) fn in_parallel(
    rows: Range<usize>,
    each: usize,
    part: impl Fn(Range<usize>) -> Result<Vec<u8>> + Sync,
) -> Result<Vec<u8>> {
    let (part, end) = (&part, rows.end);
    let parts: Vec<Result<Vec<u8>>> = std::thread::scope(|scope| {
        let start = |start: usize| scope.spawn(move || part(start..end.min(start + each)));
        let threads: Vec<_> = rows.step_by(each).map(start).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    parts.into_iter().collect::<Result<Vec<_>>>().map(|parts| parts.concat())
}
