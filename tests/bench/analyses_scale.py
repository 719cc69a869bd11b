"""Time and peak memory of the analyses over many documents, each in a process of its own.

    pip install pyarrow
    python tests/bench/analyses_scale.py texts.parquet --text text --db bench.db --saequel PATH/TO/saequel

texts.parquet: as many texts as wanted, say 100,000. They are imported once, into corpus `scale` of the database, which
is used again if it holds as many documents. Halves are drawn by chance, so that `diff` should find nothing. "peak" is
the largest resident memory of the process, which also holds the reader and the dictionaries.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import pyarrow.parquet as pq

CORPUS = "scale"
HALF = f"SELECT * FROM {CORPUS} WHERE ascii(md5(doc_id)) % 2 = {{}}"
ANALYSES = {
    "reading the labels, once": "SELECT * FROM search_features('polite', 1, by => 'meaning')",
    "diff": f"SELECT * FROM diff('{HALF.format(0)}', '{HALF.format(1)}')",
    "diff, length controlled": f"SELECT * FROM diff('{HALF.format(0)}', '{HALF.format(1)}', control => 'n_tokens')",
    "correlate, sentences": f"SELECT * FROM correlate('{CORPUS}')",
    "correlate, all features": f"SELECT * FROM correlate('{CORPUS}', level => 'all')",
    "correlate, unexpected": f"SELECT * FROM correlate('{CORPUS}', unexpected => 0.3)",
    "cluster, 12 groups": f"SELECT * FROM cluster('{CORPUS}', k => 12)",
    "cluster, number of groups found": f"SELECT * FROM cluster('{CORPUS}')",
    "cluster, about feelings": f"SELECT * FROM cluster('{CORPUS}', 'emotions and feelings', k => 6)",
    "cluster_summary, 12 groups": f"SELECT * FROM cluster_summary('{CORPUS}', k => 12)",
    "retrieve": f"SELECT * FROM retrieve('{CORPUS}', 'complaints about a delayed delivery', k => 100)",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="Parquet file")
    parser.add_argument("--text", default="text", help="column to read")
    parser.add_argument("--db", required=True, help="database to keep")
    parser.add_argument("--saequel", default="saequel", help="the program")
    parser.add_argument("--threads", type=int, help="[default: all cores]")
    parser.add_argument("--only", nargs="+", default=[], help="analyses that begin with one of these")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which an analysis is ended")
    parser.add_argument("--json", help="write the figures to this file too, for `report.py --scale`")
    args = parser.parse_args()
    program = [args.saequel, "--db", args.db, "--quiet", *(["--threads", str(args.threads)] if args.threads else [])]
    n_docs = import_once(program, args.file, args.text)
    print(f"{n_docs:,} documents, {args.threads or os.cpu_count()} threads", flush=True)
    rows = []
    for name, statement in ANALYSES.items():
        if args.only and not name.startswith(tuple(args.only)):
            continue
        seconds, peak, said = run([*program, "sql", "--format", "csv", statement + ";"], args.timeout)
        row = {"test": "scale", "set": name, "view": "program", "of": n_docs, "low": None, "high": None}
        if said is None:
            print(f"{name:<34}{seconds:8.1f} s  peak {peak:6.0f} MiB", flush=True)
            rows += [{**row, "measure": "seconds", "value": seconds}, {**row, "measure": "peak MiB", "value": peak}]
        else:
            print(f"{name:<34}{said}", flush=True)
            if said == "not offered":
                rows.append({**row, "measure": "seconds", "value": None, "not_offered": True})
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


def import_once(program, file, text):
    wanted = pq.read_metadata(file).num_rows
    there = subprocess.run([*program, "sql", "--format", "jsonl", "SHOW CORPORA;"], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True)
    known = [json.loads(line) for line in there.stdout.splitlines()] if there.returncode == 0 else []
    n_docs = next((row["documents"] for row in known if row["name"] == CORPUS), None)
    if n_docs is not None:
        if n_docs < 0.9 * wanted:  # empty texts and repeated ones are left out
            sys.exit(f"corpus '{CORPUS}' of the database has {n_docs} documents, {file} has {wanted}: give another --db")
        return n_docs
    start = time.perf_counter()
    subprocess.run([*program, "import", file, "--corpus", CORPUS, "--text", text], check=True, stdout=sys.stderr)
    print(f"imported in {time.perf_counter() - start:.0f} s", flush=True)
    return import_once(program, file, text)


def run(command, timeout):
    """Seconds, peak MiB, and what went wrong if anything did."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while True:
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            seconds = time.perf_counter() - start
            if done:
                break
            if seconds > timeout:
                child.kill()
                os.wait4(child.pid, 0)
                return seconds, 0, f"ended after {seconds:.0f} s"
            time.sleep(min(0.2, 0.01 + seconds / 50))
        child.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if child.returncode == 0:
        return seconds, usage.ru_maxrss / 1024, None
    return seconds, 0, "not offered" if "unknown option" in said else f"failed: {said[:200]}"


if __name__ == "__main__":
    main()
