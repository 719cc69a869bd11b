"""Clustering: do the groups that `cluster` finds agree with known classes?

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/clustering.py --data FOLDER --saequel PATH/TO/saequel [--sae DIR ...]

FOLDER holds tweets_emotion.parquet (doc_id, emotion, text) and news.parquet (doc_id, topic, text). Normalised mutual
information of groups and classes, four groups each.

Emotion is *targeted*: the axis is named ("emotions and feelings"), the classes are not; mean over three wordings of
the axis, with 200 and 600 features; beside it "which emotion is expressed", the axis as a question, with `cluster` as it is
and with each of its methods, and with the number of groups left to `cluster`. News are grouped by everything. Each way of grouping stands there twice:
`cluster`, the SQL function (mean over three seeds; documents in no group are a group), and `k-means`: the features'
saturated activations times idf, length 1, brought to 20 dimensions if targeted and else 50, k-means of ten starts.
Features of an axis are in either case those whose labels are most like its wording. Controls: as many random
features, the words, and the embedding that saequel stores.

Intervals are 95 %, documents drawn anew with the groups as they are (the groups are not found anew).
"""

import argparse

import numpy as np
from scipy import sparse

from measures import Figures, draws, nmi, print_table, shown
from workbench import ALL, DENSE, WORDS, Workbench, add_arguments, count_words, feature_views, read_set

AXES = {"tweets_emotion": ["emotions and feelings", "the mood of the writer", "how the writer feels"], "news": []}
CLASSES = {"tweets_emotion": "emotion", "news": "topic"}
QUESTIONS = {"tweets_emotion": "which emotion is expressed", "news": None}
METHODS = ("kmeans", "jaccard-spectral")
FOUND = "question, number of groups found"
MOST_SPECTRAL = 3000  # documents that the latter takes
N_FEATURES = (200, 600)
N_GROUPS = 4
SEEDS = (0, 1, 2)


