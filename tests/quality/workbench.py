"""What the quality tests share: a database that holds dictionaries and texts, and what it stores of them as matrices.

All that is measured went through the program itself: texts are imported, features and embeddings are read back as
they are stored. A corpus is named after its content and its dictionaries, so that with `--db` nothing is read twice.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

ALL = "all dictionaries"
WORDS = "words and pairs"
DENSE = "dense"
CONTROLS = {WORDS: "presence of words and of pairs of words",
            DENSE: "the embedding of the document that saequel stores: mean of the last layer's states, length 1"}
NOT_OFFERED = re.compile(r"unknown option|argument '\w+' is missing|[Tt]able function '\w+' not found|expected one of"
                         r"|column '\w+' not found")


def add_arguments(parser, data="required"):
    """Options that every test has."""
    if data:
        parser.add_argument("--data", type=Path, required=data == "required",
                            help="folder with the evaluation sets, as Parquet files")
    parser.add_argument("--sae", nargs="*", default=[], help="folders of dictionaries beside the shipped ones")
    parser.add_argument("--saequel", default="saequel")
    parser.add_argument("--db", help="database to keep between runs, so that texts are read once [default: a new one]")
    parser.add_argument("--threads", type=int, help="threads of the program [default: all cores]")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--json", help="write the figures to this file too")


@dataclass
class Dictionary:
    name: str
    first_id: int
    width: int
    reader: str


class Workbench:
    """A database with the shipped dictionaries and those of `--sae`."""

    def __init__(self, args):
        self.program, self.threads = args.saequel, args.threads
        self.temporary = None if args.db else tempfile.TemporaryDirectory()
        self.db = Path(args.db or f"{self.temporary.name}/quality.db")
        self.notes = self.db.with_name(self.db.name + ".dictionaries.json")
        known = json.loads(self.notes.read_text()) if self.notes.exists() else {}
        if not known:
            self.db.parent.mkdir(parents=True, exist_ok=True)
            self.run("import", "-", "--corpus", "start", "--file-format", "text", given="A first document.")
            known = {row["name"]: "shipped" for row in self.listed()}
        self.folders = {}
        for folder in map(Path, args.sae):
            name, print_ = json.loads((folder / "sae.json").read_text())["name"], fingerprint(folder)
            if name not in known:
                self.run("sae", "import", str(folder))
                known[name] = print_
            elif known[name] != print_:
                sys.exit(f"{self.db} holds another dictionary '{name}' than {folder}: use another --db")
            self.folders[name] = str(folder)
        self.notes.write_text(json.dumps(known, indent=1))
        names = [name for name, print_ in known.items() if print_ == "shipped"] + list(self.folders)
        self.dictionaries = [Dictionary(row["name"], row["first_feature_id"], row["n_features"], row["reader"])
                             for name in names for row in self.listed() if row["name"] == name]
        self.n_in_database = len(self.listed())
        self.views = [dictionary.name for dictionary in self.dictionaries] + ([ALL] if len(self.dictionaries) > 1 else [])
        self.main_view = self.views[-1]
        self.prints = [(name, known[name]) for name in names]

    def run(self, *command, given=None):
        done = self.finished(*command, given=given)
        if done.returncode:
            sys.exit(f"{' '.join(command)[:300]}\n{done.stderr}")
        return done.stdout

    def finished(self, *command, given=None):
        threads = ["--threads", str(self.threads)] if self.threads else []
        return subprocess.run([self.program, "--db", str(self.db), *threads, "--quiet", *command], input=given,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def listed(self):
        return self.sql("SELECT * FROM saequel.saes ORDER BY first_feature_id")

    def sql(self, *statements):
        """Rows of all statements, which run in one process."""
        return self.rows("sql", "--format", "jsonl", given=";\n".join(statements) + ";")

    def offers(self, statement):
        """Whether the program knows what the statement asks for; another error ends the test."""
        done = self.finished("sql", "--format", "jsonl", given=statement + ";")
        if done.returncode and not NOT_OFFERED.search(done.stderr):
            sys.exit(f"{statement[:300]}\n{done.stderr}")
        return not done.returncode

    def rows(self, *command, given=None):
        return [json.loads(line) for line in self.run(*command, given=given).splitlines()]

    def corpus(self, name, table):
        """Imports a table with the columns `doc_id` and `text`; what has been read before is not read again."""
        content = json.dumps([self.prints, table.to_pydict()])
        name = f"{name}_{hashlib.sha1(content.encode()).hexdigest()[:8]}"
        there = self.sql("SHOW CORPORA")
        if not any(row["name"] == name and row["documents"] == table.num_rows for row in there):
            # One pass reads with one reader; those of the others are added afterwards.
            by_reader = {}
            for dictionary in self.dictionaries:
                by_reader.setdefault(dictionary.reader, []).append(dictionary.name)
            first, *others = by_reader.values()
            saes = [part for dictionary in first for part in ("--sae", dictionary)]
            with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
                pq.write_table(table, file.name)
                print(f"reading {table.num_rows} documents into '{name}'", file=sys.stderr, flush=True)
                self.run("import", file.name, "--corpus", name, "--text", "text", "--key", "doc_id", *saes)
            for dictionaries in others:
                self.run("sae", "add", name, *dictionaries)
        return Corpus(self, name, table)

    def catalog(self):
        """Rows of the features of the dictionaries that are measured."""
        names = ", ".join(f"'{dictionary.name}'" for dictionary in self.dictionaries)
        return self.sql("SELECT feature_id, dictionary, label, hidden, hidden_because, q50, q90 FROM saequel.features "
                        f"WHERE dictionary IN ({names})")


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def fingerprint(folder):
    digest = hashlib.sha1()
    for name in ("sae.json", "sae.safetensors", "features.jsonl"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


class Corpus:
    """Imported documents, in the order of the table."""

    def __init__(self, bench, name, table):
        self.bench, self.name, self.table = bench, name, table
        self.texts = table["text"].to_pylist()
        with tempfile.NamedTemporaryFile(suffix=".arrow") as file:
            bench.run("sql", f"SELECT * FROM stored.{name}", "--output", file.name)
            stored = pa.ipc.open_file(file.name).read_all()
        place = {doc: row for row, doc in enumerate(stored["doc_id"].to_pylist())}
        stored = stored.take(pa.array([place[doc] for doc in table["doc_id"].to_pylist()]))
        self.n_tokens = stored["_n_tokens"].to_numpy()
        dense = stored["_embedding"].combine_chunks()
        self.dense = dense.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(self), -1)
        self.dense /= np.maximum(np.linalg.norm(self.dense, axis=1, keepdims=True), 1e-9)
        self.features = {dictionary.name: read_features(stored, dictionary) for dictionary in bench.dictionaries}

    def __len__(self):
        return self.table.num_rows

    def set_of(self, dictionary, where="true"):
        """SQL of the documents with the features of one dictionary, for functions that cannot choose."""
        return (f"(SELECT doc_id, text, named_struct('ids', \"_ids_{dictionary}\", 'activations', "
                f"\"_activations_{dictionary}\") AS features, \"_embedding\" AS embedding FROM stored.{self.name} "
                f"WHERE {where})")


def read_features(stored, dictionary):
    """Activations, one row a document and one column a latent of the dictionary."""
    ids = stored[f"_ids_{dictionary.name}"].combine_chunks()
    values = stored[f"_activations_{dictionary.name}"].combine_chunks()
    counts = ids.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    columns = ids.flatten().to_numpy().astype(np.int64) - dictionary.first_id
    data = values.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_matrix((data, columns, starts), shape=(len(ids), dictionary.width))


def count_words(texts, vocabulary=None, min_docs=3):
    """Presence of words and pairs of words; returns the matrix and the vocabulary."""
    from sklearn.feature_extraction.text import CountVectorizer
    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"[A-Za-z']+|[!?]", binary=True, vocabulary=vocabulary,
                              min_df=min_docs if vocabulary is None else 1)
    return counter.fit_transform(texts).astype(np.float32).tocsr(), counter.vocabulary_


def feature_views(corpus):
    """{dictionary: matrix}, and all of them side by side if there are several."""
    views = dict(corpus.features)
    if len(views) > 1:
        views[ALL] = sparse.hstack(list(views.values())).tocsr()
    return views


def read_set(file, text="text", limit=None):
    """An evaluation set as a table with `doc_id`, `text` and its other columns; a random part of it if limited."""
    table = pq.read_table(file)
    kept = np.flatnonzero([bool(value and value.strip()) for value in table[text].to_pylist()])
    if limit and limit < len(kept):
        kept = np.sort(np.random.default_rng(0).permutation(kept)[:limit])
    table = table.take(pa.array(kept))
    columns = {name: table[name] for name in table.column_names if name not in ("doc_id", "text", text)}
    return pa.table({"doc_id": table["doc_id"].cast(pa.string()), "text": table[text], **columns})
