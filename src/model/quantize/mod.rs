//! Models in fewer bits: which type each tensor gets, and the rewriting.

mod codec;
mod file_type;
mod importance;
mod job;
mod mix;
mod pieces;
mod plan;

pub use file_type::{FileType, stored};
pub use importance::Importance;
pub use job::{Item, Job, Progress, QuantizeOptions, Sizes};
pub(crate) use pieces::{PIECE_VALUES, in_parallel};
pub use plan::{Facts, Named, PlanOptions, Planned, Shape, plan, walk_order};
