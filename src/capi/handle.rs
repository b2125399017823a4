//! Handles: what C holds instead of a value.
//!
//! A handle looks like a pointer and is a number that is never used again. So a handle that was closed, or
//! is of another kind, is an error and never a dead value; and a value that is closed while another thread
//! works with it lives until that work is done.

use super::status::{Failure, Status};
use std::collections::BTreeMap;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The next number, of any kind of handle.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// The open values of one kind.
pub(super) struct Table<T> {
    name: &'static str,
    open: Mutex<BTreeMap<usize, Arc<T>>>,
}

impl<T> Table<T> {
    /// `name` is what messages call a value.
    pub const fn new(name: &'static str) -> Self {
        Self { name, open: Mutex::new(BTreeMap::new()) }
    }

    /// Opens a handle for `value`.
    pub fn insert(&self, value: T) -> *mut T {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::new(value));
        ptr::without_provenance_mut(number)
    }

    /// The value of a handle.
    pub fn get(&self, handle: *const T) -> Result<Arc<T>, Failure> {
        self.lock().get(&handle.addr()).cloned().ok_or_else(|| self.unknown(handle))
    }

    /// Closes a handle; the value goes with its last user.
    pub fn remove(&self, handle: *const T) -> Result<Arc<T>, Failure> {
        self.lock().remove(&handle.addr()).ok_or_else(|| self.unknown(handle))
    }

    fn unknown(&self, handle: *const T) -> Failure {
        match handle.is_null() {
            true => Failure::null(self.name),
            false => Failure::new(Status::Handle, format!("{}: it is not open", self.name)),
        }
    }

    /// No code that can panic runs under this lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<T>>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_handle_is_refused_and_its_number_not_used_again() {
        let table = Table::new("box");
        let first = table.insert(1);
        let held = table.get(first).unwrap();
        assert_eq!(*table.remove(first).unwrap(), 1);
        let second = table.insert(2);
        assert_ne!(first, second);
        assert_eq!((*held, *table.get(second).unwrap()), (1, 2));
        for closed in [table.get(first), table.remove(first)] {
            let failure = closed.unwrap_err();
            assert_eq!((failure.status, &*failure.message), (Status::Handle, "box: it is not open"));
        }
        assert_eq!(table.get(ptr::null()).unwrap_err().message, "box: it is null");
    }

    #[test]
    fn kinds_share_no_number() {
        let (numbers, words) = (Table::new("number"), Table::new("word"));
        let (one, word) = (numbers.insert(1), words.insert("one"));
        assert_eq!(numbers.get(word.cast()).unwrap_err().status, Status::Handle);
        assert_eq!(words.get(one.cast()).unwrap_err().status, Status::Handle);
    }
}
