#!/usr/bin/env bash
# Checks every dependency's licence and source against deny.toml, also those of other systems, which cargo fetches for it.
# Installs cargo-deny once (about 4 minutes of one core).
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null; then
  echo "installing cargo-deny (once) ..." >&2
  CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/saequel/target}-tools" cargo install --quiet --locked cargo-deny
fi
cargo deny --log-level error check --hide-inclusion-graph bans licenses sources
