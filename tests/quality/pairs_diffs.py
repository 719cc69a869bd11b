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

Rare pairs (with --rare, which needs a file with models and prompts as in planted.py): properties X and Y of planted.py
in 1 % of 5000 documents, each alone in a third as many; ten pairs of templated kinds (of those that the reader can
see) and ten of paraphrased properties, other documents for each. The rank is the row of `correlate(..., unexpected =>
0.3)`, in its own order, in which the first pair of a feature that tracks X and one that tracks Y stands (in the sense
of planted.py). "Judged by the documents": the first row of which at least half of the documents were given both, and of
whose features one is more often in those given X alone and the other in those given Y alone; a feature that sees the
planted sentences but not others of the same property counts.

Control: presence of words and pairs of words, ranked in the same ways (pairs that share a word or are themselves a
pair of words are left out, as `correlate` leaves out echoes). Intervals are 95 %, Wilson's, over properties, splits
or pairs.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import sparse, stats

import planted
from measures import Figures, diff_words, print_table, share_interval, shown
from paraphrase import BASE_RATE, FOUND_F1, HERE, N_COINS, fold, read_pool, read_properties, sides
from workbench import ALL, WORDS, Workbench, add_arguments, count_words

PAIR_RATE = 0.05
RARE_RATE = 0.01
N_RARE = 10  # pairs of each group
N_JUDGED = 50  # first rows that are judged by their documents
RARE_DOCS = 5000
BY_DOCUMENTS = "first 10, judged by the documents"
RARE_VARIANTS = {"first 10, features of all levels": ", level => 'all'", "first 10, topics not held": ", control => 'none'"}
NOT_SEEN = ("capitals", "emoji")
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
    changed, plants = [], []
    for pair, (x, y) in enumerate(pairs):
        for text in texts[pair * n_planted:(pair + 1) * n_planted]:
            changed.append(" ".join([rng.choice(properties[x]["train"]), text, rng.choice(properties[y]["train"])]))
            plants.append(pair)
    rest = texts[len(changed):]
    return pa.table({"doc_id": [f"pair-{i:06d}" for i in range(len(texts))], "text": changed + rest,
                     "plant": plants + [-1] * len(rest)})


class WordPairs:
    """Pairs of terms that come together more often than chance, by log-likelihood ratio; echoes left out. Terms are in
    as many documents as the features that `correlate` takes."""

    def __init__(self, texts):
        words, vocabulary = count_words(texts, min_docs=max(5, len(texts) // 400))
        self.words = words.tocsc()
        self.place, n = vocabulary, len(texts)
        with_word = words.getnnz(0).astype(np.float64)
        both = sparse.triu(words.T @ words, 1).tocoo()
        a, b, together = both.row, both.col, both.data.astype(np.float64)
        kept = (together > with_word[a] * with_word[b] / n) & ~echoes(sorted(vocabulary, key=vocabulary.get))[a, b]
        a, b, together = a[kept], b[kept], together[kept]
        only_a, only_b = with_word[a] - together, with_word[b] - together
        llr = 2 * sum(cell * np.log(np.maximum(cell, 1e-9) * n / (of_a * of_b)) for cell, of_a, of_b in (
            (together, with_word[a], with_word[b]), (only_a, with_word[a], n - with_word[b]),
            (only_b, n - with_word[a], with_word[b]), (n - together - only_a - only_b, n - with_word[a], n - with_word[b])))
        self.llr = sparse.coo_matrix((llr, (a, b)), shape=both.shape).tocsr()
        self.sorted = np.sort(llr)
        best = np.argsort(-llr, kind="stable")[:N_JUDGED]
        self.first = list(zip(a[best], b[best]))

    def rank(self, x, y):
        """Rank of the first pair of a term of each."""
        x, y = ([self.place[term] for term in terms if term in self.place] for terms in (x, y))
        if not x or not y:
            return None
        best = max(self.llr[np.ix_(x, y)].max(), self.llr[np.ix_(y, x)].max())
        return int(len(self.sorted) - np.searchsorted(self.sorted, best, side="right")) + 1 if best > 0 else None


def echoes(names):
    """Pairs of terms that share a word, or whose words stand beside each other as a term."""
    words = sorted({word for name in names for word in name.split()})
    place = {word: i for i, word in enumerate(words)}
    rows, columns = zip(*((i, place[word]) for i, name in enumerate(names) for word in name.split()))
    holds = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(names), len(words)))
    beside = sparse.lil_matrix((len(words), len(words)), dtype=np.float32)
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
    terms = sorted(vocabulary, key=vocabulary.get)
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
        of_words = WordPairs([corpus.texts[i] for i in np.flatnonzero((plants == -1) | (plants == pair))])
        for kind, of_x, of_y in zip(KINDS, judged.of[WORDS, x], judged.of[WORDS, y]):
            ranks[WORDS][kind][name] = of_words.rank([terms[i] for i in of_x], [terms[i] for i in of_y])
        for view, kinds in ranks.items():
            for i, kind in enumerate(KINDS):
                if not all(len(judged.of[view, k][i]) for k in (x, y)):
                    kinds[kind][name] = NONE
    return ranks


