"""Property retrieval: mean average precision of `retrieve`, signal by signal, on queries with known answers.

    pip install pyarrow numpy
    python tests/quality/retrieval.py --queries QUERIES.json --relevance RELEVANCE.parquet --saequel PATH/TO/saequel \
        --corpus news=news.parquet:text --corpus answers=answers.parquet:output --db quality.db

QUERIES.json is a list of {set, query, text}; RELEVANCE.parquet has set, query, doc_id. A corpus that is in the database
already is used as it is. Average precision is over the first --depth hits; relevant documents that are not among them
count as not found.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

VARIANTS = {
    "default": "",
    "dense": ", signals => 'dense'",
    "labels": ", signals => 'labels'",
    "latents": ", signals => 'latents'",
    "words": ", signals => 'words'",
}


def average_precision(hits, relevant):
    found, total = 0, 0.0
    for rank, doc in enumerate(hits, 1):
        if doc in relevant:
            found += 1
            total += found / rank
    return total / max(len(relevant), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", required=True)
    parser.add_argument("--relevance", required=True)
    parser.add_argument("--corpus", action="append", required=True, help="SET=FILE:TEXT")
    parser.add_argument("--where", default="", help="condition on every corpus, to use a part")
    parser.add_argument("--db", required=True)
    parser.add_argument("--saequel", default="saequel")
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--per-set", type=int, default=20, help="queries of each set")
    parser.add_argument("--variant", action="append", default=[], help="NAME=, option => value, ... added to those built in")
    parser.add_argument("--only", action="append", default=[], help="run only this variant")
    args = parser.parse_args()

    def saequel(*command):
        done = subprocess.run([args.saequel, "--db", args.db, *command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return done.stdout

    variants = dict(VARIANTS)
    variants.update(variant.split("=", 1) for variant in args.variant)
    if args.only:
        variants = {name: variants[name] for name in args.only}
    relevant = defaultdict(set)
    for row in pq.read_table(args.relevance).to_pylist():
        relevant[row["set"], row["query"]].add(row["doc_id"])
    corpora = {}
    for corpus in args.corpus:
        name, file = corpus.split("=", 1)
        file, text = file.rsplit(":", 1)
        saequel("import", file, "--corpus", name, "--text", text, "--key", "doc_id")
        docs = saequel("sql", f"SELECT doc_id FROM {name} {args.where}", "--format", "csv").split("\n")[1:]
        corpora[name] = set(docs)
    by_set = defaultdict(list)
    for query in json.loads(Path(args.queries).read_text()):
        if query["set"] in corpora and len(by_set[query["set"]]) < args.per_set:
            by_set[query["set"]].append(query)

    def run(query, options):
        text = query["text"].replace("'", "''")
        where = f"{query['set']} {args.where}".replace("'", "''")
        sql = f"SELECT doc_id FROM retrieve('{where}', '{text}', k => {args.depth}{options})"
        hits = saequel("sql", sql, "--format", "csv").split("\n")[1:-1]
        found = relevant[query["set"], query["query"]] & corpora[query["set"]]
        return average_precision(hits, found) if found else None

    print(f"{'':12}" + " ".join(f"{name:>16}" for name in by_set) + f"{'all':>16}")
    for variant, options in variants.items():
        means, everything = [], []
        for queries in by_set.values():
            with ThreadPoolExecutor(2) as pool:
                values = [v for v in pool.map(lambda q: run(q, options), queries) if v is not None]
            means.append(f"{np.mean(values):10.3f} n={len(values):<3}")
            everything += values
        print(f"{variant:12}" + " ".join(f"{mean:>16}" for mean in means) + f"{np.mean(everything):16.3f}", flush=True)


if __name__ == "__main__":
    main()
