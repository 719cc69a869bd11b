"""Probes: can irony, anger and joy be read off the features of a tweet?

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/probes.py --data FOLDER --saequel PATH/TO/saequel [--sae DIR ...]

FOLDER holds tweets_irony.parquet (doc_id, irony, text) and tweets_emotion.parquet (doc_id, emotion, text). Average
precision of a logistic regression, mean of five folds; its penalty is chosen inside each fold. The rows are what each
dictionary stores of the tweets, all dictionaries together, and as controls the words and pairs of words, the
embedding that saequel stores, and the embedding beside each dictionary: what a dictionary adds to it.

Intervals are 95 %, tweets drawn anew for the tests of the five regressions (not for their training).
"""

import argparse

import numpy as np
from scipy import sparse

from measures import Figures, average_precision, draws, print_table, regression, shown
from workbench import DENSE, WORDS, Workbench, add_arguments, count_words, feature_views, read_set

TASKS = [("tweets_irony", "irony", "irony"), ("tweets_emotion", "emotion", "anger"), ("tweets_emotion", "emotion", "joy")]
N_FOLDS = 5


def with_dense(rows, dense):
    """Features beside the embedding, whose columns are brought to the features' size."""
    return sparse.hstack([rows, sparse.csr_matrix(dense / np.maximum(np.abs(dense).max(0), 1e-6))]).tocsr()


def probe(view, texts, target, weights):
    """Mean average precision of the folds."""
    from sklearn.model_selection import StratifiedKFold
    folds = []
    for kept, held in StratifiedKFold(N_FOLDS, shuffle=True, random_state=0).split(np.zeros(len(target)), target):
        if view is None:
            train, vocabulary = count_words([texts[i] for i in kept], min_docs=2)
            test = count_words([texts[i] for i in held], vocabulary)[0]
        else:
            train, test = view[kept], view[held]
        scores = regression(train, target[kept], test)
        folds.append(average_precision(scores, target[held], weights[:, held]))
    return np.mean(folds, axis=0)


def measure(bench, data, n_resamples=1000, limit=None):
    figures = Figures("probes")
    for name, column, value in TASKS:
        corpus = bench.corpus(name, read_set(data / f"{name}.parquet", limit=limit))
        target = np.array(corpus.table[column].to_pylist()) == value
        weights = draws(n_resamples, np.arange(len(corpus)), target)
        views = feature_views(corpus)
        views |= {f"{DENSE} + {view}": with_dense(rows, corpus.dense) for view, rows in views.items()}
        for view, rows in {**views, WORDS: None, DENSE: corpus.dense}.items():
            figures.add(value, view, "AP", probe(rows, corpus.texts, target, weights), n=len(corpus))
        for view in views:
            for control in (WORDS, DENSE):
                figures.minus(value, view, control, "AP")
    return figures


def report(figures):
    tasks = [value for _, _, value in TASKS]
    views = list(dict.fromkeys(view for _, view, measure in figures.figures if measure == "AP"))
    print_table(["average precision", *tasks],
                [[view, *(shown(figures.figures[task, view, "AP"]) for task in tasks)] for view in views])
    print()
    print_table([f"difference from {DENSE}", *tasks],
                [[view, *(shown(figures.figures[task, view, f"AP - {DENSE}"]) for task in tasks)]
                 for view in views if view not in (WORDS, DENSE)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--limit", type=int, help="tweets of each set [default: all]")
    args = parser.parse_args()
    figures = measure(Workbench(args), args.data, args.resamples, args.limit)
    report(figures)
    figures.write(args.json)


if __name__ == "__main__":
    main()
