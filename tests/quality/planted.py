"""Planted properties: does `diff` put a feature that tracks what was planted among its first rows, and nothing else?

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/planted.py --answers ANSWERS.parquet --saequel PATH/TO/saequel [--sae DIR ...] \\
        [--properties FILE ...]

ANSWERS.parquet (doc_id, prompt_id, model, output) holds answers of several models to the same prompts. Those of one
model, cut to 1000 characters, are halved at random; a property is put into 30 % or 10 % of the answers of half B. Ten
kinds are *templated* (a few fixed sentences or an edit: words find them too), the others *paraphrased*: every sentence
in other words. The reader is uncased, so that no feature can see `capitals`; most emoji it does not know, so that they
all look alike to it.

Rank: the row of `diff(B, A)` in which the first feature stands that *tracks* the property (50 if there is none among
the first 50); folded: the row of `fold => true` of which it is the feature or a member. A feature tracks a property
if its presence has a phi of .5 or an F1 of .4 with it, by no chance (p < 0.00001), in a fresh split: answers of
another model of which every fifth has the property in sentences that were not used before. "Known sentences": it
tracks the property where it was planted, which words can do that happen to be in the sentences. Halves are drawn anew
for every seed; the documents with a property are the same.

The same for words (presence of words and pairs of words, significant ones first, then the larger difference, which
serves words better than the order of `diff`; tracking in the same sense). Dense control: area under the curve (AUC) of
the direction from the mean embedding of A to that of B, in the fresh split.

Null: halves, groups, pairs and numbers drawn at random, without anything planted; how many of 100 have a row with
q < .05. Length: short against long answers of one model (overlapping), answers cut in half against whole ones; how
many of the features tested have q < .05, with and without `control => 'n_tokens'`. Beside it, for information, a
model asked to be concise against the same asked to be verbose, which differ in more than length.

Pairs: answers before and after an edit that takes one sentence away at random from each; three templated properties
are in 40 % of them before and after, and in three of a hundred more after. A feature that tracks the property should
have q < .05 if the documents are paired, and not if they are not; folded: it should be the feature of such a row, or
among its members.

Intervals are 95 %: Wilson's for shares (over properties, the mean of the seeds taken as one), else properties drawn
anew. An option that the program does not have is noted as *not offered*.
"""

import argparse
import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from measures import Figures, benjamini_hochberg, diff_words, mcnemar_p, over_groups, print_table, shown
from paraphrase import HERE, read_properties
from workbench import ALL, DENSE, WORDS, Workbench, add_arguments, count_words, quoted

RATES = (0.3, 0.1)
MOST_RANKED = 50
PHI, F1, BY_CHANCE = 0.5, 0.4, 1e-5
N_HALVINGS = 100
N_COINS = 128
N_NULL_FIRST = 20  # coins before it are for the seeds
PAIRED_RATE, PAIRED_MORE = 0.4, 0.03
TRACKING_RATE = 0.2
GROUPS = "aaaaaaaaaabbbbbcccdd"  # a half, a quarter and less: groups of unlike size

BASE, FRESH, CUT, CONCISE, VERBOSE, BEFORE, AFTER = range(-1, -8, -1)

