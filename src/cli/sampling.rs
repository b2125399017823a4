//! Arguments that say how tokens are drawn.

use clap::Args;
use cotvalve::error::{Error, Result};
use cotvalve::sampler::Sampling;

#[derive(Args)]
pub struct SamplingArgs {
    /// Most tokens to generate; -1 goes on until the model ends or the context is full
    #[arg(short = 'n', long = "n-predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    limit: i64,
    /// Temperature; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = Sampling::default().temperature, allow_negative_numbers = true)]
    temp: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = Sampling::default().top_k)]
    top_k: usize,
    /// Keep the fewest tokens whose probabilities reach P
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p, allow_negative_numbers = true)]
    top_p: f32,
    /// Keep tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = Sampling::default().min_p, allow_negative_numbers = true)]
    min_p: f32,
    /// Same seed, same text; -1 draws one from the clock
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    seed: i64,
}

impl SamplingArgs {
    pub fn sampling(&self) -> Sampling {
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(0, |t| u64::from(t.subsec_nanos()) ^ t.as_secs());
        Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: u64::try_from(self.seed).unwrap_or_else(|_| clock()),
        }
    }

    /// Tokens that may follow `prompt` tokens in a context of `context`.
    ///
    /// # Errors
    /// [`Error::ContextFull`] if some are wanted and there is no room for one.
    pub fn limit(&self, prompt: usize, context: usize) -> Result<usize> {
        let room = context.saturating_sub(prompt);
        if room == 0 && self.limit != 0 {
            return Err(Error::ContextFull { needed: prompt + 1, capacity: context });
        }
        Ok(usize::try_from(self.limit).map_or(room, |n| n.min(room)))
    }
}
