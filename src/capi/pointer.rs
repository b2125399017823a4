//! Reading and writing through the pointers of a caller.

use super::status::{Failure, Status};
use std::ffi::{CStr, c_char};
use std::path::Path;

fn bad(name: &str, why: &str) -> Failure {
    Failure::new(Status::Argument, format!("{name}: {why}"))
}

/// The text at `text`.
///
/// # Safety
/// `text` is null or points to bytes that end in NUL, and they stay as they are for `'a`.
pub(super) unsafe fn text<'a>(name: &str, text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::null(name));
    }
    // SAFETY: not null, and the rest is the caller's to keep.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| bad(name, "it is not UTF-8"))
}

/// The path at `path`; any bytes where the system takes any bytes.
///
/// # Safety
/// That of [`text`].
pub(super) unsafe fn path<'a>(name: &str, path: *const c_char) -> Result<&'a Path, Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        if path.is_null() {
            return Err(Failure::null(name));
        }
        // SAFETY: not null, and the rest is the caller's to keep.
        let bytes = unsafe { CStr::from_ptr(path) }.to_bytes();
        Ok(Path::new(std::ffi::OsStr::from_bytes(bytes)))
    }
    #[cfg(not(unix))]
    // SAFETY: as the caller vouches.
    unsafe { text(name, path) }.map(Path::new)
}

/// The `count` values at `items`, which may be null if there are none.
///
/// # Safety
/// `items` is null or points to `count` values, and they stay as they are for `'a`.
pub(super) unsafe fn slice<'a, T>(name: &str, items: *const T, count: usize) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if items.is_null() {
        return Err(Failure::null(name));
    }
    if !items.is_aligned() || count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(bad(name, "no array can stand there"));
    }
    // SAFETY: aligned, not null, no longer than an object can be; the rest is the caller's to keep.
    Ok(unsafe { std::slice::from_raw_parts(items, count) })
}

/// Writes `value` where `place` points, unless it is null.
///
/// # Safety
/// `place` is null or may be written.
pub(super) unsafe fn put<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: not null; the rest is the caller's to keep.
        unsafe { place.write_unaligned(value) }
    }
}

/// The same where null is an error.
///
/// # Safety
/// That of [`put`].
pub(super) unsafe fn put_required<T>(name: &str, place: *mut T, value: T) -> Result<(), Failure> {
    if place.is_null() {
        return Err(Failure::null(name));
    }
    // SAFETY: as the caller vouches.
    unsafe { put(place, value) };
    Ok(())
}

/// Copies as many of `items` as fit `capacity` places at `places`, and writes to `count` how many there are.
///
/// # Safety
/// `places` is null or may be written `capacity` times; `count` is null or may be written.
pub(super) unsafe fn fill<T: Copy>(
    items: &[T],
    (places, capacity): (*mut T, usize),
    count: *mut usize,
) -> Result<(), Failure> {
    if places.is_null() && capacity > 0 {
        return Err(bad("capacity", "there is nowhere to write"));
    }
    let fit = items.len().min(capacity);
    if fit > 0 {
        // SAFETY: `fit` values are there and, as the caller vouches, as many places; they are of different owners.
        // Bytes are copied, so that the places need no alignment.
        unsafe { items.as_ptr().cast::<u8>().copy_to_nonoverlapping(places.cast(), fit * size_of::<T>()) };
    }
    // SAFETY: as the caller vouches.
    unsafe { put(count, items.len()) };
    Ok(())
}

/// A structure of the header, which starts with its size in bytes as the caller knows it, and grows at its end.
///
/// # Safety
/// `repr(C)` without padding, its first field a `usize`, and any bytes that a C caller can put there are a value.
pub(super) unsafe trait Growing: Copy {
    /// What a caller gets who sets nothing.
    const DEFAULT: Self;
    /// Bytes of the first version that was published.
    const FIRST: usize;
}

/// Largest size that is believed.
const SIZE_MAX: usize = 1 << 12;

fn check_size<T: Growing>(name: &str, size: usize) -> Result<(), Failure> {
    if (T::FIRST..=SIZE_MAX).contains(&size) {
        return Ok(());
    }
    Err(bad(name, &format!("a size of {size} bytes; the first version had {}", T::FIRST)))
}

/// The structure at `given`, of a caller who may know fewer fields, or more: those it does not know have their
/// defaults, those that are not known here must be zero. Null gives the defaults.
///
/// # Safety
/// `given` is null or points to a size and as many bytes, its own included.
pub(super) unsafe fn read<T: Growing>(name: &str, given: *const T) -> Result<T, Failure> {
    let mut all = T::DEFAULT;
    if given.is_null() {
        return Ok(all);
    }
    // SAFETY: the first field is the size, and is there.
    let size = unsafe { given.cast::<usize>().read_unaligned() };
    check_size::<T>(name, size)?;
    // SAFETY: the caller vouches for `size` bytes.
    let bytes = unsafe { slice(name, given.cast::<u8>(), size) }?;
    let (known, unknown) = bytes.split_at(size.min(size_of::<T>()));
    if unknown.iter().any(|b| *b != 0) {
        return Err(bad(name, "it asks for more than this version of the library knows"));
    }
    // SAFETY: no more bytes than the structure has, of another owner, and any bytes are a value.
    unsafe { known.as_ptr().copy_to_nonoverlapping((&raw mut all).cast(), known.len()) };
    Ok(all)
}

