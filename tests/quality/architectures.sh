#!/usr/bin/env bash
# Trains every architecture from one pass of the reader, under one protocol, and measures each on held-out texts.
#   tests/quality/architectures.sh WORK OUT HELDOUT TEXTS...     Parquet files with a column `text`
# WORK keeps the hidden states and is taken up again if it is there. Prints a line of CSV for each dictionary.
set -euo pipefail
work=$1 out=$2 heldout=$3
shift 3
saequel=${SAEQUEL:-saequel}
width=${WIDTH:-1024} k=${K:-16} seeds=${SEEDS:-1}
mkdir -p "$out"

measure() { # level architecture seed tokens samples
    local name=$1-$2-s$3
    [ -f "$out/$name/features.jsonl" ] ||
        "$saequel" sae train --input "${texts[@]}" --work "$work" --output "$out/$name" --name "$name" --layer 4 \
            --level "$1" --architecture "$2" --width "$width" --k "$k" --seed "$3" --tokens "$4" --samples "$5" \
            --no-examples --also 4:token 4:span >&2
    "$saequel" sae eval "$out/$name" --input "$heldout" --tokens 30000 --format csv | tail -n 1
}
texts=("$@")

for seed in $seeds; do
    for architecture in batchtopk topk matryoshka jumprelu abstopk matching-pursuit itda; do
        measure token "$architecture" "$seed" 400000 1024000
        measure span "$architecture" "$seed" 2000000 512000
    done
done
