#!/usr/bin/env bash
# Trains dictionaries of several hook points, widths, k and seeds from one pass of the reader, under one protocol.
#   tests/quality/sweep.sh WORK OUT TEXTS...        texts: Parquet files with a column `text`
#   python tests/quality/report.py --sae OUT/*      then measures them
# WORK keeps the hidden states (768 bytes a token and hook point) and is taken up again if it is there.
set -euo pipefail
work=$1 out=$2
shift 2
saequel=${SAEQUEL:-saequel}
tokens=${TOKENS:-18800000} token_states=${TOKEN_STATES:-10200000}
mkdir -p "$out"

train() { # layer level width k seed samples
    local name=minilm-l$1-$2-$3-k$4-s$5
    [ -f "$out/$name/features.jsonl" ] && return
    "$saequel" sae train --input "${texts[@]}" --work "$work" --output "$out/$name" --name "$name" \
        --layer "$1" --level "$2" --width "$3" --k "$4" --seed "$5" --samples "$6" --no-examples \
        --also 4:token 6:token 4:span 5:span 6:span --tokens "$tokens" --token-states "$token_states"
}
texts=("$@")

for seed in 1 2 3; do train 4 span 2048 16 $seed 3000000; done
for width in 1024 4096; do train 4 span $width 16 1 3000000; done
for k in 8 32; do train 4 span 2048 $k 1 3000000; done
for layer in 5 6; do train $layer span 2048 16 1 3000000; done
for seed in 1 2; do train 4 token 4096 16 $seed 8000000; done
train 6 token 4096 16 1 8000000
train 4 token 4096 32 1 8000000
train 4 token 8192 16 1 8000000
