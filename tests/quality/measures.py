"""Figures with confidence intervals.

A figure is an array: first what was measured, then the same on each resample. Resamples of documents are weights, the
same for every view of the documents, so that differences between views can be taken resample by resample.
"""

import json
import re
from pathlib import Path

import numpy as np


def draws(n_resamples, groups, strata=None, seed=0):
    """Weights of documents, one row a resample, the first all 1. Groups of documents are drawn with replacement, within
    strata: a group lies in one stratum."""
    groups = np.asarray(groups)
    strata = np.zeros(len(groups), int) if strata is None else np.asarray(strata)
    rng = np.random.default_rng(seed)
    weights = np.ones((n_resamples + 1, len(groups)), np.float32)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        names, group = np.unique(groups[rows], return_inverse=True)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
        weights[1:, rows] = counts[:, group]
    return weights


def f1(said, target, weights):
    """F1 of a yes-or-no answer."""
    said, target = np.asarray(said, bool), np.asarray(target, bool)
    both = weights @ (said & target).astype(np.float32)
    total = weights @ (said.astype(np.float32) + target.astype(np.float32))
    return 2 * both / np.maximum(total, 1)


def average_precision(scores, target, weights):
    """Average precision; equal scores are one step."""
    order = np.argsort(-scores, kind="stable")
    weights = weights[:, order]
    hits = np.cumsum(weights * np.asarray(target)[order], axis=1, dtype=np.float64)
    seen = np.cumsum(weights, axis=1, dtype=np.float64)
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits, seen = hits[:, ends], seen[:, ends]
    gained = np.diff(hits, axis=1, prepend=0)
    return (gained * hits / np.maximum(seen, 1e-9)).sum(1) / np.maximum(hits[:, -1], 1e-9)


def nmi(labels, groups, weights):
    """Normalised mutual information, over the arithmetic mean of the entropies."""
    labels, groups = np.unique(labels, return_inverse=True)[1], np.unique(groups, return_inverse=True)[1]
    n_labels, n_groups = labels.max() + 1, groups.max() + 1
    cells = np.zeros((len(labels), n_labels * n_groups), np.float32)
    cells[np.arange(len(labels)), labels * n_groups + groups] = 1
    joint = (weights @ cells).reshape(len(weights), n_labels, n_groups) / weights.sum(1)[:, None, None]

    def entropy(share):
        return -(share * np.log(np.maximum(share, 1e-12))).reshape(len(share), -1).sum(1)
    by_label, by_group = entropy(joint.sum(2)), entropy(joint.sum(1))
    return (by_label + by_group - entropy(joint)) / np.maximum((by_label + by_group) / 2, 1e-12)


def ari(labels, groups, weights):
    """Adjusted Rand index."""
    labels, groups = np.unique(labels, return_inverse=True)[1], np.unique(groups, return_inverse=True)[1]
    n_labels, n_groups = labels.max() + 1, groups.max() + 1
    cells = np.zeros((len(labels), n_labels * n_groups), np.float32)
    cells[np.arange(len(labels)), labels * n_groups + groups] = 1
    joint = (weights @ cells).reshape(len(weights), n_labels, n_groups).astype(np.float64)

    def pairs(counts):
        return (counts * (counts - 1) / 2).reshape(len(counts), -1).sum(1)
    both, by_label, by_group = pairs(joint), pairs(joint.sum(2)), pairs(joint.sum(1))
    expected = by_label * by_group / pairs(joint.sum((1, 2))[:, None])
    return (both - expected) / np.maximum((by_label + by_group) / 2 - expected, 1e-9)


def over_groups(figures, seed=0):
    """Mean of figures of several properties or queries, whose resamples draw those too."""
    figures = np.asarray(figures)
    n_groups, n_resamples = len(figures), figures.shape[1] - 1
    drawn = np.random.default_rng(seed).integers(n_groups, size=(n_resamples, n_groups))
    resampled = figures[drawn, np.arange(1, n_resamples + 1)[:, None]].mean(1)
    return np.concatenate([[figures[:, 0].mean()], resampled])


def interval(figure, level=0.95):
    """Value and bounds: quantiles of the resamples, moved so that their mean is the value (documents drawn twice make average
    precision and mutual information of resamples too large)."""
    if len(figure) == 1:
        return float(figure[0]), np.nan, np.nan
    low, high = np.quantile(figure[1:], [(1 - level) / 2, (1 + level) / 2]) - figure[1:].mean() + figure[0]
    return float(figure[0]), float(max(low, figure.min())), float(min(high, figure.max()))


def hypergeometric_p(hits, said, n_hits, n):
    """Two-sided, twice the smaller tail."""
    from scipy import stats
    upper = stats.hypergeom.sf(hits - 1, n, n_hits, said)
    lower = stats.hypergeom.cdf(hits, n, n_hits, said)
    return np.minimum(1, 2 * np.minimum(upper, lower))


def benjamini_hochberg(p):
    order = np.argsort(p)
    q = p[order] * len(p) / np.arange(1, len(p) + 1)
    out = np.empty(len(p))
    out[order] = np.minimum(1, np.minimum.accumulate(q[::-1])[::-1])
    return out


def diff_words(b, a):
    """Words, significant ones first, then the larger difference, which serves them better than the order of `diff`."""
    with_b, with_a = b.getnnz(0), a.getnnz(0)
    tested = np.flatnonzero(with_a + with_b >= 5)
    with_b, with_a = with_b[tested], with_a[tested]
    p = hypergeometric_p(with_b, with_a + with_b, b.shape[0], a.shape[0] + b.shape[0])
    q = benjamini_hochberg(p)
    difference = np.abs(with_b / b.shape[0] - with_a / a.shape[0])
    return tested[np.lexsort((-difference, q >= 0.05))], p, q


