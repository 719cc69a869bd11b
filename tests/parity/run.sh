#!/usr/bin/env bash
# The long suite: features, hidden states and measures beside those of the tools that they come from.
#   tests/parity/run.sh [readers] [embeddings] [dictionaries] [evaluation] [interp_embed]      default: all of them
# Prints a line for each and exits with 1 if one failed; what each printed is in the cache folder's parity/*.log.
# Installs PyTorch, transformers, sae-lens and others into an environment of their own, once (some gigabytes: on Linux,
# pip's PyTorch brings libraries for GPUs), or takes PARITY_PYTHON, a Python that has them. Needs what
# `cargo build --workspace --all-targets` makes: the program, or SAEQUEL_BIN, and the encoder's examples, or
# SAEQUEL_EXAMPLES, their folder. INTERP_EMBED is a checkout of interp_embed; without it one is tried to be cloned.
set -euo pipefail
cd "$(dirname "$0")"
root="$(cd ../.. && pwd)"
cache="${SAEQUEL_CACHE:-$HOME/.cache/saequel}/parity"
target="${CARGO_TARGET_DIR:-$HOME/.cache/saequel/target}"
saequel="${SAEQUEL_BIN:-$target/debug/saequel}"
examples="${SAEQUEL_EXAMPLES:-$target/debug/examples}"
for program in "$saequel" "$examples/states" "$examples/sae_encode"; do
  if [ ! -x "$program" ]; then
    echo "error: $program not found; build it with 'cargo build --workspace --all-targets'" >&2
    exit 2
  fi
done

mkdir -p "$cache"
python="${PARITY_PYTHON:-$cache/python/bin/python}"
stamp="$(sha256sum requirements.txt | cut -c1-16)"
if [ -z "${PARITY_PYTHON:-}" ] && [ ! -f "$cache/$stamp.done" ]; then
  echo "installing Python packages into $cache/python ..." >&2
  rm -rf "$cache/python"
  python3 -m venv "$cache/python"
  "$python" -m pip install -q --disable-pip-version-check -r requirements.txt
  # What it asks for beyond that list is for models and interfaces that are not used here.
  "$python" -m pip install -q --disable-pip-version-check --no-deps interp-embed==0.1.0
  touch "$cache/$stamp.done"
fi
# Nothing but our own reader may come from the network, and nothing is reported.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 WANDB_MODE=disabled TOKENIZERS_PARALLELISM=false
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

readers() { "$python" readers.py --states "$examples/states"; }
dictionaries() { SAE_ENCODE="$examples/sae_encode" "$python" sae_architectures.py; }
embeddings() { "$python" make_reference.py --check --saequel "$saequel" "$(reader)"; }
evaluation() {
  "$saequel" --quiet sae train --input "$root/examples/data/answers.jsonl" --text answer --width 256 --samples 200000 \
    --no-examples --output "$work/sae"
  "$python" sae_eval.py --work "$work/sae.work" --dictionary "$work/sae" --saequel "$saequel"
}
interp_embed() {
  # The package that pip installs, and the repository, which is newer and has diff_features.
  "$python" interp_embed.py --saequel "$saequel"
  local checkout="${INTERP_EMBED:-$cache/interp_embed}" source=https://github.com/nickjiang2378/interp_embed
  if [ -d "$checkout" ] || GIT_TERMINAL_PROMPT=0 git clone -q --depth 1 "$source" "$checkout"; then
    "$python" interp_embed.py --interp-embed "$checkout" --saequel "$saequel"
  else
    echo "the package of pip only: interp_embed's repository, which has diff_features, cannot be reached"
  fi
}
reader() {
  local folder="${SAEQUEL_CACHE:-$HOME/.cache/saequel}/readers/all-MiniLM-L6-v2"
  [ -f "$folder/model.safetensors" ] || "$saequel" --quiet model fetch all-MiniLM-L6-v2 >&2
  echo "$folder"
}

failed=0
suites=("$@")
[ $# -gt 0 ] || suites=(readers embeddings dictionaries evaluation interp_embed)
for suite in "${suites[@]}"; do
  case $suite in readers | embeddings | dictionaries | evaluation | interp_embed) ;; *)
    echo "error: no suite '$suite': readers, embeddings, dictionaries, evaluation, interp_embed" >&2
    exit 2 ;;
  esac
done
for suite in "${suites[@]}"; do
  started=$SECONDS
  log="$cache/$suite.log"
  # A shell of its own: `set -e` does not act inside a condition.
  set +e
  (set -e; "$suite") >"$log" 2>&1
  status=$?
  set -e
  if [ $status = 0 ]; then
    printf '%-14s ok      %4d s  %s\n' "$suite" $((SECONDS - started)) "$(tail -n 1 "$log")"
  else
    failed=1
    printf '%-14s FAILED  %4d s  see %s\n' "$suite" $((SECONDS - started)) "$log"
    tail -n 15 "$log" | sed 's/^/  /' >&2
  fi
done
exit $failed
