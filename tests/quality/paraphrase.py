"""Paraphrase test: does a dictionary have a feature for a property, or only for its words?

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/paraphrase.py ANSWERS.parquet --text output --saequel PATH/TO/saequel [--sae DIR ...]

Every property comes as training and test sentences that share no two words in a row. Each document, cut to 600
characters, gets one sentence of some property behind one of its first sentences: side B training sentences, side A
test sentences, all properties equally often, so that a feature which only notices an out-of-place sentence gains
nothing. For property k its documents stand against four times as many of the others, drawn evenly: a base rate of a
fifth, at which saying "k" always gives an F1 of .33. The feature and the threshold that separate k best on B are
chosen, and its F1 is measured on A. "Found": of the features in the order of their largest z on B, how many
properties have one with F1 .4 on A among the first 50, and among the first 5. Beside it stands a logistic regression
on all features (average precision on A).

Views: what each dictionary stores of the documents, all dictionaries together, and as controls the words and pairs of
words and the embedding of the whole document that saequel stores (mean of the last layer, as sentence-transformers
makes it).

With --by-sentence every sentence is a document of its own as well: the regression learns from sentences, which of them
were put in being known, and a document's score is that of its best sentence. What that gains over the regression on
documents is what is lost where a document keeps the largest activation of all its sentences, and the strongest
features only.

Intervals are 95 %: test sentences are drawn anew (all documents with one sentence together; 20 sentences a property
are few, whatever the number of documents). In the column "other properties" the properties are drawn anew too: what
to expect of properties that are not among these.
"""

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from measures import (Figures, average_precision, best_thresholds, draws, f1, f1_at, largest_z, over_groups, print_table,
                      regression, shown)
from workbench import ALL, DENSE, WORDS, Workbench, add_arguments, count_words, feature_views

HERE = Path(__file__).parent
BASE_RATE = 0.2
FOUND_F1 = 0.4
MOST_RANKED = 50
N_COINS = 64
BY_SENTENCE = "regression AP, by sentence"
N_ORDINARY = 3000  # sentences of the documents themselves that a regression on sentences learns from


def read_properties(files):
    properties = {}
    for file in files:
        properties.update(json.loads(Path(file).read_text()))
    return properties


def read_pool(file, text, where=None):
    """Texts that sentences can be put into."""
    table = pq.read_table(file)
    if where:
        column, value = where.split("=", 1)
        table = table.filter(pa.compute.equal(table[column].cast(pa.string()), value))
    return [value[:600] for value in table[text].to_pylist() if value and len(value) > 80]


def plant(texts, properties, kind, rng):
    """A sentence of one property in every text; returns texts, numbers of the properties, and of their sentences."""
    planted, labels, sentences = [], [], []
    names = sorted(properties)
    unused = {name: [] for name in names}
    for i, text in enumerate(texts):
        name = names[i % len(names)]
        known = properties[name][kind]
        if not unused[name]:
            unused[name] = rng.sample(range(len(known)), len(known))
        sentence = unused[name].pop()
        parts = re.split(r"(?<=[.!?])\s+", text)
        at = rng.randrange(1, min(4, len(parts)) + 1)
        planted.append(" ".join(parts[:at] + [known[sentence]] + parts[at:]))
        labels.append(i % len(names))
        sentences.append(sentence)
    return planted, labels, sentences


def side_table(texts, properties, kind, rng):
    """Documents of one side. `draw` (0 to 999) and `coins` are chance, for whoever splits them further."""
    planted, labels, sentences = plant(texts, properties, kind, rng)
    return pa.table({
        "doc_id": [f"{kind}-{i:06d}" for i in range(len(texts))], "text": planted, "property": labels,
        "sentence": sentences, "draw": [rng.randrange(1000) for _ in texts],
        "coins": ["".join(rng.choice("ab") for _ in range(N_COINS)) for _ in texts]})


def sides(bench, pool, properties, docs, seed):
    """The two sides as corpora: training sentences, test sentences."""
    rng = random.Random(seed)
    texts = rng.sample(pool, min(len(pool), 2 * docs))
    half = len(texts) // 2
    train = side_table(texts[:half], properties, "train", rng)
    test = side_table(texts[half:], properties, "test", rng)
    return bench.corpus("train_side", train), bench.corpus("test_side", test)


def fold(labels, k, seed=0):
    """Documents of property k, and four times as many of the others, drawn evenly; returns rows and which of them are k."""
    rng = np.random.default_rng(seed + k)
    rows = [np.flatnonzero(labels == k)]
    others = np.setdiff1d(np.unique(labels), [k])
    wanted = len(rows[0]) * (1 - BASE_RATE) / BASE_RATE / len(others)
    rows += [rng.permutation(np.flatnonzero(labels == other))[:round(wanted)] for other in others]
    rows = np.concatenate(rows)
    return rows, labels[rows] == k


