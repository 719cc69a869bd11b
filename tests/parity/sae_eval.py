#!/usr/bin/env python3
"""Checks `saequel sae eval` against numpy and scikit-learn, on hidden states that `sae train` left.

    python tests/parity/sae_eval.py --work my-sae.work --dictionary DIR [--units 2] [--saequel target/debug/saequel]

The texts of the first units of the harvest are written to a file, evaluated by the program, and measured here from the
units' hidden states: FVU, explained variance, L0, the share of the error that is linear in the input (ordinary least
squares of scikit-learn on one half of the documents, measured on the other, both ways), and cosines of nearest
neighbours. States are half precision in the harvest and single in the program, and the halves are drawn otherwise, so
shares may differ in the third digit. Needs numpy, scikit-learn, safetensors and pyarrow. Dictionaries of `sae train`
(BatchTopK) only.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file
from sklearn.linear_model import LinearRegression


def load(folder):
    spec = json.loads((folder / "sae.json").read_text())
    weights = {name: array.astype(np.float32) for name, array in load_file(folder / "sae.safetensors").items()}
    if spec["format"] == 1:
        spec |= {"cap_": spec["cap"], "threshold_": spec["threshold"], "scale_": spec["scale"], "unit_": spec["unit"],
                 "tensor": f"l{spec['layer']}.{spec['level']}"}
    else:
        if spec["architecture"]["kind"] != "batch_topk" or spec["normalization"]["kind"] != "centred":
            sys.exit("only dictionaries of `sae train` (BatchTopK, centred) are measured here")
        spec |= {"cap_": spec["architecture"]["cap"], "threshold_": spec["architecture"]["threshold"],
                 "scale_": spec["normalization"]["scale"], "unit_": spec["normalization"]["unit"],
                 "tensor": f"l{spec['hook'].split('.')[-1]}.{spec['level']}"}
    return spec, weights


def encode(spec, weights, states):
    """Normalised rows, dense activations, reconstructions."""
    rows = states - weights["mean"]
    if spec["unit_"]:
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows *= spec["scale_"]
    pre = rows @ weights["encoder.weight"].T + weights["encoder.bias"]
    active = np.where(pre > spec["threshold_"], pre, 0)
    cap = spec["cap_"]
    if cap is not None:
        for row in np.flatnonzero((active > 0).sum(axis=1) > cap):
            least = np.sort(active[row])[-cap]
            active[row][active[row] < least] = 0
    return rows, active, active @ weights["decoder.weight"] + weights["decoder.bias"]


def linear_share(rows, errors, documents):
    left = total = 0
    for half in (0, 1):
        train, test = documents % 2 == half, documents % 2 != half
        predicted = LinearRegression().fit(rows[train], errors[train]).predict(rows[test])
        left += np.square(errors[test] - predicted).sum(dtype=np.float64)
        total += np.square(errors[test]).sum(dtype=np.float64)
    return 1 - left / total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--dictionary", type=pathlib.Path, required=True)
    parser.add_argument("--units", type=int, default=1)
    parser.add_argument("--saequel", default="saequel")
    args = parser.parse_args()
    spec, weights = load(args.dictionary)
    count = "doc_spans" if spec["level"] == "span" else "doc_tokens"
    texts, documents, rows, errors, n_active = [], [], [], [], 0
    for number in range(args.units):
        unit = load_file(args.work / f"unit-{number:05}.safetensors")
        at = 0
        for length in unit["doc_bytes"]:
            texts.append(bytes(unit["texts"][at:at + length]).decode())
            at += length
        first = number * len(unit["doc_bytes"])
        documents.append(np.repeat(np.arange(first, first + len(unit["doc_bytes"])), unit[count]))
        for states in np.array_split(unit[spec["tensor"]].astype(np.float32), 1 + len(unit[spec["tensor"]]) // 8192):
            own, active, rebuilt = encode(spec, weights, states)
            rows.append(own)
            errors.append(own - rebuilt)
            n_active += int((active > 0).sum())
    documents, rows, errors = map(np.concatenate, (documents, rows, errors))
    squares = np.square(errors).sum(dtype=np.float64)
    directions = weights["decoder.weight"]
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -1)
    mine = {
        "fvu": squares / np.square(rows).sum(dtype=np.float64),
        "explained_variance": 1 - squares / np.square(rows - rows.mean(axis=0)).sum(dtype=np.float64),
        "l0": n_active / len(rows),
        "error_linear": linear_share(rows, errors, documents),
        "nearest_median": np.median(cosines.max(axis=1)),
        "nearest_max": cosines.max(),
        "redundant_share": (cosines.max(axis=1) >= 0.9).mean(),
        "samples": len(rows),
    }
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        pq.write_table(pa.table({"text": texts}), file.name)
        command = [args.saequel, "sae", "eval", args.dictionary, "--input", file.name, "--format", "jsonl", "--quiet"]
        theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    worst = 0
    for name, value in mine.items():
        distance = abs(theirs[name] - value) / max(abs(value), 0.05)
        worst = max(worst, distance)
        print(f"{name:20} {value:12.5f} {theirs[name]:12.5f}  {distance:.2e}")
    # What is exact agrees to the precision of the states; the shares depend on the halves.
    if worst > 0.05:
        sys.exit("they differ")
    print(f"{len(mine)} measures of {len(rows)} samples, largest relative difference {worst:.1e}")


if __name__ == "__main__":
    main()
