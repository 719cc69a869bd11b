"""Retrieval by 16 weighted features in Seismic (approximate) and scipy (exact): time and recall over 20 queries.

    pip install numpy scipy pyarrow pyseismic-lsr
    python tests/bench/retrieval_seismic.py features.parquet

The file has columns `ids` (list<uint32>, ascending) and `activations` (list<float32>). Times are of processor, the best of
five, the median over queries: compare with `cargo bench -p saequel-kernels --bench retrieval`, which is exact. Seismic keeps
3,500 postings a feature in the mean; `query_cut` and `heap_factor` trade recall for time.
"""

import argparse
import time

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sp
from seismic import SeismicDataset, SeismicIndex, get_seismic_string

K, N_FEATURES = 50, 16_384


def queries(n):
    for seed in range(n):
        random = np.random.default_rng(seed)
        ids = random.choice(np.arange(200, N_FEATURES // 2), 16, replace=False)
        yield ids, random.random(16).astype(np.float32)


def best_of_five(call):
    times = []
    for _ in range(5):
        start = time.process_time()
        found = call()
        times.append(time.process_time() - start)
    return min(times), found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    table = pq.read_table(args.file, columns=["ids", "activations"]).combine_chunks()
    ids, activations = (table[name].chunk(0) for name in ("ids", "activations"))
    offsets = ids.offsets.to_numpy()
    ids, activations = ids.values.to_numpy(), activations.values.to_numpy().astype(np.float32)
    matrix = sp.csr_matrix((activations, ids.astype(np.int32), offsets), shape=(len(offsets) - 1, N_FEATURES))
    names = np.array([f"f{id}" for id in range(N_FEATURES)], dtype=get_seismic_string())
    dataset = SeismicDataset()
    for doc, (start, end) in enumerate(zip(offsets, offsets[1:])):
        dataset.add_document(str(doc), names[ids[start:end]], activations[start:end])
    start = time.process_time()
    index = SeismicIndex.build_from_dataset(dataset, num_threads=args.threads)
    print(f"Seismic: index of {len(offsets) - 1:,} documents in {time.process_time() - start:.1f} s of processor")

    def exact(query, weights):
        dense = np.zeros(N_FEATURES, np.float32)
        dense[query] = weights
        sums = matrix @ dense
        best = np.argpartition(-sums, K)[:K]
        return {int(doc) for doc in best}

    runs = [(query, *best_of_five(lambda: exact(*query))) for query in queries(20)]
    print(f"scipy: {np.median([seconds for _, seconds, _ in runs]) * 1e6:.0f} µs, exact")
    for cut, factor in ((8, 0.8), (16, 0.8), (16, 0.9), (16, 1.0)):
        times, recalls = [], []
        for (query, weights), _, expected in runs:
            search = lambda: index.search("q", names[query], weights, k=K, query_cut=cut, heap_factor=factor)
            seconds, found = best_of_five(search)
            times.append(seconds)
            recalls.append(len(expected & {int(doc) for _, _, doc in found}) / K)
        print(f"Seismic, query_cut {cut}, heap_factor {factor}: {np.median(times) * 1e6:.0f} µs, recall {np.mean(recalls):.3f}")


if __name__ == "__main__":
    main()
