//! A model in other types: what changes and what stays, importance matrices, and what is refused.

mod support;

use cotvalve::gguf::write::Writer;
use cotvalve::gguf::{Gguf, Strings, TensorInfo, Value};
use cotvalve::map::Bytes;
use cotvalve::model::quantize::{FileType, Importance, Job, Named, PlanOptions, QuantizeOptions, stored};
use cotvalve::quant;
use cotvalve::tensor::TensorType;
use std::path::{Path, PathBuf};
use support::Random;
use support::gguf_fixture::encode_float;
use tempfile::TempDir;

const COLS: usize = 256;
/// Names, dimensions and types of a model that has one of each: a table, a vector, a matrix, a matrix an expert.
const TENSORS: [(&str, &[usize], TensorType); 4] = [
    ("token_embd.weight", &[COLS, 8], TensorType::F32),
    ("output_norm.weight", &[COLS], TensorType::F32),
    ("blk.0.attn_v.weight", &[COLS, 16], TensorType::F16),
    ("blk.0.ffn_down_exps.weight", &[COLS, 4, 2], TensorType::F32),
];
const VALUE: &str = "blk.0.attn_v.weight";
const EXPERTS: &str = "blk.0.ffn_down_exps.weight";

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        model(&TENSORS, &[]).write(&folder.path("model.gguf")).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn model(&self) -> Gguf {
        Gguf::open(&self.path("model.gguf")).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// An importance matrix in the GGUF form: sums and counts by name.
    fn importance(&self, entries: &[(&str, Vec<f32>, Vec<f32>)]) -> PathBuf {
        let mut writer = Writer::new();
        writer.set("imatrix.datasets", ["a.txt", "b.txt"].iter().collect::<Strings>()).unwrap();
        writer.set("imatrix.chunk_count", 7_u32).unwrap();
        writer.set("imatrix.chunk_size", 512_u32).unwrap();
        for (name, sums, counts) in entries {
            for (suffix, values) in [("in_sum2", sums), ("counts", counts)] {
                let bytes = encode_float(TensorType::F32, values);
                writer.tensor(&format!("{name}.{suffix}"), 0, &[values.len()], bytes).unwrap();
            }
        }
        let path = self.path("imatrix.gguf");
        writer.write(&path).unwrap();
        path
    }
}

fn model(tensors: &[(&str, &[usize], TensorType)], more: &[(&str, Value)]) -> Writer<'static> {
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama").unwrap();
    writer.set("general.name", "a model").unwrap();
    writer.set("llama.block_count", 1_u32).unwrap();
    writer.set("llama.attention.head_count", 8_u32).unwrap();
    more.iter().for_each(|(key, value)| writer.set(key, value.clone()).unwrap());
    let mut random = Random(11);
    for (name, dims, ty) in tensors {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| random.normal(0.0, 0.1)).collect();
        writer.tensor(name, *ty as u32, dims, encode_float(*ty, &values)).unwrap();
    }
    writer
}

fn options(name: &str) -> QuantizeOptions<'static> {
    QuantizeOptions {
        plan: PlanOptions::new(FileType::parse(name).unwrap()),
        importance: None,
        allow_requantize: false,
        keep_split: false,
        overrides: Vec::new(),
        threads: 2,
    }
}

fn write(gguf: &Gguf, options: QuantizeOptions<'_>, out: &Path) -> Result<(), String> {
    let job = Job::new(gguf, options).map_err(|e| e.to_string())?;
    job.write(out, &mut |_, _| true).map_err(|e| e.to_string())
}

fn values(info: &TensorInfo) -> Vec<f32> {
    let mut values = vec![0.0; info.values()];
    quant::dequantize(TensorType::from_id(info.ty.id).unwrap(), &info.data, &mut values);
    values
}

