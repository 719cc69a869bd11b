"""Property retrieval: mean average precision of `retrieve`, signal by signal, and with two rounds of feedback.

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/retrieval.py --data FOLDER --saequel PATH/TO/saequel [--sae DIR ...] [--db quality.db] \
        [--half tune|report] [--check]

FOLDER holds property_queries.json, a list of {set, query, text}, property_relevance.parquet (set, query, doc_id) and
for each set a Parquet file of its name with doc_id and the text; --queries, --relevance and --corpus SET=FILE:TEXT
name others.

Figures that the constants rest on: `--limit model_answers=2500`, the other sets whole.

Halves: a query is of the half `tune` if the SHA-1 of "set/query" is even, else of `report`. The constants of `retrieve`
were chosen on the first; figures to be quoted are those of the second.

Ranked are all documents of a query's set; average precision over all of them, those that are not ranked count as not
found. The controls are the embedding alone, the words alone (BM25), their plain fusion (reciprocal ranks, 60), the
embedding moved towards its first hits as `retrieve` moves it, and chance (a random order). "mean" is the mean over
sets, each counting once.

Feedback: a user looks down the ranking that is shown and marks the first 10 documents that are right and the first 10
that are wrong among those not marked yet; the next ranking is made of all marks; twice. Each method is marked on its own
rankings. The control is Rocchio on embeddings alone (1, 0.75, -0.15), from the ranking of the embedding; "strong" is the same
with (1, 4, -2) from the default ranking, better than the usual numbers. Documents marked as wrong are last in every ranking.
"unseen" leaves all marked documents out. "won" counts queries.

--check computes the default ranking and the feedback from the program's single signals, embeddings and features again, in
numpy, and compares average precisions: they differ a little, since the program takes some deviations from a sample.

Intervals are 95 %, queries drawn anew within each set.
"""

import argparse
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from measures import Figures, draws, print_table, shown
from workbench import ALL, DENSE, WORDS, Workbench, add_arguments, read_set

PLAIN = "dense + words"
CHANCE = "chance"
CONTROLS = {DENSE: ", signals => 'dense', expand => 0", WORDS: ", signals => 'words'"}
VARIANTS = {"default": "", "dense, expanded": ", signals => 'dense'", "without expansion": ", expand => 0",
            "without labels": ", signals => 'dense,words'", "labels": ", signals => 'labels'",
            "latents": ", signals => 'latents'"}
OF_DICTIONARY = ("default", "labels", "latents")
N_ROUNDS, N_MARKED = 2, 10
ROCCHIO, STRONG = "Rocchio", "strong Rocchio"
STEPS = {ROCCHIO: (0.75, 0.15), STRONG: (4.0, 2.0)}
SETS = ("tweets_emotion", "tweets_irony", "news", "model_answers", "intents")
TEXTS = {"model_answers": "output"}
N_ANSWERS = 2500  # that the report takes: reading all 48,292 takes an hour
MEAN = "mean"


def half_of(query):
    digest = hashlib.sha1(f"{query['set']}/{query['query']}".encode()).digest()
    return ("tune", "report")[digest[-1] % 2]


def average_precision(hits, relevant, left_out=frozenset()):
    found, total, rank = 0, 0.0, 0
    relevant = relevant - left_out
    for doc in hits:
        if doc not in left_out:
            rank += 1
            if doc in relevant:
                found += 1
                total += found / rank
    return total / len(relevant) if relevant else np.nan


def fused(*rankings, offset=60):
    """Reciprocal rank fusion."""
    scores = defaultdict(float)
    for hits in rankings:
        for rank, doc in enumerate(hits, 1):
            scores[doc] += 1 / (offset + rank)
    return sorted(scores, key=lambda doc: (-scores[doc], doc))


def choose(queries, per_set):
    """At most so many queries of each set, evenly over the list."""
    by_set = defaultdict(list)
    for query in queries:
        by_set[query["set"]].append(query)
    return [own[i] for own in by_set.values()
            for i in sorted({round(at) for at in np.linspace(0, len(own) - 1, min(per_set, len(own)))})]


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


