"""Planted differences and planted pairs: does `diff` put the right feature first, `correlate` the right pair?

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/pairs_diffs.py ANSWERS.parquet --text output --saequel PATH/TO/saequel [--sae DIR ...]

The documents and sentences are those of paraphrase.py. A feature *works* for a property if its presence alone has an
F1 of .4 on the test side (unseen sentences, base rate 20 %; saying yes always gives .33), and *tells* it if half of
the documents that have it are the property's, by no chance (p < 0.00001). Both are judged on documents that `diff`
and `correlate` do not see.

Differences: of the training side, set B holds all documents of property k and of the others so many that k is a
fifth; set A holds the other documents of the others. Every document has a planted sentence, so that only what is said
tells B from A. The rank is the row of `diff(B, A)` in which the first feature that works (tells) stands. A/A: `diff`
of random halves of the training side; what it finds (q < 0.05) is wrong.

Pairs: a sentence of property X at the start and one of Y at the end of 5 % of the documents, the others as they are;
every property is in two pairs. The rank is the row of `correlate(..., unexpected => 0.3)` in which the first pair of
a feature of X and one of Y stands; the function holds topics constant and gives one row a finding.

"Possible" are the properties and pairs for which there are such features at all.

Control: presence of words and pairs of words, ranked in the same ways (pairs that share a word or are themselves a
pair of words are left out, as `correlate` leaves out echoes). Intervals are 95 %, Wilson's, over properties, splits
or pairs.
"""

import argparse
import random

import numpy as np
import pyarrow as pa
from scipy import sparse, stats

from measures import Figures, print_table, share_interval, shown
from paraphrase import BASE_RATE, FOUND_F1, HERE, N_COINS, fold, read_pool, read_properties, sides
from workbench import ALL, WORDS, Workbench, add_arguments, count_words

PAIR_RATE = 0.05
UNEXPECTED = 0.3
N_SPLITS = 20
NO_FEATURE = 2 ** 32 - 1
KINDS = ("works", "tells")
NONE = "none"  # in the place of a rank: the dictionary has no such feature, so that nothing could be found


def judge(rows, target):
    """Columns whose presence works, and columns whose presence tells."""
    said = rows.getnnz(0)
    hits = rows[np.flatnonzero(target)].getnnz(0)
    works = 2 * hits / np.maximum(said + target.sum(), 1) >= FOUND_F1
    chance = stats.hypergeom.sf(hits - 1, len(target), target.sum(), said)
    return np.flatnonzero(works), np.flatnonzero((hits >= said / 2) & (said > 0) & (chance < 1e-5))


def hypergeometric_p(hits, said, n_hits, n):
    """Two-sided, twice the smaller tail."""
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
    """Words in the order in which `diff` would give them."""
    with_b, with_a = b.getnnz(0), a.getnnz(0)
    tested = np.flatnonzero(with_a + with_b >= 5)
    with_b, with_a = with_b[tested], with_a[tested]
    p = hypergeometric_p(with_b, with_a + with_b, b.shape[0], a.shape[0] + b.shape[0])
    q = benjamini_hochberg(p)
    difference = np.abs(with_b / b.shape[0] - with_a / a.shape[0])
    return tested[np.lexsort((-difference, q >= 0.05))], p, q


def first(order, wanted):
    """Place of the first wanted item."""
    wanted = set(wanted)
    return next((rank for rank, item in enumerate(order, 1) if item in wanted), None)


def selection(view):
    return "" if view == ALL else f", dictionary => '{view}'"


def listed(ids):
    return ", ".join(map(str, ids)) if len(ids) else str(NO_FEATURE)


class Judged:
    """Which features, and which words, stand for a property, by the test side."""

    def __init__(self, bench, test, vocabulary, n_properties):
        labels = np.array(test.table["property"])
        first_ids = {dictionary.name: dictionary.first_id for dictionary in bench.dictionaries}
        self.of = {}
        words = count_words(test.texts, vocabulary)[0]
        for k in range(n_properties):
            rows, target = fold(labels, k)
            for name, matrix in {**test.features, WORDS: words}.items():
                judged = judge(matrix[rows], target)
                self.of[name, k] = [columns + first_ids.get(name, 0) for columns in judged]
            if len(test.features) > 1:
                self.of[ALL, k] = [np.concatenate([self.of[name, k][kind] for name in test.features])
                                   for kind in range(len(KINDS))]


