"""Writes udfs/kernels/tests/*_fixtures.tsv: what scipy and statsmodels say about a spread of counts.

    pip install scipy statsmodels && python udfs/kernels/tests/statistics_fixtures.py

The tests in udfs/kernels/src/{statistics,stratified,trend}.rs compare to a relative 1e-9.
"""

import math
import pathlib
import random

import numpy as np
from scipy import stats
from scipy.stats.contingency import chi2_contingency
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

random.seed(7)
rows = []


def row(name, arguments, *values):
    rows.append("\t".join([name, ",".join(map(str, arguments)), *(repr(float(value)) for value in values)]))


tables = [(0, 3, 2, 3), (3, 3, 0, 3), (8, 10, 1, 10), (1, 2, 500, 900), (0, 1000, 12, 1000), (5, 40, 5, 41),
          (450, 1000, 380, 990), (2, 200_000, 15, 300_000), (1, 1, 1, 1), (0, 5, 0, 5), (5, 5, 5, 5),
          (120_000, 1_000_000, 118_000, 1_000_000), (999_000, 1_000_000, 998_700, 1_000_000)]
for _ in range(40):
    n_a, n_b = random.randint(1, 400), random.randint(1, 400)
    tables.append((random.randint(0, n_a), n_a, random.randint(0, n_b), n_b))
for a, n_a, b, n_b in tables:
    table = [[a, n_a - a], [b, n_b - b]]
    row("fisher", (a, n_a, b, n_b), *(stats.fisher_exact(table, side)[1] for side in ("two-sided", "greater", "less")))
    if 0 < a + b < n_a + n_b:
        row("chi2", (a, n_a, b, n_b), chi2_contingency(table, correction=False)[1])
        row("g", (a, n_a, b, n_b), chi2_contingency(table, correction=False, lambda_="log-likelihood")[0])
    row("newcombe", (a, n_a, b, n_b), *confint_proportions_2indep(a, n_a, b, n_b, method="newcomb", compare="diff"))
    row("wilson", (a, n_a), *stats.binomtest(a, n_a).proportion_ci(method="wilson"))
for b, c in [(0, 0), (0, 1), (1, 0), (5, 5), (0, 10), (3, 17), (40, 81), (700, 812), (30_000, 30_500), (2, 900)]:
    row("mcnemar", (b, c), stats.binomtest(min(b, c), b + c).pvalue if b + c else 1.0)
for x, trials, mean in [(0, 5, 0.3), (1, 40, 0.3), (12, 90, 1.4), (50, 50, 16.5), (7, 20, 7.0), (6, 20, 7.5), (3, 25, 20.0),
                        (250, 1000, 100.0), (900, 5000, 1000.25), (5, 5, 0.01), (19, 20, 19.5)]:
    law = stats.binom(trials, mean / trials)
    row("binomial", (x, trials, mean), law.sf(x - 1), law.cdf(x))
for confidence in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999999):
    row("quantile", (confidence,), stats.norm.ppf(0.5 + confidence / 2))
p = [random.random() ** 4 for _ in range(25)]
row("bh", p, *multipletests(p, method="fdr_bh")[1])


def paired(both, only_a, only_b, n, z):
    """Newcombe 1998, Statistics in Medicine 17:2635, method 10, written out once more from the paper."""
    lower = lambda x: stats.binomtest(x, n).proportion_ci(method="wilson")
    a, b = both + only_a, both + only_b
    neither = n - both - only_a - only_b
    product = a * b * (n - a) * (n - b)
    cross = both * neither - only_a * only_b
    cross = max(cross - n / 2, 0) if cross > 0 else cross
    phi = cross / math.sqrt(product) if product else 0
    (la, ua), (lb, ub) = lower(a), lower(b)
    pa, pb = a / n, b / n
    down = math.sqrt((pa - la) ** 2 - 2 * phi * (pa - la) * (ub - pb) + (ub - pb) ** 2)
    up = math.sqrt((ua - pa) ** 2 - 2 * phi * (ua - pa) * (pb - lb) + (pb - lb) ** 2)
    return pa - pb - down, pa - pb + up


# The first three are examples of the paper's table II (a, b, c, d = 36,12,2,0 / 20,12,2,16 / 18,14,0,18).
for both, only_a, only_b, n in [(36, 12, 2, 50), (20, 12, 2, 50), (18, 14, 0, 50), (0, 0, 0, 10), (5, 0, 0, 10)]:
    row("paired", (both, only_a, only_b, n), *paired(both, only_a, only_b, n, stats.norm.ppf(0.975)))

pathlib.Path(__file__).with_suffix(".tsv").write_text("\n".join(rows) + "\n")


# Strata: docs_a, n_a, docs_b, n_b of each, one after the other, for udfs/kernels/src/stratified.rs.
rows = []


