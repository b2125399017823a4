//! A session together with the generation that borrows it, so that C can ask for one token at a time.

use crate::engine::{Event, Generation, Session, Valve};
use crate::error::Result;
use crate::sampler::Sampling;
use crate::valve::{Dial, Scope};
use std::ptr::NonNull;

/// An owned session, and its generation while one runs.
pub(super) struct Timeline {
    /// From a box. Used only while `generation` is `None`: the generation has the one reference to it.
    session: NonNull<Session>,
    generation: Option<Generation<'static>>,
}

// SAFETY: it owns the session, as a box would, and a session may go to another thread, as may its generation.
unsafe impl Send for Timeline where Session: Send {}

impl Timeline {
    pub fn new(session: Session) -> Self {
        let session = NonNull::from(Box::leak(Box::new(session)));
        Self { session, generation: None }
    }

    /// To look at.
    pub fn session(&self) -> &Session {
        match &self.generation {
            Some(generation) => generation.session(),
            // SAFETY: it lives until `drop`, and no generation has a reference to it.
            None => unsafe { self.session.as_ref() },
        }
    }

    /// Ends a running generation; the session is then free.
    fn idle(&mut self) -> &mut Session {
        self.generation = None;
        // SAFETY: it lives until `drop`; the generation, and with it the other reference, is gone.
        unsafe { self.session.as_mut() }
    }

    /// [`Session::set`], in mid-answer too.
    pub fn set(&mut self, valve: &Valve, dial: Dial, scope: Scope) -> Result<()> {
        match &mut self.generation {
            Some(generation) => generation.set(valve, dial, scope),
            None => self.idle().set(valve, dial, scope),
        }
    }

    /// [`Session::prompt`]; ends a running generation.
    pub fn prompt(&mut self, tokens: &[u32]) -> Result<usize> {
        self.idle().prompt(tokens)
    }

    /// [`Session::generate`]; ends a running generation.
    pub fn generate(&mut self, sampling: &Sampling, limit: usize) -> Result<()> {
        self.idle();
        // SAFETY: as in `idle`; and the generation that takes this reference is dropped before another is made, and
        // before the session is.
        let session = unsafe { &mut *self.session.as_ptr() };
        self.generation = Some(session.generate(sampling, limit)?);
        Ok(())
    }

    /// The next token, or `None` if no generation runs. The last one, an error, or a panic ends the generation.
    pub fn next(&mut self) -> Option<Result<Event>> {
        let mut generation = self.generation.take()?;
        let event = generation.next()?;
        if matches!(&event, Ok(event) if event.stop.is_none()) {
            self.generation = Some(generation);
        }
        Some(event)
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.generation = None;
        // SAFETY: it came from a box, and the generation, the only other user, is gone.
        drop(unsafe { Box::from_raw(self.session.as_ptr()) });
    }
}