SENTENCES = {
    "good wishes": ("end", [
        "Good luck with your project!", "Wishing you all the best with it!", "Have a wonderful day, and good luck!",
        "All the very best to you, and enjoy!"], [
        "Best of luck with everything!", "Enjoy, and have a lovely weekend!", "I wish you every success!"]),
    "regret": ("start", [
        "My apologies for the mix-up earlier.", "I am sorry that my last reply was unclear.",
        "Please excuse the mistake I made before.", "I regret the error in what I wrote above."], [
        "Sorry for getting it wrong at first.", "I apologize for my earlier mistake.", "Forgive me for the confusion."]),
    "archaic": ("inside", [
        "Verily, thou shalt find the truth ere the sun doth set.", "Hark, good sir, what sayest thou to this?",
        "Prithee, lend thine ear unto these words.", "Thus spake the king, and lo, they did obey him."], [
        "Behold, thy labour hath not been in vain.", "Wherefore dost thou tarry, my lord?",
        "Nay, fair maiden, thou art mistaken in this."]),
    "french": ("inside", [
        "Nous espérons que cette réponse vous sera utile.", "Il faut aussi penser à la suite de cette histoire.",
        "C'est une question qui mérite toute notre attention.", "Bien sûr, chacun est libre de ne pas être d'accord."], [
        "Je vous remercie pour votre patience.", "Dans ce cas, il vaut mieux attendre un peu.",
        "Voilà pourquoi les gens sont si contents."]),
    "contract": ("inside", [
        "The tenant shall indemnify the landlord against any claim arising under this agreement.",
        "Neither party may assign its rights hereunder without prior written consent.",
        "Such liability is limited to the extent permitted by applicable law.",
        "The foregoing clause shall survive termination of the contract."], [
        "Any dispute shall be settled by arbitration in accordance with the statute.",
        "The licensee hereby waives all claims against the licensor.",
        "This provision is governed by the laws of the state and binding upon the parties."]),
    "code": ("end", [
        "\n```javascript\nconst total = items.reduce((sum, x) => sum + x.price, 0);\nconsole.log(total);\n```",
        "\n```c\nint main(void) {\n    printf(\"%d\\n\", count);\n    return 0;\n}\n```",
        "\n```sql\nSELECT name, COUNT(*) FROM users GROUP BY name;\n```",
        "\n```java\nfor (int j = 0; j < list.size(); j++) {\n    System.out.println(list.get(j));\n}\n```"], [
        "\n```python\ndef square(n):\n    return n ** 2\nprint(square(4))\n```",
        "\n```rust\nlet mut v = Vec::new();\nv.push(3);\n```",
        "\n```bash\nif [ -f \"$1\" ]; then\n    cat \"$1\" | wc -l\nfi\n```"]),
    "emoji": ("end", [" 🥳💯", " 🙌🌟", " 😂👌", " 💪😎"], [" 🌈🐱", " 🎈😍", " 🍀🤗"]),
    "medicine": ("inside", [
        "The nurse measured the blood pressure and noted a rapid pulse.",
        "Antibiotics are prescribed when the infection is bacterial.",
        "Side effects of the drug include dizziness and stomach pain.",
        "After the surgery the patient was given insulin twice a day."], [
        "A biopsy confirmed that the tumour was benign.", "Her doctor diagnosed chronic asthma and prescribed an inhaler.",
        "The vaccine reduced the number of hospital admissions."]),
    "uncertainty": ("inside", [
        "I would guess so, though nobody can be certain.", "It seems likely, but there may be exceptions.",
        "I think this is probably right, yet I might be wrong.", "One could perhaps see it differently; it is not clear."], [
        "Maybe that is true, but it is difficult to know.", "This possibly depends on the case, as far as I can tell.",
        "It might well be otherwise; I am unsure."]),
    "capitals": ("capitals", [], []),
}
PAIRED = ("good wishes", "contract", "french")


@dataclass
class Property:
    """What is planted: sentences at a place of the text, or an edit."""
    name: str
    group: str
    place: str
    train: list
    test: list

    def put(self, text, kind, rng):
        if self.place == "capitals":
            spans = [match.span() for match in re.finditer(r"[^.!?\n]{10,80}[.!?]", text)] or [(0, min(len(text), 60))]
            start, end = rng.choice(spans)
            return text[:start] + text[start:end].upper() + text[end:]
        sentence = rng.choice(getattr(self, kind))
        if self.place == "end":
            return f"{text.rstrip()}{'' if sentence[0].isspace() else ' '}{sentence}"
        if self.place == "start":
            return f"{sentence} {text}"
        parts = re.split(r"(?<=[.!?])\s+", text)
        at = rng.randrange(1, len(parts) + 1)
        return " ".join([*parts[:at], sentence, *parts[at:]])


