"""Imports a file with saequel and encodes the same texts with sentence-transformers, in one run on one machine.

    pip install pyarrow torch sentence-transformers
    python tests/bench/import_speed.py texts.parquet --text text --saequel PATH/TO/saequel

Prints, for each side, seconds, tokens a second (tokens counted once, by the same tokenizer, special tokens excluded) and
peak memory of the process. saequel does more in its time: it reads whole texts (sentence-transformers cuts them after 256
tokens), runs the dictionaries, and writes columns and two indexes. Give texts below 256 tokens for an even comparison.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

PEER = """
import json, sys, time, resource
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer
import torch
file, column, model = sys.argv[1:4]
texts = pq.read_table(file, columns=[column])[column].to_pylist()
torch.set_num_threads(int(sys.argv[4]))
encoder = SentenceTransformer(model, device="cpu")
tokens = sum(min(len(ids), 254) for start in range(0, len(texts), 10000)
             for ids in encoder.tokenizer(texts[start:start + 10000], add_special_tokens=False)["input_ids"])
start = time.perf_counter()
encoder.encode(texts, batch_size=64, show_progress_bar=False)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_mib": peak / 1024}))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="Parquet file")
    parser.add_argument("--text", default="text", help="column to read")
    parser.add_argument("--saequel", default="saequel", help="the program")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="name or folder for the peer")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--skip-peer", action="store_true")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        db = os.path.join(folder, "bench.db")
        start = time.perf_counter()
        subprocess.run(
            [args.saequel, "--db", db, "import", args.file, "--corpus", "bench", "--text", args.text],
            check=True, stdout=sys.stderr,
        )
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        answer = subprocess.run(
            [args.saequel, "--db", db, "sql",
             "SELECT count(*) AS docs, sum(n_tokens) AS tokens FROM bench", "--format", "jsonl"],
            check=True, capture_output=True, text=True,
        )
        row = json.loads(answer.stdout)
        print(f"saequel import:        {row['docs']:>9,} docs {seconds:8.1f} s "
              f"{row['tokens'] / seconds:8.0f} tokens/s  peak {peak:6.0f} MiB")
    if not args.skip_peer:
        out = subprocess.run(
            [sys.executable, "-c", PEER, args.file, args.text, args.model, str(args.threads)],
            check=True, capture_output=True, text=True,
        )
        peer = json.loads(out.stdout.splitlines()[-1])
        print(f"sentence-transformers: {row['docs']:>9,} docs {peer['seconds']:8.1f} s "
              f"{peer['tokens'] / peer['seconds']:8.0f} tokens/s  peak {peer['peak_mib']:6.0f} MiB")
        print(f"ratio: {row['tokens'] / seconds / (peer['tokens'] / peer['seconds']):.2f}")


if __name__ == "__main__":
    main()