/// √(Σ w·(a − b)²), w repeating.
fn error(a: &[f32], b: &[f32], weights: &[f32]) -> f64 {
    let each = a.iter().zip(b).zip(weights.iter().cycle());
    each.map(|((a, b), w)| f64::from(*w) * f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn matrices_change_and_the_rest_stays() {
    let folder = Folder::new();
    let before = folder.model();
    for (name, bound) in [("f16", 1e-3), ("q8_0", 0.01), ("q6_k", 0.02), ("q4_k_m", 0.09), ("q4_0", 0.12)] {
        let out = folder.path("out.gguf");
        let overrides = vec![("general.author".to_owned(), Value::from("nobody"))];
        write(&before, QuantizeOptions { overrides, ..options(name) }, &out).unwrap();
        let after = Gguf::open(&out).unwrap();
        let file_type = FileType::parse(name).unwrap();
        assert_eq!(after.u32("general.file_type").unwrap(), Some(file_type.id()));
        assert_eq!(after.u32("general.quantization_version").unwrap(), Some(2));
        assert_eq!(after.str("general.author").unwrap(), Some("nobody"));
        for (key, value) in before.metadata() {
            assert_eq!(after.get(key), Some(value), "{key}");
        }
        let norm = |gguf: &Gguf| gguf.info("output_norm.weight").unwrap().data.to_vec();
        assert_eq!(norm(&after), norm(&before));
        for info in before.tensors().iter().filter(|info| info.dims.len() > 1) {
            let (a, b) = (values(info), values(after.info(&info.name).unwrap()));
            let relative = error(&a, &b, &[1.0]) / error(&a, &vec![0.0; a.len()], &[1.0]);
            assert!(relative > 0.0 || info.ty.name == name, "{name}: {}", info.name);
            assert!(relative < bound, "{name}: {} errs by {relative}", info.name);
        }
        let alone = folder.path("alone.gguf");
        let overrides = vec![("general.author".to_owned(), Value::from("nobody"))];
        write(&before, QuantizeOptions { threads: 1, overrides, ..options(name) }, &alone).unwrap();
        assert!(std::fs::read(&alone).unwrap() == std::fs::read(&out).unwrap(), "{name}: threads change bytes");
    }
}

/// Importance of the experts' matrix: every fourth column counts, others in the second expert than in the first.
fn expert_importance() -> Vec<f32> {
    (0..2 * COLS).map(|i| if i % 4 == i / COLS { 100.0 } else { 0.01 }).collect()
}

#[test]
fn an_importance_matrix_moves_errors_to_where_they_count_less() {
    let folder = Folder::new();
    let before = folder.model();
    let weights = expert_importance();
    // Sums over 4 and 8 rows.
    let sums: Vec<f32> = weights.iter().enumerate().map(|(i, w)| if i < COLS { w * 4.0 } else { w * 8.0 }).collect();
    let path = folder.importance(&[(EXPERTS, sums, vec![4.0, 8.0])]);
    let importance = Importance::open(&path).unwrap();
    assert_eq!((importance.len(), importance.chunks(), importance.datasets().len()), (1, 7, 2));
    for name in ["q4_0", "q4_1", "q5_0", "q5_1", "q4_k_s", "q5_k_s", "q6_k"] {
        let (plain, weighted) = (folder.path("plain.gguf"), folder.path("weighted.gguf"));
        write(&before, options(name), &plain).unwrap();
        write(&before, QuantizeOptions { importance: Some(&importance), ..options(name) }, &weighted).unwrap();
        let (plain, weighted) = (Gguf::open(&plain).unwrap(), Gguf::open(&weighted).unwrap());
        let exact = values(before.info(EXPERTS).unwrap());
        let err = |gguf: &Gguf| {
            let found = values(gguf.info(EXPERTS).unwrap());
            let expert = |e: usize| {
                let rows = e * 4 * COLS..(e + 1) * 4 * COLS;
                error(&exact[rows.clone()], &found[rows], &weights[e * COLS..][..COLS])
            };
            [expert(0), expert(1)]
        };
        // The mixes give the same types here, with and without a matrix.
        let ty = |gguf: &Gguf| gguf.info(EXPERTS).unwrap().ty;
        assert_eq!(ty(&plain), ty(&weighted));
        for (weighted, plain) in err(&weighted).into_iter().zip(err(&plain)) {
            assert!(weighted < 0.95 * plain, "{name}: {weighted} with the matrix, {plain} without");
        }
        let key = |key: &str| weighted.u32(&format!("quantize.imatrix.{key}")).unwrap();
        assert_eq!((key("entries_count"), key("chunks_count")), (Some(1), Some(7)));
        assert_eq!(weighted.str("quantize.imatrix.dataset").unwrap(), Some("a.txt"));
        assert!(weighted.str("quantize.imatrix.file").unwrap().unwrap().ends_with("imatrix.gguf"));
        assert!(plain.get("quantize.imatrix.file").is_none());
    }
}

/// A file of the older form: entries of name, calls and values; then the chunks and the data set.
fn legacy(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |n: i32| bytes.extend(n.to_le_bytes());
    put(entries.len() as i32);
    for (name, calls, values) in entries {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(calls.to_le_bytes());
        bytes.extend((values.len() as i32).to_le_bytes());
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    }
    bytes.extend(7_i32.to_le_bytes());
    bytes.extend(5_i32.to_le_bytes());
    bytes.extend(b"a.txt");
    bytes
}

#[test]
fn the_older_form_reads_the_same_and_damage_is_an_error() {
    let folder = Folder::new();
    let path = folder.path("imatrix.dat");
    let values: Vec<f32> = (0..COLS).map(|i| i as f32).collect();
    let bytes = legacy(&[(VALUE, 4, &values)]);
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Importance::open(&path)
    };
    let found = open(&bytes).unwrap();
    let wanted: Vec<f32> = values.iter().map(|v| v / 4.0).collect();
    assert_eq!(found.of(VALUE, &[COLS, 16]).unwrap(), Some(&wanted[..]));
    assert_eq!((found.chunks(), found.datasets()), (7, &["a.txt".to_owned()][..]));
    // What follows the entries may be missing.
    let entries = bytes.len() - 13;
    assert_eq!(open(&bytes[..entries]).unwrap().chunks(), 0);
    for end in 0..entries {
        let error = open(&bytes[..end]).unwrap_err().to_string();
        assert!(error.contains("imatrix.dat"), "{end}: {error}");
    }
    for n in [i32::MIN, -1, 0, i32::MAX] {
        let mut bytes = bytes.clone();
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        assert!(open(&bytes).is_err(), "{n} entries");
    }
}

#[test]
fn importances_that_fit_nothing_are_refused() {
    let folder = Folder::new();
    let open = |sums: Vec<f32>, counts: Vec<f32>| {
        let path = folder.importance(&[(VALUE, sums, counts)]);
        Importance::open(&path).map_err(|e| e.to_string())
    };
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let mut sums = vec![1.0; COLS];
        sums[9] = bad;
        let error = open(sums, vec![1.0]).unwrap_err();
        assert!(error.contains("imatrix.gguf") && error.contains(VALUE), "{error}");
    }
    assert!(open(vec![1.0; COLS], vec![1.0; 3]).unwrap_err().contains("do not belong to 3 counts"));
    let narrow = open(vec![1.0; 64], vec![1.0]).unwrap();
    let quantize = QuantizeOptions { importance: Some(&narrow), ..options("q4_0") };
    let error = write(&folder.model(), quantize, &folder.path("out.gguf")).unwrap_err();
    assert!(error.contains("has 64 importances for blk.0.attn_v.weight, which has 256 columns"), "{error}");
    // An embedding's columns meet no activations: another shape is no importance.
    assert_eq!(narrow.of("token_embd.weight", &[COLS, 8]).unwrap(), None);
    let mut none = narrow;
    none.retain(&["attn_v".to_owned()], &[]);
    assert_eq!(none.len(), 1);
    none.retain(&[], &["attn".to_owned()]);
    assert!(none.is_empty());
    // An expert that met nothing counts all its columns alike.
    let unused = open(vec![5.0; 2 * COLS], vec![0.0, 5.0]).unwrap();
    assert_eq!(unused.of(VALUE, &[COLS, 1, 2]).unwrap().unwrap(), vec![1.0; 2 * COLS]);
}