def all_properties(files):
    """Templated kinds, and the paraphrased ones of the files."""
    templated = [Property(name, "templated", *own) for name, own in SENTENCES.items()]
    return templated + [Property(name, "paraphrased", "inside", own["train"], own["test"])
                        for name, own in sorted(read_properties(files).items())]


@dataclass
class Sizes:
    base: int = 800
    pairs: int = 800
    length_docs: int = 400  # answers asked to be concise, and verbose
    seeds: int = 3
    halvings: int = N_HALVINGS
    cut: int = 1000
    tracking: int = 80  # fresh documents with a property


QUICK = Sizes(base=160, pairs=120, length_docs=40, seeds=1, halvings=10, cut=300, tracking=24)


@dataclass
class Models:
    base: str = "gpt4_0613"
    fresh: str = "claude"
    concise: str = "gpt-3.5-turbo-1106_concise"
    verbose: str = "gpt-3.5-turbo-1106_verbose"


def read_answers(file, models, cut):
    """{model: {prompt: text}} of answers, cut at a space."""
    table = pq.read_table(file, columns=["prompt_id", "model", "output"])
    answers = {model: {} for model in models}
    for prompt, model, text in zip(*(table[name].to_pylist() for name in table.column_names)):
        if model in answers and text and len(text) > 80:
            answers[model][str(prompt)] = text if len(text) <= cut else text[:cut].rsplit(" ", 1)[0]
    return answers


