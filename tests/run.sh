#!/usr/bin/env bash
# README command 2: formatting, licences of dependencies, every test.
# `tests/run.sh quick` runs the tests alone, without those that need clients of other makers.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup.sh
if [ "${1:-}" != quick ]; then
  cargo fmt --all --check
  bash tests/licences.sh
fi
cargo build --workspace --all-targets
cargo test --workspace --no-fail-fast
if [ "${1:-}" != quick ] && [ -z "${SAEQUEL_SKIP_CLIENTS:-}" ]; then
  bash tests/clients/run.sh
fi
