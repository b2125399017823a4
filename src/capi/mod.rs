//! The C interface: `capi.h`, beside this folder, documents every call; here stands only what is the Rust side's.
//!
//! Every call goes through `guard`, so neither an error nor a panic leaves as anything but a status. Handles are
//! looked up, never followed. What cannot be checked, and so is the caller's to keep: that a pointer which is not
//! null points to what the header says.
//!
//! ```text
//! cargo rustc --release --lib --no-default-features --features capi --crate-type cdylib,staticlib
//! ```
//!
//! `--features capi,grammar` for answers that follow a JSON schema.

mod handle;
mod pointer;
mod status;
mod timeline;
mod values;

pub use status::Status;
pub use values::{ChatMessage, Draw, Options, Progress};

use crate::chat::Message;
use crate::engine::{Cancel, Engine, Valve};
use crate::error::Error;
use crate::model::Model;
use crate::valve::Dial;
use handle::Table;
use pointer::{fill, initialize, path, put, put_required, read, slice, text};
use status::{Failure, guard, last_error};
use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard};
use timeline::Timeline;

/// Behind a `valve_engine`: an engine and what is attached to it, in order.
pub struct OpenEngine {
    engine: Engine,
    valves: Mutex<Vec<Valve>>,
}

/// Behind a `valve_session`.
pub struct OpenSession {
    engine: Arc<OpenEngine>,
    /// Outside of the lock: it must not wait for the call that it cancels.
    cancel: Cancel,
    live: Mutex<Live>,
}

struct Live {
    timeline: Timeline,
    /// The last token's text, with a NUL at its end.
    text: Vec<u8>,
}

static ENGINES: Table<OpenEngine> = Table::new("engine");
static SESSIONS: Table<OpenSession> = Table::new("session");

impl OpenEngine {
    fn valve(&self, index: u32) -> Result<Valve, Failure> {
        let valves = lock(&self.valves);
        let missing = || Failure::new(Status::Argument, format!("valve: {index} of {} attached", valves.len()));
        valves.get(index as usize).cloned().ok_or_else(missing)
    }
}

impl OpenSession {
    fn live(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }

    fn set(&self, valve: u32, dial: Dial, scope: u32) -> Result<(), Failure> {
        let (valve, scope) = (self.engine.valve(valve)?, values::scope(scope)?);
        Ok(self.live().timeline.set(&valve, dial, scope)?)
    }

    /// Sets the prompt to the tokens of `text`.
    fn prompt(&self, text: &str) -> Result<usize, Error> {
        let tokens = self.engine.engine.model().tokenizer().encode(text, true, true)?;
        self.live().timeline.prompt(&tokens)
    }
}

/// A call that panicked left its timeline without a generation, and whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The version of the library, as a static text.
///
/// # Safety
/// Any thread may call it.
#[unsafe(no_mangle)]
pub extern "C" fn valve_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// # Safety
/// `status` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_last_error(status: *mut i32) -> *const c_char {
    let (last, message) = last_error();
    // SAFETY: as the caller vouches.
    unsafe { put(status, last as i32) };
    message
}

/// # Safety
/// `options` is null or has `size` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_options_init(options: *mut Options, size: usize) -> Status {
    // SAFETY: as the caller vouches.
    guard(|| unsafe { initialize("options", options, size) })
}

/// # Safety
/// `sampling` is null or has `size` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_sampling_init(sampling: *mut Draw, size: usize) -> Status {
    // SAFETY: as the caller vouches.
    guard(|| unsafe { initialize("sampling", sampling, size) })
}

