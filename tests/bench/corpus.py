"""A synthetic corpus of sparse features, the same for every tool that is measured.

    pip install numpy pyarrow
    python tests/bench/corpus.py --docs 200000 --out features.parquet

Columns: `doc_id` (text), `n` (int64, the row's number), `side` ('a' or 'b'), `ids` (list<uint32>, ascending), `activations`
(list<float32> of the same length, above 0; half floats hold them exactly, so that no tool rounds).

How often features are present falls as a power of their rank (Zipf and Mandelbrot), ranks are spread over the ids by
chance as in a trained dictionary, and nearly a third of a document's features are drawn from those of its topic, so that
there are pairs to be found. 20 features are present in 5 of 100 more documents of side b: a comparison must find them.
The same seed gives the same documents, however many are asked for in one piece.
"""

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PIECE = 50_000
PLANTED, PLANTED_SHARE = 20, 0.05
TOPICS, TOPIC_WIDTH, TOPIC_SHARE = 200, 60, 0.3
EXPONENT, SHIFT = 0.8, 20.0

SCHEMA = pa.schema([
    ("doc_id", pa.string()),
    ("n", pa.int64()),
    ("side", pa.string()),
    ("ids", pa.list_(pa.uint32())),
    ("activations", pa.list_(pa.float32())),
])


class Generator:
    def __init__(self, features=16_384, active=64, seed=1):
        self.features, self.active, self.seed = features, active, seed
        random = np.random.default_rng(seed)
        weights = (np.arange(features) + 1 + SHIFT) ** -EXPONENT
        self.bounds = np.cumsum(weights / weights.sum())
        self.bounds[-1] = 1.0
        self.id_of_rank = random.permutation(features).astype(np.int64)
        self.topics = random.integers(0, features, (TOPICS, TOPIC_WIDTH))
        # Rare ones, which 5 points make stand out.
        self.planted = self.id_of_rank[random.choice(np.arange(features // 4, features), PLANTED, replace=False)]

    def piece(self, at, n):
        """The first `n` documents of piece `at` as a table."""
        random = np.random.default_rng([self.seed, at])
        lengths = random.poisson(self.active, PIECE).clip(4, 4 * self.active)
        in_b = random.random(PIECE) < 0.5
        topic = random.integers(0, TOPICS, PIECE)
        document = np.repeat(np.arange(PIECE), lengths)
        feature = self.id_of_rank[np.searchsorted(self.bounds, random.random(document.size))]
        by_topic = random.random(document.size) < TOPIC_SHARE
        columns = random.integers(0, TOPIC_WIDTH, int(by_topic.sum()))
        feature[by_topic] = self.topics[topic[document[by_topic]], columns]
        row, which = np.nonzero((random.random((PIECE, PLANTED)) < PLANTED_SHARE) & in_b[:, None])
        keys = np.concatenate([document * self.features + feature, row * self.features + self.planted[which]])
        keys = np.unique(keys)
        activations = (random.gamma(2.0, 0.5, keys.size) + 1e-3).astype(np.float16).astype(np.float32)
        document, ids = np.divmod(keys, self.features)
        offsets = np.searchsorted(document, np.arange(n + 1)).astype(np.int32)
        ids, activations = ids[: offsets[-1]].astype(np.uint32), activations[: offsets[-1]]
        numbers = np.arange(at * PIECE, at * PIECE + n)
        return pa.table({
            "doc_id": pa.array([f"d{number:08}" for number in numbers]),
            "n": pa.array(numbers, pa.int64()),
            "side": pa.array(np.where(in_b[:n], "b", "a")),
            "ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)),
            "activations": pa.ListArray.from_arrays(pa.array(offsets), pa.array(activations)),
        }, schema=SCHEMA)

    def pieces(self, n_docs):
        for at, start in enumerate(range(0, n_docs, PIECE)):
            yield self.piece(at, min(PIECE, n_docs - start))


def write(path, n_docs, **of):
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for table in Generator(**of).pieces(n_docs):
            writer.write_table(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=int, required=True)
    parser.add_argument("--features", type=int, default=16_384, help="of the dictionary")
    parser.add_argument("--active", type=int, default=64, help="features of a document, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    write(args.out, args.docs, features=args.features, active=args.active, seed=args.seed)


if __name__ == "__main__":
    main()
