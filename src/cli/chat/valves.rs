//! What is attached, and how it stands.

use super::super::options::Loaded;
use super::settings;
use cotvalve::error::Result;
use cotvalve::gguf::Gguf;
use cotvalve::valve::Adapter;
use std::collections::BTreeSet;

/// A paragraph for each adapter.
///
/// # Errors
/// Those of a file that cannot be read any more.
pub(super) fn describe(loaded: &Loaded) -> Result<String> {
    let lora =
        |(valve, scale): &(cotvalve::engine::Valve, f32)| of_adapter(valve.adapter(), &format!("stays at {scale}"));
    let alpha = format!("alpha {}, scope {}", settings::openings(loaded), settings::scope(loaded.scope));
    let valves = loaded.valves.iter().map(|valve| of_adapter(valve.adapter(), &alpha));
    let all = loaded.loras.iter().map(lora).chain(valves).collect::<Result<Vec<_>>>()?;
    Ok(if all.is_empty() { "nothing is attached".into() } else { all.join("\n") })
}

fn of_adapter(adapter: &Adapter, standing: &str) -> Result<String> {
    let pairs = adapter.pairs();
    let ranks: BTreeSet<usize> = pairs.iter().map(|pair| pair.b.dims[0]).collect();
    let layers: BTreeSet<usize> = pairs.iter().filter_map(|pair| pair.site.layer).collect();
    let groups: BTreeSet<&str> = pairs.iter().map(|pair| group(pair.site.fan)).collect();
    let mut text = format!("{}: {standing}\n", adapter.path().display());
    let ranks: Vec<String> = ranks.iter().map(usize::to_string).collect();
    let groups: Vec<&str> = groups.into_iter().collect();
    text += &format!("  {} pairs on {}, rank {}", pairs.len(), groups.join(", "), ranks.join(", "));
    if let (Some(first), Some(last)) = (layers.first(), layers.last()) {
        text += &format!(", layers {first} to {last}");
    }
    if let Some(curve) = curve(&Gguf::open(adapter.path())?)? {
        text += &format!("\n  {curve}");
    }
    Ok(text)
}

fn group(fan: cotvalve::model::FanKind) -> &'static str {
    use cotvalve::model::FanKind::{AttnOutput, Down, GateUp, Head, Qkv};
    match fan {
        Qkv | AttnOutput => "attention",
        GateUp | Down => "mlp",
        Head => "head",
    }
}

/// What the file says of tokens and accuracy at each opening.
fn curve(gguf: &Gguf) -> Result<Option<String>> {
    let key = |name: &str| format!("valve.curve.{name}");
    let Some(alphas) = gguf.f32s(&key("alpha"))? else { return Ok(None) };
    let (tokens, accuracy) = (gguf.f32s(&key("tokens"))?, gguf.f32s(&key("accuracy"))?);
    let at = |values: Option<&[f32]>, i: usize| values.and_then(|values| values.get(i)).copied();
    let point = |(i, alpha): (usize, &f32)| {
        let tokens = at(tokens.as_deref(), i).map_or(String::new(), |tokens| format!(" {tokens:.0} tokens"));
        let accuracy = at(accuracy.as_deref(), i).map_or(String::new(), |share| format!(" {:.0} %", share * 100.0));
        format!("{alpha}:{tokens}{accuracy}")
    };
    let task = gguf.str(&key("task"))?.map_or(String::new(), |task| format!(" ({task})"));
    Ok(Some(format!("curve{task}: {}", alphas.iter().enumerate().map(point).collect::<Vec<_>>().join("; "))))
}
