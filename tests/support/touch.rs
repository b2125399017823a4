//! A look at everything in a GGUF file.

use cotvalve::gguf::{Array, Gguf, Value};
use std::hint::black_box;

/// Looks at every metadata value and every tensor's bytes.
pub fn touch(gguf: &Gguf) {
    for (key, value) in gguf.metadata() {
        assert_eq!(gguf.get(key).map(Value::ty), Some(value.ty()));
        black_box((gguf.u32(key).ok(), gguf.i32(key).ok(), gguf.u64(key).ok(), gguf.f32(key).ok()));
        black_box((gguf.bool(key).ok(), gguf.str(key).ok(), gguf.strings(key).ok()));
        black_box((gguf.u32s(key).ok(), gguf.i32s(key).ok(), gguf.f32s(key).ok()));
        match value {
            Value::Array(Array::Str(strings)) => {
                let chars: usize = strings.iter().map(|s| s.chars().count()).sum();
                black_box((chars, strings.get(strings.len().saturating_sub(1)), strings.get(strings.len())));
            }
            Value::Array(array) => (0..=array.len()).for_each(|i| drop(black_box(array.get(i)))),
            single => drop(black_box(single.to_string())),
        }
    }
    for info in gguf.tensors() {
        black_box(info.data.iter().map(|&b| u64::from(b)).sum::<u64>());
        if let Ok(tensor) = gguf.tensor(&info.name) {
            let tensor = tensor.expect("a tensor that is listed is found");
            assert_eq!(tensor.row_bytes() * tensor.rows(), tensor.data.len());
            assert_eq!(tensor.ty.row_bytes(tensor.cols()), Some(tensor.row_bytes()));
        }
    }
}