class Retrieval:
    """Queries over imported sets."""

    def __init__(self, bench, corpora, queries, relevant):
        self.bench, self.corpora = bench, corpora
        ids = {name: set(corpus.table["doc_id"].to_pylist()) for name, corpus in corpora.items()}
        self.queries = [query for query in queries if query["set"] in corpora]
        self.relevant = [relevant[query["set"], query["query"]] & ids[query["set"]] for query in self.queries]
        kept = [at for at, own in enumerate(self.relevant) if own]
        self.queries, self.relevant = [self.queries[at] for at in kept], [self.relevant[at] for at in kept]
        self.ids = {name: corpus.table["doc_id"].to_pylist() for name, corpus in corpora.items()}
        self.rows = {name: {doc: row for row, doc in enumerate(own)} for name, own in self.ids.items()}

    def rows_of(self, options, columns="doc_id", marks=None):
        """Hits of every query with these columns. `marks`: for each query the documents that are right and wrong."""
        statements = []
        for at, query in enumerate(self.queries):
            corpus = self.corpora[query["set"]]
            marked = "".join(f", {name} => {quoted(','.join(docs))}"
                             for name, docs in zip(("like", "unlike"), marks[at] if marks else ()) if docs)
            statements.append(f"SELECT {at} AS query, {columns} FROM retrieve({quoted(corpus.name)}, {quoted(query['text'])}, "
                              f"k => {len(corpus)}{options}{marked})")
        hits = [[] for _ in self.queries]
        for row in self.bench.sql(*statements):
            hits[row["query"]].append(row)
        return hits

    def rank(self, options, marks=None):
        return [[row["doc_id"] for row in hits] for hits in self.rows_of(options, marks=marks)]

    def chance(self):
        rng = np.random.default_rng(0)
        return [[self.ids[query["set"]][at] for at in rng.permutation(len(self.ids[query["set"]]))]
                for query in self.queries]

    def query_embeddings(self):
        if not hasattr(self, "embeddings"):
            names = [f"{query['set']}/{query['query']}" for query in self.queries]
            table = pa.table({"doc_id": names, "text": [query["text"] for query in self.queries]})
            self.embeddings = self.bench.corpus("queries", table).dense
        return self.embeddings

    def rocchio(self, marks, steps):
        """Embeddings alone: the query moved towards the mean of the right ones and away from that of the wrong ones."""
        rankings = []
        for query, moved, own in zip(self.queries, self.query_embeddings().copy(), marks):
            dense, rows = self.corpora[query["set"]].dense, self.rows[query["set"]]
            for docs, step in zip(own, (steps[0], -steps[1])):
                if docs:
                    moved += step * dense[[rows[doc] for doc in docs]].mean(0)
            wrong = set(own[1])
            order = np.argsort(-(dense @ moved), kind="stable")
            rankings.append([doc for doc in (self.ids[query["set"]][at] for at in order) if doc not in wrong])
        return rankings

    def mark(self, rankings, marks):
        """Adds the first documents of every ranking that are right and that are wrong and not marked."""
        added = []
        for hits, relevant, (right, wrong) in zip(rankings, self.relevant, marks):
            new = [doc for doc in hits if doc not in set(right) | set(wrong)]
            added.append((right + [doc for doc in new if doc in relevant][:N_MARKED],
                          wrong + [doc for doc in new if doc not in relevant][:N_MARKED]))
        return added

    def rounds(self, first, learn):
        """[(rankings, marks)], one a round; `learn` makes rankings of marks."""
        rankings, marks, done = first, [([], [])] * len(first), []
        for _ in range(N_ROUNDS):
            marks = self.mark(rankings, marks)
            rankings = learn(marks)
            done.append((rankings, marks))
        return done

    def average_precisions(self, rankings, marks=None):
        """One a query; of marks only documents that are not marked."""
        seen = [frozenset(right + wrong) for right, wrong in marks] if marks else [frozenset()] * len(rankings)
        return np.array([average_precision(hits, relevant, left_out)
                         for hits, relevant, left_out in zip(rankings, self.relevant, seen)])


def over_sets(values, sets, weights):
    """{set: mean with resamples}, `mean` of the sets; queries without a value are left out."""
    means = {}
    for name in dict.fromkeys(sets):
        rows = (sets == name) & ~np.isnan(values)
        if rows.any():
            means[str(name)] = weights[:, rows] @ values[rows] / np.maximum(weights[:, rows].sum(1), 1)
    return {**means, MEAN: np.mean(list(means.values()), axis=0)}