#[test]
fn what_would_lose_or_write_over_something_is_refused() {
    let folder = Folder::new();
    let (gguf, out) = (folder.model(), folder.path("out.gguf"));
    let error = write(&gguf, options("q4_0"), &folder.path("model.gguf")).unwrap_err();
    assert!(error.contains("is the model that is read"), "{error}");
    write(&gguf, options("q5_0"), &out).unwrap();
    let quantized = Gguf::open(&out).unwrap();
    let again = folder.path("again.gguf");
    let error = write(&quantized, options("q4_0"), &again).unwrap_err();
    assert!(error.contains("quantized as q5_0 already") && error.contains("blk.0.attn_v"), "{error}");
    assert!(!again.exists());
    write(&quantized, QuantizeOptions { allow_requantize: true, ..options("q4_0") }, &again).unwrap();
    let copied = QuantizeOptions { plan: PlanOptions { copy: true, ..options("f32").plan }, ..options("f32") };
    write(&quantized, copied, &again).unwrap();
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&out).unwrap(), "a copy is the same file");
    let before = folder.names();
    let job = Job::new(&gguf, options("q4_0")).unwrap();
    let stopped = job.write(&out, &mut |item, _| item.info.name != VALUE).unwrap_err();
    assert!(matches!(stopped, cotvalve::error::Error::Cancelled), "{stopped}");
    assert_eq!(folder.names(), before, "nothing is left of it");
    assert!(Job::new(&gguf, QuantizeOptions { threads: 0, ..options("q4_0") }).is_err());
    let mut headless = Writer::new();
    headless.set("general.architecture", "llama").unwrap();
    let bytes = Bytes::from(headless.to_bytes().unwrap());
    let headless = Gguf::parse(Path::new("headless.gguf"), bytes).unwrap();
    let error = Job::new(&headless, options("q4_0")).unwrap_err().to_string();
    assert!(error.contains("headless.gguf") && error.contains("llama.block_count"), "{error}");
}

