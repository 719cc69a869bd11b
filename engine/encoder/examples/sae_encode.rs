//! Imports dictionaries and encodes states with them, for comparison with the tools that wrote them.
//!
//! `cargo run -p saequel-encoder --example sae_encode -- cases.json`, where `cases.json` is a list of
//! `{"source", "reader", "hook", "input_scale", "states", "output"}`: `states` is a file of little-endian `f32`, row-major;
//! `output` gets `{"report", "rows": [[[feature, activation], ...], ...], "rebuilt": [[...], ...]}`, or `{"error"}`. With
//! `"folder"` the dictionary is saved there and loaded again before it encodes. Used by `tests/parity/sae_architectures.py`.

use std::error::Error;
use std::path::Path;

use saequel_encoder::sae::{ImportOptions, import};
use saequel_encoder::{Sae, Silent};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("expected a file of cases")?;
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path)?)?;
    for case in &cases {
        let text = |key: &str| case[key].as_str();
        let output = text("output").ok_or("a case has no output")?;
        let answer = run(case).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        std::fs::write(output, serde_json::to_vec(&answer)?)?;
    }
    Ok(())
}

fn run(case: &Value) -> Result<Value, Box<dyn Error>> {
    let text = |key: &str| case[key].as_str();
    let options = ImportOptions {
        source: text("source").ok_or("a case has no source")?.to_owned(),
        reader: text("reader").map(str::to_owned),
        hook: text("hook").map(str::parse).transpose()?,
        input_scale: case["input_scale"].as_f64().map(|scale| scale as f32),
        same_model: case["same_model"].as_bool().unwrap_or(false),
        ..ImportOptions::default()
    };
    let (mut sae, report) = import(&options, &Silent)?;
    if let Some(folder) = text("folder") {
        sae.save(Path::new(folder))?;
        sae = Sae::load(Path::new(folder))?;
    }
    let bytes = std::fs::read(text("states").ok_or("a case has no states")?)?;
    let states: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let rows = sae.encode_states(&states)?;
    let rebuilt: Vec<Vec<f32>> = rows.iter().map(|row| sae.rebuild(row)).collect();
    Ok(json!({ "report": format!("{report:?}"), "facts": sae.describe(), "rows": rows, "rebuilt": rebuilt }))
}
