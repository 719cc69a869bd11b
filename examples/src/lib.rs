//! Programs that show how to embed saequel: `cargo run -p saequel-examples --example quickstart`.
