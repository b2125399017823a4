use cotvalve::error::Result;
#[derive(clap::Args)] pub struct Tokenize; impl Tokenize { pub fn run(self) -> Result<()> { Ok(()) } }
