//! States of a reader at hook points, for comparison with other implementations (`tests/parity/readers.py`).
//!
//! ```text
//! states READER REQUEST.json OUT.safetensors
//! ```
//! The request holds `windows`, lists of token numbers that are packed and read together, and `hooks`, names of hook points.
//! Each hook's states are written under its name, `[tokens, width]`. With `text` in place of `windows`, the tokens of that
//! text are written as `ids` and are the one window. With `repeat`, a number, the windows are read so often, and the
//! shortest time is printed in tokens a second of one thread. With `precision`, `"bf16"`, products are of that precision.

use std::error::Error;
use std::fs;
use std::time::Instant;

use saequel_encoder::reader::Hook;
use saequel_encoder::{Reader, ReaderOptions, Silent};
use safetensors::tensor::{Dtype, TensorView};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reader, request, out] = &arguments[..] else {
        return Err("expected READER REQUEST.json OUT.safetensors".into());
    };
    let request: serde_json::Value = serde_json::from_slice(&fs::read(request)?)?;
    let precision = request["precision"].as_str().unwrap_or("f32").parse()?;
    let options = ReaderOptions { threads: 1, precision, ..ReaderOptions::default() };
    let reader = Reader::load(reader, &options, &Silent)?;
    let windows: Vec<Vec<u32>> = match request["text"].as_str() {
        Some(text) => vec![reader.ids(text)?],
        None => serde_json::from_value(request["windows"].clone())?,
    };
    let names: Vec<String> = serde_json::from_value(request["hooks"].clone())?;
    let mut hooks = names.iter().map(|name| name.parse()).collect::<Result<Vec<Hook>, _>>()?;
    hooks.sort_unstable();
    let states = reader.raw_states(&windows, &hooks)?;
    let mut shortest = f64::INFINITY;
    for _ in 0..request["repeat"].as_u64().unwrap_or(0) {
        let started = Instant::now();
        reader.raw_states(&windows, &hooks)?;
        shortest = shortest.min(started.elapsed().as_secs_f64());
    }
    let n_tokens: usize = windows.iter().map(Vec::len).sum();
    if shortest.is_finite() {
        println!("{:.0} tokens/s", n_tokens as f64 / shortest);
    }
    let mut tensors = Vec::new();
    for (hook, states) in hooks.iter().zip(states) {
        let bytes: Vec<u8> = states.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.push((hook.to_string(), Dtype::F32, vec![n_tokens, states.len() / n_tokens], bytes));
    }
    let ids: Vec<u8> = windows.iter().flatten().flat_map(|id| id.to_le_bytes()).collect();
    tensors.push(("ids".to_owned(), Dtype::U32, vec![n_tokens], ids));
    let views =
        tensors.iter().map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    fs::write(out, safetensors::serialize(views, None)?)?;
    Ok(())
}
