use cotvalve::error::Result; use std::path::PathBuf;
#[derive(clap::Args)] pub struct Pull; impl Pull { pub fn run(self) -> Result<()> { Ok(()) } }
pub struct PulledModel { pub path: PathBuf, pub loras: Vec<(PathBuf, f32)>, pub valves: Vec<PathBuf> }
pub fn ensure(_: &str, _: bool) -> Result<PulledModel> { unimplemented!() }
