#!/usr/bin/env bash
# Trains every architecture from one pass of the reader, under one protocol, and measures each on held-out texts.
#   tests/quality/architectures.sh WORK OUT HELDOUT TEXTS...     Parquet files with a column `text`
# WORK keeps the hidden states and is taken up again if it is there, and so is what OUT has. Prints a line of CSV for each
# dictionary; seconds are of processor time, without the reader's if WORK has the states.
set -euo pipefail
work=$1 out=$2 heldout=$3
shift 3
saequel=${SAEQUEL:-saequel}
width=${WIDTH:-1024} k=${K:-16} seeds=${SEEDS:-1}
architectures=${ARCHITECTURES:-batchtopk topk matryoshka jumprelu abstopk matching-pursuit itda}
mkdir -p "$out"
TIMEFORMAT='%U %S'

measure() { # level architecture seed tokens samples
    local name=$1-$2-s$3
    if [ ! -f "$out/$name/features.jsonl" ]; then
        { time "$saequel" sae train --input "${texts[@]}" --work "$work" --output "$out/$name" --name "$name" --layer 4 \
            --level "$1" --architecture "$2" --width "$width" --k "$k" --seed "$3" --tokens "$4" --samples "$5" \
            --no-examples --also 4:token 4:span >"$out/$name.log" 2>&1; } 2>"$out/$name.seconds"
    fi
    [ -s "$out/$name.eval" ] ||
        "$saequel" --quiet sae eval "$out/$name" --input "$heldout" --tokens 30000 --format jsonl >"$out/$name.eval"
    python3 - "$out/$name" "$1,$2,$3" <<'PYTHON'
import json, re, sys
path, row = sys.argv[1:]
said = re.findall(r"FVU ([\d.]+), L0 ([\d.]+), dead ([\d.]+) %", open(path + ".log").read())[-1]
features = [json.loads(line) for line in open(path + "/features.jsonl")]
# Without those that never fire, which have a column of their own.
hidden = sum(feature.get("hidden") not in (None, "dead") for feature in features) / len(features)
measured = json.loads(open(path + ".eval").readline())
seconds = sum(map(float, open(path + ".seconds").read().split()[-2:]))
print(row, *said, f"{100 * hidden:.0f}", f"{measured['fvu']:.3f}", f"{measured['l0']:.1f}", f"{seconds:.0f}", sep=",")
PYTHON
}
texts=("$@")

echo "level,architecture,seed,fvu,l0,dead_percent,hidden_percent,fvu_heldout,l0_heldout,seconds"
for seed in $seeds; do
    for architecture in $architectures; do
        measure token "$architecture" "$seed" 400000 1024000
        measure span "$architecture" "$seed" 2000000 512000
    done
done
