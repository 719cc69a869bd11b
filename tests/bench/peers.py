"""The tasks of `tasks.py` in the tools that people use for them today, each in a process of its own.

Not called by hand: `tasks.py` starts `python peers.py TOOL FILE THREADS`, sends `load` and then names of tasks, one a line, and
gets a line of JSON for each: seconds, the answer, and the largest resident memory meanwhile.

Every tool holds the corpus in the form that suits it best before the time is taken, scipy and Polars in memory. Of several
ways to ask, the fastest on 200,000 documents is taken; the others stand here as functions that `--check` compares.
"""

import json
import os
import pathlib
import sys
import time

QUERY_FEATURES, QUERY_SEED, TOP_DOCS, TOP, SUPPORT = 16, 3, 50, 20, 50
FEATURES = 16_384


def query():
    """Features and weights of the retrieval, neither the commonest nor the rarest."""
    import numpy as np

    random = np.random.default_rng(QUERY_SEED)
    ids = np.sort(random.choice(FEATURES, QUERY_FEATURES, replace=False))
    return ids.astype(np.int64), random.uniform(0.2, 1.0, QUERY_FEATURES).astype(np.float32)


class Scipy:
    """One matrix of compressed sparse rows in memory: what interp_embed and HypotheSAEs do."""

    def __init__(self, file):
        import numpy as np
        import pyarrow.parquet as pq
        import scipy.sparse as sp

        table = pq.read_table(file, columns=["side", "ids", "activations"]).combine_chunks()
        ids = table["ids"].chunk(0)
        starts, columns = ids.offsets.to_numpy(), ids.values.to_numpy().astype(np.int32)
        values = table["activations"].chunk(0).values.to_numpy()
        self.np, self.sp = np, sp
        self.in_b = table["side"].to_numpy(zero_copy_only=False) == "b"
        shape = (len(starts) - 1, FEATURES)
        self.activations = sp.csr_matrix((values, columns, starts), shape=shape)
        self.present = sp.csr_matrix((np.ones(len(columns), np.float32), columns, starts), shape=shape)

    def diff(self):
        """One product with the two sides; `diff_by_rows` cuts the matrix in two, as the libraries named above do."""
        np = self.np
        sides = np.stack([self.in_b / self.in_b.sum(), ~self.in_b / (~self.in_b).sum()], axis=1)
        docs = self.present.T @ sides
        return self.ranked(docs[:, 0] - docs[:, 1])

    def diff_by_rows(self):
        np = self.np
        # Not `mean`, which adds up float32 shares: its error is then larger than what is compared here.
        shares = [np.asarray(self.present[rows].sum(axis=0)).ravel() / rows.sum() for rows in (self.in_b, ~self.in_b)]
        return self.ranked(shares[0] - shares[1])

    def ranked(self, difference):
        order = self.np.argsort(-abs(difference))[:TOP]
        return [[int(id), float(difference[id])] for id in order]

    def npmi(self):
        np = self.np
        x = self.present.astype(np.int32)
        both = self.sp.triu((x.T @ x).tocsr(), k=1).tocoo()
        often = both.data >= SUPPORT
        i, j, n_both = both.row[often], both.col[often], both.data[often].astype(np.float64)
        n, docs = x.shape[0], np.asarray(x.sum(axis=0)).ravel().astype(np.float64)
        share = n_both / n
        npmi = np.log(n_both * n / (docs[i] * docs[j])) / -np.log(share)
        order = np.argsort(-npmi)[:TOP]
        return [[int(i[at]), int(j[at]), float(npmi[at])] for at in order]

    def retrieve(self):
        np = self.np
        weights = np.zeros(FEATURES, np.float32)
        ids, values = query()
        weights[ids] = values
        scores = self.activations @ weights
        order = np.argpartition(-scores, TOP_DOCS)[:TOP_DOCS]
        order = order[np.argsort(-scores[order])]
        return [[int(doc), float(scores[doc])] for doc in order]