def measure_differences(bench, train, judged, names, views, words):
    """{view: {kind: {property: rank}}}; None where it is not listed."""
    labels, draw = (np.array(train.table[name]) for name in ("property", "draw"))
    share = min(1 / BASE_RATE - 1, (len(names) - 1) * 2 / 3) / (len(names) - 1)
    ranks = {view: {kind: {} for kind in KINDS} for view in [*views, WORDS]}
    for k, name in enumerate(names):
        rest = f"property <> {k} AND draw"
        b = f"{train.name} WHERE property = {k} OR ({rest} < {round(1000 * share)})"
        a = f"{train.name} WHERE {rest} >= {round(1000 * share)}"
        statements = [f"SELECT {i} AS view, feature_id FROM diff('{b}', '{a}', words => false{selection(view)})"
                      for i, view in enumerate(views)]
        orders = {view: [] for view in views}
        for row in bench.sql(*statements):
            orders[views[row["view"]]].append(row["feature_id"])
        in_b = (labels == k) | (draw < round(1000 * share))
        orders[WORDS] = diff_words(words[in_b], words[~in_b])[0].tolist()
        for view, order in orders.items():
            for kind, wanted in zip(KINDS, judged.of[view, k]):
                ranks[view][kind][name] = first(order, wanted) if len(wanted) else NONE
    return ranks


def measure_chance(bench, train, views, words, n_splits):
    """{view: (discoveries of each split, shares of p < 0.05)}"""
    coins = [np.array([text[i] == "a" for text in train.table["coins"].to_pylist()]) for i in range(n_splits)]
    found = {WORDS: ([], [])}
    for coin in coins:
        _, p, q = diff_words(words[coin], words[~coin])
        found[WORDS][0].append(int((q < 0.05).sum()))
        found[WORDS][1].append(float((p < 0.05).mean()))
    for view in views:
        side = f"{train.name} WHERE substr(coins, {{}}, 1) = ''{{}}''"
        rows = bench.sql(*(
            "SELECT count(*) FILTER (WHERE q_value < 0.05) AS found, avg(CASE WHEN p_value < 0.05 THEN 1.0 ELSE 0.0 END) AS "
            f"share FROM diff('{side.format(i + 1, 'a')}', '{side.format(i + 1, 'b')}', words => false{selection(view)})"
            for i in range(n_splits)))
        found[view] = ([row["found"] for row in rows], [row["share"] for row in rows])
    return found


def pair_table(texts, pairs, properties, rng):
    """Texts as they are (`plant` -1), and for each pair of properties its share of texts with both sentences."""
    n_planted = round(len(texts) / (len(pairs) + (1 - PAIR_RATE) / PAIR_RATE))
    planted, plants = [], []
    for pair, (x, y) in enumerate(pairs):
        for text in texts[pair * n_planted:(pair + 1) * n_planted]:
            planted.append(" ".join([rng.choice(properties[x]["train"]), text, rng.choice(properties[y]["train"])]))
            plants.append(pair)
    rest = texts[len(planted):]
    return pa.table({"doc_id": [f"pair-{i:06d}" for i in range(len(texts))], "text": planted + rest,
                     "plant": plants + [-1] * len(rest)})


