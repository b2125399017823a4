//! Records that lie and yet have the right hash.

use super::*;

type Change = fn(&mut Record);

fn record() -> Record {
    Record {
        model: "m".into(),
        precision: "int8".into(),
        cache_type: "f16".into(),
        tokens: vec![1, 2, 3, 4],
        generated_from: 2,
        thought: vec![0, 0],
        forgotten: 0,
        adapters: vec!["a".into()],
        adapter_names: vec!["a.gguf".into()],
        openings: vec![0.0, 0.0, 0.5, 1.0],
        sets: vec![0, 0, 1],
        note: String::new(),
        shape: [16, 2, 4, 3],
    }
}

fn refusal(change: Change) -> String {
    let mut changed = record();
    change(&mut changed);
    changed.check(Path::new("s"), &record()).unwrap_err().to_string()
}

#[test]
fn a_record_that_contradicts_itself_is_refused_by_field() {
    assert!(record().check(Path::new("s"), &record()).is_ok());
    assert_eq!(record().slots(), 2);
    let cases: [(&str, Change); 13] = [
        ("model", |r| r.model.push('x')),
        ("precision", |r| r.precision.push('x')),
        ("cache_type", |r| r.cache_type.push('x')),
        ("kv", |r| r.shape[0] = 17),
        ("kv", |r| r.shape[2] = 6),
        ("sets", |r| r.shape[3] = 5),
        ("sets", |r| r.sets.truncate(2)),
        ("sets", |r| r.sets.extend([1, 1])),
        ("openings", |r| r.sets[2] = 2),
        ("openings", |r| r.sets[2] = u32::MAX),
        ("openings", |r| r.openings[2] = f32::NAN),
        ("thought", |r| r.thought.truncate(1)),
        ("adapter_names", |r| r.adapter_names.clear()),
    ];
    for (field, change) in cases {
        let message = refusal(change);
        assert!(message.starts_with(&format!("session s: {field}: ")), "{field}: {message}");
    }
}

#[test]
fn every_field_is_under_the_hash() {
    let base = record().hash().finalize();
    let changes: [Change; 14] = [
        |r| r.model.push('x'),
        |r| r.precision.push('x'),
        |r| r.cache_type.push('x'),
        |r| r.tokens[3] = 5,
        |r| r.generated_from = 3,
        |r| r.thought[1] = 1,
        |r| r.forgotten = 1,
        |r| r.adapters[0].push('x'),
        |r| r.adapter_names[0].push('x'),
        |r| r.openings[3] = -1.0,
        |r| r.sets[2] = 0,
        |r| r.note.push('x'),
        |r| r.shape[3] = 2,
        // The end of one field is not the start of the next.
        |r| (r.model, r.precision) = ("mi".into(), "nt8".into()),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut changed = record();
        change(&mut changed);
        assert_ne!(changed.hash().finalize(), base, "change {i}");
    }
}
