//! The types that tensors get, against llama-quantize's choices for models of many shapes.

use cotvalve::gguf::StoredType;
use cotvalve::model::quantize::{Facts, FileType, Named, PlanOptions, Shape, plan, stored};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What `benches/peer/quantize_plans.py` wrote.
fn fixture() -> Value {
    serde_json::from_str(include_str!("data/llama-cpp/quantize-plans.json")).unwrap()
}

fn entries(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// A model as the fixture describes it: names with dimensions, in no order that matters.
struct Model {
    facts: Facts,
    tensors: Vec<(String, Vec<usize>)>,
}

impl Model {
    fn of(value: &Value) -> Self {
        let field = |name: &str| number(&value[name]);
        let facts = Facts {
            architecture: value["arch"].as_str().unwrap().to_owned(),
            layers: field("layers"),
            heads: field("heads"),
            kv_heads: field("kv_heads"),
            experts: field("experts"),
        };
        let dims = |dims: &Value| dims.as_array().unwrap().iter().map(number).collect::<Vec<_>>();
        let mut tensors: Vec<_> = entries(&value["model"]).iter().map(|(name, d)| (name.clone(), dims(d))).collect();
        for layer in 0..facts.layers {
            let layer = entries(&value["layer"]).iter().map(|(name, d)| (format!("blk.{layer}.{name}"), dims(d)));
            tensors.extend(layer);
        }
        Self { facts, tensors }
    }

    /// Each tensor's type under these words of llama-quantize, or why there is none.
    fn plan(&self, words: &[&str], importance: bool) -> Result<BTreeMap<String, &'static StoredType>, String> {
        let ty = |name: &str| stored(name).unwrap();
        let shapes: Vec<Shape<'_>> = self
            .tensors
            .iter()
            .map(|(name, dims)| Shape { name, dims, ty: ty(if dims.len() == 1 { "f32" } else { "f16" }) })
            .collect();
        let planned = plan(&self.facts, &shapes, &options(words, importance)).map_err(|e| e.to_string())?;
        Ok(self.tensors.iter().zip(planned).map(|((name, _), planned)| (name.clone(), planned.ty)).collect())
    }
}

fn options(words: &[&str], importance: bool) -> PlanOptions {
    let copy = words[0] == "COPY";
    let file_type = if copy { FileType::F32 } else { FileType::parse(words[0]).unwrap() };
    let mut options = PlanOptions { copy, importance, ..PlanOptions::new(file_type) };
    let mut rest = words[1..].iter();
    while let Some(&flag) = rest.next() {
        let mut value = || *rest.next().unwrap();
        match flag {
            "--pure" => options.pure = true,
            "--leave-output-tensor" => options.leave_output = true,
            "--output-tensor-type" => options.output = stored(value()),
            "--token-embedding-type" => options.embedding = stored(value()),
            "--tensor-type" => options.named.push(Named::parse(value()).unwrap()),
            _ => panic!("{flag}"),
        }
    }
    options
}

/// Every tensor's type by the fixture's groups: `q6_K*4 q4_K` is of four layers and one.
fn expected(types: &Value, layers: usize) -> BTreeMap<String, &'static StoredType> {
    let mut all = BTreeMap::new();
    for (runs, names) in entries(types) {
        let mut each = Vec::new();
        for run in runs.split(' ') {
            let (ty, count) = run.split_once('*').map_or((run, 1), |(ty, n)| (ty, n.parse().unwrap()));
            each.extend(std::iter::repeat_n(stored(ty).unwrap(), count));
        }
        for name in names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()) {
            let Some(name) = name.strip_prefix("*.") else {
                all.insert(name.to_owned(), each[0]);
                continue;
            };
            assert!(each.len() == 1 || each.len() == layers, "{runs}");
            all.extend((0..layers).map(|i| (format!("blk.{i}.{name}"), each[i % each.len()])));
        }
    }
    all
}

#[test]
fn every_mix_gives_the_types_that_llama_quantize_gives() {
    let fixture = fixture();
    let models: BTreeMap<&str, Model> =
        entries(&fixture["models"]).iter().map(|(name, model)| (name.as_str(), Model::of(model))).collect();
    let (mut compared, mut wrong) = (0, Vec::new());
    for case in fixture["plans"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let words: Vec<&str> = case["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        let importance = case["importance"].as_bool().unwrap();
        let (model, title) = (&models[name], format!("{name} {words:?}, importance {importance}"));
        let ours = model.plan(&words, importance);
        if case["types"].is_null() {
            if ours.is_ok() {
                wrong.push(format!("{title}: llama-quantize refuses it"));
            }
            continue;
        }
        match ours {
            Err(error) => wrong.push(format!("{title}: {error}")),
            Ok(ours) => {
                let theirs = expected(&case["types"], model.facts.layers);
                assert_eq!(ours.len(), theirs.len(), "{title}");
                compared += ours.len();
                let differ = ours.iter().filter(|(name, ty)| theirs[*name] != **ty);
                wrong.extend(differ.map(|(name, ty)| format!("{title}: {name} {ty}, not {}", theirs[name])));
            }
        }
    }
    println!("{compared} tensors");
    assert!(compared > 100_000, "{compared}");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}