/// Sets the structure at `place`, of `size` bytes as its caller knows it, to its defaults; what is not known here
/// becomes zero.
///
/// # Safety
/// `place` is null or has `size` bytes that may be written.
pub(super) unsafe fn initialize<T: Growing>(name: &str, place: *mut T, size: usize) -> Result<(), Failure> {
    if place.is_null() {
        return Err(Failure::null(name));
    }
    check_size::<T>(name, size)?;
    let defaults = T::DEFAULT;
    // SAFETY: the caller vouches for `size` bytes; no more are written, and no more read than the structure has,
    // which has no padding. The size is its first field.
    unsafe {
        place.cast::<u8>().write_bytes(0, size);
        (&raw const defaults).cast::<u8>().copy_to_nonoverlapping(place.cast(), size.min(size_of::<T>()));
        place.cast::<usize>().write_unaligned(size);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure that has grown by `late`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        size: usize,
        early: u64,
        late: u64,
    }

    // SAFETY: three words, the first the size.
    unsafe impl Growing for Grown {
        const DEFAULT: Self = Self { size: size_of::<Self>(), early: 5, late: 6 };
        const FIRST: usize = 16;
    }

    fn read_words(words: &[u64]) -> Result<Grown, Failure> {
        assert!(words[0] as usize <= size_of_val(words) || words[0] as usize > SIZE_MAX);
        // SAFETY: as many bytes are there as the first word says, or it is too large to be believed.
        unsafe { read("it", words.as_ptr().cast()) }
    }

    #[test]
    fn callers_of_other_versions_are_understood() {
        assert_eq!(read_words(&[16, 1]).unwrap(), Grown { size: 16, early: 1, late: 6 });
        assert_eq!(read_words(&[24, 1, 2]).unwrap(), Grown { size: 24, early: 1, late: 2 });
        assert_eq!(read_words(&[32, 1, 2, 0]).unwrap(), Grown { size: 32, early: 1, late: 2 });
        // SAFETY: null is allowed.
        assert_eq!(unsafe { read("it", std::ptr::null::<Grown>()) }.unwrap(), Grown::DEFAULT);
    }

    #[test]
    fn sizes_and_fields_that_cannot_be_are_refused() {
        for (words, why) in [
            ([32, 1, 2, 9], "it asks for more than this version of the library knows"),
            ([0, 1, 2, 0], "a size of 0 bytes; the first version had 16"),
            ([15, 1, 2, 0], "a size of 15 bytes; the first version had 16"),
            ([u64::MAX, 1, 2, 0], "a size of 18446744073709551615 bytes; the first version had 16"),
        ] {
            let failure = read_words(&words).unwrap_err();
            assert_eq!((failure.status, failure.message), (Status::Argument, format!("it: {why}")));
        }
    }

    #[test]
    fn defaults_fill_what_the_caller_knows_and_no_more() {
        let start = |size: usize| {
            let mut words = [7u64; 5];
            // SAFETY: `size` is at most the bytes of `words`.
            unsafe { initialize::<Grown>("it", words.as_mut_ptr().cast(), size) }.unwrap();
            words
        };
        assert_eq!(start(16), [16, 5, 7, 7, 7]);
        assert_eq!(start(24), [24, 5, 6, 7, 7]);
        assert_eq!(start(32), [32, 5, 6, 0, 7]);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_not_written() {
        let (mut places, mut count) = ([0u8; 4], 0);
        // SAFETY: two of four places.
        unsafe { fill(&[1, 2, 3], (places.as_mut_ptr(), 2), &mut count) }.unwrap();
        assert_eq!((places, count), ([1, 2, 0, 0], 3));
        // SAFETY: null is allowed.
        assert!(unsafe { fill(&[1u8], (std::ptr::null_mut(), 1), &mut count) }.is_err());
        // SAFETY: null is allowed.
        unsafe { fill(&[1u8; 9], (std::ptr::null_mut(), 0), &mut count) }.unwrap();
        assert_eq!(count, 9);
    }

    #[test]
    fn impossible_arrays_and_texts_are_refused() {
        let numbers = [1u32, 2];
        for count in [usize::MAX, usize::MAX / 4, usize::MAX / 8 + 1] {
            // SAFETY: refused before it is read.
            assert!(unsafe { slice("tokens", numbers.as_ptr(), count) }.is_err());
        }
        // SAFETY: refused before it is read.
        assert!(unsafe { slice("tokens", numbers.as_ptr().byte_add(1), 1) }.is_err());
        // SAFETY: null is allowed.
        assert!(unsafe { slice::<u32>("tokens", std::ptr::null(), 0) }.unwrap().is_empty());
        // SAFETY: ends in NUL.
        let failure = unsafe { text("text", c"a\xFF".as_ptr()) }.unwrap_err();
        assert_eq!(failure.message, "text: it is not UTF-8");
    }
}
