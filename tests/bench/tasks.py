"""Whole tasks over many documents: saequel beside the tools that people use for them today, on the same corpus, in turn.

    pip install numpy scipy pyarrow duckdb polars pylance
    python tests/bench/tasks.py --docs 20000 200000 1000000 --work FOLDER --saequel PATH/TO/saequel --write

makes a synthetic corpus of each size (`corpus.py`), imports its features, asks every tool for every task once and compares the
answers, and only if they agree takes the time: --runs rounds, in each of which the tools come one after the other, so that
what else the machine does meets all of them. Reported are medians, the ratio of medians, and the largest resident memory.
--write puts the tables into docs/benchmarks.md, with machine, date and commit. `--keep` leaves the corpora in FOLDER.

saequel answers through one running server by HTTP, planning and JSON included; what starting the program costs is told
apart. Everything it reads is stored: `cold` is the first time after the server started, `warm` what follows. The peers hold
the corpus as suits them best (`peers.py`): scipy and Polars decoded in memory, DuckDB in a table of its own.
"""

import argparse
import contextlib
import datetime
import http.client
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse

import corpus
import peers

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE / "../../docs/benchmarks.md"
BEGIN, END = "<!-- begin: tests/bench/tasks.py --write -->", "<!-- end -->"
CORPUS = "bench"
TASKS = ("diff", "npmi", "retrieve")
TOOLS = ("saequel", "scipy", "duckdb", "polars", "lance")
TITLES = {"diff": "diff: which features set side b apart from side a",
          "npmi": f"correlate: all pairs of features in {peers.SUPPORT} documents or more, by NPMI",
          "retrieve": f"retrieve: the best {peers.TOP_DOCS} documents for {peers.QUERY_FEATURES} weighted features"}
NAMES = {"saequel": "saequel", "scipy": "scipy, matrix in memory", "duckdb": "DuckDB, table of its own",
         "polars": "Polars, in memory", "lance": "only reading the ids (Lance)"}
# Further ways to ask, which are checked and timed beside the fastest.
VARIANTS = {("scipy", "diff"): ["diff_by_rows"]}
TOLERANCE = {"diff": 1e-6, "npmi": 1e-5, "retrieve": 2e-3}


class Server:
    """saequel over HTTP."""

    def __init__(self, program, db, threads, memory):
        serve = [program, "--db", db, "--threads", str(threads), "serve", "--listen", "127.0.0.1:0", "--memory", memory]
        start = time.perf_counter()
        self.process = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={"RUST_LOG": "error", **os.environ})
        self.url = None
        for line in self.process.stdout:
            if found := re.search(r"(http://[^/\s]+)/v1/sql", line):
                self.url = urllib.parse.urlsplit(found[1])
            if "Ctrl-C" in line:
                break
        self.ready_seconds = time.perf_counter() - start
        if self.url is None:
            sys.exit(f"the server did not start: {self.process.stderr.read()[-2000:]}")
        for pipe in (self.process.stdout, self.process.stderr):
            threading.Thread(target=pipe.read, daemon=True).start()
        self.connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=1800)
        rows = self.rows(f"SELECT min(feature_id) AS first FROM saequel.features WHERE dictionary = '{CORPUS}'")
        self.first_id = rows[0]["first"]

    def rows(self, statement):
        self.connection.request("POST", "/v1/sql?format=jsonl", statement.encode(), {"Content-Type": "text/plain"})
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{statement}: {answer.status} {body[:500].decode()}")
        return [json.loads(line) for line in body.splitlines()]

    def ask(self, task):
        statement = self.statement(task)
        self.connection.close()  # the server ends what is idle while a peer takes long
        self.connection.connect()
        peak_reset(self.process.pid)
        start = time.perf_counter()
        rows = self.rows(statement)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "answer": self.answer(task, rows), "peak_mib": peak_mib(self.process.pid)}

    def statement(self, task):
        if task == "diff":
            return (f"SELECT feature_id, difference FROM diff('{CORPUS} WHERE side = ''b''', '{CORPUS} WHERE side = ''a''') "
                    f"LIMIT {peers.TOP}")
        if task == "npmi":
            return (f"SELECT feature_a, feature_b, npmi FROM correlate('{CORPUS}', level => 'all', min_docs => {peers.SUPPORT}, "
                    f"min_both => {peers.SUPPORT}, "
                    f"echoes => true, fold => false, rank_by => 'npmi', limit => {peers.TOP})")
        ids, weights = peers.query()
        query = ", ".join(f"{self.first_id + int(id)}:{float(weight):.9g}" for id, weight in zip(ids, weights))
        return f"SELECT doc_id, score FROM retrieve('{CORPUS}', features => '{query}', k => {peers.TOP_DOCS})"

    def answer(self, task, rows):
        first = self.first_id
        if task == "diff":
            return [[row["feature_id"] - first, row["difference"]] for row in rows]
        if task == "npmi":
            return [[row["feature_a"] - first, row["feature_b"] - first, row["npmi"]] for row in rows]
        return [[int(row["doc_id"][1:]), row["score"]] for row in rows]

    def close(self):
        self.connection.close()
        self.process.terminate()
        self.process.wait(60)


