#!/usr/bin/env bash
# README command 2: formatting and every test; licences of dependencies too where cargo-deny is installed.
# `tests/run.sh quick` runs the tests alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup.sh
if [ "${1:-}" != quick ]; then
  cargo fmt --all --check
  if command -v cargo-deny >/dev/null; then
    bash tests/licences.sh
  else
    echo "licences: not checked (tests/licences.sh installs cargo-deny and checks them)" >&2
  fi
fi
cargo build --workspace --all-targets
cargo test --workspace --no-fail-fast
