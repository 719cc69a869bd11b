"""Encoding: a whole import against sentence-transformers' `encode` on the same texts, in turn; and what bf16 changes.

    pip install pyarrow sentence-transformers
    python tests/bench/encode.py texts.parquet --text text --saequel PATH/TO/saequel

The time of saequel is that of the program: start, loading the reader and all dictionaries of a new database, reading,
encoding, writing columns and indexes. The time of sentence-transformers is that of `encode` alone, with the model loaded,
its best batch size of three, and its threads set to the cores. Both read the texts whole: those of more than 254 tokens,
which sentence-transformers would cut, are left out, and both are counted by the same tokens (special ones excluded).
"CPU" is tokens per second of processor time, which depends less on what else the machine does.

Then the texts are imported with `--precision bf16`, and the features of each document are compared: shares of those that
are the same, and of the 20 first features of a `diff` between halves by length.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq

PEER = """
import json, sys, time
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer
file, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
texts = pq.read_table(file)["text"].to_pylist()
torch.set_num_threads(threads)
encoder = SentenceTransformer(model, device="cpu")
encoder.max_seq_length = 256

def seconds(texts, size):
    wall, cpu = time.perf_counter(), time.process_time()
    encoder.encode(texts, batch_size=size, show_progress_bar=False)
    return time.perf_counter() - wall, time.process_time() - cpu

some = texts[:: max(1, len(texts) // 200)]
size = min((32, 64, 128), key=lambda size: seconds(some, size)[1])
print(json.dumps({"torch": torch.__version__, "size": size}), flush=True)
for _ in sys.stdin:
    wall, cpu = seconds(texts, size)
    print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)
"""


def peak():
    """GFLOP/s of torch's f32 and bf16 matrix product of 2048 x 384 x 1536, on all cores: what the machine gives."""
    code = """
import torch, time
for kind in (torch.float32, torch.bfloat16):
    a, b = torch.randn(2048, 384).to(kind), torch.randn(1536, 384).to(kind)
    best = min(-(t := time.perf_counter()) + (torch.nn.functional.linear(a, b), time.perf_counter())[1] for _ in range(30))
    print(2 * 2048 * 384 * 1536 / best / 1e9)
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return [float(line) for line in out.split()]


class Saequel:
    def __init__(self, program, file, threads):
        self.program, self.file, self.threads = program, file, threads

    def run(self, db, precision=None):
        """Imports into a fresh database; seconds of wall and of processor."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run(
            [self.program, "--db", db, "--threads", str(self.threads), *(["--precision", precision] if precision else []),
             "--quiet", "import", self.file, "--corpus", "bench", "--text", "text", "--key", "key"],
            check=True, stdout=subprocess.DEVNULL,
        )
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def sql(self, db, query):
        out = subprocess.run(
            [self.program, "--db", db, "sql", query, "--format", "jsonl"],
            check=True, capture_output=True, text=True,
        )
        return [json.loads(line) for line in out.stdout.splitlines()]


def operations_per_token(saequel, db):
    """Multiplications and additions of the weights for one token: MiniLM's six blocks and every token dictionary."""
    reader = 6 * 2 * (4 * 384**2 + 2 * 384 * 1536)
    rows = saequel.sql(db, "SELECT level, n_features FROM saequel.saes")
    return reader + sum(2 * 384 * row["n_features"] for row in rows if row["level"] == "token")