def shows_both(first, second, given):
    """Whether a pair of features (which documents have them) shows what was put into documents; `given`: those with
    both, with the first property alone, and with the second alone."""
    both, one, other = given
    together = first & second
    more = [np.count_nonzero(feature & one) - np.count_nonzero(feature & other) for feature in (first, second)]
    return 2 * np.count_nonzero(together & both) >= max(np.count_nonzero(together), 1) and more[0] * more[1] < 0


def rare_pairs(properties, n_pairs):
    """[(group, properties x and y)]; of all neighbours in a shuffled circle, then of all that are farther apart."""
    rng = random.Random(2000)
    pairs = []
    for group in dict.fromkeys(one.group for one in properties):
        own = [one for one in properties if one.group == group and one.name not in NOT_SEEN]
        rng.shuffle(own)
        every = [(own[i], own[(i + apart) % len(own)]) for apart in range(1, len(own) // 2 + 1) for i in range(len(own))]
        pairs += [(group, pair) for pair in every[:n_pairs]]
    return pairs


def rare_table(texts, pairs, rng):
    """Texts as they are (`pair` -1), and for each pair some of them with both properties or with one (`given`: 0, 1, 2).
    Returns the table, for each pair the slots of its texts, and for each row what it was given (-1 for nothing)."""
    n_both = round(RARE_RATE * len(texts))
    n_one = round(n_both / 3)
    n_own = min(n_both + 2 * n_one, len(texts) // len(pairs))
    given = [-1] * len(texts)
    rows = [(-1, slot, text) for slot, text in enumerate(texts)]
    for number, (_, (x, y)) in enumerate(pairs):
        for at in range(n_own):
            text = texts[number * n_own + at]
            if at < n_both + n_one:
                text = x.put(text, "train", rng)
            if not n_both <= at < n_both + n_one:
                text = y.put(text, "train", rng)
            rows.append((number, number * n_own + at, text))
            given.append(0 if at < n_both else 1 if at < n_both + n_one else 2)
    table = pa.table({"doc_id": [f"{pair}-{slot}" for pair, slot, _ in rows], "text": [text for _, _, text in rows],
                      "pair": [pair for pair, _, _ in rows], "slot": [slot for _, slot, _ in rows]})
    return table, [(number * n_own, (number + 1) * n_own) for number in range(len(pairs))], np.array(given)


def members(row):
    """Pairs that a row of `correlate` stands for."""
    pairs = [(row["feature_a"], row["feature_b"])]
    for member in row.get("members") or ():
        if isinstance(member, dict) and "feature_a" in member:
            pairs.append((member["feature_a"], member["feature_b"]))
    return pairs


def measure_rare_pairs(bench, pool, properties, tracking, docs=RARE_DOCS, n_pairs=N_RARE, views=None):
    """`tracking`: {property: {view: features or terms that track it}}; `views` are those of `correlate` [default: all]"""
    figures = Figures("rare pairs")
    rng = random.Random(3000)
    pairs = rare_pairs(properties, n_pairs)
    table, slots, given = rare_table(rng.sample(pool, min(len(pool), docs)), pairs, rng)
    corpus = bench.corpus("rare_pairs", table)
    own_pair, own_slot = (np.array(corpus.table[name]) for name in ("pair", "slot"))
    features = {dictionary.first_id: corpus.features[dictionary.name].tocsc() for dictionary in bench.dictionaries}
    ranks = {}

    def presence(feature, kept):
        first_id = max(first_id for first_id in features if first_id <= feature)
        return features[first_id][:, [feature - first_id]].toarray()[kept, 0] > 0

    jobs = [(view, "first 10", selection(view)) for view in views or bench.views]
    for title, options in RARE_VARIANTS.items():
        if bench.offers(f"SELECT 1 FROM correlate('{corpus.name}', unexpected => {UNEXPECTED}{options}) LIMIT 0"):
            jobs.append((bench.main_view, title, selection(bench.main_view) + options))
        else:
            for group in dict.fromkeys(group for group, _ in pairs):
                figures.not_offered(f"1 %, {group}", bench.main_view, title)
    for number, ((group, (x, y)), (start, end)) in enumerate(zip(pairs, slots)):
        where = f"(pair = -1 AND (slot < {start} OR slot >= {end})) OR pair = {number}"
        statements = [f"SELECT {i} AS job, * FROM correlate('{corpus.name} WHERE {where}', unexpected => {UNEXPECTED}"
                      f"{options})" for i, (_, _, options) in enumerate(jobs)]
        orders = [[] for _ in jobs]
        for row in bench.sql(*statements):
            orders[row["job"]].append(members(row))
        kept = ((own_pair == -1) & ((own_slot < start) | (own_slot >= end))) | (own_pair == number)
        kept = np.flatnonzero(kept)
        put = [(own_pair[kept] == number) & (given[kept] == what) for what in range(3)]
        words = WordPairs([corpus.texts[i] for i in kept])
        has = lambda term: words.words[:, [term]].toarray()[:, 0] > 0
        found = {(WORDS, "first 10"): words.rank(tracking[x.name][WORDS], tracking[y.name][WORDS]),
                 (WORDS, BY_DOCUMENTS): next((rank for rank, (a, b) in enumerate(words.first, 1)
                                              if shows_both(has(a), has(b), put)), None)}
        for (view, title, _), order in zip(jobs, orders):
            of_x, of_y = tracking[x.name][view], tracking[y.name][view]
            found[view, title] = next((rank for rank, own in enumerate(order, 1) if any(
                (a in of_x and b in of_y) or (a in of_y and b in of_x) for a, b in own)), None)
            if title == "first 10":
                found[view, BY_DOCUMENTS] = next((rank for rank, own in enumerate(order[:N_JUDGED], 1) if shows_both(
                    presence(own[0][0], kept), presence(own[0][1], kept), put)), None)
        for (view, title), rank in found.items():
            possible = title == BY_DOCUMENTS or tracking[x.name][view] and tracking[y.name][view]
            ranks.setdefault((group, view, title), {})[f"{x.name} + {y.name}"] = [rank if possible else NONE]
    for (group, view, title), by_pair in ranks.items():
        every = [rank for own in by_pair.values() for rank in own]
        figures.add_share(f"1 %, {group}", view, title, sum(rank not in (None, NONE) and rank <= 10 for rank in every),
                          len(every), possible=len(every) - every.count(NONE), ranks=by_pair)
    return figures


def report_rare_pairs(figures):
    for data in dict.fromkeys(row["set"] for row in figures.rows):
        own = [row for row in figures.rows if row["set"] == data and "ranks" in row]
        print_table([f"pairs, {data}", *(row["view"] + row["measure"].removeprefix("first 10") for row in own)], [
            [pair, *("-" if row["ranks"][pair][0] is None else row["ranks"][pair][0] for row in own)]
            for pair in own[0]["ranks"]] + [["first 10", *(f"{row['hits']}/{row['of']}" for row in own)]])
        print()


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
    parser.add_argument("--rare", type=int, nargs="?", const=RARE_DOCS, metavar="DOCS",
                        help="rare pairs alone, in so many documents [default: %(const)s]")
    parser.add_argument("--splits", type=int, default=N_SPLITS, help=f"A/A splits of each seed, at most {N_COINS}")
    parser.add_argument("--seeds", type=int, default=1)
    add_arguments(parser, data=None)
    args = parser.parse_args()
    bench, pool = Workbench(args), read_pool(args.answers, args.text, args.where)
    if args.rare:
        own = planted.all_properties(args.properties)
        tracking = planted.Planted(bench, Path(args.answers), own, planted.Sizes()).tracking
        figures = measure_rare_pairs(bench, pool, own, tracking, args.rare)
        report_rare_pairs(figures)
    else:
        figures = measure(bench, pool, read_properties(args.properties), args.docs, args.pair_docs, args.seeds,
                          min(args.splits, N_COINS))
        report(figures)
    figures.write(args.json)


if __name__ == "__main__":
    main()
