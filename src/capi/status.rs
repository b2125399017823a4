//! What a call returns, and why it failed.

use crate::error::Error;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// `valve_status`: 0, or why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    Ok = 0,
    /// An argument is null, out of its range, or no UTF-8.
    Argument = 1,
    /// A handle that was closed, or never opened.
    Handle = 2,
    /// The call does not fit what was called before.
    State = 3,
    Io = 4,
    Malformed = 5,
    Unsupported = 6,
    Adapter = 7,
    Template = 8,
    Tokenizer = 9,
    ContextFull = 10,
    Cancelled = 11,
    Device = 12,
    /// A fault of this library.
    Panic = 13,
    Other = 14,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Ok,
        Self::Argument,
        Self::Handle,
        Self::State,
        Self::Io,
        Self::Malformed,
        Self::Unsupported,
        Self::Adapter,
        Self::Template,
        Self::Tokenizer,
        Self::ContextFull,
        Self::Cancelled,
        Self::Device,
        Self::Panic,
        Self::Other,
    ];
}

/// A status other than [`Status::Ok`], and the words for it.
#[derive(Debug)]
pub(super) struct Failure {
    pub status: Status,
    pub message: String,
}

impl Failure {
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The argument `name` is null.
    pub fn null(name: &str) -> Self {
        Self::new(Status::Argument, format!("{name}: it is null"))
    }

    fn panic(payload: &(dyn Any + Send)) -> Self {
        let words = payload.downcast_ref::<&str>().copied();
        let words = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self::new(Status::Panic, format!("a fault of the library: {}", words.unwrap_or("no words")))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Io { .. } => Status::Io,
            Error::Malformed { .. } => Status::Malformed,
            Error::Unsupported { .. } => Status::Unsupported,
            Error::Adapter { .. } => Status::Adapter,
            Error::Argument { .. } => Status::Argument,
            Error::Template(_) => Status::Template,
            Error::Tokenizer(_) => Status::Tokenizer,
            Error::ContextFull { .. } => Status::ContextFull,
            Error::Cancelled => Status::Cancelled,
            Error::Device { .. } => Status::Device,
            _ => Status::Other,
        };
        Self::new(status, error.to_string())
    }
}

/// The last failure of a thread.
struct Last {
    status: Status,
    message: CString,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::new(Last { status: Status::Ok, message: CString::default() });
}

/// Runs the body of a call: a failure, or a panic, becomes the thread's last error and the call's status.
pub(super) fn guard(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let failure = match outcome {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::panic(&*payload),
    };
    let status = failure.status;
    let message = CString::new(failure.message.replace('\0', "\u{FFFD}")).unwrap_or_default();
    // A thread that is ending, and calls from a destructor, has no last error any more.
    let _ = LAST.try_with(|last| *last.borrow_mut() = Last { status, message });
    status
}

/// The last failure of this thread; the text is the thread's until its next failure.
pub(super) fn last_error() -> (Status, *const c_char) {
    let last = LAST.try_with(|last| {
        let last = last.borrow();
        (last.status, last.message.as_ptr())
    });
    last.unwrap_or((Status::Ok, c"".as_ptr()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    /// What `valve_last_error` says on this thread.
    fn heard() -> (Status, String) {
        let (status, text) = last_error();
        // SAFETY: the text ends in NUL and is this thread's until its next failure.
        (status, unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(guard(|| panic!("the {}th case", 7)), Status::Panic);
        assert_eq!(heard(), (Status::Panic, "a fault of the library: the 7th case".into()));
        assert_eq!(guard(|| std::panic::panic_any(7)), Status::Panic);
        assert_eq!(heard().1, "a fault of the library: no words");
        assert_eq!(guard(|| Ok(())), Status::Ok);
    }

    #[test]
    fn the_last_error_is_the_threads_own_and_outlives_success() {
        assert_eq!(heard(), (Status::Ok, String::new()));
        assert_eq!(guard(|| Err(Error::Cancelled.into())), Status::Cancelled);
        let other = std::thread::spawn(|| {
            let before = heard();
            guard(|| Err(Failure::new(Status::Io, "a\0b")));
            (before, heard())
        });
        let ((before, _), after) = other.join().unwrap();
        assert_eq!((before, after), (Status::Ok, (Status::Io, "a\u{FFFD}b".into())));
        assert_eq!(guard(|| Ok(())), Status::Ok);
        assert_eq!(heard(), (Status::Cancelled, "cancelled".into()));
    }

    #[test]
    fn numbers_ascend_from_zero() {
        assert!(Status::ALL.iter().zip(0..).all(|(status, number)| *status as i32 == number));
    }
}