class Duckdb:
    """A table of its own on disk, once with lists and once with a row for each document and feature."""

    def __init__(self, file, threads):
        import duckdb

        self.path = pathlib.Path(file).with_suffix(".duckdb")
        self.path.unlink(missing_ok=True)
        self.db = duckdb.connect(str(self.path), config={"threads": threads})
        self.db.execute("SET preserve_insertion_order = false")
        self.db.execute(f"CREATE TABLE d AS SELECT n, side, ids, activations FROM '{file}'")
        self.db.execute("CREATE TABLE e AS SELECT n, side, unnest(ids) AS id, unnest(activations) AS activation FROM d")
        self.db.execute("CREATE TABLE q (id UINTEGER, weight FLOAT)")
        ids, weights = query()
        self.db.executemany("INSERT INTO q VALUES (?, ?)", [(int(i), float(w)) for i, w in zip(ids, weights)])
        self.db.execute("CHECKPOINT")

    def rows(self, sql):
        return [list(row) for row in self.db.execute(sql).fetchall()]

    def diff(self, pairs="e"):
        return self.rows(f"""
            WITH n AS (SELECT count(*) FILTER (side = 'b') AS b, count(*) FILTER (side = 'a') AS a FROM d),
                 c AS (SELECT id, count(*) FILTER (side = 'b') AS b, count(*) FILTER (side = 'a') AS a FROM {pairs} GROUP BY id)
            SELECT id, c.b / n.b - c.a / n.a AS difference FROM c, n ORDER BY abs(difference) DESC LIMIT {TOP}""")

    def diff_of_lists(self):
        return self.diff("(SELECT side, unnest(ids) AS id FROM d)")

    def npmi(self):
        return self.rows(f"""
            WITH n AS (SELECT count(*) AS n FROM d),
                 c AS (SELECT id, count(*) AS docs FROM e GROUP BY id),
                 p AS (SELECT x.id AS i, y.id AS j, count(*) AS docs FROM e AS x JOIN e AS y ON x.n = y.n AND x.id < y.id
                       GROUP BY ALL HAVING count(*) >= {SUPPORT})
            SELECT i, j, ln(p.docs * n / (ci.docs * cj.docs)) / -ln(p.docs / n) AS npmi
            FROM p JOIN c AS ci ON ci.id = i JOIN c AS cj ON cj.id = j, n ORDER BY npmi DESC LIMIT {TOP}""")

    def retrieve(self, pairs="e"):
        return self.rows(f"""SELECT n, sum(weight * activation) AS score FROM {pairs} JOIN q USING (id) GROUP BY n
                             ORDER BY score DESC LIMIT {TOP_DOCS}""")

    def retrieve_of_lists(self):
        return self.retrieve("(SELECT n, unnest(ids) AS id, unnest(activations) AS activation FROM d)")


class Polars:
    """Data frames in memory, with lists and with a row for each document and feature."""

    def __init__(self, file):
        import polars as pl

        self.pl = pl
        self.documents = pl.read_parquet(file, columns=["n", "side", "ids", "activations"])
        pairs = self.documents.explode("ids", "activations").rename({"ids": "id", "activations": "activation"})
        self.pairs = pairs.with_columns(in_b=pl.col("side") == "b").drop("side").rechunk()
        self.documents = self.documents.select("n", "side")
        ids, weights = query()
        self.query = pl.DataFrame({"id": ids, "weight": weights}, schema_overrides={"id": pl.UInt32})

    def diff(self):
        pl, n = self.pl, self.documents.height
        n_b = int((self.documents["side"] == "b").sum())
        counted = self.pairs.lazy().group_by("id").agg(b=pl.col("in_b").sum(), all=pl.len())
        difference = pl.col("b") / n_b - (pl.col("all") - pl.col("b")) / (n - n_b)
        rows = counted.select("id", difference=difference).sort(pl.col("difference").abs(), descending=True).head(TOP)
        return [list(row) for row in rows.collect().rows()]

    def npmi(self):
        pl, n, pairs = self.pl, self.documents.height, self.pairs.lazy().select("n", "id")
        docs = pairs.group_by("id").len("docs")
        both = (pairs.join(pairs, on="n").filter(pl.col("id") < pl.col("id_right")).group_by("id", "id_right").len("both")
                .filter(pl.col("both") >= SUPPORT))
        share = pl.col("both") / n
        lift = pl.col("both") * n / (pl.col("docs").cast(pl.Float64) * pl.col("docs_right"))
        rows = (both.join(docs, on="id").join(docs.rename({"id": "id_right", "docs": "docs_right"}), on="id_right")
                .select("id", "id_right", npmi=lift.log() / -share.log()).sort("npmi", descending=True).head(TOP))
        return [list(row) for row in rows.collect().rows()]

    def retrieve(self):
        pl = self.pl
        rows = (self.pairs.lazy().join(self.query.lazy(), on="id").group_by("n")
                .agg(score=(pl.col("weight") * pl.col("activation")).sum()).sort("score", descending=True).head(TOP_DOCS))
        return [list(row) for row in rows.collect().rows()]


class Lance:
    """Not a peer but a bound: the same file format read by its own library, and nothing done with it."""

    def __init__(self, dataset, threads):
        import lance

        self.dataset = lance.dataset(dataset)
        self.column = next(name for name in self.dataset.schema.names if name.startswith("_ids_"))

    def diff(self):
        n_rows = n_values = 0
        for batch in self.dataset.scanner(columns=[self.column], scan_in_order=False).to_batches():
            n_rows += batch.num_rows
            n_values += len(batch.column(0).values)
        return [n_rows, n_values]


def peak_reset():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_mib():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024


def main():
    tool, file, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    out, held = os.fdopen(os.dup(1), "w"), None
    os.dup2(2, 1)  # what libraries print must not come between the answers
    for line in sys.stdin:
        task = line.strip()
        peak_reset()
        start = time.perf_counter()
        if task == "load":
            made = {"scipy": lambda: Scipy(file), "polars": lambda: Polars(file), "duckdb": lambda: Duckdb(file, threads),
                    "lance": lambda: Lance(file, threads)}
            held, answer = made[tool](), None
        else:
            answer = getattr(held, task)()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "answer": answer, "peak_mib": peak_mib()}), file=out, flush=True)


if __name__ == "__main__":
    main()