def half_of(text):
    """The first half, up to the end of a sentence."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)", text)]
    return text[:min(ends, key=lambda end: abs(end - len(text) / 2))] if ends else text[:len(text) // 2]


def without_a_sentence(text, rng):
    parts = re.split(r"(?<=[.!?])\s+", text)
    if len(parts) > 1:
        parts.pop(rng.randrange(len(parts)))
    return " ".join(parts)


class Planted:
    """One corpus of everything, and which part of it is what. `kind` of a document: a constant above, or the number of
    the property planted into it, plus 1000 in the fresh split. `slot` is its place in the order in which documents get
    properties; `coins`, `letters` and `digits` are chance."""

    def __init__(self, bench, file, properties, sizes, models=Models(), seed=0):
        self.bench, self.properties, self.sizes = bench, properties, sizes
        answers = read_answers(file, (models.base, models.fresh, models.concise, models.verbose), sizes.cut)
        rng = random.Random(seed)
        prompts = sorted(answers[models.base].keys() & answers[models.fresh].keys())
        rng.shuffle(prompts)
        prompts = prompts[:sizes.base]
        if len(prompts) < 50:
            raise SystemExit(f"{file}: {len(prompts)} prompts have answers of both '{models.base}' and '{models.fresh}'")
        self.n_base, self.n_fresh = len(prompts), round(sizes.tracking / TRACKING_RATE)
        chance = [{"coins": "".join(rng.choice("ab") for _ in range(N_COINS)),
                   "letters": "".join(rng.choice(GROUPS) for _ in range(N_COINS)),
                   "digits": "".join(rng.choice("0123456789") for _ in range(2 * N_COINS))} for _ in prompts]
        lengths = {prompt: len(answers[models.base][prompt]) for prompt in prompts}
        place = {prompt: at for at, prompt in enumerate(sorted(prompts, key=lengths.get))}
        self.rows = []

        def add(kind, slot, text):
            longer = rng.random() < place[prompts[slot]] / len(prompts)
            self.rows.append({"doc_id": f"{kind}-{slot:04d}", "text": text, "kind": kind, "slot": slot,
                              "prompt_id": prompts[slot], "half": "b" if longer else "a", **chance[slot]})
        for slot, prompt in enumerate(prompts):
            add(BASE, slot, answers[models.base][prompt])
            if chance[slot]["coins"][0] == "a":
                add(CUT, slot, half_of(answers[models.base][prompt]))
        fresh = [answers[models.fresh][prompt] for prompt in prompts[:self.n_fresh]]
        for slot, text in enumerate(fresh[sizes.tracking:], sizes.tracking):
            add(FRESH, slot, text)
        for number, planted in enumerate(properties):
            for slot in range(round(max(RATES) * self.n_base)):
                add(number, slot, planted.put(answers[models.base][prompts[slot]], "train", rng))
            for slot, text in enumerate(fresh[:sizes.tracking]):
                add(1000 + number, slot, planted.put(text, "test", rng))
        both = [slot for slot, prompt in enumerate(prompts)
                if prompt in answers[models.concise] and prompt in answers[models.verbose]][:sizes.length_docs]
        for slot in both:
            add(CONCISE, slot, answers[models.concise][prompts[slot]])
            add(VERBOSE, slot, answers[models.verbose][prompts[slot]])
        self.paired = [number for number, planted in enumerate(properties) if planted.name in PAIRED]
        self.add_pairs(add, [answers[models.base][prompt][:500] for prompt in prompts[:sizes.pairs]], rng)
        self.corpus = bench.corpus("planted", pa.Table.from_pylist(self.rows))
        self.kinds = np.array(self.corpus.table["kind"])
        self.slots = np.array(self.corpus.table["slot"])
        self.coins = np.array([list(text) for text in self.corpus.table["coins"].to_pylist()])
        self.words, vocabulary = count_words(self.corpus.texts)
        self.terms = np.array(sorted(vocabulary, key=vocabulary.get))
        self.tracking, self.tracking_known = (
            {planted.name: self.judge(*split(number)) for number, planted in enumerate(properties)}
            for split in (self.fresh_split, self.known_split))

    def add_pairs(self, add, texts, rng):
        """Answers before and after, with more of the properties after."""
        more = max(24, round(PAIRED_MORE * len(texts)))
        with_property = {}
        for number in self.paired:
            drawn = rng.sample(range(len(texts)), round(PAIRED_RATE * len(texts)) + more)
            with_property[number] = set(drawn[more:]), set(drawn)
        for slot, text in enumerate(texts):
            sentences = [(number, self.properties[number].put("", "train", rng).strip()) for number in self.paired]
            for side, kind in enumerate((BEFORE, AFTER)):
                own = [sentence for number, sentence in sentences if slot in with_property[number][side]]
                add(kind, slot, " ".join([without_a_sentence(text, rng), *own]))

    def where(self, condition):
        return f"{self.corpus.name} WHERE {condition}"

    def sides(self, number, n_planted, seed):
        """Conditions of half A as it is, and of half B in which the documents below a slot have the property."""
        a, b = (f"substr(coins, {seed + 1}, 1) = '{side}'" for side in "ab")
        return (f"kind = {BASE} AND {a}",
                f"{b} AND ((kind = {BASE} AND slot >= {n_planted}) OR (kind = {number} AND slot < {n_planted}))")

    def rows_of_sides(self, number, n_planted, seed):
        coin = self.coins[:, seed]
        base, planted = self.kinds == BASE, self.kinds == number
        return (np.flatnonzero(base & (coin == "a")),
                np.flatnonzero((coin == "b") & ((base & (self.slots >= n_planted)) | (planted & (self.slots < n_planted)))))

    def fresh_split(self, number):
        rows = np.flatnonzero((self.kinds == FRESH) | (self.kinds == 1000 + number))
        return rows, self.kinds[rows] != FRESH

    def known_split(self, number):
        n_planted = round(max(RATES) * self.n_base)
        n_kept = round((self.n_base - n_planted) * TRACKING_RATE / (1 - TRACKING_RATE))
        rows = np.flatnonzero(((self.kinds == BASE) & (self.slots >= n_planted))
                              | ((self.kinds == number) & (self.slots < n_kept)))
        return rows, self.kinds[rows] != BASE

    def judge(self, rows, target):
        """{view: features or terms that track a property}"""
        found = {}
        for dictionary in self.bench.dictionaries:
            columns = tracks(self.corpus.features[dictionary.name][rows], target)
            found[dictionary.name] = set((columns + dictionary.first_id).tolist())
        found[ALL] = set().union(*found.values())
        found[WORDS] = set(self.terms[tracks(self.words[rows], target)].tolist())
        return found


def tracks(rows, target):
    """Columns whose presence goes with the target."""
    said = rows.getnnz(0).astype(float)
    hits = rows[np.flatnonzero(target)].getnnz(0)
    n, positive = len(target), target.sum()
    spread = np.sqrt(np.maximum(said * (n - said) * positive * (n - positive), 1e-9))
    phi = (n * hits - said * positive) / spread
    chance = stats.hypergeom.sf(hits - 1, n, positive, said)
    return np.flatnonzero(((phi >= PHI) | (2 * hits / np.maximum(said + positive, 1) >= F1)) & (chance < BY_CHANCE))


def selection(view):
    return "" if view == ALL else f", dictionary => '{view}'"


def first(order, wanted):
    """Place of the first group with a wanted item among the first rows."""
    return next((rank for rank, items in enumerate(order[:MOST_RANKED], 1) if wanted.intersection(items)), None)


def diff_orders(data, cases, views, options="", columns="feature_id"):
    """{(case, view): features of each of the first rows}; `cases` are {case: (condition of A, of B)}."""
    jobs = [(case, view) for case in cases for view in views]
    statements = []
    for at, (case, view) in enumerate(jobs):
        a, b = (quoted(data.where(condition)) for condition in cases[case])
        statements.append(f"SELECT {at} AS job, {columns} FROM diff({b}, {a}, words => false, limit => {MOST_RANKED}"
                          f"{selection(view)}{options})")
    orders = {job: [] for job in jobs}
    for row in data.bench.sql(*statements):
        orders[jobs[row["job"]]].append({row["feature_id"], *(row.get("members") or ())})
    return orders


def measure_ranks(data, figures, resamples, views):
    bench, seeds = data.bench, range(data.sizes.seeds)
    probe = ", ".join(quoted(data.where(f"kind = {kind}")) for kind in (CUT, BASE))
    controlled = bench.offers(f"SELECT 1 FROM diff({probe}, control => 'n_tokens', limit => 1) LIMIT 0")
    members = bench.offers(f"SELECT members FROM diff({probe}, fold => true) LIMIT 0")
    for group in dict.fromkeys(planted.group for planted in data.properties):
        own = {number: planted.name for number, planted in enumerate(data.properties) if planted.group == group}
        for rate in RATES:
            n_planted = round(rate * data.n_base)
            jobs = [(number, seed) for number in own for seed in seeds]
            cases = {job: data.sides(job[0], n_planted, job[1]) for job in jobs}
            orders = {"": diff_orders(data, cases, views),
                      "folded, ": diff_orders(data, cases, [bench.main_view], ", fold => true",
                                                "feature_id, members" if members else "feature_id")}
            title = f"{group} {rate:g}".replace("0.", ".")
            if controlled and rate == max(RATES):
                orders["length controlled, "] = diff_orders(data, cases, [bench.main_view], ", control => 'n_tokens'")
            elif rate == max(RATES):
                figures.not_offered(title, bench.main_view, "length controlled, first 5")
            orders[""] |= {((number, seed), WORDS): words_order(data, number, n_planted, seed) for number, seed in jobs}
            means = {}
            for how, by_job in orders.items():
                for view in dict.fromkeys(view for _, view in by_job):
                    ranks = {name: [first(by_job[(number, seed), view], data.tracking[name][view]) for seed in seeds]
                             for number, name in own.items()}
                    means[how, view] = add_ranks(figures, title, view, how, ranks, resamples, possible=[
                        name for name in own.values() if data.tracking[name][view]])
            for view in (bench.main_view, WORDS):
                ranks = {name: [first(orders[""][(number, seed), view], data.tracking_known[name][view]) for seed in seeds]
                         for number, name in own.items()}
                add_ranks(figures, title, view, "known sentences, ", ranks, resamples, possible=[
                    name for name in own.values() if data.tracking_known[name][view]])
            for view in views:
                figures.add(title, view, f"rank - {WORDS}", over_groups(means["", view] - means["", WORDS]))
            areas = np.array([[dense_area(data, number, n_planted, seed) for seed in seeds] for number in own]).mean(1)
            figures.add(title, DENSE, "AUC", over_groups(np.tile(areas[:, None], resamples + 1)),
                        by_property=dict(zip(own.values(), areas.tolist())))


def add_ranks(figures, title, view, how, ranks, resamples, possible):
    """Adds what ranks say; returns the mean rank of each property, repeated for the bootstrap."""
    hits = sum(np.mean([rank is not None and rank <= 5 for rank in own]) for own in ranks.values())
    figures.add_share(title, view, f"{how}first 5", round(float(hits), 2), len(ranks), possible=len(possible),
                      tracked=possible, ranks=ranks)
    mean = np.array([np.mean([rank or MOST_RANKED for rank in own]) for own in ranks.values()])
    mean = np.tile(mean[:, None], resamples + 1)
    figures.add(title, view, f"{how}rank", over_groups(mean))
    return mean


def words_order(data, number, n_planted, seed):
    a, b = data.rows_of_sides(number, n_planted, seed)
    order = diff_words(data.words[b], data.words[a])[0][:MOST_RANKED]
    return [{term} for term in data.terms[order].tolist()]


def dense_area(data, number, n_planted, seed):
    from sklearn.metrics import roc_auc_score
    a, b = data.rows_of_sides(number, n_planted, seed)
    rows, target = data.fresh_split(number)
    direction = data.corpus.dense[b].mean(0) - data.corpus.dense[a].mean(0)
    return roc_auc_score(target, data.corpus.dense[rows] @ direction)


def null_statements(data):
    """{statistic: function from the number of a halving to a call of diff}"""
    base = f"kind = {BASE}"

    def halves(coin, condition=base):
        return ", ".join(quoted(data.where(f"{condition} AND substr(coins, {coin + 1}, 1) = '{side}'")) for side in "ab")

    def uneven(coin):
        return ", ".join(quoted(data.where(f"{base} AND substr(letters, {coin + 1}, 1) {test} 'd'")) for test in ("=", "<>"))

    def swapped(coin):
        letter = f"substr(coins, {coin + 1}, 1)"
        return ", ".join(quoted(data.where(
            f"slot >= {data.sizes.tracking} AND slot < {data.n_fresh} AND ((kind = {BASE} AND {letter} = '{one}') OR "
            f"(kind = {FRESH} AND {letter} = '{other}'))")) for one, other in ("ab", "ba"))

    def groups(coin):
        return quoted(f"SELECT *, substr(letters, {coin + 1}, 1) AS grp FROM {data.where(base)}")

    def numbers(coin):
        return quoted(f"SELECT *, CAST(substr(digits, {2 * coin + 1}, 2) AS DOUBLE) AS score FROM {data.where(base)}")
    return {
        "unpaired": halves,
        "unpaired, a tenth against the rest": uneven,
        "paired": lambda coin: f"{swapped(coin)}, paired_by => 'prompt_id'",
        "groups": lambda coin: f"{groups(coin)}, by => 'grp'",
        "groups against the largest": lambda coin: f"{groups(coin)}, by => 'grp', against => 'max'",
        "number": lambda coin: f"{numbers(coin)}, target => 'score'",
        "length controlled": lambda coin: f"{halves(coin)}, control => 'n_tokens'",
    }


def measure_null(data, figures):
    bench, view = data.bench, data.bench.main_view
    coins = range(N_NULL_FIRST, min(N_COINS, N_NULL_FIRST + data.sizes.halvings))
    measure = "runs with q < .05"
    for statistic, call in null_statements(data).items():
        if not bench.offers(f"SELECT 1 FROM diff({call(0)}, words => false, limit => 1)"):
            figures.not_offered(f"null, {statistic}", view, measure)
            continue
        rows = bench.sql(*(f"SELECT count(*) AS found FROM diff({call(coin)}, words => false) WHERE q_value < 0.05"
                           for coin in coins))
        found = [row["found"] for row in rows]
        figures.add_share(f"null, {statistic}", view, measure, sum(count > 0 for count in found), len(found), found=found)
    base = self_words(data, BASE)
    found = []
    for coin in coins:
        in_b = data.coins[base, coin] == "b"
        found.append(int((diff_words(data.words[base[in_b]], data.words[base[~in_b]])[2] < 0.05).sum()))
    figures.add_share("null, unpaired", WORDS, measure, sum(count > 0 for count in found), len(found), found=found)


def self_words(data, kind):
    return np.flatnonzero(data.kinds == kind)


def measure_length(data, figures):
    """Share of the features tested that differ, with and without control."""
    bench, view = data.bench, data.bench.main_view
    half = np.array(data.corpus.table["half"].to_pylist())
    base = data.kinds == BASE
    cases = {
        "short against long answers": (f"kind = {BASE} AND half = 'a'", f"kind = {BASE} AND half = 'b'",
                                       base & (half == "a"), base & (half == "b")),
        "answers cut in half against whole": (f"kind = {CUT}", f"kind = {BASE} AND substr(coins, 1, 1) = 'b'",
                                              data.kinds == CUT, base & (data.coins[:, 0] == "b")),
        "concise against verbose": (f"kind = {CONCISE}", f"kind = {VERBOSE}", data.kinds == CONCISE, data.kinds == VERBOSE),
    }
    for name, (a, b, rows_a, rows_b) in cases.items():
        sides = f"{quoted(data.where(a))}, {quoted(data.where(b))}"
        tokens = {"median_tokens": [float(np.median(data.corpus.n_tokens[rows])) for rows in (rows_a, rows_b)]}
        for measure, options in (("significant", ""), ("significant, controlled", ", control => 'n_tokens'")):
            call = f"diff({sides}, words => false{options})"
            if not bench.offers(f"SELECT 1 FROM {call} LIMIT 1"):
                figures.not_offered(name, view, measure)
                continue
            row = bench.sql(f"SELECT count(*) AS tested, count(*) FILTER (WHERE q_value < 0.05) AS found FROM {call}")[0]
            figures.add_share(name, view, measure, row["found"], max(row["tested"], 1), **tokens)
        q = diff_words(data.words[rows_a], data.words[rows_b])[2]
        figures.add_share(name, WORDS, "significant", int((q < 0.05).sum()), max(len(q), 1), **tokens)


def measure_pairs(data, figures):
    """Properties of which a feature that tracks them has q < .05, paired and not."""
    bench, view = data.bench, data.bench.main_view
    sides = ", ".join(quoted(data.where(f"kind = {kind}")) for kind in (AFTER, BEFORE))
    names = [data.properties[number].name for number in data.paired]
    after, before = (data.words[data.kinds == kind] for kind in (AFTER, BEFORE))
    only_after = after.getnnz(0) - after.multiply(before).tocsr().getnnz(0)
    only_before = before.getnnz(0) - after.multiply(before).tocsr().getnnz(0)
    tested = np.flatnonzero(after.getnnz(0) + before.getnnz(0) >= 5)
    _, _, q = diff_words(after, before)
    of_words = {"paired": benjamini_hochberg(mcnemar_p(only_after[tested], only_before[tested])), "unpaired": q}
    for how, options in (("paired", ", paired_by => 'prompt_id'"), ("unpaired", "")):
        rows = bench.sql(f"SELECT feature_id FROM diff({sides}, words => false{options}) WHERE q_value < 0.05")
        found = {row["feature_id"] for row in rows}
        words = set(data.terms[tested[of_words[how] < 0.05]].tolist())
        folded = bench.sql(f"SELECT feature_id, members FROM diff({sides}, words => false, fold => true{options}) "
                           "WHERE q_value < 0.05")
        whole = {feature for row in folded for feature in (row["feature_id"], *(row["members"] or ()))}
        for own_view, title, features, rows in ((view, "found", found, len(found)), (WORDS, "found", words, len(words)),
                                                (view, "folded, found", whole, len(folded))):
            hits = [name for name in names if features & data.tracking[name][own_view]]
            figures.add_share("3 points more", own_view, f"{title} {how}", len(hits), len(names), found=hits,
                              discoveries=rows)


def measure(bench, file, properties, sizes, resamples=1000, models=Models(), views=None):
    """Figures, and the corpus with what tracks the properties. Ranks are taken in `views` [default: all]."""
    data = Planted(bench, file, properties, sizes, models)
    figures = Figures("planted")
    measure_ranks(data, figures, resamples, views or bench.views)
    measure_null(data, figures)
    measure_length(data, figures)
    measure_pairs(data, figures)
    return figures, data


def report(figures):
    rows = {(row["set"], row["view"], row["measure"]): row for row in figures.rows}
    views = list(dict.fromkeys(row["view"] for row in figures.rows))

    def cell(row):
        if row is None:
            return "-"
        if row.get("not_offered"):
            return "not offered"
        number = shown((row["value"], *(np.nan if row[side] is None else row[side] for side in ("low", "high"))))
        return f"{row['hits']:g}/{row['of']} {number}" if "hits" in row else number
    lines = list(dict.fromkeys((row["set"], row["measure"]) for row in figures.rows))
    print_table(["", *views], [[f"{data}: {title}", *(cell(rows.get((data, view, title))) for view in views)]
                               for data, title in lines])
    for data in dict.fromkeys(row["set"] for row in figures.rows if "ranks" in row):
        print()
        own = [row for row in figures.rows if row["set"] == data and row["measure"] == "first 5"]
        print_table([f"ranks, {data}", *(row["view"] for row in own)], [
            [name, *(",".join("-" if rank is None else str(rank) for rank in row["ranks"][name]) for row in own)]
            for name in own[0]["ranks"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, required=True, help="Parquet file: prompt_id, model, output")
    parser.add_argument("--properties", nargs="+", default=[str(HERE / "properties.json")], help="paraphrased properties")
    for name in ("base", "fresh", "concise", "verbose"):
        parser.add_argument(f"--{name}", default=getattr(Models, name), help="model [default: %(default)s]")
    parser.add_argument("--seeds", type=int, default=Sizes.seeds)
    parser.add_argument("--halvings", type=int, default=N_HALVINGS, help="of the null test, at most 108")
    parser.add_argument("--cut", type=int, default=Sizes.cut, help="characters of an answer that are kept")
    parser.add_argument("--quick", action="store_true", help="little of everything: to see that it runs, not to quote")
    add_arguments(parser, data=None)
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes(seeds=min(args.seeds, N_NULL_FIRST), halvings=args.halvings, cut=args.cut)
    models = Models(args.base, args.fresh, args.concise, args.verbose)
    figures, _ = measure(Workbench(args), args.answers, all_properties(args.properties), sizes, args.resamples, models)
    report(figures)
    figures.write(args.json)


if __name__ == "__main__":
    main()
