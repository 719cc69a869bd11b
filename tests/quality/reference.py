"""What `retrieve` computes, in numpy: see kernels/fusion.rs, feedback.rs and logistic.rs."""

import numpy as np
from scipy import sparse
from scipy.stats import norm

N_SAMPLE, N_BACKGROUND = 1000, 100
N_EARLY, N_TAIL, N_EXPANDED, EXPANSION = 100, 10, 10, 0.5


def deviation(scores):
    spread = scores.std()
    return spread if spread > 0 else 1.0


def separation(scores):
    """Share of the variance that is between two groups, cut where it is largest, over what a normal sample may reach."""
    below, n = np.cumsum(np.sort(scores - scores.mean()))[:-1], len(scores)
    size = np.arange(1, n)
    share = (below ** 2 * n / (size * (n - size))).max(initial=0) / max(n * scores.var(), 1e-12)
    return share / (2 / np.pi + 0.82 / n ** 0.5)


def default(scores, dense, query):
    """Standardised sums; `scores` has `dense`, `labels` and `words` of every document, `query` is its embedding."""
    cosine, labels, words = scores["dense"], scores["labels"], scores["words"]
    tail = (np.sort(cosine)[-N_TAIL:].mean() - cosine.mean()) / deviation(cosine)
    ratio = tail / norm.isf(N_TAIL / 2 / max(len(cosine), 2 * N_TAIL))
    of_labels = min(1.5 / max(ratio, 1e-3) ** 3, 1) * min(1 / max(separation(cosine), 1e-3), 1) ** 16
    rest = of_labels * labels / deviation(labels) + words / max(words.max(), 1e-9)
    first = cosine / deviation(cosine) + rest
    n_early, n_expanded = min(N_EARLY, len(cosine)), min(N_EXPANDED, len(cosine) // 20)
    if n_expanded == 0:
        return first
    early = np.union1d(np.argsort(-cosine, kind="stable")[:n_early], np.argsort(-labels, kind="stable")[:n_early])
    hits = early[np.argsort(-first[early], kind="stable")[:n_expanded]]
    step = dense[hits].mean(0) - dense.mean(0)
    moved = query / np.linalg.norm(query) + EXPANSION * step / np.linalg.norm(step)
    cosine = dense @ (moved / np.linalg.norm(moved))
    return cosine / deviation(cosine) + rest


def saturated(corpus, dictionaries, catalog):
    """Saturated activations times inverse document frequencies, visible features only."""
    matrix = sparse.hstack([corpus.features[dictionary.name] for dictionary in dictionaries]).tocsr()
    ids = np.concatenate([dictionary.first_id + np.arange(dictionary.width) for dictionary in dictionaries])
    q50 = np.array([catalog[feature]["q50"] or 1.0 for feature in ids])
    visible = np.array([not catalog[feature]["hidden"] for feature in ids])
    n_with = np.asarray((matrix > 0).sum(0)).ravel()
    gain = np.where(visible, np.maximum(np.log((len(corpus) + 1) / (n_with + 0.5)), 0), 0)
    matrix = matrix.copy()
    matrix.data = gain[matrix.indices] / (1 + q50[matrix.indices] / np.maximum(matrix.data, 1e-9))
    return matrix


def learned(features, dense, right, wrong, seed=0):
    """What feedback adds to the score of every document; `features` are those of [`saturated`], marks are rows."""
    marked = np.array([*right, *wrong], int)
    others = np.setdiff1d(np.arange(len(dense)), marked)
    rng = np.random.default_rng(seed)
    sample = others if len(others) <= N_SAMPLE else rng.choice(others, N_SAMPLE, replace=False)
    centred = dense - dense[sample].mean(0)
    centred = centred * np.sqrt(len(sample) / np.maximum((centred[sample] ** 2).sum(), 1e-12))
    features = features * np.sqrt(0.5 * len(sample) / max(features[sample].multiply(features[sample]).sum(), 1e-12))
    background = rng.choice(sample, min(N_BACKGROUND, len(sample)), replace=False)
    rows = np.concatenate([marked, background])
    is_right = np.zeros(len(rows), bool)
    is_right[:len(right)] = True
    is_right[len(marked):] = not right
    weight = (0.25 * len(wrong) if wrong else len(right)) if right else len(wrong)
    weights = np.concatenate([np.ones(len(marked)), np.full(len(background), weight / max(len(background), 1))])
    points, sparse_points = centred[rows].astype(float), features[rows]
    kernel = 1 + points @ points.T + (sparse_points @ sparse_points.T).toarray()
    coefficients = regression(kernel, is_right, weights)
    log_odds = centred @ (points.T @ coefficients) + features @ (sparse_points.T @ coefficients)
    return 2 * len(marked) / (len(marked) + 20) * log_odds / deviation(log_odds[sample])


def regression(kernel, targets, weights, penalty=1.0):
    """Coefficients of a logistic regression by its kernel."""
    def loss(f, a):
        return (weights * np.logaddexp(0, np.where(targets, -f, f))).sum() + penalty / 2 * a @ f
    a, f = np.zeros(len(targets)), np.zeros(len(targets))
    for _ in range(50):
        p = 1 / (1 + np.exp(-f))
        curvature = np.maximum(weights * p * (1 - p), 1e-9)
        step = np.linalg.solve(kernel + np.diag(penalty / curvature), f + weights * (targets - p) / curvature) - a
        along, size, now = kernel @ step, 1.0, loss(f, a)
        while size > 1e-6 and loss(f + size * along, a + size * step) >= now:
            size /= 2
        if size <= 1e-6:
            break
        a, f = a + size * step, f + size * along
        if now - loss(f, a) < 1e-10 * now:
            break
    return a
