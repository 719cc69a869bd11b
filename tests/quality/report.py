"""All quality tests for a set of dictionaries, against the targets, as one Markdown table.

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/report.py --data FOLDER --work FOLDER --output report.md --saequel PATH/TO/saequel [--sae DIR ...] \
        [--properties FILE ...] [--heldout heldout.parquet]

--data is the folder of evaluation sets that the other tests name. --work keeps the database and the figures of each
test, so that a run that was stopped goes on behind the last test, and a test with other options is run again. --quick
takes little of everything: to see that it runs, not to quote.

A cell is value [95 % interval] and a verdict: *met*, *missed*, or *open* where the interval holds the target;
"above", "below" or "tie" tell how the value stands to a control, by the interval of the difference. What each measure
means and what its interval is drawn over is said at the top of its test.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import clustering
import fvu
import pairs_diffs
import paraphrase
import probes
import retrieval
from measures import shown
from workbench import ALL, DENSE, WORDS, Workbench, add_arguments

NOT_MEASURED = ["clear features by two blind raters (target .85 after the filter)",
                "differences of real sets, controlled for length, by two raters (target 8 of the first 12)",
                "speed (see tests/bench)"]


@dataclass
class Line:
    """One line of the table."""
    title: str
    test: str
    data: str
    measure: str
    target: float | None = None
    above: bool = True  # the value should be the target or more, not less
    level: str | None = None  # of the dictionaries that the line is for
    control: str | None = None  # measure of the difference from a control
    in_controls: dict | None = None  # measures in the columns of controls, if not the same


LAST = f"round {retrieval.N_ROUNDS}"
ROCCHIO = retrieval.ROCCHIO
LINES = [
    Line("unexplained, answers", "reconstruction", "answers", "FVU", 0.28, False, "token"),
    Line("unexplained, news", "reconstruction", "news", "FVU", 0.26, False, "token"),
    Line("unexplained, math problems", "reconstruction", "math problems", "FVU", 0.33, False, "token"),
    Line("unexplained, tweets", "reconstruction", "tweets", "FVU", 0.30, False, "span"),
    Line("unexplained, news", "reconstruction", "news", "FVU", 0.30, False, "span"),
    Line("unexplained, held out", "reconstruction", "held out", "FVU"),
    Line("dead in the survey", "reconstruction", "survey", "dead", 0.01, False),
    Line("never fire, held out", "reconstruction", "held out", "never fire", 0.01, False),
    Line("present in an answer", "reconstruction", "answers", "present", 128, False, "token"),
    Line("present in an answer", "reconstruction", "answers", "present", 100, False, "span"),
    Line("paraphrases: best feature, F1", "paraphrase", "specific", "best feature F1",
         control=f"best feature F1 - {WORDS}"),
    Line("the same, other properties", "paraphrase", "other properties", "best feature F1",
         control=f"best feature F1 - {WORDS}"),
    Line("paraphrases: all features, AP", "paraphrase", "specific", "regression AP", control=f"regression AP - {WORDS}"),
    Line("planted differences: right feature in first 5", "pairs and differences", "differences", "works, first 5", 0.75),
    Line("the same, a feature that tells", "pairs and differences", "differences", "tells, first 5"),
    Line("A/A: halves with a discovery, q < .05", "pairs and differences", "A/A", "splits with a discovery", 0.05, False),
    Line("planted pairs: right pair in first 5", "pairs and differences", "pairs", "works, first 5", 1),
    Line("the same, features that tell", "pairs and differences", "pairs", "tells, first 5"),
    *(Line(f"probe, {task}, AP", "probes", task, "AP", control=f"AP - {DENSE}") for _, _, task in probes.TASKS),
    Line("clusters, emotion named, 200 features, cluster", "clustering", "tweets_emotion", "axis, 200 features, cluster", 0.20,
         in_controls={DENSE: "everything, cluster", WORDS: "everything, k-means"}),
    Line("the same, k-means", "clustering", "tweets_emotion", "axis, 200 features, k-means", 0.20,
         in_controls={DENSE: "everything, k-means", WORDS: "everything, k-means"}),
    Line("the same, random features", "clustering", "tweets_emotion", "random 200 features, k-means",
         in_controls={}),
    Line("clusters, news, cluster", "clustering", "news", "everything, cluster", 0.60),
    Line("clusters, news, k-means", "clustering", "news", "everything, k-means", 0.60),
    *(Line(f"retrieval, {name}, AP", "retrieval", name, "default", control=f"default - {DENSE}",
           in_controls={DENSE: "AP", WORDS: "AP"}) for name in (*retrieval.SETS, retrieval.MEAN)),
    Line(f"the same, {LAST} of feedback", "retrieval", retrieval.MEAN, f"feedback, {LAST}",
         control=f"feedback, {LAST} - {ROCCHIO}", in_controls={DENSE: f"{ROCCHIO}, {LAST}"}),
    Line("the same, unseen only", "retrieval", retrieval.MEAN, f"feedback, {LAST}, unseen",
         control=f"feedback, {LAST}, unseen - {ROCCHIO}", in_controls={DENSE: f"{ROCCHIO}, {LAST}, unseen"}),
]


def bounds(row):
    return row["value"], *(float("nan") if row[side] is None else row[side] for side in ("low", "high"))


def verdict(row, target, above):
    value, low, high = bounds(row)
    if low <= target <= high and low < high:
        return "open"
    return "met" if (value >= target if above else value <= target) else "missed"


def against(row):
    _, low, high = bounds(row)
    return "above" if low > 0 else "below" if high < 0 else "tie"


class Report:
    """The table."""

    def __init__(self, rows, dictionaries):
        self.rows = {(row["test"], row["set"], row["view"], row["measure"]): row for row in rows}
        self.levels = dictionaries
        self.views = [*dictionaries, *([ALL] if len(dictionaries) > 1 else [])]

    def control(self, line, view):
        measure = line.measure if line.in_controls is None else line.in_controls.get(view)
        row = self.rows.get((line.test, line.data, view, measure))
        return "" if row is None else self.number(row)

    def number(self, row):
        if "hits" in row:
            possible = f" ({row['possible']} possible)" if "possible" in row else ""
            return f"{row['hits']}/{row['of']}{possible} {shown(bounds(row)).partition(' ')[2]}"
        return shown(bounds(row)) if abs(row["value"]) < 10 else f"{row['value']:.0f}"

    def cell(self, line, view):
        row = self.rows.get((line.test, line.data, view, line.measure))
        if row is None or (line.level and self.levels.get(view) != line.level):
            return ""
        parts = [self.number(row)]
        if line.target is not None:
            parts.append(f"**{verdict(row, line.target, line.above)}**")
        difference = self.rows.get((line.test, line.data, view, line.control)) if line.control else None
        if difference:
            won = f" ({difference['wins']} won, {difference['losses']} lost)" if "wins" in difference else ""
            parts.append(f"{against(difference)}{won}")
        return ", ".join(parts)

    def markdown(self, head):
        lines = [*head, "", "| | target | " + " | ".join([DENSE, WORDS, *self.views]) + " |",
                 "|---|---|" + "---|" * (2 + len(self.views))]
        for line in LINES:
            cells = [self.cell(line, view) for view in self.views]
            if any(cells):
                target = "" if line.target is None else f"{'≥' if line.above else '≤'} {line.target:g}".replace(" 0.", " .")
                compared = f" (against {line.control.split(' - ')[1]})" if line.control else ""
                lines.append("| " + " | ".join([line.title + compared, target, self.control(line, DENSE),
                                                self.control(line, WORDS), *cells]) + " |")
        return "\n".join([*lines, "", "Not measured here: " + "; ".join(NOT_MEASURED) + "."]) + "\n"


def runs(bench, args):
    """{test: function that measures it}"""
    properties = paraphrase.read_properties(args.properties)
    quick = args.quick
    docs, limit = (200, 400) if quick else (args.docs, args.limit)

    def pool():
        return paraphrase.read_pool(args.data / "model_answers.parquet", "output")

    def retrieved():
        queries, relevant = retrieval.read_queries(args.data, half="report")
        answers = {"model_answers": min(limit or retrieval.N_ANSWERS, retrieval.N_ANSWERS)}
        corpora = retrieval.read_corpora(bench, args.data, retrieval.SETS, limits=answers, limit=limit)
        return retrieval.measure(bench, corpora, retrieval.choose(queries, 4 if quick else 1000), relevant, args.resamples)
    return {
        "reconstruction": lambda: fvu.measure(bench, args.data, 5_000 if quick else 60_000,
                                              None if quick else args.heldout, args.models),
        "paraphrase": lambda: paraphrase.measure(bench, pool(), properties, docs, args.seeds, args.resamples)[0],
        "pairs and differences": lambda: pairs_diffs.measure(bench, pool(), properties, docs, 2 * docs if quick else docs,
                                                             args.seeds, 5 if quick else pairs_diffs.N_SPLITS),
        "probes": lambda: probes.measure(bench, args.data, args.resamples, limit),
        "clustering": lambda: clustering.measure(bench, args.data, args.resamples, limit),
        "retrieval": retrieved,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder for the database and the figures of each test")
    parser.add_argument("--output", type=Path, help="Markdown file [default: standard output]")
    parser.add_argument("--properties", nargs="+", default=[str(paraphrase.HERE / "properties.json")])
    parser.add_argument("--heldout", help="Parquet file with a column `text`, of the dictionaries' own corpus")
    parser.add_argument("--models", nargs="*", help="models whose answers are reconstructed [default: all]")
    parser.add_argument("--docs", type=int, default=1500, help="documents a side of planted sentences")
    parser.add_argument("--seeds", type=int, default=1, help="of planted sentences")
    parser.add_argument("--limit", type=int, help="documents of each other set [default: all]")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], help="only these tests (and what is known of the others)")
    args = parser.parse_args()
    args.db = args.db or str(args.work / "quality.db")
    args.work.mkdir(parents=True, exist_ok=True)
    bench = Workbench(args)
    settings = {name: str(getattr(args, name)) for name in
                ("properties", "docs", "seeds", "limit", "quick", "resamples", "heldout", "models")}
    settings["dictionaries"] = json.dumps(bench.prints)
    rows = []
    for test, run in runs(bench, args).items():
        file = args.work / f"{test.replace(' ', '_')}.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        if known.get("settings") != settings:
            if args.only and test not in args.only:
                continue
            print(f"{test} ...", file=sys.stderr, flush=True)
            known = {"settings": settings, "rows": run().rows}
            file.write_text(json.dumps(known, indent=1))
        rows += known["rows"]
    version = subprocess.run([args.saequel, "--version"], capture_output=True, text=True).stdout.strip()
    head = [f"# Quality of {', '.join(name for name, _ in bench.prints)}", "",
            f"{version}; {200 if args.quick else args.docs} documents a side and {args.seeds} seed(s) of planted sentences of "
            f"{len(paraphrase.read_properties(args.properties))} properties"
            + (f"; {args.limit} documents of each other set" if args.limit else "")
            + ("; quick, not to be quoted" if args.quick else "") + "."]
    levels = {row["name"]: row["level"] for row in bench.listed() if row["name"] in dict(bench.prints)}
    text = Report(rows, levels).markdown(head)
    args.output.write_text(text) if args.output else print(text)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
