"""Writes udfs/tests/statistics_fixtures.tsv: what scipy and statsmodels say about a spread of counts.

    pip install scipy statsmodels && python udfs/tests/statistics_fixtures.py

The test in udfs/src/kernels/statistics.rs compares to a relative 1e-9.
"""

import math
import pathlib
import random

from scipy import stats
from scipy.stats.contingency import chi2_contingency
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