def strata(n_strata, most, rate_a, rate_b):
    tables = []
    for _ in range(n_strata):
        n_a, n_b = random.randint(1, most), random.randint(1, most)
        a = sum(random.random() < rate_a for _ in range(n_a))
        b = sum(random.random() < rate_b for _ in range(n_b))
        tables.append((a, n_a, b, n_b))
    return tables


def exact(tables):
    """Tails of the sum of the hypergeometric counts, convolved once more in plain Python."""
    law, low = [1.0], 0
    for a, n_a, b, n_b in tables:
        with_it, n = a + b, n_a + n_b
        least, most = max(0, with_it - n_b), min(n_a, with_it)
        part = [stats.hypergeom.pmf(x, n, n_a, with_it) for x in range(least, most + 1)]
        law = [math.fsum(law[i - j] * part[j] for j in range(len(part)) if 0 <= i - j < len(law))
               for i in range(len(law) + len(part) - 1)]
        low += least
    seen = sum(table[0] for table in tables) - low
    two_sided = math.fsum(p for p in law if p <= law[seen] * (1 + 1e-7))
    return min(two_sided, 1), min(math.fsum(law[seen:]), 1), min(math.fsum(law[: seen + 1]), 1)


def difference(tables, z):
    """Mantel-Haenszel risk difference with the variance of Sato 1989, written out once more from the paper."""
    weight = sum(n_a * n_b / (n_a + n_b) for _, n_a, _, n_b in tables)
    a = sum(x * n_b / (n_a + n_b) for x, n_a, _, n_b in tables) / weight
    b = sum(y * n_a / (n_a + n_b) for _, n_a, y, n_b in tables) / weight
    p = sum((n_a**2 * y - n_b**2 * x + n_a * n_b * (n_b - n_a) / 2) / (n_a + n_b) ** 2 for x, n_a, y, n_b in tables)
    q = sum((x * (n_b - y) + y * (n_a - x)) / (2 * (n_a + n_b)) for x, n_a, y, n_b in tables)
    reach = z * math.sqrt(max((a - b) * p + q, 0)) / weight
    return a, b, max(a - b - reach, -1), min(a - b + reach, 1)


for n_strata, most, rate_a, rate_b in [(2, 6, 0.3, 0.5), (3, 40, 0.1, 0.3), (5, 12, 0.5, 0.5), (8, 30, 0.02, 0.1),
                                       (40, 3, 0.4, 0.6), (60, 8, 0.05, 0.2), (25, 20, 0.9, 0.7)]:
    for _ in range(4):
        tables = strata(n_strata, most, rate_a, rate_b)
        arguments = [count for table in tables for count in table]
        counts = [[[a, n_a - a], [b, n_b - b]] for a, n_a, b, n_b in tables]
        row("exact", arguments, *exact(tables))
        row("difference", arguments, *difference(tables, stats.norm.ppf(0.975)))
        table = StratifiedTable([np.asarray(count, dtype=float) for count in counts])
        null = table.test_null_odds(correction=False)
        if math.isfinite(null.statistic):
            row("cmh", arguments, null.statistic, null.pvalue)
        if math.isfinite(table.oddsratio_pooled) and table.oddsratio_pooled > 0:
            row("odds", arguments, table.oddsratio_pooled)

pathlib.Path(__file__).with_name("stratified_fixtures.tsv").write_text("\n".join(rows) + "\n")

# Values and which of the documents have the feature, for udfs/kernels/src/trend.rs: Spearman's correlation, the area
# under the curve, p of the Mann-Whitney test.
rows = []
for kind, n, least in [("exact", 20, 3), ("exact", 60, 5), ("normal", 60, 10), ("normal", 150, 20), ("ties", 80, 10)]:
    for _ in range(10):
        values = random.sample(range(-500, 500), n) if kind != "ties" else [random.randint(1, 5) for _ in range(n)]
        n_with = random.randint(least, 8) if kind == "exact" else random.randint(least, n - least)
        marks = [1] * n_with + [0] * (n - n_with)
        random.shuffle(marks)
        with_it = [value for value, mark in zip(values, marks) if mark]
        without = [value for value, mark in zip(values, marks) if not mark]
        method = "exact" if kind == "exact" else "asymptotic"
        u, p = stats.mannwhitneyu(with_it, without, method=method, use_continuity=False)
        numbers = (stats.spearmanr(values, marks).statistic, u / (len(with_it) * len(without)), p)
        rows.append("\t".join([kind, ",".join(map(str, values)) + ";" + "".join(map(str, marks)), *(repr(float(x)) for x in numbers)]))

pathlib.Path(__file__).with_name("trend_fixtures.tsv").write_text("\n".join(rows) + "\n")
