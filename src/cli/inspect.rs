//! `valve inspect`: what a GGUF file holds, for people or as JSON.

use cotvalve::error::{Error, Result};
use cotvalve::gguf::{Array, Gguf, TensorInfo, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

/// Longest array that the JSON form gives in full, and the length of the part it gives of longer ones.
const JSON_ITEMS: usize = 64;
/// Items of an array that the text form shows.
const TEXT_ITEMS: usize = 6;
/// Characters of a string that the text form shows.
const TEXT_CHARS: usize = 72;

/// Flags of `valve inspect`.
#[derive(clap::Args)]
pub struct Inspect {
    /// A GGUF model or adapter; of a split model, its first file.
    pub file: PathBuf,
    /// Print JSON. Arrays of more than 64 items are given as {"len", "type", "head"}.
    #[arg(long)]
    pub json: bool,
}

impl Inspect {
    /// Prints the listing to standard output; a reader that stops early is not an error.
    pub fn run(self) -> Result<()> {
        let gguf = Gguf::open(&self.file)?;
        let adapter = Adapter::of(&gguf)?;
        let listing =
            if self.json { format!("{:#}\n", to_json(&gguf, adapter)) } else { to_text(&gguf, adapter.as_ref()) };
        let mut out = std::io::stdout().lock();
        match out.write_all(listing.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::Io { path: "standard output".into(), source: e }),
            _ => Ok(()),
        }
    }
}

/// What is particular to a LoRA adapter.
struct Adapter {
    /// `adapter.lora.alpha`; 0 where the key is missing, which means the same.
    alpha: f32,
    /// Base tensor and rank, in the order of the file.
    targets: Vec<(String, usize)>,
    /// Tensors that are no half of a pair.
    others: Vec<String>,
}

impl Adapter {
    /// `None` if the file is not an adapter.
    fn of(gguf: &Gguf) -> Result<Option<Self>> {
        if gguf.str("general.type")? != Some("adapter") {
            return Ok(None);
        }
        let mut targets = Vec::new();
        let mut others = Vec::new();
        for tensor in gguf.tensors() {
            let base = tensor.name.strip_suffix(".lora_a").or_else(|| tensor.name.strip_suffix(".lora_b"));
            let pair = base.and_then(|base| {
                gguf.info(&format!("{base}.lora_a"))?;
                gguf.info(&format!("{base}.lora_b"))
            });
            match pair.zip(base) {
                // B is [rank, n_out] whatever the target, while the A of embeddings is stored transposed.
                Some((b, base)) if tensor.name.ends_with(".lora_b") => targets.push((base.to_owned(), b.dims[0])),
                Some(_) => {}
                None => others.push(tensor.name.clone()),
            }
        }
        Ok(Some(Self { alpha: gguf.f32("adapter.lora.alpha")?.unwrap_or(0.0), targets, others }))
    }

    /// By what the user's scale is multiplied: alpha / rank, or 1 if alpha is 0 or missing.
    fn scale(&self, rank: usize) -> f64 {
        if self.alpha == 0.0 { 1.0 } else { f64::from(self.alpha) / rank as f64 }
    }

    /// Number of targets of each rank.
    fn ranks(&self) -> BTreeMap<usize, usize> {
        let mut ranks = BTreeMap::new();
        self.targets.iter().for_each(|(_, rank)| *ranks.entry(*rank).or_default() += 1);
        ranks
    }
}

/// Tensors and bytes of each type, by name of the type.
fn totals(tensors: &[TensorInfo]) -> BTreeMap<&'static str, (usize, usize)> {
    let mut totals = BTreeMap::new();
    for tensor in tensors {
        let (count, bytes) = totals.entry(tensor.ty.name).or_insert((0, 0));
        *count += 1;
        // Tensors may overlap, so the sum is not bounded by the file.
        *bytes = usize::saturating_add(*bytes, tensor.data.len());
    }
    totals
}

fn values(tensors: &[TensorInfo]) -> usize {
    tensors.iter().map(TensorInfo::values).fold(0, usize::saturating_add)
}

fn to_json(gguf: &Gguf, adapter: Option<Adapter>) -> Json {
    let metadata: Map<String, Json> = gguf.metadata().iter().map(|(k, v)| (k.clone(), json_value(v))).collect();
    let tensors: Vec<Json> = gguf
        .tensors()
        .iter()
        .map(|t| {
            json!({ "name": t.name, "type": t.ty.name, "type_id": t.ty.id, "dims": t.dims,
                    "bytes": t.data.len(), "offset": t.offset, "shard": t.shard })
        })
        .collect();
    let totals: Map<String, Json> = totals(gguf.tensors())
        .into_iter()
        .map(|(name, (count, bytes))| (name.to_owned(), json!({ "tensors": count, "bytes": bytes })))
        .collect();
    let mut all = json!({
        "path": gguf.path().to_string_lossy(),
        "version": gguf.version(),
        "alignment": gguf.alignment(),
        "shards": gguf.shards().len(),
        "values": values(gguf.tensors()),
        "metadata": metadata,
        "tensors": tensors,
        "totals": totals,
    });
    if let Some(adapter) = adapter {
        let targets: Vec<Json> = adapter
            .targets
            .iter()
            .map(|(name, rank)| json!({ "tensor": name, "rank": rank, "scale": adapter.scale(*rank) }))
            .collect();
        all["adapter"] = json!({ "alpha": float(adapter.alpha), "targets": targets, "others": adapter.others });
    }
    all
}

