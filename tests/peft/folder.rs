//! A PEFT folder in a temporary place, to be damaged.

use super::{data, model};
use cotvalve::valve::Adapter;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub struct Folder(TempDir);

impl Folder {
    /// A copy of the fixture `plain`.
    pub fn plain() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(data("plain").join(name), folder.file(name)).unwrap();
        }
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn config(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.file("adapter_config.json")).unwrap()).unwrap()
    }

    pub fn write_config(&self, text: &str) {
        std::fs::write(self.file("adapter_config.json"), text).unwrap();
    }

    /// Sets one field.
    pub fn set(&self, field: &str, value: Value) {
        let mut config = self.config();
        config[field] = value;
        self.write_config(&config.to_string());
    }

    /// The header and the data of the safetensors file.
    pub fn tensors(&self) -> (Value, Vec<u8>) {
        let bytes = std::fs::read(self.file("adapter_model.safetensors")).unwrap();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        (serde_json::from_slice(&bytes[8..end]).unwrap(), bytes[end..].to_vec())
    }

    pub fn write_tensors(&self, header: &str, data: &[u8]) {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        std::fs::write(self.file("adapter_model.safetensors"), bytes).unwrap();
    }

    /// Adds a tensor of f32 zeros.
    pub fn add(&self, name: &str, shape: &[usize]) {
        let (mut header, mut data) = self.tensors();
        let bytes = 4 * shape.iter().product::<usize>();
        header[name] = json!({ "dtype": "F32", "shape": shape, "data_offsets": [data.len(), data.len() + bytes] });
        data.resize(data.len() + bytes, 0);
        self.write_tensors(&header.to_string(), &data);
    }

    pub fn open(&self) -> cotvalve::error::Result<Adapter> {
        Adapter::open(self.path(), &model().1, true)
    }

    /// What it is refused with; the message names the file.
    pub fn refusal(&self, file: &str) -> String {
        let message = self.open().err().unwrap_or_else(|| panic!("it was taken")).to_string();
        let path = self.file(file);
        assert!(message.contains(path.to_str().unwrap()), "{message} does not name {file}");
        message
    }
}
