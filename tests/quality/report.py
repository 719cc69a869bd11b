"""All quality tests for a set of dictionaries, against the targets, as one Markdown report.

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/report.py --data FOLDER --work FOLDER --output report.md --saequel PATH/TO/saequel [--sae DIR ...] \
        [--properties FILE ...] [--heldout heldout.parquet] [--scale scale.json]

--data is the folder of evaluation sets that the other tests name. --work keeps the database and the figures of each
test, so that a run that was stopped goes on behind the last test, and a test with other options is run again. --quick
takes little of everything: to see that it runs, not to quote. Planted properties and rare pairs are looked for with
all dictionaries together, and with each if --sae is given. --scale takes what tests/bench/analyses_scale.py wrote.

A cell is value [95 % interval] and a verdict: *met*, *missed*, or *open* where the interval holds the target. Targets
of the analyses are counts (9 of 10) or stand beside a control: there the value alone decides. "above", "below" or
"tie" tell how the value stands to a control, by the interval of the difference. What each measure means and what its
interval is drawn over is said at the top of its test. *not offered*: the program has no such option.

The last section says where features lose: a line is told there if a view of all features misses its target or stands
below words or the embedding, under the reason that the line is known to have.
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
import planted
import probes
import retrieval
import topic_style
from measures import share_interval, shown
from workbench import ALL, DENSE, WORDS, Workbench, add_arguments

MOST_READ = {"model_answers": 1000}  # documents of a set that retrieval looks through, if not told
NOT_MEASURED = ["clear features by two blind raters (target .85 after the filter)",
                "differences of real sets, controlled for length, by two raters (target 8 of the first 12)",
                "speed (see tests/bench)",
                "shuffled features in `correlate` (see its unit tests), statistics against scipy (see udfs/kernels/tests)"]


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
    beside: tuple = ()  # (control, margin): the value should be the control's plus the margin, or more
    counts: bool = False  # the value alone decides, not its interval
    own: str | None = None  # control that is judged itself, since the line is about it
    because: str = ""  # why features lose here, where they do, if not for the reason of the test
    told: bool = True  # whether it is told where features lose


LAST = f"round {retrieval.N_ROUNDS}"
ROCCHIO = retrieval.ROCCHIO
WON = "queries above Rocchio"
LINES = [
    Line("unexplained, answers", "reconstruction", "answers", "FVU", 0.20, False, "token"),
    Line("unexplained, news", "reconstruction", "news", "FVU", 0.20, False, "token"),
    Line("unexplained, math problems", "reconstruction", "math problems", "FVU", 0.24, False, "token"),
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
    Line("A/A: halves with a discovery, q < .05", "pairs and differences", "A/A", "splits with a discovery", 0.05, False,
         because="chance"),
    Line("planted pairs: right pair in first 5", "pairs and differences", "pairs", "works, first 5", 1,
         because="pairs"),
    Line("the same, features that tell", "pairs and differences", "pairs", "tells, first 5", because="pairs"),
    *(Line(f"probe, {task}, AP", "probes", task, "AP", control=f"AP - {DENSE}") for _, _, task in probes.TASKS),
    Line("clusters, emotion named, 200 features, cluster", "clustering", "tweets_emotion", "axis, 200 features, cluster", 0.20,
         in_controls={DENSE: "everything, cluster", WORDS: "everything, k-means"}),
    Line("the same, k-means", "clustering", "tweets_emotion", "axis, 200 features, k-means", 0.20,
         in_controls={DENSE: "everything, k-means", WORDS: "everything, k-means"}),
    Line("the same, random features", "clustering", "tweets_emotion", "random 200 features, k-means",
         in_controls={}),
    Line("clusters, news, cluster", "clustering", "news", "everything, cluster", 0.60, because="whole"),
    Line("clusters, news, k-means", "clustering", "news", "everything, k-means", 0.60, because="whole"),
    Line(f"retrieval, mean of sets, AP, {LAST} of feedback", "retrieval", retrieval.MEAN, f"feedback, {LAST}",
         control=f"feedback, {LAST} - {ROCCHIO}", in_controls={DENSE: f"{ROCCHIO}, {LAST}"}),
    Line("the same, unseen only", "retrieval", retrieval.MEAN, f"feedback, {LAST}, unseen",
         control=f"feedback, {LAST}, unseen - {ROCCHIO}", in_controls={DENSE: f"{ROCCHIO}, {LAST}, unseen"}),
]



def of_planted():
    for group in ("templated", "paraphrased"):
        for rate, target in zip(planted.RATES, (0.9, 0.6)):
            data = f"{group} {rate:g}".replace("0.", ".")
            own = {"target": target} if group == "templated" else {"beside": (WORDS, 0)}
            dense = {DENSE: "AUC", WORDS: "first 5"}
            yield Line(f"{data}: a feature that tracks it in the first 5", "planted", data, "first 5", counts=True,
                       in_controls=dense, because="planted", **own)
            yield Line("the same, findings folded", "planted", data, "folded, first 5", counts=True, in_controls={},
                       because="planted", told=False, **({"target": target} if group == "templated" else {}))
            yield Line("the same, judged by the sentences planted", "planted", data, "known sentences, first 5",
                       in_controls={WORDS: "known sentences, first 5"}, because="planted", told=False)
            yield Line("the same, mean rank", "planted", data, "rank", above=False, control=f"rank - {WORDS}", counts=True,
                       beside=(WORDS, 0) if group == "paraphrased" else (), because="planted", told=False)
        yield Line(f"{group} .3, length controlled", "planted", f"{group} .3", "length controlled, first 5", told=False)


def of_null():
    for statistic in ("unpaired", "unpaired, a tenth against the rest", "paired", "groups", "groups against the largest",
                      "number", "length controlled"):
        yield Line(f"nothing planted, {statistic}: runs with a finding", "planted", f"null, {statistic}", "runs with q < .05",
                   0.08, False, counts=True, because="chance")


def of_length():
    for name, target in (("short against long answers", 0.05), ("answers cut in half against whole", 0.05),
                         ("concise against verbose", None)):
        yield Line(f"{name}: features with q < .05", "planted", name, "significant", told=False, because="length")
        yield Line("the same, length controlled", "planted", name, "significant, controlled", target, False, counts=True,
                   in_controls={}, because="length")


STYLE = "held-out frames"
ANALYSES = [
    *of_planted(), *of_null(), *of_length(),
    Line("3 points more, paired: found", "planted", "3 points more", "found paired", 1, counts=True, because="planted"),
    Line("the same, findings folded", "planted", "3 points more", "folded, found paired", 1, counts=True, in_controls={},
         because="planted", told=False),
    Line("the same, not paired", "planted", "3 points more", "found unpaired", 0, False, counts=True, told=False),
    Line("the same, not paired, findings folded", "planted", "3 points more", "folded, found unpaired", 0, False,
         counts=True, in_controls={}, told=False),
    *(line for group in ("templated", "paraphrased") for line in (
        Line(f"pairs in 1 %, {group}: in the first 10", "rare pairs", f"1 %, {group}", "first 10", 0.9, counts=True,
             because="pairs"),
        Line("the same, judged by the documents", "rare pairs", f"1 %, {group}", pairs_diffs.BY_DOCUMENTS, told=False),
        *(Line(f"the same{title.removeprefix('first 10')}", "rare pairs", f"1 %, {group}", title, in_controls={}, told=False)
          for title in pairs_diffs.RARE_VARIANTS))),
    Line("emotion of tweets, \"which emotion is expressed\", NMI", "clustering", "tweets_emotion", "question, cluster", 0.20,
         in_controls={DENSE: "everything, cluster", WORDS: "everything, k-means"}, because="question"),
    *(Line(f"the same, {method}", "clustering", "tweets_emotion", f"question, {method}", in_controls={}, told=False)
      for method in clustering.METHODS),
    Line("the same, number of groups found", "clustering", "tweets_emotion", clustering.FOUND, in_controls={}, told=False),
    Line("topics of news, method for topics, NMI (beside k-means of the embedding)", "clustering", "news",
         "everything, cluster", own=DENSE, beside=("everything, k-means", -0.03), counts=True, told=False),
    Line("topics of news, features", "clustering", "news", "everything, cluster",
         in_controls={DENSE: "everything, k-means", WORDS: "everything, k-means"}, beside=(DENSE, 0), counts=True,
         because="whole"),
    *(Line(f"topic x style, grouped by {title}, ARI with the styles", "topic and style", STYLE, f"style, {title}", target,
           in_controls={DENSE: "style", WORDS: "style"}, because="style")
      for title, target in zip(topic_style.ABOUT, (0.5, None))),
    *(Line(f"the same, {method}", "topic and style", STYLE, f"style, {title}, {method}", in_controls={}, told=False)
      for title in topic_style.ABOUT for method in topic_style.METHODS[1:]),
    *(Line(f"topic x style, not asked for, ARI with the {name}s", "topic and style", STYLE, name, told=False)
      for name in ("style", "topic")),
    *(Line(f"retrieval, {name}, AP", "retrieval", name, "default", beside=(DENSE, -0.01), counts=True,
           in_controls={DENSE: "AP", WORDS: "AP"}) for name in retrieval.SETS),
    *(Line("retrieval, mean of sets, AP" if control == DENSE else f"the same, beside {control}", "retrieval", retrieval.MEAN,
           "default", beside=(control, 0), counts=True, in_controls={name: "AP" for name in (DENSE, WORDS, retrieval.PLAIN)},
           told=control == DENSE) for control in (DENSE, WORDS, retrieval.PLAIN)),
    Line(f"feedback, {LAST}: queries above Rocchio", "retrieval", retrieval.MEAN, WON, 2 / 3, counts=True),
]

WHY = {
    "case": "**Capital letters and emoji.** The model that reads the texts takes capital and small letters for the same and "
            "knows few emoji. What it does not see no feature can show: look for it in the text itself, "
            "with a pattern (`text ~ '[A-Z]{5}'`).",
    "no feature": "**No feature for it.** No feature goes with the property even where every fifth text has it. A dictionary "
                  "holds what is frequent in the texts it was trained on; a manner that every sentence puts in other words "
                  "is often not one feature but a part of several.",
    "ranked": "**One sentence in a long text.** There is a feature, but few texts have the property, and in some the feature "
              "is not among those that are kept (the 128 strongest of a text); chance differences between the halves are "
              "then as large. More texts help.",
    "words": "**Words tell as much.** What is sought shows in particular words. A count of words sees every one of them, a "
             "dictionary only those that it has a feature for. The column `also_in_words` says so row by row.",
    "whole": "**What a text is about as a whole.** An embedding holds the topic in all its numbers; features cut it into many "
             "narrow parts, and a text has only some of them. For plain topics use `view => 'dense'`.",
    "labels": "**Where right answers are given.** A model trained on labelled texts may use all of the embedding, also what "
              "no feature stands for. Features are for finding what nobody has labelled, and for saying what it is.",
    "chance": "**Findings where there is nothing.** More runs have a finding than the level allows. Take such findings for "
              "hints, and look at new texts before relying on them.",
    "length": "**Length.** A longer text has more of everything, and texts cut short lack their endings. What control leaves "
              "is of texts that differ in more than the number of words.",
    "pairs": "**Two rare things together.** Two things that are both in 1 % of 5,000 texts meet in fifty, and a feature of "
             "sentences sees a quarter to a third of these: the row rests on about ten texts. The pairs before it are mostly "
             "such as the texts have of themselves (thanks with names: letters; lists with films; praise with the exclamation "
             "mark). Judged by the documents, planted pairs stand in the first 10 in 8 of these 10 runs, in 12 of 18 runs with "
             "the other pairs of the same properties in other texts, and in 8 of 10 where the texts are 3,800 news; where a "
             "feature must also fire on sentences of the property that were not planted, in 4 of 10. Nothing that was tried "
             "over the 28 pairs in answers finds more than these 20: "
             "rows folded at a phi of .2 to .5 or a Jaccard index of .5; a likelihood ratio above a lift of 1, 1.5, 3 or 4 "
             "(13, 17, 17, 15) instead of 2; order by NPMI (13), by the lower end of the lift (17) or by shares of the rarer "
             "feature; features in 0.12 % or 0.32 % of the texts instead of 0.25 %; topics held constant by a regression on "
             "embeddings; pairs of one sentence left out; nor, over the ten, features with alike labels or directions taken "
             "together. Pairs that are not found are mostly not in the list at all: no feature of sentences fires on how one "
             "of the two is said, or all their labels are as alike as `unexpected` leaves out.",
    "question": "**Asking for an axis.** `about` chooses features by their labels, and embeddings are looked at along the "
                "directions in which these labels differ. What features see here and there is carried to all documents by a "
                "regression on their embeddings, with a ridge of three mean variances (2 to 4 give about the same; so do 15 to "
                "50 directions, and grouping once more towards the groups found). A feeling is told by the whole sentence, "
                "features that say which "
                "feeling it is are few beside those of single words, and labels of feelings differ in more than the feeling.",
    "style": "**How a text is written.** Style shows in many small signs. Features named after a style are few, and those that "
             "are chosen by their labels may also be about the topic.",
    "retrieval": "**Looking for what is named in the query.** If the query says what the texts say, the embedding of both is "
                 "hard to beat; labels of features add where the query names a property that no text mentions.",
    "fit": "**What a dictionary leaves out.** A few features a word or sentence stand for all that the reader holds of it; "
           "the rest is in no feature.",
}
TEST_WHY = {"probes": "labels", "reconstruction": "fit", "retrieval": "retrieval", "paraphrase": "words",
            "pairs and differences": "no feature", "clustering": "question"}


def bounds(row):
    return row["value"], *(float("nan") if row[side] is None else row[side] for side in ("low", "high"))


def verdict(row, target, above, counts=False):
    value, low, high = bounds(row)
    if not counts and low <= target <= high and low < high:
        return "open"
    return "met" if (value >= target if above else value <= target) else "missed"


def against(row, above=True):
    _, low, high = bounds(row)
    return "tie" if low <= 0 <= high else "above" if (low > 0) == above else "below"


def short(number):
    return f"{number:.3g}".replace("0.", ".")


def derived(rows):
    """Share of the queries for which feedback is above the control."""
    for row in rows:
        if row["test"] == "retrieval" and row["measure"] == f"feedback, {LAST} - {ROCCHIO}" and row["set"] == retrieval.MEAN:
            known = next(own for own in rows if own["test"] == "retrieval" and own["set"] == retrieval.MEAN
                         and own["view"] == row["view"] and own["measure"] == f"feedback, {LAST}")
            n = sum(value == value for value in known["by_query"].values())
            value, low, high = share_interval(row["wins"], n)
            yield {**row, "measure": WON, "value": value, "low": low, "high": high, "hits": row["wins"], "of": n}


class Report:
    """The tables."""

    def __init__(self, rows, dictionaries):
        rows = [*rows, *derived(rows)]
        self.rows = {(row["test"], row["set"], row["view"], row["measure"]): row for row in rows}
        self.levels = dictionaries
        self.views = [*dictionaries, *([ALL] if len(dictionaries) > 1 else [])]

    def row(self, line, view, measure=None):
        return self.rows.get((line.test, line.data, view, measure or line.measure))

    def control_row(self, line, view):
        measure = line.measure if line.in_controls is None else line.in_controls.get(view)
        return self.row(line, view, measure) if measure else None

    def control(self, line, view):
        row = self.control_row(line, view)
        if row is None or line.own == view:
            return self.cell(line, view) if line.own == view else ""
        return self.number(row)

    def number(self, row):
        if row.get("not_offered"):
            return "not offered"
        if "hits" in row:
            possible = f" ({row['possible']} possible)" if "possible" in row else ""
            return f"{row['hits']:g}/{row['of']}{possible} {shown(bounds(row)).partition(' ')[2]}"
        if abs(row["value"]) < 10:
            return shown(bounds(row))
        value, low, high = bounds(row)
        return f"{value:.0f}" if row["low"] is None else f"{value:.1f} [{low:.1f}, {high:.1f}]"

    def target(self, line):
        """What the value should reach: a number, or None."""
        if line.beside:
            control, margin = line.beside
            row = self.row(line, line.own, control) if line.own else self.control_row(line, control)
            return None if row is None or row["value"] is None else row["value"] + margin
        return line.target

    def verdict(self, line, view):
        row, target = self.row(line, view), self.target(line)
        if row is None or row["value"] is None or target is None:
            return None
        return verdict(row, target, line.above, line.counts)

    def against(self, line, view):
        row = self.row(line, view, line.control) if line.control else None
        return None if row is None else against(row, line.above)

    def cell(self, line, view):
        row = self.row(line, view)
        if row is None or (line.level and self.levels.get(view) != line.level):
            return ""
        parts = [self.number(row)]
        if self.verdict(line, view):
            parts.append(f"**{self.verdict(line, view)}**")
        if self.against(line, view):
            difference = self.row(line, view, line.control)
            won = f" ({difference['wins']} won, {difference['losses']} lost)" if "wins" in difference else ""
            parts.append(f"{self.against(line, view)}{won}")
        return ", ".join(parts)

    def table(self, lines):
        out = ["| | target | " + " | ".join([DENSE, WORDS, *self.views]) + " |",
               "|---|---|" + "---|" * (2 + len(self.views))]
        for line in lines:
            cells = [self.cell(line, view) for view in self.views]
            if any(cells) or (line.own and self.row(line, line.own)):
                sign = "≥" if line.above else "≤"
                target = "" if line.target is None else f"{sign} {short(line.target)}"
                if line.beside:
                    control, margin = line.own or line.beside[0], line.beside[1]
                    target = self.named(line, control, sign, margin)
                compared = f" (against {line.control.split(' - ')[1]})" if line.control else ""
                controls = [self.control(line, DENSE), self.control(line, WORDS)]
                cells = [""] * len(cells) if line.own else cells
                out.append("| " + " | ".join([line.title + compared, target, *controls, *cells]) + " |")
        return out

    def named(self, line, control, sign, margin):
        """`≥ dense - .01`; a control that has no column with its value."""
        row = None if control in (DENSE, WORDS) else self.control_row(line, control)
        value = f" ({self.number(row)})" if row else ""
        return f"{sign} {control}{value}" + (f" {'-' if margin < 0 else '+'} {short(abs(margin))}" if margin else "")

    def count(self):
        """How many targets of the analyses are met."""
        found = {"met": 0, "missed": 0, "open": 0, "not offered": 0}
        for line in ANALYSES:
            row = self.row(line, line.own or self.views[-1])
            if row is not None and (line.target is not None or line.beside):
                said = "not offered" if row.get("not_offered") else self.verdict(line, line.own or self.views[-1])
                if said:
                    found[said] += 1
        return f"Targets, {self.views[-1]}: " + ", ".join(f"{n} {said}" for said, n in found.items() if n) + "."

    def scale(self):
        """Table of time and memory."""
        names = list(dict.fromkeys(data for test, data, _, _ in self.rows if test == "scale"))
        lines = []
        for name in names:
            seconds = self.rows["scale", name, "program", "seconds"]
            peak = self.rows.get(("scale", name, "program", "peak MiB"))
            cells = ["not offered", ""] if peak is None else [f"{seconds['value']:.1f}", f"{peak['value']:.0f}"]
            lines.append(f"| {name} | {seconds['of']:,} | {cells[0]} | {cells[1]} |")
        head = ["## Many documents", "", "| | documents | seconds | peak MiB |", "|---|---|---|---|"]
        return [*head, *lines, ""] if names else []

    def losses(self):
        """{reason: what was lost} of the features of all dictionaries together, or of those that a line is for."""
        lost, above = {}, ""
        for line in [*ANALYSES, *LINES]:
            above = above if line.title.startswith("the same") else line.title
            title = line.title if above == line.title else f"{above}; {line.title}"
            views = [view for view in self.views if self.levels.get(view) == line.level] if line.level else self.views[-1:]
            for view in views:
                row = self.row(line, view)
                if not line.told or row is None or row["value"] is None:
                    continue
                controls = {name: self.control_row(line, name) for name in (DENSE, WORDS)}
                better = any(control and self.is_better(line, name, control, row) for name, control in controls.items())
                missed = self.verdict(line, view) == "missed"
                reasons = self.reasons(line, row, view)
                unfound = line.because == "planted" and any(more for _, more in reasons)
                if not (missed or better or unfound or self.against(line, view) == "below"):
                    continue
                said = f"{title}: {self.number(row)}"
                if missed and line.target is not None:
                    said += f", wanted {'≥' if line.above else '≤'} {short(line.target)}"
                said += "".join(f"; {name} {self.number(control)}" for name, control in controls.items() if control)
                for reason, more in reasons:
                    lost.setdefault(reason, {})[said + more] = None
        return lost

    @staticmethod
    def is_better(line, name, control, row):
        """Whether a control has a better value of the same kind (an AUC is no share of properties), where no interval of the
        difference is known."""
        if line.control or line.in_controls and line.in_controls.get(name) == "AUC" or control["value"] is None:
            return False
        return control["value"] > row["value"] if line.above else control["value"] < row["value"]

    def reasons(self, line, row, view):
        """Reasons with what they hold for; of planted properties one a property that was not found."""
        if line.because != "planted" or "ranks" not in row:
            return [("ranked" if line.because == "planted" else line.because or TEST_WHY[line.test], "")]
        by_reason = {}
        for name, ranks in row["ranks"].items():
            if sum(rank is not None and rank <= 5 for rank in ranks) * 2 < len(ranks):
                seen = name not in pairs_diffs.NOT_SEEN
                reason = "case" if not seen else "ranked" if name in row["tracked"] else "no feature"
                by_reason.setdefault(reason, []).append(name)
        return [(reason, f" (not found: {', '.join(names)})") for reason, names in by_reason.items()]

    def markdown(self, head):
        lines = [*head, "", "## Analyses", "", self.count(), "", *self.table(ANALYSES), "", *self.scale(), "## Features", "",
                 *self.table(LINES), ""]
        lost = self.losses()
        lines += ["## Where features lose, and why", ""]
        for reason, text in WHY.items():
            if reason in lost:
                lines += [f"{text}", "", *(f"- {said}" for said in lost[reason]), ""]
        if not lost:
            lines += ["In no line of this report.", ""]
        return "\n".join([*lines, "Not measured here: " + "; ".join(NOT_MEASURED) + "."]) + "\n"


def runs(bench, args):
    """{test: function that measures it}"""
    properties = paraphrase.read_properties(args.properties)
    quick = args.quick
    docs, limit = (200, 400) if quick else (args.docs, args.limit)
    answers = args.data / "model_answers.parquet"
    sizes = planted.QUICK if quick else planted.Sizes()
    views = bench.views if args.sae else [bench.main_view]

    def pool():
        return paraphrase.read_pool(answers, "output")

    def rare():
        own = planted.all_properties(args.properties)
        tracking = planted.Planted(bench, answers, own, sizes).tracking
        few = (600, 2) if quick else (pairs_diffs.RARE_DOCS, pairs_diffs.N_RARE)
        return pairs_diffs.measure_rare_pairs(bench, pool(), own, tracking, *few, views)

    def retrieved():
        queries, relevant = retrieval.read_queries(args.data, half="report")
        corpora = {name: retrieval.read_corpora(bench, args.data, [name], limit=limit or MOST_READ.get(name))[name]
                   for name in retrieval.SETS}
        return retrieval.measure(bench, corpora, retrieval.choose(queries, 4 if quick else 1000), relevant, args.resamples)
    return {
        "planted": lambda: planted.measure(bench, answers, planted.all_properties(args.properties), sizes, args.resamples,
                                           views=views)[0],
        "rare pairs": rare,
        "topic and style": lambda: topic_style.measure(bench, args.resamples),
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
    parser.add_argument("--docs", type=int, default=1000, help="documents a side of planted sentences")
    parser.add_argument("--seeds", type=int, default=1, help="of planted sentences")
    parser.add_argument("--limit", type=int, help="documents of each other set [default: all]")
    parser.add_argument("--scale", type=Path, help="JSON file of tests/bench/analyses_scale.py")
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
    if args.scale:
        rows += json.loads(args.scale.read_text())
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
