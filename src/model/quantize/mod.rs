//! Models in fewer bits: which type each tensor gets, and the rewriting.

mod file_type;
mod mix;
mod plan;

pub use file_type::{FileType, stored};
pub use plan::{Facts, Named, PlanOptions, Planned, Shape, plan, walk_order};