def rank_of_found(train, train_target, test, test_target, thresholds):
    """Place of the first feature, by largest z on the training side, that works on the test side; None if none does."""
    order = np.argsort(-largest_z(train, train_target), kind="stable")[:MOST_RANKED]
    return next((rank for rank, column in enumerate(order, 1)
                 if f1_at(test, column, thresholds[column], test_target) >= FOUND_F1), None)


def measure_property(train, train_target, train_groups, test, test_target, weights):
    """F1 of the best feature (None for a dense view), its column, the rank of the first that works, and the regression."""
    scores = regression(train, train_target, test, groups=train_groups)
    result = {"ap": average_precision(scores, test_target, weights)}
    if not isinstance(train, np.ndarray):
        trained, thresholds = best_thresholds(train, train_target)
        best = int(np.argmax(trained))
        said = test[:, best].toarray().ravel() >= thresholds[best]
        result |= {"f1": f1(said, test_target, weights), "column": best,
                   "rank": rank_of_found(train, train_target, test, test_target, thresholds)}
    return result


def sentences_of(side, properties, names, kind):
    """Documents as sentences: texts, the document of each, and whether it is the one that was put in."""
    texts, documents, planted = [], [], []
    put_in = zip(side.table["property"].to_pylist(), side.table["sentence"].to_pylist())
    for i, (text, (own, number)) in enumerate(zip(side.texts, put_in)):
        sentence = properties[names[own]][kind][number]
        at = text.index(sentence)
        before, after = ([part for part in re.split(r"(?<=[.!?])\s+", rest.strip()) if part.strip()]
                         for rest in (text[:at], text[at + len(sentence):]))
        parts = [*before, sentence, *after]
        texts += parts
        documents += [i] * len(parts)
        planted += [j == len(before) for j in range(len(parts))]
    return texts, np.array(documents), np.array(planted)


def measure_sentences(bench, sides_, properties, names, n_resamples):
    """{view: {property: figure}}: average precision of a regression on sentences."""
    corpora, documents, planted = [], [], []
    for side, kind in zip(sides_, ("train", "test")):
        texts, of, put_in = sentences_of(side, properties, names, kind)
        table = pa.table({"doc_id": [f"{kind}-{i:06d}" for i in range(len(texts))], "text": texts})
        corpora.append(bench.corpus(f"{kind}_sentences", table))
        documents.append(of)
        planted.append(put_in)
    labels, numbers = ([np.array(side.table[name]) for side in sides_] for name in ("property", "sentence"))
    ordinary = np.random.default_rng(0).permutation(np.flatnonzero(~planted[0]))[:N_ORDINARY]
    rows = np.concatenate([np.flatnonzero(planted[0]), ordinary])
    of_row = documents[0][rows]
    put_in = planted[0][rows]
    # A sentence that was put into several documents stays on one side of a fold; others stay with their document.
    groups = np.where(put_in, 1000 * labels[0][of_row] + numbers[0][of_row], 1_000_000 + of_row)
    views = {view: (matrix, feature_views(corpora[1])[view]) for view, matrix in feature_views(corpora[0]).items()}
    views[DENSE] = tuple(corpus.dense for corpus in corpora)
    results = {}
    for k, name in enumerate(names):
        test_rows, target = fold(labels[1], k)
        weights = draws(n_resamples, (numbers[1] + 1000 * labels[1])[test_rows], labels[1][test_rows])
        for view, (train, test) in views.items():
            scores = regression(train[rows], put_in & (labels[0][of_row] == k), test, groups=groups)
            best = np.full(len(labels[1]), -np.inf)
            np.maximum.at(best, documents[1], scores)
            results.setdefault(view, {})[name] = average_precision(best[test_rows], target, weights)
    return results


def column_labels(bench, vocabulary):
    """Names of the columns of each view that has any."""
    own = {dictionary.name: [""] * dictionary.width for dictionary in bench.dictionaries}
    first_ids = {dictionary.name: dictionary.first_id for dictionary in bench.dictionaries}
    for row in bench.catalog():
        own[row["dictionary"]][row["feature_id"] - first_ids[row["dictionary"]]] = f"{row['feature_id']}: {row['label']}"
    return {**own, ALL: [label for labels in own.values() for label in labels], WORDS: sorted(vocabulary, key=vocabulary.get)}