fn json_value(value: &Value) -> Json {
    match value {
        Value::Str(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::F32(v) => float(*v),
        Value::F64(v) if v.is_finite() => json!(v),
        Value::F64(v) => json!(v.to_string()),
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::Array(array) if array.len() > JSON_ITEMS => {
            json!({ "len": array.len(), "type": array.item_ty().name(), "head": head(array, JSON_ITEMS) })
        }
        Value::Array(array) => json!(head(array, JSON_ITEMS)),
    }
}

fn head(array: &Array, most: usize) -> Vec<Json> {
    (0..array.len().min(most)).filter_map(|i| array.get(i)).map(|v| json_value(&v)).collect()
}

/// The shortest decimal that is this float, where widening to `f64` would add digits that mean nothing.
/// JSON has no word for infinity and NaN: they become strings.
pub(super) fn float(v: f32) -> Json {
    match v.to_string().parse::<f64>() {
        Ok(shortest) if v.is_finite() => json!(shortest),
        _ => json!(v.to_string()),
    }
}

fn to_text(gguf: &Gguf, adapter: Option<&Adapter>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, gguf, adapter);
    out
}

fn write_text(out: &mut String, gguf: &Gguf, adapter: Option<&Adapter>) -> std::fmt::Result {
    let bytes = gguf.shards().iter().map(|s| s.bytes.len()).sum();
    write!(out, "{}: GGUF version {}, {}", gguf.path().display(), gguf.version(), size(bytes))?;
    if gguf.shards().len() > 1 {
        write!(out, " in {} files", gguf.shards().len())?;
    }
    writeln!(out, "\n\nmetadata ({})", gguf.metadata().len())?;
    for (key, value) in gguf.metadata() {
        writeln!(out, "  {} = {}", key.escape_debug(), text_value(value))?;
    }
    writeln!(out, "\ntensors ({}, {} values)", gguf.tensors().len(), values(gguf.tensors()))?;
    let rows: Vec<[String; 4]> = gguf.tensors().iter().map(tensor_row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    for [name, ty, dims, size] in &rows {
        let [w0, w1, w2, w3] = widths;
        writeln!(out, "  {name:w0$}  {ty:w1$}  {dims:w2$}  {size:>w3$}")?;
    }
    writeln!(out, "\ntotals")?;
    for (name, (count, bytes)) in totals(gguf.tensors()) {
        writeln!(out, "  {name:<8} {count:>5} tensors  {:>10}", size(bytes))?;
    }
    match adapter {
        Some(adapter) => write_adapter(out, gguf, adapter),
        None => Ok(()),
    }
}

fn write_adapter(out: &mut String, gguf: &Gguf, adapter: &Adapter) -> std::fmt::Result {
    writeln!(out, "\nadapter")?;
    match adapter.alpha {
        0.0 => writeln!(out, "  alpha 0 or missing: the scale is the user's alone")?,
        alpha => writeln!(out, "  alpha {alpha}")?,
    }
    for (rank, count) in adapter.ranks() {
        writeln!(out, "  rank {rank}: {count} targets, effective scale {} times the user's", adapter.scale(rank))?;
    }
    for (name, rank) in &adapter.targets {
        writeln!(out, "  {} (rank {rank})", name.escape_debug())?;
    }
    for name in &adapter.others {
        writeln!(out, "  {} (not half of a pair)", name.escape_debug())?;
    }
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| key.starts_with("valve.")) {
        writeln!(out, "  {} = {}", key.escape_debug(), text_value(value))?;
    }
    Ok(())
}

/// Name, type, shape and size. Names are escaped: a file must not steer the terminal.
fn tensor_row(tensor: &TensorInfo) -> [String; 4] {
    let name = tensor.name.escape_debug().to_string();
    [name, tensor.ty.name.to_owned(), format!("{:?}", tensor.dims), size(tensor.data.len())]
}

fn text_value(value: &Value) -> String {
    match value {
        Value::Array(array) => {
            let items: Vec<String> =
                (0..array.len().min(TEXT_ITEMS)).filter_map(|i| array.get(i)).map(|v| text_value(&v)).collect();
            let more = if array.len() > TEXT_ITEMS { ", ..." } else { "" };
            format!("[{}{more}] ({} {})", items.join(", "), array.len(), array.item_ty().name())
        }
        Value::Str(s) => match s.char_indices().nth(TEXT_CHARS) {
            Some((end, _)) => format!("{:?}... ({} bytes)", &s[..end], s.len()),
            None => format!("{s:?}"),
        },
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        other => json_value(other).to_string(),
    }
}

/// Bytes for people.
fn size(bytes: usize) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.into_iter().find(|(_, shift)| bytes >> shift != 0) {
        Some((unit, shift)) => format!("{:.2} {unit}", bytes as f64 / f64::from(1_u32 << shift)),
        None => format!("{bytes} B"),
    }
}