class Peer:
    """A tool in a process of its own (`peers.py`)."""

    def __init__(self, tool, file, threads):
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads),
               "POLARS_MAX_THREADS": str(threads), "LANCE_CPU_THREADS": str(threads)}
        self.process = subprocess.Popen([sys.executable, HERE / "peers.py", tool, file, str(threads)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)

    def ask(self, task):
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer ended in task {task}: see above")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)


def peak_reset(pid):
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid):
    found = re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024


def folder_bytes(folder):
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def differs(task, ours, theirs):
    """What is different between two answers; None if nothing. Ties may come in either order."""
    if len(ours) != len(theirs):
        return f"{len(ours)} rows and {len(theirs)}"
    for at, (one, other) in enumerate(zip(ours, theirs)):
        if abs(one[-1] - other[-1]) > TOLERANCE[task] * max(1, abs(other[-1])):
            return f"row {at + 1}: {one} and {other}"
    values = {tuple(row[:-1]): row[-1] for row in theirs}
    last = min(abs(row[-1]) for row in theirs)
    for row in ours:
        value = values.get(tuple(row[:-1]))
        if value is None and abs(row[-1]) - last > TOLERANCE[task] * max(1, last):
            return f"{row} is only in one of them"
        if value is not None and abs(value - row[-1]) > TOLERANCE[task] * max(1, abs(value)):
            return f"{row} and {value}"
    return None


def load(program, db, file, threads):
    """Imports the features; seconds of the import and of COMPACT, which makes the index."""
    base = [program, "--db", db, "--threads", str(threads), "--quiet"]
    start = time.perf_counter()
    run([*base, "import", file, "--corpus", CORPUS, "--key", "doc_id", "--features", "ids", "--activations", "activations",
         "--width", str(peers.FEATURES)])
    imported = time.perf_counter()
    run([*base, "sql", f"COMPACT {CORPUS} KEEP VERSIONS 0 DAYS;"])
    return {"import_seconds": imported - start, "compact_seconds": time.perf_counter() - imported}


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
    return done.stdout


def one_shot(program, db, threads, statement):
    start = time.perf_counter()
    run([program, "--db", db, "--threads", str(threads), "--quiet", "sql", "--format", "csv", statement + ";"])
    return time.perf_counter() - start


def measure(args, n_docs):
    work = pathlib.Path(args.work)
    file, db = work / f"corpus-{n_docs}.parquet", work / f"bench-{n_docs}.saequel"
    if not file.exists():
        say(f"{n_docs:,} documents: making the corpus")
        corpus.write(file, n_docs)
    former = next((figures for figures in args.former if figures["docs"] == n_docs), {})
    figures = {**former, "docs": n_docs, "tasks": dict(former.get("tasks", {}))}
    if not db.exists():
        say(f"{n_docs:,} documents: importing")
        figures |= load(args.saequel, db, file, args.threads)
    dataset = db / "corpora" / f"{CORPUS}.lance"
    figures["data_bytes"] = folder_bytes(dataset / "data")
    figures["index_bytes"] = folder_bytes(dataset / "_indices")
    tools = {}
    with contextlib.ExitStack() as stack:
        tools["saequel"] = server = Server(args.saequel, db, args.threads, args.memory)
        stack.callback(server.close)
        figures["ready_seconds"] = server.ready_seconds
        cold = {}
        for task in args.tasks:
            cold[task] = server.ask(task)["seconds"]
        for tool in args.tools:
            if tool == "saequel":
                continue
            tools[tool] = Peer(tool, dataset if tool == "lance" else file, args.threads)
            stack.callback(tools[tool].close)
            loaded = tools[tool].ask("load")
            say(f"{n_docs:,} documents: {tool} loaded in {loaded['seconds']:.1f} s")
        for task in args.tasks:
            asked = [(tool, way) for tool in tools for way in [task, *VARIANTS.get((tool, task), [])]
                     if tool != "lance" or task == "diff"]
            asked = [(tool, way) for tool, way in asked if n_docs <= args.most.get((tool, task), n_docs)]
            answers = {(tool, way): tools[tool].ask(way)["answer"] for tool, way in asked}
            for (tool, way), answer in answers.items():
                if tool not in ("saequel", "lance") and (wrong := differs(task, answers["saequel", task], answer)):
                    sys.exit(f"{n_docs:,} documents, {task}: saequel and {tool} ({way}) do not agree: {wrong}")
            rounds = {key: [] for key in asked}
            for _ in range(args.runs):
                for tool, way in asked:
                    rounds[tool, way].append(tools[tool].ask(way))
            found = {}
            for (tool, way), runs in rounds.items():
                seconds = [run["seconds"] for run in runs]
                name = tool if way == task else f"{tool} {way.removeprefix(task).strip('_').replace('_', ' ')}"
                found[name] = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds),
                               "peak_mib": max(run["peak_mib"] for run in runs)}
            found["saequel"] |= {"cold": cold[task], "when": f"{datetime.date.today().isoformat()}, commit {commit()}"}
            figures["tasks"][task] = found
            for name, figure in found.items():
                ratio = figure["median"] / found["saequel"]["median"]
                say(f"{n_docs:,} {task:9} {name:22} {figure['median'] * 1000:9.1f} ms  x {ratio:6.2f}  peak {figure['peak_mib']:6.0f} MiB")
    times = [one_shot(args.saequel, db, args.threads, "SELECT 1") for _ in range(args.runs)]
    figures["open_seconds"] = statistics.median(times)
    count = f"SELECT count(*) FROM {CORPUS}"
    figures["open_count_seconds"] = statistics.median(
        one_shot(args.saequel, db, args.threads, count) for _ in range(args.runs))
    if not args.keep:
        shutil.rmtree(db)
        for path in work.glob(f"corpus-{n_docs}.*"):
            path.unlink()
    return figures