#[test]
fn values_that_a_type_cannot_hold_are_refused_by_name() {
    let folder = Folder::new();
    for (bad, name) in [(f32::NAN, "q4_0"), (f32::INFINITY, "q6_k"), (1e9, "f16"), (1e9, "q4_0")] {
        let mut writer = model(&TENSORS[..2], &[]);
        let mut values = vec![0.5; COLS * 4];
        values[700] = bad;
        writer.tensor(VALUE, 0, &[COLS, 4], encode_float(TensorType::F32, &values)).unwrap();
        let bytes = Bytes::from(writer.to_bytes().unwrap());
        let gguf = Gguf::parse(Path::new("bad.gguf"), bytes).unwrap();
        let error = write(&gguf, options(name), &folder.path("out.gguf")).unwrap_err();
        assert!(error.contains(VALUE) && error.contains(name.trim_end_matches("_k")), "{error}");
        assert!(!folder.path("out.gguf").exists());
    }
}

#[test]
fn types_without_an_encoder_of_ours_go_through_ggml_or_name_it() {
    let folder = Folder::new();
    let gguf = folder.model();
    let out = folder.path("out.gguf");
    let named = |ty: &str| {
        let named = vec![Named::parse(&format!("attn_v={ty}")).unwrap()];
        QuantizeOptions { plan: PlanOptions { named, ..options("q8_0").plan }, ..options("q8_0") }
    };
    let needs = write(&gguf, named("iq2_xxs"), &out).unwrap_err();
    assert!(needs.contains(VALUE) && needs.contains("importance matrix"), "{needs}");
    let made = write(&gguf, named("tq2_0"), &out);
    if !cfg!(feature = "ggml") {
        assert!(made.unwrap_err().contains("--features ggml"));
        return;
    }
    made.unwrap();
    assert_eq!(Gguf::open(&out).unwrap().info(VALUE).unwrap().ty, stored("tq2_0").unwrap());
    let path = folder.importance(&[(VALUE, vec![1.0; COLS], vec![1.0])]);
    let importance = Importance::open(&path).unwrap();
    write(&gguf, QuantizeOptions { importance: Some(&importance), ..named("iq2_xxs") }, &out).unwrap();
    // And back: ggml's code reads it.
    let small = Gguf::open(&out).unwrap();
    let plan = PlanOptions { pure: true, ..options("f32").plan };
    let back = QuantizeOptions { plan, allow_requantize: true, ..options("f32") };
    write(&small, back, &folder.path("back.gguf")).unwrap();
    let (exact, back) = (gguf.info(VALUE).unwrap(), Gguf::open(&folder.path("back.gguf")).unwrap());
    let (exact, back) = (values(exact), values(back.info(VALUE).unwrap()));
    let relative = error(&exact, &back, &[1.0]) / error(&exact, &vec![0.0; exact.len()], &[1.0]);
    assert!(relative > 0.1 && relative < 0.6, "{relative}");
    assert!(write(&gguf, named("i8"), &out).unwrap_err().contains("nothing here can write i8"));
}

#[test]
fn a_split_model_is_read_whole_and_can_stay_split() {
    let folder = Folder::new();
    for shard in 0..2_u16 {
        let mut more = vec![("split.no", shard.into()), ("split.count", 2_u16.into())];
        more.push(("split.tensors.count", 4_i32.into()));
        let tensors = if shard == 0 { &TENSORS[..2] } else { &TENSORS[2..] };
        model(tensors, &more).write(&folder.path(&format!("m-0000{}-of-00002.gguf", shard + 1))).unwrap();
    }
    let gguf = Gguf::open(&folder.path("m-00001-of-00002.gguf")).unwrap();
    let whole = folder.path("whole.gguf");
    write(&gguf, options("q8_0"), &whole).unwrap();
    let whole = Gguf::open(&whole).unwrap();
    assert!(whole.tensors().len() == 4 && whole.get("split.count").is_none());
    write(&gguf, QuantizeOptions { keep_split: true, ..options("q8_0") }, &folder.path("s.gguf")).unwrap();
    let split = Gguf::open(&folder.path("s-00001-of-00002.gguf")).unwrap();
    assert_eq!(split.shards().len(), 2);
    assert_eq!(split.shard_tensors(1).len(), 2);
    for info in whole.tensors() {
        assert!(split.info(&info.name).unwrap().data[..] == info.data[..], "{}", info.name);
    }
    let over = QuantizeOptions { keep_split: true, ..options("q4_0") };
    let error = write(&gguf, over, &folder.path("m.gguf")).unwrap_err();
    assert!(error.contains("m-00001-of-00002.gguf is the model that is read"), "{error}");
}
