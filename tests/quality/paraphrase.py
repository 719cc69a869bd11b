"""Paraphrase test: does a dictionary have a feature for a property, or only for its words?

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/paraphrase.py ANSWERS.parquet --text output --saequel PATH/TO/saequel [--sae DIR ...]

Every property comes as training and test sentences that share no two words in a row. Each document gets one sentence of
some property behind one of its first sentences: side B training sentences, side A test sentences, all properties equally
often, so that a feature which only notices an out-of-place sentence gains nothing. For property k the feature and the
threshold that separate k from the others best on B are chosen, and its F1 is measured on A; saying "k" always gives
2p / (1 + p) for a share p. Beside it stand the best word or pair of words, chosen the same way, and a logistic regression
on all features (average precision on A).
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

HERE = Path(__file__).parent


def best_thresholds(matrix, target):
    """Best F1 of `value >= threshold` for every column of a sparse matrix of positive values, and the threshold."""
    matrix = matrix.tocsc()
    n_positive = target.sum()
    scores, thresholds = np.zeros(matrix.shape[1]), np.full(matrix.shape[1], np.inf)
    for column in range(matrix.shape[1]):
        part = slice(matrix.indptr[column], matrix.indptr[column + 1])
        values, rows = matrix.data[part], matrix.indices[part]
        if len(values) == 0:
            continue
        order = np.argsort(-values, kind="stable")
        hits = np.cumsum(target[rows[order]])
        f1 = 2 * hits / (np.arange(1, len(order) + 1) + n_positive)
        last_of_value = np.append(np.diff(values[order]) != 0, True)
        f1[~last_of_value] = 0
        at = int(np.argmax(f1))
        scores[column], thresholds[column] = f1[at], values[order][at]
    return scores, thresholds


def f1_at(matrix, column, threshold, target):
    said = matrix[:, column].toarray().ravel() >= threshold
    return 2 * (said & target).sum() / max(said.sum() + target.sum(), 1)


def average_precision(scores, target):
    from sklearn.metrics import average_precision_score
    return average_precision_score(target, scores)


def regression(train, train_target, test, test_target):
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.preprocessing import MaxAbsScaler
    scaler = MaxAbsScaler().fit(train)
    model = LogisticRegressionCV(Cs=[0.1, 1, 10, 100], cv=4, scoring="average_precision", max_iter=300,
                                 solver="liblinear")
    model.fit(scaler.transform(train), train_target)
    return average_precision(model.decision_function(scaler.transform(test)), test_target)


def words(texts, vocabulary=None):
    """Presence of words and pairs of words."""
    from sklearn.feature_extraction.text import CountVectorizer
    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"[A-Za-z']+|[!?]", binary=True, min_df=3 if vocabulary is None else 1,
                              vocabulary=vocabulary)
    return counter.fit_transform(texts).astype(np.float32), counter.vocabulary_


def plant(texts, properties, kind, rng):
    """A sentence of one property in every text; returns texts and the number of the property."""
    planted, labels = [], []
    names = sorted(properties)
    used = {name: [] for name in names}
    for i, text in enumerate(texts):
        name = names[i % len(names)]
        if not used[name]:
            used[name] = rng.sample(properties[name][kind], len(properties[name][kind]))
        parts = re.split(r"(?<=[.!?])\s+", text)
        at = rng.randrange(1, min(4, len(parts)) + 1)
        planted.append(" ".join(parts[:at] + [used[name].pop()] + parts[at:]))
        labels.append(i % len(names))
    return planted, np.array(labels)


def features(saequel, db, texts, corpus):
    """Imports the texts; returns what each dictionary stores of them: {dictionary: (matrix, feature ids)}."""
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        pq.write_table(pa.table({"id": [f"{i:06d}" for i in range(len(texts))], "text": texts}), file.name)
        subprocess.run([saequel, "--db", db, "import", file.name, "--corpus", corpus, "--text", "text", "--key", "id"],
                       check=True, stdout=sys.stderr)
    out = Path(db).with_suffix(f".{corpus}.parquet")
    sql = f"SELECT a.doc_id, a.feature_id, a.activation, f.dictionary FROM {corpus}_activations a " \
          "JOIN saequel.features f ON a.feature_id = f.feature_id"
    subprocess.run([saequel, "--db", db, "sql", sql, "--output", str(out)], check=True)
    table = pq.read_table(out)
    return {name: table.filter(pa.compute.equal(table["dictionary"], name)) for name in set(table["dictionary"].to_pylist())}


def matrix(table, n, columns):
    ids = table["feature_id"].to_numpy()
    rows = np.array([int(doc) for doc in table["doc_id"].to_pylist()])
    where = np.searchsorted(columns, ids)
    known = (where < len(columns)) & (columns[np.minimum(where, len(columns) - 1)] == ids)
    values = table["activation"].to_numpy().astype(np.float32)
    return sparse.csr_matrix((values[known], (rows[known], where[known])), shape=(n, len(columns)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", help="Parquet file of texts into which the sentences are put")
    parser.add_argument("--text", default="text")
    parser.add_argument("--where", help="COLUMN=VALUE: only these rows")
    parser.add_argument("--properties", nargs="+", default=[str(HERE / "properties.json")])
    parser.add_argument("--sae", nargs="*", default=[], help="folders of dictionaries beside the shipped ones")
    parser.add_argument("--saequel", default="saequel")
    parser.add_argument("--docs", type=int, default=1000, help="documents on each side")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args()

    properties = {}
    for file in args.properties:
        properties.update(json.loads(Path(file).read_text()))
    names = sorted(properties)
    table = pq.read_table(args.answers)
    if args.where:
        column, value = args.where.split("=", 1)
        table = table.filter(pa.compute.equal(table[column].cast(pa.string()), value))
    pool = [text[:600] for text in table[args.text].to_pylist() if text and len(text) > 80]
    figures = {}
    for seed in range(args.seeds):
        rng = random.Random(seed)
        texts = rng.sample(pool, min(len(pool), 2 * args.docs))
        half = len(texts) // 2
        train_texts, train_labels = plant(texts[:half], properties, "train", rng)
        test_texts, test_labels = plant(texts[half:], properties, "test", rng)
        with tempfile.TemporaryDirectory() as folder:
            db = f"{folder}/p.db"
            for sae in args.sae:
                subprocess.run([args.saequel, "--db", db, "sae", "import", sae], check=True, stdout=sys.stderr)
            train_tables = features(args.saequel, db, train_texts, "train_side")
            test_tables = features(args.saequel, db, test_texts, "test_side")
        views = {}
        for name, train in train_tables.items():
            columns = np.unique(train["feature_id"].to_numpy())
            views[name] = (matrix(train, len(train_texts), columns), matrix(test_tables[name], len(test_texts), columns))
        views["all dictionaries"] = tuple(sparse.hstack([views[n][side] for n in sorted(train_tables)]).tocsr() for side in (0, 1))
        word_train, vocabulary = words(train_texts)
        views["words and pairs"] = (word_train.tocsr(), words(test_texts, vocabulary)[0].tocsr())
        for view, (train, test) in views.items():
            for k, name in enumerate(names):
                target, test_target = train_labels == k, test_labels == k
                scores, thresholds = best_thresholds(train, target)
                best = int(np.argmax(scores))
                f1 = f1_at(test, best, thresholds[best], test_target)
                precision = regression(train, target, test, test_target)
                figures.setdefault(view, {}).setdefault(name, []).append((f1, precision))
    floor = 2 / (1 + len(names))
    print(f"{len(names)} properties, {args.docs} documents a side, {args.seeds} seed(s); always saying yes: F1 {floor:.2f}")
    print(f"{'':32} best feature F1 | regression AP   " + " ".join(f"{name[:9]:>9}" for name in names))
    for view, by_name in sorted(figures.items()):
        f1 = np.array([[value[0] for value in by_name[name]] for name in names])
        ap = np.array([[value[1] for value in by_name[name]] for name in names])
        print(f"{view:32} {f1.mean():.3f} +- {f1.mean(0).std():.3f} | {ap.mean():.3f} +- {ap.mean(0).std():.3f}   "
              + " ".join(f"{value:9.2f}" for value in f1.mean(1)))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