def measure(bench, corpora, queries, relevant, n_resamples=1000, more=None, only=None, check=False):
    """Figures; views are dictionaries and controls, the sets are those of the queries and their mean."""
    runs = Retrieval(bench, corpora, queries, relevant)
    sets = np.array([query["set"] for query in runs.queries])
    weights = draws(n_resamples, np.arange(len(sets)), sets)
    figures = Figures("retrieval")
    names = [f"{query['set']}/{query['query']}" for query in runs.queries]
    shared = ALL if len(bench.dictionaries) > 1 else bench.dictionaries[0].name

    def add(view, variant, values, control=None, title=None):
        for name, figure in over_sets(values, sets, weights).items():
            figures.add(name, view, variant, figure,
                        **({"by_query": dict(zip(names, values.tolist()))} if name == MEAN else {}))
        if control is not None:
            for name, figure in over_sets(values - control, sets, weights).items():
                rows = (sets == name) | (name == MEAN)
                figures.add(name, view, f"{variant} - {title}", figure, wins=int((values - control > 0)[rows].sum()),
                            losses=int((values - control < 0)[rows].sum()))

    def wanted(variant):
        return not only or variant in only
    rankings = {name: runs.rank(options) for name, options in CONTROLS.items()}
    rankings[PLAIN] = [fused(*both) for both in zip(rankings[DENSE], rankings[WORDS])]
    rankings[CHANCE] = runs.chance()
    dense = runs.average_precisions(rankings[DENSE])
    for name, hits in rankings.items():
        add(name, "AP", runs.average_precisions(hits))
    default = runs.rank("")
    for variant, options in {**VARIANTS, **(more or {})}.items():
        if wanted(variant):
            values = runs.average_precisions(default if variant == "default" else runs.rank(options))
            add(shared, variant, values, dense, DENSE)
    for dictionary in bench.dictionaries if len(bench.dictionaries) > 1 else []:
        for variant in OF_DICTIONARY:
            if wanted(variant):
                options = f"{VARIANTS[variant]}, dictionary => {quoted(dictionary.name)}"
                add(dictionary.name, variant, runs.average_precisions(runs.rank(options)), dense, DENSE)
    feedback = {}
    if wanted("feedback"):
        feedback = {
            ROCCHIO: runs.rounds(rankings[DENSE], lambda marks: runs.rocchio(marks, STEPS[ROCCHIO])),
            STRONG: runs.rounds(default, lambda marks: runs.rocchio(marks, STEPS[STRONG])),
            "feedback": runs.rounds(default, lambda marks: runs.rank("", marks)),
        }
    for at in range(N_ROUNDS):
        controls = {}
        for name, done in feedback.items():
            hits, marks = done[at]
            for title, left_out in (("", None), (", unseen", marks)):
                values = runs.average_precisions(hits, left_out)
                view = DENSE if name in STEPS else shared
                add(view, f"{name}, round {at + 1}{title}", values, controls.get(title), ROCCHIO)
                if name == ROCCHIO:
                    controls[title] = values
    if check:
        compare(runs, default, feedback.get("feedback"), figures)
    return figures


def compare(runs, default, feedback, figures):
    """The default ranking, and the last round of feedback, against numpy."""
    import reference
    signals = {name: runs.rows_of(f", signals => '{name}', expand => 0", f"doc_id, {name}_score AS score")
               for name in ("dense", "labels", "words")}
    features = {row["feature_id"]: row for row in runs.bench.catalog()}
    ours, theirs, matrices = [], [], {}
    for at, query in enumerate(runs.queries):
        corpus, rows, ids = runs.corpora[query["set"]], runs.rows[query["set"]], runs.ids[query["set"]]
        scores = {name: np.zeros(len(ids)) for name in signals}
        for name, hits in signals.items():
            for row in hits[at]:
                scores[name][rows[row["doc_id"]]] = row["score"]
        ranked = reference.default(scores, corpus.dense, runs.query_embeddings()[at])
        wrong = []
        if feedback:
            right, wrong = ([rows[doc] for doc in side] for side in feedback[-1][1][at])
            if query["set"] not in matrices:
                matrices[query["set"]] = reference.saturated(corpus, runs.bench.dictionaries, features)
            ranked = ranked + reference.learned(matrices[query["set"]], corpus.dense, right, wrong)
        ranked[wrong] = -np.inf
        ours.append([ids[row] for row in np.argsort(-ranked, kind="stable")])
        theirs.append((feedback[-1][0] if feedback else default)[at])
    difference = np.abs(runs.average_precisions(ours) - runs.average_precisions(theirs))
    figures.add(MEAN, "check", "mean absolute difference of AP", float(np.nanmean(difference)))
    figures.add(MEAN, "check", "largest", float(np.nanmax(difference)))
    print(f"check: average precision differs by {np.nanmean(difference):.4f} on average, {np.nanmax(difference):.4f} at most")