def mcnemar_p(only_b, only_a):
    """Two-sided and exact, of how many pairs have something on one side alone."""
    from scipy import stats
    return np.minimum(1, 2 * stats.binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def share_interval(hits, n):
    """Share with Wilson's interval, 95 %."""
    z = 1.96
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(hits * (n - hits) / n + z * z / 4)
    return hits / n, float(max(centre - half, 0)), float(min(centre + half, 1))


def shown(figure):
    """`.512 [.471, .553]`."""
    value, low, high = figure if len(figure) == 3 else interval(figure)
    value, low, high = (re.sub(r"^(-?)0\.", r"\1.", f"{number:.3f}") for number in (value, low, high))
    return value if low == "nan" else f"{value} [{low}, {high}]"


def best_thresholds(matrix, target):
    """Best F1 of `value >= threshold` for every column of a sparse matrix of positive values, and the threshold."""
    scores, thresholds = np.zeros(matrix.shape[1]), np.full(matrix.shape[1], np.inf)
    for column, values, hits, said in cuts(matrix, target):
        score = 2 * hits / (said + target.sum())
        at = int(np.argmax(score))
        scores[column], thresholds[column] = score[at], values[at]
    return scores, thresholds


def largest_z(matrix, target):
    """Largest z of any threshold for every column: how far from chance the rows above it are."""
    n, share = len(target), target.mean()
    best = np.full(matrix.shape[1], -np.inf)
    for column, _, hits, said in cuts(matrix, target):
        spread = np.sqrt(np.maximum(said * share * (1 - share) * (n - said) / (n - 1), 1e-9))
        best[column] = ((hits - said * share) / spread)[said < n].max(initial=-np.inf)
    return best


def cuts(matrix, target):
    """For each column its thresholds, falling, with the positive rows and all rows that reach them."""
    matrix = matrix.tocsc()
    for column in range(matrix.shape[1]):
        part = slice(matrix.indptr[column], matrix.indptr[column + 1])
        values, rows = matrix.data[part], matrix.indices[part]
        if len(values) == 0:
            continue
        order = np.argsort(-values, kind="stable")
        values, hits = values[order], np.cumsum(target[rows[order]])
        last = np.append(np.diff(values) != 0, True)
        yield column, values[last], hits[last], np.flatnonzero(last) + 1


def f1_at(matrix, column, threshold, target):
    said = matrix[:, column].toarray().ravel() >= threshold
    return 2 * (said & target).sum() / max(said.sum() + target.sum(), 1)


def regression(train, train_target, test, groups=None, penalties=(0.1, 1, 10, 100), n_folds=3, seed=0):
    """Scores of the test rows by logistic regression; its penalty has the best average precision inside the training rows
    (groups of rows are kept together)."""
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from sklearn.preprocessing import MaxAbsScaler, StandardScaler
    scaler = (MaxAbsScaler() if sparse.issparse(train) else StandardScaler()).fit(train)
    train, test = scaler.transform(train), scaler.transform(test)

    def fitted(penalty, rows, target):
        return LogisticRegression(C=penalty, max_iter=500, solver="liblinear").fit(rows, target)
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(n_folds, shuffle=True, random_state=seed)
    folds = list(splitter.split(np.zeros(len(train_target)), train_target, groups))
    if not sparse.issparse(train):
        penalties = [penalty / 100 for penalty in penalties]
    inside = [np.mean([average_precision_score(train_target[held], fitted(penalty, train[kept], train_target[kept])
                                               .decision_function(train[held])) for kept, held in folds])
              for penalty in penalties]
    return fitted(penalties[int(np.argmax(inside))], train, train_target).decision_function(test)


class Figures:
    """What a test found: rows of test, set, view, measure and a value with its bounds."""

    def __init__(self, test):
        self.test, self.rows, self.figures = test, [], {}

    def add(self, data, view, measure, figure, **more):
        """`figure` is an array with resamples, or (value, low, high), or a number."""
        if np.ndim(figure) == 0:
            figure = (float(figure), np.nan, np.nan)
        if len(figure) > 3:
            self.figures[data, view, measure] = np.asarray(figure)
        value, low, high = figure if len(figure) == 3 else interval(figure)
        self.rows.append({"test": self.test, "set": data, "view": view, "measure": measure, "value": float(value),
                          "low": none_if_nan(low), "high": none_if_nan(high), **more})

    def minus(self, data, view, control, measure):
        """Adds the difference from a control, resample by resample."""
        figure = self.figures[data, view, measure] - self.figures[data, control, measure]
        self.add(data, view, f"{measure} - {control}", figure)
        return figure

    def not_offered(self, data, view, measure):
        """The program has no such option."""
        self.rows.append({"test": self.test, "set": data, "view": view, "measure": measure, "value": None, "low": None,
                          "high": None, "not_offered": True})

    def add_share(self, data, view, measure, hits, of, **more):
        """So many of so many, with Wilson's interval."""
        self.add(data, view, measure, share_interval(hits, of), hits=hits, of=of, **more)

    def write(self, path):
        if path:
            Path(path).write_text(json.dumps(self.rows, indent=1))


def none_if_nan(x):
    return None if np.isnan(x) else float(x)


def print_table(header, rows):
    """Aligned columns, the first to the left."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    for row in cells:
        print("  ".join(cell.ljust(width) if at == 0 else cell.rjust(width)
                        for at, (cell, width) in enumerate(zip(row, widths))), flush=True)