/// # Safety
/// `model` is null or a C string; `options` is null or of its size; `engine` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_open(
    model: *const c_char,
    options: *const Options,
    engine: *mut *mut OpenEngine,
) -> Status {
    guard(|| {
        // SAFETY: as the caller vouches, here and below.
        unsafe { put_required("engine", engine, std::ptr::null_mut()) }?;
        // SAFETY: see above.
        let (model, options) = unsafe { (path("model", model)?, read("options", options)?) };
        let (model, engine_options) = (Model::open(model)?, options.engine_options()?);
        let mut progress = |fraction| match options.progress {
            // SAFETY: it is a function of this type, and gets what it was given with.
            Some(progress) => unsafe { progress(fraction, options.user) != 0 },
            None => true,
        };
        let opened = Engine::with_progress(model, &engine_options, &mut progress)?;
        let handle = ENGINES.insert(OpenEngine { engine: opened, valves: Mutex::default() });
        // SAFETY: see above.
        unsafe { put(engine, handle) };
        Ok(())
    })
}

/// # Safety
/// None beyond what is checked.
#[unsafe(no_mangle)]
pub extern "C" fn valve_close(engine: *mut OpenEngine) -> Status {
    guard(|| ENGINES.remove(engine).map(drop))
}

/// # Safety
/// `adapter` is null or a C string; `valve` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_attach(engine: *mut OpenEngine, adapter: *const c_char, valve: *mut u32) -> Status {
    guard(|| {
        let open = ENGINES.get(engine)?;
        // SAFETY: as the caller vouches.
        let adapter = unsafe { path("adapter", adapter) }?;
        let attached = open.engine.attach(adapter)?;
        let mut valves = lock(&open.valves);
        valves.push(attached);
        // SAFETY: as the caller vouches.
        unsafe { put(valve, valves.len() as u32 - 1) };
        Ok(())
    })
}

/// # Safety
/// `tokens` is null or may be written `capacity` times; `text` is null or a C string; `count` is null or may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_tokenize(
    engine: *mut OpenEngine,
    text: *const c_char,
    parse_special: i32,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> Status {
    guard(|| {
        let open = ENGINES.get(engine)?;
        // SAFETY: as the caller vouches.
        let text = unsafe { self::text("text", text) }?;
        let found = open.engine.model().tokenizer().encode(text, parse_special != 0, true)?;
        // SAFETY: as the caller vouches.
        unsafe { fill(&found, (tokens, capacity), count) }
    })
}

/// # Safety
/// `session` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_session_open(engine: *mut OpenEngine, session: *mut *mut OpenSession) -> Status {
    guard(|| {
        // SAFETY: as the caller vouches.
        unsafe { put_required("session", session, std::ptr::null_mut()) }?;
        let engine = ENGINES.get(engine)?;
        let opened = engine.engine.session();
        let cancel = opened.cancel_handle();
        let live = Mutex::new(Live { timeline: Timeline::new(opened), text: Vec::new() });
        let handle = SESSIONS.insert(OpenSession { engine, cancel, live });
        // SAFETY: as the caller vouches.
        unsafe { put(session, handle) };
        Ok(())
    })
}

/// # Safety
/// None beyond what is checked.
#[unsafe(no_mangle)]
pub extern "C" fn valve_session_close(session: *mut OpenSession) -> Status {
    guard(|| SESSIONS.remove(session).map(drop))
}

/// # Safety
/// None beyond what is checked.
#[unsafe(no_mangle)]
pub extern "C" fn valve_set_alpha(session: *mut OpenSession, valve: u32, alpha: f32, scope: u32) -> Status {
    guard(|| SESSIONS.get(session)?.set(valve, Dial::constant(alpha)?, scope))
}

/// # Safety
/// `dial` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_set_dial(
    session: *mut OpenSession,
    valve: u32,
    dial: *const c_char,
    scope: u32,
) -> Status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: as the caller vouches.
        session.set(valve, unsafe { text("dial", dial) }?.parse()?, scope)
    })
}