def correlate_words(texts, vocabulary_of_judged, x, y):
    """Ranks of the first pair of words of X and Y, by kind."""
    min_docs = max(5, round(0.005 * len(texts)))
    words, vocabulary = count_words(texts, min_docs=min_docs)
    names = sorted(vocabulary, key=vocabulary.get)
    n, with_word = len(texts), words.getnnz(0).astype(float)
    both = np.asarray((words.T @ words).todense(), float)
    expected = np.outer(with_word, with_word) / n
    cells = [both, with_word[:, None] - both, with_word[None, :] - both]
    cells.append(n - sum(cells))
    rest = n - with_word
    means = [expected, np.outer(with_word, rest) / n, np.outer(rest, with_word) / n, np.outer(rest, rest) / n]
    llr = 2 * sum(np.where(cell > 0, cell * np.log(np.maximum(cell, 1e-9) / np.maximum(mean, 1e-9)), 0)
                  for cell, mean in zip(cells, means))
    llr[both <= expected] = -1
    llr[echoes(names)] = -1
    sorted_llr = np.sort(llr[np.triu_indices(len(names), 1)])
    place = {word: i for i, word in enumerate(names)}
    judged_names = sorted(vocabulary_of_judged, key=vocabulary_of_judged.get)
    ranks = []
    for of_x, of_y in zip(x, y):
        own_x, own_y = ([place[judged_names[i]] for i in own if judged_names[i] in place] for own in (of_x, of_y))
        best = llr[np.ix_(own_x, own_y)].max(initial=-1)
        ranks.append(int(len(sorted_llr) - np.searchsorted(sorted_llr, best, side="right")) + 1 if best > 0 else None)
    return ranks


def echoes(names):
    """Pairs of terms that share a word, or whose words stand beside each other as a term."""
    words = sorted({word for name in names for word in name.split()})
    place = {word: i for i, word in enumerate(words)}
    rows, columns = zip(*((i, place[word]) for i, name in enumerate(names) for word in name.split()))
    holds = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(words)))
    beside = sparse.lil_matrix((len(words), len(words)))
    for name in names:
        parts = name.split()
        if len(parts) == 2:
            beside[place[parts[0]], place[parts[1]]] = beside[place[parts[1]], place[parts[0]]] = 1
    beside = beside.tocsr()
    return np.asarray(((holds @ holds.T) + (holds @ beside @ holds.T)).todense()) > 0


def measure_pairs(bench, pool, properties, judged, vocabulary, views, docs, seed):
    """{view: {kind: {pair: rank}}}"""
    rng = random.Random(1000 + seed)
    names = sorted(properties)
    shuffled = rng.sample(range(len(names)), len(names))
    pairs = list(zip(shuffled, shuffled[1:] + shuffled[:1])) if len(names) > 2 else [tuple(shuffled)]
    texts = rng.sample(pool, min(len(pool), docs))
    corpus = bench.corpus("pairs", pair_table(texts, [(names[x], names[y]) for x, y in pairs], properties, rng))
    plants = np.array(corpus.table["plant"])
    ranks = {view: {kind: {} for kind in KINDS} for view in [*views, WORDS]}
    for pair, (x, y) in enumerate(pairs):
        name = f"{names[x]} + {names[y]}"
        statements = []
        for i, view in enumerate(views):
            firsts = []
            for kind, of_x, of_y in zip(KINDS, judged.of[view, x], judged.of[view, y]):
                of_x, of_y = listed(of_x), listed(of_y)
                firsts.append(f"min(place) FILTER (WHERE (feature_a IN ({of_x}) AND feature_b IN ({of_y})) OR "
                              f"(feature_a IN ({of_y}) AND feature_b IN ({of_x}))) AS {kind}")
            statements.append(
                f"SELECT {i} AS view, {', '.join(firsts)} FROM (SELECT feature_a, feature_b, row_number() OVER (ORDER BY llr "
                f"DESC) AS place FROM correlate('{corpus.name} WHERE plant IN (-1, {pair})', unexpected => {UNEXPECTED}, "
                f"limit => 10000000{selection(view)}))")
        for row in bench.sql(*statements):
            for kind in KINDS:
                ranks[views[row["view"]]][kind][name] = row[kind]
        kept = [corpus.texts[i] for i in np.flatnonzero((plants == -1) | (plants == pair))]
        for kind, rank in zip(KINDS, correlate_words(kept, vocabulary, judged.of[WORDS, x], judged.of[WORDS, y])):
            ranks[WORDS][kind][name] = rank
        for view, kinds in ranks.items():
            for i, kind in enumerate(KINDS):
                if not all(len(judged.of[view, k][i]) for k in (x, y)):
                    kinds[kind][name] = NONE
    return ranks