def say(text):
    print(text, flush=True)


def machine():
    cpu = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    wide = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "SSE"
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) >> 20
    return f"{cpu}, {os.cpu_count()} cores, {wide}, {memory} GiB"


def commit():
    """Of the working tree; + if it was changed."""
    changed = run(["git", "-C", HERE, "status", "--porcelain", "--untracked-files=no"]).strip()
    return run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"]).strip() + ("+" if changed else "")


def tables(args, results, load_before):
    versions = ", ".join(f"{name} {__import__(name).__version__}" for name in ("scipy", "duckdb", "polars") if name in args.tools)
    lines = [f"{args.build} build; {machine()}; {args.threads} threads each; {versions}. "
             f"Medians of {args.runs} rounds (least to most); load of the machine before: {load_before:.1f}.", ""]
    ms = lambda seconds: f"{seconds * 1000:,.1f}" if seconds < 1 else f"{seconds * 1000:,.0f}"
    for task in [task for task in TASKS if all(task in figures["tasks"] for figures in results)]:
        lines += [f"**{TITLES[task]}** ({results[0]['tasks'][task]['saequel']['when']})", "", "| documents | tool | ms | least to most | times saequel | peak MiB |",
                  "|---:|---|---:|---:|---:|---:|"]
        for figures in results:
            found = figures["tasks"][task]
            for name, figure in found.items():
                tool, _, way = name.partition(" ")
                title = NAMES[tool] + (f", {way}" if way else "")
                ratio = figure["median"] / found["saequel"]["median"]
                cold = f" (cold {ms(figure['cold'])})" if "cold" in figure else ""
                lines.append(f"| {figures['docs']:,} | {title} | {ms(figure['median'])}{cold} | {ms(figure['least'])} to "
                             f"{ms(figure['most'])} | {ratio:.2f} | {figure['peak_mib']:,.0f} |")
        lines.append("")
    lines += ["**Storage and opening**", "",
              "| documents | import, s | COMPACT (index), s | columns, bytes a document | index, bytes a document | "
              "`saequel sql 'SELECT 1'`, ms | with a count of the corpus, ms | server ready, ms |", "|---:" * 8 + "|"]
    for figures in results:
        n = figures["docs"]
        seconds = lambda key: f"{figures[key]:.1f}" if key in figures else ""
        lines.append(f"| {n:,} | {seconds('import_seconds')} | {seconds('compact_seconds')} | {figures['data_bytes'] / n:.1f} | "
                     f"{figures['index_bytes'] / n:.1f} | {ms(figures['open_seconds'])} | {ms(figures['open_count_seconds'])} | "
                     f"{ms(figures['ready_seconds'])} |")
    return lines


def write(lines):
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory", default="2GiB", help="that saequel's queries may hold")
    parser.add_argument("--work", required=True, help="folder for corpora and databases")
    parser.add_argument("--saequel", default="saequel", help="the program")
    parser.add_argument("--build", default="dev", help="how it was built, for the report")
    parser.add_argument("--skip", nargs="*", default=["scipy:npmi:200000", "duckdb:npmi:200000", "polars:npmi:200000"],
                        metavar="TOOL:TASK:DOCS", help="tools that do a task only up to so many documents, because they "
                        "would take minutes and tens of GiB beyond")
    parser.add_argument("--json", help="write the figures to this file too")
    parser.add_argument("--update", action="store_true", help="what is not measured now stays as it is in the --json file")
    parser.add_argument("--keep", action="store_true", help="leave corpora and databases")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md")
    args = parser.parse_args()
    args.tools = ["saequel", *(tool for tool in args.tools if tool != "saequel")]
    args.most = {tuple(skip.split(":")[:2]): int(skip.split(":")[2]) for skip in args.skip}
    args.former = json.loads(pathlib.Path(args.json).read_text()) if args.update else []
    pathlib.Path(args.work).mkdir(parents=True, exist_ok=True)
    load_before = os.getloadavg()[0]
    results = [measure(args, n_docs) for n_docs in args.docs]
    lines = tables(args, results, load_before)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1))
    if args.write:
        write(lines)
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
