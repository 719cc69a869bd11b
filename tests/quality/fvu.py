"""Reconstruction: how much of the hidden states do dictionaries leave unexplained, on which texts?

    pip install numpy scipy pyarrow
    python tests/quality/fvu.py --data FOLDER --saequel PATH/TO/saequel [--sae DIR ...] [--heldout heldout.parquet]

FOLDER holds model_answers.parquet (model, output), news.parquet, math_problems.parquet (question, answer),
tweets_emotion.parquet and tweets_irony.parquet. Of each a random part of about --tokens tokens goes through `saequel
sae eval`; --heldout names a file with a column `text` that belongs to the dictionary's own corpus, read as a whole.
--models should name models whose answers were not trained on.

FVU is the fraction of variance unexplained, L0 the latents that fire on a sample (a token or a sentence), "never
fire" the share of latents that fire nowhere in the part (on few tokens most of them are alive and only rare),
"present" the features that a document holds as stored. No intervals: a part has thousands of samples and the
differences between sets are far larger.
"""

import argparse
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from measures import Figures, print_table
from workbench import Workbench, add_arguments

SETS = {"answers": ("model_answers", ["output"]), "news": ("news", ["text"]),
        "math problems": ("math_problems", ["question", "answer"]), "tweets": ("tweets_emotion", ["text"]),
        "tweets, irony": ("tweets_irony", ["text"])}
HELD_OUT = "held out"
CHARACTERS_PER_TOKEN = 4.3
COLUMNS = {"fvu": "FVU", "l0": "L0", "dead_share": "never fire", "dense_share": "fire on > 5 %", "present_mean": "present"}


def part(texts, n_tokens, seed=0):
    """Random texts, so many tokens of them about."""
    texts = [text for text in texts if text and text.strip()]
    order = np.random.default_rng(seed).permutation(len(texts))
    lengths = np.cumsum([len(texts[i]) for i in order]) / CHARACTERS_PER_TOKEN
    return [texts[i] for i in order[:int(np.searchsorted(lengths, n_tokens)) + 1]]


def read_texts(data, models=None):
    """{set: texts}"""
    texts = {}
    for title, (name, columns) in SETS.items():
        table = pq.read_table(data / f"{name}.parquet")
        if title == "answers" and models:
            table = table.filter(pa.compute.is_in(table["model"], pa.array(models)))
        texts[title] = ["\n".join(map(str, row)) for row in zip(*(table[column].to_pylist() for column in columns))]
    return texts


def measure(bench, data, n_tokens=60_000, heldout=None, models=None):
    figures = Figures("reconstruction")
    texts = {title: part(own, n_tokens) for title, own in read_texts(data, models).items()}
    if heldout:
        texts[HELD_OUT] = pq.read_table(heldout)["text"].to_pylist()
    for row in bench.sql("SELECT dictionary, avg(CASE WHEN hidden_because = 'dead' THEN 1.0 ELSE 0.0 END) AS dead, "
                         "avg(CASE WHEN hidden THEN 1.0 ELSE 0.0 END) AS hidden FROM saequel.features GROUP BY dictionary"):
        if row["dictionary"] in {dictionary.name for dictionary in bench.dictionaries}:
            figures.add("survey", row["dictionary"], "dead", row["dead"])
            figures.add("survey", row["dictionary"], "hidden", row["hidden"])
    for title, own in texts.items():
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            pq.write_table(pa.table({"text": own}), file.name)
            for dictionary in bench.dictionaries:
                folder = bench.folders.get(dictionary.name, dictionary.name)
                row = bench.rows("sae", "eval", folder, "--input", file.name, "--format", "jsonl")[0]
                for column, measured in COLUMNS.items():
                    figures.add(title, dictionary.name, measured, row[column], docs=row["docs"], tokens=row["tokens"])
    return figures


def report(figures):
    rows = {}
    for row in figures.rows:
        rows.setdefault((row["set"], row["view"]), {})[row["measure"]] = row
    lines = []
    for (title, view), by_measure in rows.items():
        if title == "survey":
            continue
        first = by_measure["FVU"]
        lines.append([title, view, first["docs"], first["tokens"],
                      *(f"{by_measure[measured]['value']:.{1 if measured in ('L0', 'present') else 3}f}"
                        for measured in COLUMNS.values())])
    print_table(["texts", "dictionary", "documents", "tokens", *COLUMNS.values()], lines)
    print()
    print_table(["in the survey of the training texts", "dead", "hidden"], [
        [view, f"{own['dead']['value']:.3f}", f"{own['hidden']['value']:.3f}"] for (title, view), own in rows.items()
        if title == "survey"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--tokens", type=int, default=60_000, help="of each set, about")
    parser.add_argument("--heldout", help="Parquet file with a column `text`")
    parser.add_argument("--models", nargs="*", help="models whose answers are used [default: all]")
    args = parser.parse_args()
    figures = measure(Workbench(args), args.data, args.tokens, args.heldout, args.models)
    report(figures)
    figures.write(args.json)


if __name__ == "__main__":
    main()
