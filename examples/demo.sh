#!/usr/bin/env bash
# README command 1: builds saequel, imports the demo corpus and asks it the four kinds of questions.
# Arguments are passed on to `saequel demo` (see `--help`).
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup.sh
cargo build -p saequel-server --bin saequel
exec "$CARGO_TARGET_DIR/debug/saequel" demo "$@"