def group_rows(rows, n_dimensions, seed=0, k=N_GROUPS):
    """k-means of the rows, brought to fewer dimensions and to length 1."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize
    rows = normalize(rows)
    if sparse.issparse(rows):
        n_dimensions = min(n_dimensions, rows.shape[1] - 1)
        rows = normalize(TruncatedSVD(n_dimensions, random_state=seed).fit_transform(rows))
    return KMeans(k, n_init=10, random_state=seed).fit_predict(rows)


def weighted(rows, q50=None):
    """Activations as a / (a + q50), or presence, times idf."""
    rows = rows.tocsr().astype(np.float32, copy=True)
    if q50 is not None:
        rows.data = rows.data / (rows.data + q50[rows.indices])
    with_feature = np.maximum(rows.getnnz(0), 1)
    return rows.multiply(np.log(1 + rows.shape[0] / with_feature)).tocsr()


class Sets:
    """One corpus with its classes."""

    def __init__(self, bench, corpus, column, n_resamples):
        self.bench, self.corpus = bench, corpus
        self.classes = np.array(corpus.table[column].to_pylist())
        self.weights = draws(n_resamples, np.arange(len(corpus)), self.classes)

    def nmi(self, *groupings):
        return np.mean([nmi(self.classes, groups, self.weights) for groups in groupings], axis=0)

    def by_sql(self, options, k=f", k => {N_GROUPS}"):
        """Groups of each call of `cluster` with these options."""
        statements = [f"SELECT {i} AS call, doc_id, cluster_id FROM cluster('{self.corpus.name}'{k}{option})"
                      for i, option in enumerate(options)]
        found = [{} for _ in options]
        for row in self.bench.sql(*statements):
            found[row["call"]][row["doc_id"]] = row["cluster_id"]
        doc_ids = self.corpus.table["doc_id"].to_pylist()
        return [np.array([groups[doc] for doc in doc_ids]) for groups in found]


def targeted_columns(bench, axis, n_features, dictionary=None):
    """Feature ids whose labels are most like the axis."""
    narrowed = f", dictionary => '{dictionary}'" if dictionary else ""
    rows = bench.sql(f"SELECT feature_id FROM search_features('{axis}', {n_features}, by => 'meaning'{narrowed})")
    return [row["feature_id"] for row in rows]


def measure(bench, data, n_resamples=1000, limit=None):
    figures = Figures("clustering")
    catalog = bench.catalog()
    for name, axes in AXES.items():
        corpus = bench.corpus(name, read_set(data / f"{name}.parquet", limit=limit))
        sets = Sets(bench, corpus, CLASSES[name], n_resamples)
        figures.add(name, DENSE, "everything, cluster", sets.nmi(*sets.by_sql(
            [f", view => 'dense', seed => {seed}" for seed in SEEDS])))
        figures.add(name, DENSE, "everything, k-means", sets.nmi(group_rows(corpus.dense, None)))
        figures.add(name, WORDS, "everything, k-means",
                    sets.nmi(group_rows(weighted(count_words(corpus.texts)[0]), 50)))
        for view, rows in feature_views(corpus).items():
            own = [row for row in catalog if view in (ALL, row["dictionary"])]
            place = {row["feature_id"]: at for at, row in enumerate(own)}
            q50 = np.array([max(row["q50"] or 0, 1e-6) for row in own])
            visible = np.array([not row["hidden"] for row in own])
            dictionary = "" if view == ALL else f", dictionary => '{view}'"
            saturated = weighted(rows, q50)
            figures.add(name, view, "everything, cluster",
                        sets.nmi(*sets.by_sql([f"{dictionary}, seed => {seed}" for seed in SEEDS])))
            figures.add(name, view, "everything, k-means", sets.nmi(group_rows(saturated[:, visible], 50)))
            question = f", about => '{QUESTIONS[name]}'{dictionary}"
            methods = ["", *(METHODS if view == bench.main_view else ())] if axes else []
            for method in methods[:2] if len(corpus) > MOST_SPECTRAL else methods:
                how, title = (f", method => '{method}'", f"question, {method}") if method else ("", "question, cluster")
                if bench.offers(f"SELECT 1 FROM cluster('{corpus.name}', k => {N_GROUPS}{question}{how}) LIMIT 0"):
                    found = sets.by_sql([f"{question}{how}, seed => {seed}" for seed in SEEDS])
                    figures.add(name, view, title, sets.nmi(*found))
                else:
                    figures.not_offered(name, view, title)
            if axes and view == bench.main_view:
                found = sets.by_sql([f"{question}, seed => {seed}" for seed in SEEDS], k="")
                figures.add(name, view, FOUND, sets.nmi(*found))
            for n_features in N_FEATURES if axes else ():
                calls = [f", about => '{axis}', n_features => {n_features}{dictionary}, seed => {seed}"
                         for axis in axes for seed in SEEDS]
                figures.add(name, view, f"axis, {n_features} features, cluster", sets.nmi(*sets.by_sql(calls)))
                groups = []
                for axis in axes:
                    found = targeted_columns(bench, axis, n_features, None if view == ALL else view)
                    columns = [place[feature] for feature in found if feature in place]
                    groups.append(group_rows(saturated[:, columns], 20))
                figures.add(name, view, f"axis, {n_features} features, k-means", sets.nmi(*groups))
                rng = np.random.default_rng(0)
                groups = [group_rows(saturated[:, rng.permutation(np.flatnonzero(visible))[:n_features]], 20)
                          for _ in axes]
                figures.add(name, view, f"random {n_features} features, k-means", sets.nmi(*groups))
    return figures


def report(figures):
    for name in AXES:
        titles = list(dict.fromkeys(measure for data, _, measure in figures.figures if data == name))
        views = list(dict.fromkeys(view for data, view, _ in figures.figures if data == name))
        print_table([f"NMI, {name}", *views], [
            [title, *(shown(figures.figures[name, view, title]) if (name, view, title) in figures.figures else "-"
                      for view in views)] for title in titles])
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--limit", type=int, help="documents of each set [default: all]")
    args = parser.parse_args()
    figures = measure(Workbench(args), args.data, args.resamples, args.limit)
    report(figures)
    figures.write(args.json)


if __name__ == "__main__":
    main()