def measure(bench, pool, properties, docs=1500, pair_docs=1500, n_seeds=1, n_splits=N_SPLITS):
    figures = Figures("pairs and differences")
    names = sorted(properties)
    views = [dictionary.name for dictionary in bench.dictionaries] + ([ALL] if len(bench.dictionaries) > 1 else [])
    ranks, chance = {}, {}
    for seed in range(n_seeds):
        train, test = sides(bench, pool, properties, docs, seed)
        words, vocabulary = count_words(train.texts)
        judged = Judged(bench, test, vocabulary, len(names))
        for data, found in (("differences", measure_differences(bench, train, judged, names, views, words)),
                            ("pairs", measure_pairs(bench, pool, properties, judged, vocabulary, views, pair_docs, seed))):
            for view, kinds in found.items():
                for kind, own in kinds.items():
                    for name, rank in own.items():
                        ranks.setdefault((data, view, kind), {}).setdefault(name, []).append(rank)
        for view, (found, shares) in measure_chance(bench, train, views, words, n_splits).items():
            chance.setdefault(view, ([], []))
            chance[view][0].extend(found)
            chance[view][1].extend(shares)
    for (data, view, kind), by_name in ranks.items():
        every = [rank for own in by_name.values() for rank in own]
        hits = sum(rank not in (None, NONE) and rank <= 5 for rank in every)
        figures.add(data, view, f"{kind}, first 5", share_interval(hits, len(every)), hits=hits, of=len(every),
                    possible=len(every) - every.count(NONE), ranks=by_name)
    for view, (found, shares) in chance.items():
        wrong = sum(count > 0 for count in found)
        figures.add("A/A", view, "splits with a discovery", share_interval(wrong, len(found)), hits=wrong, of=len(found))
        figures.add("A/A", view, "discoveries a split", float(np.mean(found)), of=len(found))
        figures.add("A/A", view, "share of p < 0.05", float(np.mean(shares)), of=len(found))
    return figures


def report(figures):
    rows = {(row["set"], row["view"], row["measure"]): row for row in figures.rows}
    views = list(dict.fromkeys(row["view"] for row in figures.rows))
    for data in ("differences", "pairs"):
        names = list(rows[data, views[0], "works, first 5"]["ranks"])
        for kind in KINDS:
            lines = []
            for view in views:
                row = rows[data, view, f"{kind}, first 5"]
                ranks = [",".join("-" if rank is None else str(rank) for rank in row["ranks"][name]) for name in names]
                lines.append([view, f"{row['hits']}/{row['of']}", row["possible"],
                              shown((row["value"], row["low"], row["high"])), *ranks])
            titles = [name[:9] if data == "differences" else " + ".join(part[:7] for part in name.split(" + "))
                      for name in names]
            print_table([f"{data}: first feature that {kind}", "first 5", "possible", "share", *titles], lines)
            print()
    print_table(["A/A", "splits with a discovery", "discoveries a split", "share of p < 0.05"], [
        [view, f"{rows['A/A', view, 'splits with a discovery']['hits']}/{rows['A/A', view, 'splits with a discovery']['of']}",
         f"{rows['A/A', view, 'discoveries a split']['value']:.2f}", f"{rows['A/A', view, 'share of p < 0.05']['value']:.3f}"]
        for view in views])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", help="Parquet file of texts into which the sentences are put")
    parser.add_argument("--text", default="text")
    parser.add_argument("--where", help="COLUMN=VALUE: only these rows")
    parser.add_argument("--properties", nargs="+", default=[str(HERE / "properties.json")])
    parser.add_argument("--docs", type=int, default=1500, help="documents on each side")
    parser.add_argument("--pair-docs", type=int, default=1500, help="documents for the planted pairs")
    parser.add_argument("--splits", type=int, default=N_SPLITS, help=f"A/A splits of each seed, at most {N_COINS}")
    parser.add_argument("--seeds", type=int, default=1)
    add_arguments(parser, data=None)
    args = parser.parse_args()
    figures = measure(Workbench(args), read_pool(args.answers, args.text, args.where), read_properties(args.properties),
                      args.docs, args.pair_docs, args.seeds, min(args.splits, N_COINS))
    report(figures)
    figures.write(args.json)


if __name__ == "__main__":
    main()
