"""Property retrieval: mean average precision of `retrieve`, dictionary by dictionary and signal by signal.

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/retrieval.py --data FOLDER --saequel PATH/TO/saequel [--sae DIR ...] [--db quality.db]

FOLDER holds property_queries.json, a list of {set, query, text}, property_relevance.parquet (set, query, doc_id) and
for each set a Parquet file of its name with doc_id and the text; --queries, --relevance and --corpus SET=FILE:TEXT
name others.

Ranked are all documents of a query's set; average precision over all of them, those that no signal ranks count as not
found. The variants are what `retrieve` does with its own weights: nothing is tuned here. For the features of one
dictionary its columns alone are handed over as `features`; since `labels` matches the labels of all dictionaries of
the database, it may take as many times more of them as there are dictionaries.

Feedback: the first K documents of the dense ranking are marked as right or wrong by the known answers, once.
`rocchio` moves the embedding alone (the control), `dense + feedback` adds the features learned from the same marks,
`default + feedback` all signals. "AP" counts the marked documents, which every variant ranks with what it was told;
"unseen" leaves them out (and queries of which nothing is left to find).

"all" weighs tweets, news and intents as 9 : 4 : 8, the numbers of queries that the targets were set with; model
answers are in no mean. Intervals are 95 %, queries drawn anew within each set.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from measures import Figures, draws, print_table, shown
from workbench import ALL, DENSE, WORDS, Workbench, add_arguments, read_set

SIGNALS = {"default": "", "labels": ", signals => 'labels'", "latents": ", signals => 'latents'"}
WITHOUT_FEATURES = {"dense": ", signals => 'dense'", "words": ", signals => 'words'"}
MARKED = {"dense + feedback": ", signals => 'dense'", "default + feedback": ""}
ROCCHIO = ", signals => 'dense', weights => 'feedback=0'"
N_MARKED = (10, 30)
GROUPS = {"tweets": ("tweets_emotion", "tweets_irony"), "news": ("news",), "intents": ("intents",)}
GROUP_WEIGHTS = {"tweets": 9, "news": 4, "intents": 8}
TEXTS = {"model_answers": "output"}


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

    def __init__(self, bench, corpora, queries, relevant, depth):
        self.bench, self.corpora, self.depth = bench, corpora, depth
        ids = {name: set(corpus.table["doc_id"].to_pylist()) for name, corpus in corpora.items()}
        self.queries = [query for query in queries if query["set"] in corpora]
        self.relevant = [relevant[query["set"], query["query"]] & ids[query["set"]] for query in self.queries]
        kept = [at for at, own in enumerate(self.relevant) if own]
        self.queries, self.relevant = [self.queries[at] for at in kept], [self.relevant[at] for at in kept]

    def rank(self, view, options, marks=None):
        """Hits of every query. `marks`: for each query the documents that are right and wrong."""
        statements = []
        for at, query in enumerate(self.queries):
            corpus = self.corpora[query["set"]]
            documents = quoted(corpus.name) if view in (ALL, None) else corpus.set_of(view)
            marked = "".join(f", {name} => {quoted(','.join(docs))}"
                             for name, docs in zip(("like", "unlike"), marks[at] if marks else ()) if docs)
            n_labels = 100 if view in (ALL, None) else 100 * self.bench.n_in_database
            statements.append(f"SELECT {at} AS query, doc_id FROM retrieve({documents}, {quoted(query['text'])}, "
                              f"k => {self.depth or len(corpus)}, n_labels => {n_labels}{options}{marked})")
        rankings = [[] for _ in self.queries]
        for row in self.bench.sql(*statements):
            rankings[row["query"]].append(row["doc_id"])
        return rankings

    def marks(self, rankings, k):
        """The first k hits of every query, right and wrong."""
        return [([doc for doc in hits[:k] if doc in relevant], [doc for doc in hits[:k] if doc not in relevant])
                for hits, relevant in zip(rankings, self.relevant)]

    def average_precisions(self, rankings, marks=None):
        """One a query; of marks only documents that are not marked."""
        seen = [frozenset(right + wrong) for right, wrong in marks] if marks else [frozenset()] * len(rankings)
        return np.array([average_precision(hits, relevant, left_out)
                         for hits, relevant, left_out in zip(rankings, self.relevant, seen)])


def in_groups(values, sets, weights):
    """{group: mean with resamples}, `all` weighted by group; queries without a value are left out."""
    means = {}
    for group, own in {**GROUPS, "model answers": ("model_answers",)}.items():
        rows = np.isin(sets, own) & ~np.isnan(values)
        if rows.any():
            means[group] = weights[:, rows] @ values[rows] / np.maximum(weights[:, rows].sum(1), 1)
    weighed = [group for group in GROUPS if group in means]
    if weighed:
        total = sum(GROUP_WEIGHTS[group] for group in weighed)
        means["all"] = sum(GROUP_WEIGHTS[group] * means[group] for group in weighed) / total
    return means


def measure(bench, corpora, queries, relevant, n_resamples=1000, depth=0, more=None, only=None):
    """Figures; views are dictionaries, the embedding alone and the words alone (BM25), measures are "GROUP: VARIANT"."""
    runs = Retrieval(bench, corpora, queries, relevant, depth)
    sets = np.array([query["set"] for query in runs.queries])
    weights = draws(n_resamples, np.arange(len(sets)), sets)
    figures = Figures("retrieval")
    names = [f"{query['set']}/{query['query']}" for query in runs.queries]
    signals = {**SIGNALS, **(more or {})}

    def add(view, variant, values):
        for group, figure in in_groups(values, sets, weights).items():
            figures.add(group, view, variant, figure,
                        **({"by_query": dict(zip(names, values.tolist()))} if group == "all" else {}))

    def wanted(variant):
        return not only or variant in only
    dense = runs.rank(None, WITHOUT_FEATURES["dense"])
    add(DENSE, "AP", runs.average_precisions(dense))
    if wanted("words"):
        add(WORDS, "AP", runs.average_precisions(runs.rank(None, WITHOUT_FEATURES["words"])))
    views = [dictionary.name for dictionary in bench.dictionaries] + ([ALL] if len(bench.dictionaries) > 1 else [])
    for view in views:
        for variant, options in signals.items():
            if wanted(variant):
                add(view, variant, runs.average_precisions(runs.rank(view, options)))
    for k in N_MARKED:
        if not any(wanted(variant) for variant in MARKED):
            break
        marks = runs.marks(dense, k)
        rocchio = runs.rank(None, ROCCHIO, marks)
        control = {"": runs.average_precisions(rocchio), ", unseen": runs.average_precisions(rocchio, marks)}
        for title, values in control.items():
            add(DENSE, f"rocchio, K {k}{title}", values)
        for view in views:
            for variant, options in MARKED.items():
                if not wanted(variant):
                    continue
                rankings = runs.rank(view, options, marks)
                for title, values in (("", runs.average_precisions(rankings)),
                                      (", unseen", runs.average_precisions(rankings, marks))):
                    measure_name = f"{variant}, K {k}{title}"
                    add(view, measure_name, values)
                    for group, figure in in_groups(values - control[title], sets, weights).items():
                        rows = np.isin(sets, GROUPS.get(group, [s for own in GROUPS.values() for s in own]))
                        difference = (values - control[title])[rows]
                        figures.add(group, view, f"{measure_name} - rocchio", figure,
                                    wins=int((difference > 0).sum()), losses=int((difference < 0).sum()))
    return figures


def report(figures):
    groups = [group for group in (*GROUPS, "model answers", "all") if any(key[0] == group for key in figures.figures)]
    rows = {(row["set"], row["view"], row["measure"]): row for row in figures.rows}
    keys = list(dict.fromkeys((view, measure) for _, view, measure in figures.figures if not measure.endswith("rocchio")))
    lines = []
    for view, title in keys:
        against = rows.get(("all", view, f"{title} - rocchio"))
        lines.append([f"{view}: {title}", *(shown(figures.figures[group, view, title]) for group in groups),
                      f"{shown(figures.figures['all', view, f'{title} - rocchio'])}, {against['wins']} won, "
                      f"{against['losses']} lost" if against else "-"])
    print_table(["mean average precision", *groups, "all, above rocchio"], lines)


def read_queries(data, queries=None, relevance=None):
    relevant = defaultdict(set)
    for row in pq.read_table(relevance or data / "property_relevance.parquet").to_pylist():
        relevant[row["set"], row["query"]].add(row["doc_id"])
    return json.loads(Path(queries or data / "property_queries.json").read_text()), relevant


def read_corpora(bench, data, names, files=None, limit=None):
    """Sets by name; a random part of each if limited."""
    corpora = {}
    for name in names:
        file, text = (files or {}).get(name) or (data / f"{name}.parquet", TEXTS.get(name, "text"))
        corpora[name] = bench.corpus(name, read_set(file, text, limit))
    return corpora


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, data="optional")
    parser.add_argument("--queries", help="[default: property_queries.json of --data]")
    parser.add_argument("--relevance", help="[default: property_relevance.parquet of --data]")
    parser.add_argument("--corpus", action="append", default=[],
                        help="SET=FILE:TEXT, or SET alone for a file of --data "
                             "[default: tweets_emotion, tweets_irony, news, intents]")
    parser.add_argument("--limit", type=int, help="documents of each set [default: all]")
    parser.add_argument("--per-set", type=int, default=24, help="queries of each set")
    parser.add_argument("--depth", type=int, default=0, help="hits that are ranked [default: all documents]")
    parser.add_argument("--variant", action="append", default=[], help="NAME=, option => value, ... added to those built in")
    parser.add_argument("--only", action="append", default=[], help="run only this variant")
    args = parser.parse_args()
    if not args.data and not (args.queries and args.relevance and args.corpus):
        parser.error("give --data, or --queries, --relevance and --corpus")
    files, names = {}, []
    for corpus in args.corpus:
        name, _, file = corpus.partition("=")
        names.append(name)
        if file:
            files[name] = tuple(file.rsplit(":", 1))
    bench = Workbench(args)
    queries, relevant = read_queries(args.data, args.queries, args.relevance)
    corpora = read_corpora(bench, args.data, names or [name for own in GROUPS.values() for name in own], files, args.limit)
    figures = measure(bench, corpora, choose(queries, args.per_set), relevant, args.resamples, args.depth,
                      more=dict(variant.split("=", 1) for variant in args.variant), only=args.only)
    report(figures)
    figures.write(args.json)


if __name__ == "__main__":
    main()
