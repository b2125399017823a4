//! What the fuzz targets share: all of it is the library's tests' own.

pub mod bodies;
mod support;