def report(figures):
    names = list(dict.fromkeys(key[0] for key in figures.figures))
    names = [*(name for name in names if name != MEAN), MEAN]
    rows = {(row["set"], row["view"], row["measure"]): row for row in figures.rows}
    keys = list(dict.fromkeys((view, measure) for _, view, measure in figures.figures if " - " not in measure))
    lines = []
    for view, title in keys:
        control = ROCCHIO if "round" in title else DENSE
        against = rows.get((MEAN, view, f"{title} - {control}"))
        lines.append([f"{view}: {title}", *(shown(figures.figures[name, view, title]) if (name, view, title) in figures.figures
                                            else "" for name in names),
                      f"{shown(figures.figures[MEAN, view, f'{title} - {control}'])}, {against['wins']} won, "
                      f"{against['losses']} lost" if against else "-"])
    print_table(["mean average precision", *names, "mean, above dense or Rocchio"], lines)


def read_queries(data, queries=None, relevance=None, half="all"):
    relevant = defaultdict(set)
    for row in pq.read_table(relevance or data / "property_relevance.parquet").to_pylist():
        relevant[row["set"], row["query"]].add(row["doc_id"])
    queries = json.loads(Path(queries or data / "property_queries.json").read_text())
    return [query for query in queries if half in ("all", half_of(query))], relevant


def read_corpora(bench, data, names, files=None, limits=None, limit=None):
    """Sets by name; a random part of each if limited, all of them by `limit`."""
    corpora = {}
    for name in names:
        file, text = (files or {}).get(name) or (data / f"{name}.parquet", TEXTS.get(name, "text"))
        corpora[name] = bench.corpus(name, read_set(file, text, (limits or {}).get(name, limit)))
    return corpora


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, data="optional")
    parser.add_argument("--queries", help="[default: property_queries.json of --data]")
    parser.add_argument("--relevance", help="[default: property_relevance.parquet of --data]")
    parser.add_argument("--corpus", action="append", default=[],
                        help=f"SET=FILE:TEXT, or SET alone for a file of --data [default: {', '.join(SETS)}]")
    parser.add_argument("--half", choices=("all", "tune", "report"), default="all", help="queries of this half")
    parser.add_argument("--limit", action="append", default=[], metavar="[SET=]N",
                        help="documents of each set, or of this one, drawn at random [default: all]")
    parser.add_argument("--per-set", type=int, default=1000, help="queries of each set")
    parser.add_argument("--variant", action="append", default=[], help="NAME=, option => value, ... added to those built in")
    parser.add_argument("--only", action="append", default=[], help="run only this variant; `feedback` is one")
    parser.add_argument("--check", action="store_true", help="compare with numpy")
    args = parser.parse_args()
    if not args.data and not (args.queries and args.relevance and args.corpus):
        parser.error("give --data, or --queries, --relevance and --corpus")
    files, names = {}, []
    for corpus in args.corpus:
        name, _, file = corpus.partition("=")
        names.append(name)
        if file:
            files[name] = tuple(file.rsplit(":", 1))
    limits = {name or None: int(number) for name, _, number in (limit.rpartition("=") for limit in args.limit)}
    bench = Workbench(args)
    queries, relevant = read_queries(args.data, args.queries, args.relevance, args.half)
    corpora = read_corpora(bench, args.data, names or SETS, files, limits, limits.get(None))
    figures = measure(bench, corpora, choose(queries, args.per_set), relevant, args.resamples,
                      more=dict(variant.split("=", 1) for variant in args.variant), only=args.only, check=args.check)
    report(figures)
    figures.write(args.json)


if __name__ == "__main__":
    main()