/// # Safety
/// `messages` is null or has `count` messages, each of two that are null or C strings; `kept` is null or may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_prompt_chat(
    session: *mut OpenSession,
    messages: *const ChatMessage,
    count: usize,
    kept: *mut usize,
) -> Status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: as the caller vouches.
        let given = unsafe { slice("messages", messages, count) }?;
        let message = |m: &ChatMessage| {
            // SAFETY: as the caller vouches.
            let (role, content) = unsafe { (text("role", m.role)?, text("content", m.content)?) };
            Ok(Message::new(role, content))
        };
        let messages = given.iter().map(message).collect::<Result<Vec<_>, Failure>>()?;
        let rendered = session.engine.engine.model().render_chat(&messages)?;
        // SAFETY: as the caller vouches.
        unsafe { put(kept, session.prompt(&rendered)?) };
        Ok(())
    })
}

/// # Safety
/// `text` is null or a C string; `kept` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_prompt_text(session: *mut OpenSession, text: *const c_char, kept: *mut usize) -> Status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: as the caller vouches.
        let text = unsafe { self::text("text", text) }?;
        // SAFETY: as the caller vouches.
        unsafe { put(kept, session.prompt(text)?) };
        Ok(())
    })
}

/// # Safety
/// `tokens` is null or has `count`; `kept` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_prompt_tokens(
    session: *mut OpenSession,
    tokens: *const u32,
    count: usize,
    kept: *mut usize,
) -> Status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: as the caller vouches.
        let tokens = unsafe { slice("tokens", tokens, count) }?;
        // SAFETY: as the caller vouches.
        unsafe { put(kept, session.live().timeline.prompt(tokens)?) };
        Ok(())
    })
}

/// # Safety
/// `sampling` is null or of its size; its pointers are null or to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_generate(session: *mut OpenSession, sampling: *const Draw, limit: usize) -> Status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: as the caller vouches.
        let sampling = unsafe { read("sampling", sampling)?.sampling() }?;
        let mut live = session.live();
        let used = live.timeline.session().tokens().len();
        let room = session.engine.engine.context().saturating_sub(used).max(1);
        session.cancel.clear();
        Ok(live.timeline.generate(&sampling, if limit == 0 { room } else { limit })?)
    })
}

/// # Safety
/// Each of the four places is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_next(
    session: *mut OpenSession,
    token: *mut u32,
    text: *mut *const c_char,
    bytes: *mut usize,
    stop: *mut u32,
) -> Status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        let mut live = session.live();
        live.text.clear();
        let Some(event) = live.timeline.next() else {
            return Err(Failure::new(Status::State, "next: no generation runs; valve_generate starts one"));
        };
        let event = event?;
        live.text.extend_from_slice(event.text.as_bytes());
        live.text.push(0);
        // SAFETY: as the caller vouches.
        unsafe {
            put(token, event.token);
            put(text, live.text.as_ptr().cast());
            put(bytes, event.text.len());
            put(stop, values::stop(event.stop));
        }
        Ok(())
    })
}

/// # Safety
/// None beyond what is checked.
#[unsafe(no_mangle)]
pub extern "C" fn valve_cancel(session: *mut OpenSession) -> Status {
    guard(|| SESSIONS.get(session).map(|session| session.cancel.cancel()))
}

/// # Safety
/// `tokens` is null or may be written `capacity` times; `count` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_tokens(
    session: *mut OpenSession,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> Status {
    guard(|| {
        let found = SESSIONS.get(session)?.live().timeline.session().tokens();
        // SAFETY: as the caller vouches.
        unsafe { fill(&found, (tokens, capacity), count) }
    })
}

/// # Safety
/// `openings` is null or may be written `capacity` times; `count` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valve_openings(
    session: *mut OpenSession,
    valve: u32,
    openings: *mut f32,
    capacity: usize,
    count: *mut usize,
) -> Status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        let valve = session.engine.valve(valve)?;
        let found = session.live().timeline.session().openings(&valve);
        // SAFETY: as the caller vouches.
        unsafe { fill(&found, (openings, capacity), count) }
    })
}