def compare(saequel, exact, other):
    """What changes from one database to the other."""
    features = "SELECT doc_id, features['ids'] AS ids FROM bench"
    before, after = ({row["doc_id"]: set(row["ids"] or []) for row in saequel.sql(db, features)} for db in (exact, other))
    same = sum(len(before[doc] & after[doc]) for doc in before)
    all_before, all_after = (sum(map(len, ids.values())) for ids in (before, after))
    jaccard = statistics.mean(len(before[d] & after[d]) / max(1, len(before[d] | after[d])) for d in before)
    median = saequel.sql(exact, "SELECT median(n_tokens) AS m FROM bench")[0]["m"]
    side = "SELECT * FROM bench WHERE n_tokens {} " + str(median)
    diff = f"SELECT feature_id FROM diff('{side.format('<')}', '{side.format('>=')}') LIMIT 20"
    top = [{row["feature_id"] for row in saequel.sql(db, diff)} for db in (exact, other)]
    print(f"features of documents: {all_before:,} in f32, {all_after:,} in bf16; {same / all_before:.2%} of the former are "
          f"among the latter; Jaccard of a document {jaccard:.4f}; {len(top[0] & top[1])} of the first {len(top[0])} of diff are the same")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="Parquet file")
    parser.add_argument("--text", default="text", help="column to read")
    parser.add_argument("--limit", type=int, default=4000, help="texts")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--saequel", default="saequel", help="the program")
    parser.add_argument("--other", help="another build of the program, measured beside it")
    cache = os.environ.get("SAEQUEL_CACHE", os.path.expanduser("~/.cache/saequel"))
    parser.add_argument("--model", default=f"{cache}/readers/all-MiniLM-L6-v2", help="folder or name for the peer")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(f"{args.model}/tokenizer.json")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        texts = [text for text in pq.read_table(args.file, columns=[args.text])[args.text].to_pylist() if text]
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        kept = [(text, length) for text, length in zip(texts, lengths) if length <= 254][: args.limit]
        tokens = sum(length for _, length in kept)
        file = f"{folder}/texts.parquet"
        keys = [str(i) for i in range(len(kept))]
        pq.write_table(pa.table({"key": keys, "text": [text for text, _ in kept]}), file)

        peer = subprocess.Popen([sys.executable, "-c", PEER, file, args.model, str(args.threads)],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        about = json.loads(peer.stdout.readline())
        print(f"{len(kept):,} texts, {tokens:,} tokens, {args.threads} threads, torch {about['torch']}, batches of {about['size']}, "
              f"load {os.getloadavg()[0]:.1f}", flush=True)
        programs = [Saequel(program, file, args.threads) for program in (args.saequel, args.other) if program]
        names = ["saequel", "other build"][: len(programs)] + ["sentence-transformers"]
        runs = {name: [] for name in names}
        for i in range(args.runs):
            for name, program in zip(names, programs):
                db = f"{folder}/{name.replace(' ', '')}{i}"
                runs[name].append(program.run(db))
            peer.stdin.write("\n")
            peer.stdin.flush()
            run = json.loads(peer.stdout.readline())
            runs["sentence-transformers"].append((run["wall"], run["cpu"]))
            print("  " + "; ".join(f"{name} {tokens / r[-1][0]:.0f} tokens/s (CPU {tokens / r[-1][1]:.0f})"
                                   for name, r in runs.items()), flush=True)
        peer.stdin.close()
        peer.wait()
        theirs = runs["sentence-transformers"]
        for name in names[:-1]:
            ratio = [[peer[at] / own[at] for own, peer in zip(runs[name], theirs)] for at in (0, 1)]
            print(f"{name} / sentence-transformers, median of {args.runs} pairs: {statistics.median(ratio[0]):.2f} "
                  f"by the clock, {statistics.median(ratio[1]):.2f} by processor time")

        saequel, exact = programs[0], f"{folder}/saequel0"
        full, half = peak()
        used = operations_per_token(saequel, exact) * tokens / min(wall for wall, _ in runs["saequel"]) / 1e9
        print(f"matrix peak (torch, 2048 x 384 x 1536): {full:.0f} GFLOP/s in f32, {half:.0f} in bf16; "
              f"the best import used {used:.0f}, {used / full:.0%} of the former, everything included")
        wall, cpu = saequel.run(f"{folder}/bf16", "bf16")
        print(f"bf16: {tokens / wall:.0f} tokens/s (CPU {tokens / cpu:.0f})")
        compare(saequel, exact, f"{folder}/bf16")


if __name__ == "__main__":
    main()