def measure(bench, pool, properties, docs=1500, n_seeds=1, n_resamples=1000, by_sentence=False):
    """All views; returns figures, and beside them the results of {view: {property: [one a seed]}}."""
    names = sorted(properties)
    results, of_sentences = {}, {}
    for seed in range(n_seeds):
        train, test = sides(bench, pool, properties, docs, seed)
        views = {view: (rows, feature_views(test)[view]) for view, rows in feature_views(train).items()}
        word_rows, vocabulary = count_words(train.texts)
        views[WORDS] = (word_rows, count_words(test.texts, vocabulary)[0])
        views[DENSE] = (train.dense, test.dense)
        labels_of = column_labels(bench, vocabulary)
        labels = [np.array(side.table["property"]) for side in (train, test)]
        sentences = [np.array(side.table["sentence"]) + 1000 * own for side, own in zip((train, test), labels)]
        for k, name in enumerate(names):
            (rows, target), (test_rows, test_target) = (fold(own, k) for own in labels)
            weights = draws(n_resamples, sentences[1][test_rows], labels[1][test_rows])
            for view, (train_matrix, test_matrix) in views.items():
                result = measure_property(train_matrix[rows], target, sentences[0][rows], test_matrix[test_rows],
                                          test_target, weights)
                if "column" in result:
                    result["label"] = labels_of[view][result["column"]]
                results.setdefault(view, {}).setdefault(name, []).append(result)
        if by_sentence:
            for view, by_name in measure_sentences(bench, (train, test), properties, names, n_resamples).items():
                for name, figure in by_name.items():
                    of_sentences.setdefault(view, {}).setdefault(name, []).append(figure)
    figures = Figures("paraphrase")
    for view, by_name in of_sentences.items():
        figures.add("specific", view, BY_SENTENCE, np.mean([by_name[name] for name in names], axis=(0, 1)))
    for view, by_name in results.items():
        for key, title in (("f1", "best feature F1"), ("ap", "regression AP")):
            if key in by_name[names[0]][0]:
                each = np.array([np.mean([result[key] for result in by_name[name]], axis=0) for name in names])
                figures.add("specific", view, title, each.mean(0), by_property=dict(zip(names, each[:, 0].tolist())))
                figures.add("other properties", view, title, over_groups(each))
        if "rank" in by_name[names[0]][0]:
            ranks = [[result["rank"] for result in by_name[name]] for name in names]
            figures.rows[-1]["best_features"] = {name: [result["label"] for result in by_name[name]] for name in names}
            for title, most in (("found", MOST_RANKED), ("found in first 5", 5)):
                found = np.mean([[rank is not None and rank <= most for rank in own] for own in ranks]) * len(names)
                figures.add("specific", view, title, found, of=len(names), ranks=dict(zip(names, ranks)),
                            best_features={name: [result["label"] for result in by_name[name]] for name in names})
    for view in results:
        for data in ("specific", "other properties"):
            for title in ("best feature F1", "regression AP"):
                if view != WORDS and (data, view, title) in figures.figures:
                    figures.minus(data, view, WORDS, title)
    return figures, results


def report(figures, names):
    rows = {(row["set"], row["view"], row["measure"]): row for row in figures.rows}
    views = list(dict.fromkeys(row["view"] for row in figures.rows))

    def cell(data, view, title):
        row = rows.get((data, view, title))
        return shown((row["value"], *(np.nan if x is None else x for x in (row["low"], row["high"])))) if row else "-"
    lines = []
    for view in views:
        found = rows.get(("specific", view, "found"))
        lines.append([
            view, cell("specific", view, "best feature F1"), cell("specific", view, f"best feature F1 - {WORDS}"),
            cell("other properties", view, "best feature F1"),
            f"{found['value']:g}, {rows['specific', view, 'found in first 5']['value']:g}" if found else "-",
            cell("specific", view, "regression AP"), cell("specific", view, BY_SENTENCE),
            *(f"{rows['specific', view, 'best feature F1' if found else 'regression AP']['by_property'][name]:.2f}"
              for name in names)])
    print_table(["", "best feature F1", "above words", "other properties", "found, first 5", "regression AP", "by sentence",
                 *(name[:9] for name in names)], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", help="Parquet file of texts into which the sentences are put")
    parser.add_argument("--text", default="text")
    parser.add_argument("--where", help="COLUMN=VALUE: only these rows")
    parser.add_argument("--properties", nargs="+", default=[str(HERE / "properties.json")])
    parser.add_argument("--docs", type=int, default=1500, help="documents on each side")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--by-sentence", action="store_true", help="also learn from sentences as documents of their own")
    parser.add_argument("--features", action="store_true", help="name the best features")
    add_arguments(parser, data=None)
    args = parser.parse_args()
    properties = read_properties(args.properties)
    pool = read_pool(args.answers, args.text, args.where)
    figures, _ = measure(Workbench(args), pool, properties, args.docs, args.seeds, args.resamples,
                         args.by_sentence)
    print(f"{len(properties)} properties, {args.docs} documents a side, {args.seeds} seed(s); always saying yes: F1 .33, "
          f"AP .20; of '{DENSE}' the last columns show AP")
    report(figures, sorted(properties))
    if args.features:
        print()
        best = {row["view"]: row["best_features"] for row in figures.rows if "best_features" in row}
        print_table(["best features", *best], [[name, *("; ".join(own[name]) for own in best.values())]
                                               for name in sorted(properties)])
    figures.write(args.json)


if __name__ == "__main__":
    main()
