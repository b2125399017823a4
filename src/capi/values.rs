//! The structures and numbers of the header, and what they stand for.

use super::pointer::{Growing, slice, text};
use super::status::{Failure, Status};
use crate::backend::Precision;
use crate::engine::{EngineOptions, Stop};
use crate::sampler::{Grammar, Sampling};
use crate::tensor::TensorType;
use crate::valve::Scope;
use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

/// `valve_progress`: hears the fraction loaded; 0 stops loading.
pub type Progress = unsafe extern "C" fn(f32, *mut c_void) -> c_int;

/// `valve_options`: see [`EngineOptions`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Options {
    pub size: usize,
    /// 0 is all of the processor.
    pub threads: u32,
    /// 0 is what the model was trained on.
    pub context: u32,
    pub sessions: u32,
    pub batch: u32,
    /// A GGUF type id.
    pub kv_type: u32,
    /// 0 [`Precision::Int8`], 1 [`Precision::Float`].
    pub precision: u32,
    pub progress: Option<Progress>,
    pub user: *mut c_void,
}

const _: () = assert!(size_of::<Options>() == 3 * size_of::<usize>() + 6 * 4, "there is padding");

// SAFETY: no padding, the first field is the size; a pointer to a function is what the caller says it is.
unsafe impl Growing for Options {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        threads: 0,
        context: 0,
        sessions: 1,
        batch: 512,
        kv_type: TensorType::F16 as u32,
        precision: 0,
        progress: None,
        user: std::ptr::null_mut(),
    };
    const FIRST: usize = offset_of!(Self, user) + size_of::<*mut c_void>();
}

impl Options {
    pub(super) fn engine_options(&self) -> Result<EngineOptions, Failure> {
        let bad = |name: &str, value: u32| argument(format!("{name}: there is no {value}"));
        let defaults = EngineOptions::default();
        Ok(EngineOptions {
            threads: if self.threads == 0 { defaults.threads } else { self.threads as usize },
            context: self.context as usize,
            sessions: self.sessions as usize,
            batch: self.batch as usize,
            kv_type: TensorType::from_id(self.kv_type).ok_or_else(|| bad("kv_type", self.kv_type))?,
            precision: match self.precision {
                0 => Precision::Int8,
                1 => Precision::Float,
                other => return Err(bad("precision", other)),
            },
            ..defaults
        })
    }
}

/// `valve_sampling`: see [`Sampling`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Draw {
    pub size: usize,
    pub seed: u64,
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub typical_p: f32,
    pub top_n_sigma: f32,
    pub repeat_penalty: f32,
    pub repeat_last_n: u32,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    /// `stop_count` texts.
    pub stop: *const *const c_char,
    pub stop_count: usize,
    /// Null for none.
    pub json_schema: *const c_char,
}

const _: () = assert!(size_of::<Draw>() == 4 * size_of::<usize>() + 8 + 10 * 4, "there is padding");

// SAFETY: no padding, the first field is the size; pointers are what the caller says they are.
unsafe impl Growing for Draw {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        seed: 0,
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        typical_p: 1.0,
        top_n_sigma: -1.0,
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        stop: std::ptr::null(),
        stop_count: 0,
        json_schema: std::ptr::null(),
    };
    const FIRST: usize = offset_of!(Self, json_schema) + size_of::<*const c_char>();
}

impl Draw {
    /// # Safety
    /// `stop` is null or has `stop_count` pointers; these and `json_schema` are null or C strings.
    pub(super) unsafe fn sampling(&self) -> Result<Sampling, Failure> {
        // SAFETY: as the caller vouches.
        let stop = unsafe { slice("stop", self.stop, self.stop_count) }?;
        // SAFETY: as the caller vouches.
        let stop = stop.iter().map(|stop| unsafe { text("stop", *stop) }.map(str::to_owned));
        let schema = match self.json_schema.is_null() {
            true => None,
            // SAFETY: as the caller vouches.
            false => Some(unsafe { text("json_schema", self.json_schema) }?),
        };
        Ok(Sampling {
            seed: self.seed,
            temperature: self.temperature,
            top_k: self.top_k as usize,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            top_n_sigma: self.top_n_sigma,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n as usize,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            stop: stop.collect::<Result<_, _>>()?,
            grammar: schema.map(|schema| Grammar::JsonSchema(schema.into())),
            ..Sampling::default()
        })
    }
}

/// `valve_message`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChatMessage {
    pub role: *const c_char,
    pub content: *const c_char,
}

/// The scope of a `valve_scope`.
pub(super) fn scope(number: u32) -> Result<Scope, Failure> {
    match number {
        0 => Ok(Scope::All),
        1 => Ok(Scope::Generation),
        2 => Ok(Scope::Think),
        other => Err(argument(format!("scope: there is no {other}"))),
    }
}

/// The `valve_stop` of a token.
pub(super) fn stop(stop: Option<Stop>) -> u32 {
    match stop {
        None => 0,
        Some(Stop::End) => 1,
        Some(Stop::Limit) => 2,
        Some(Stop::Text) => 3,
    }
}

fn argument(message: String) -> Failure {
    Failure::new(Status::Argument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_librarys() {
        let options = Options::DEFAULT.engine_options().unwrap();
        assert_eq!(format!("{options:?}"), format!("{:?}", EngineOptions::default()));
        // SAFETY: its pointers are null.
        assert_eq!(unsafe { Draw::DEFAULT.sampling() }.unwrap(), Sampling::default());
    }
}
