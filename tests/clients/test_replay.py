"""Replays what clients sent to a real PostgreSQL: its log with `log_statement = all`, a line `application|pid|LOG:  statement: ...`.

Runs if SAEQUEL_REPLAY_LOG names such a log (`log_line_prefix = '%a|%p|'`). Each process of the log has a connection of its
own. What fails must stand in `postgres/known_gaps.toml`, with its reason.
"""

import os
import pathlib
import re
import tomllib

import psycopg
import pytest
from conftest import Server, saequel

LOG = os.environ.get("SAEQUEL_REPLAY_LOG")
LINE = re.compile(r"^[^|\t]*\|(\d+)\|(LOG|DETAIL):  (.*)$", re.S)
GAPS = pathlib.Path(__file__).parent / "postgres/known_gaps.toml"
# The recordings ask for a table `docs`.
DOCS = '{"id": 1, "body": "a text", "score": 0.5, "tags": ["x", "y"], "ts": "2026-01-01T00:00:00Z", "f": [1, 2]}\n'


def statements(path):
    """(connection, statement, parameters) in their order; parameters are None for the simple protocol."""
    entries = []
    for line in pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        if found := LINE.match(line):
            entries.append([found[1], found[2], found[3]])
        elif entries:
            entries[-1][2] += "\n" + line
    found = []
    for pid, kind, text in entries:
        if kind == "DETAIL" and text.startswith("parameters: ") and found:
            values = re.findall(r"\$\d+ = (NULL|'(?:[^']|'')*')", text)
            found[-1][2] = [None if value == "NULL" else value[1:-1].replace("''", "'") for value in values]
        elif match := re.match(r"(statement|execute [^:]*): (.*)", text, re.S):
            found.append([pid, match[2], None if match[1] == "statement" else []])
    return found


def plain(text):
    return re.sub(r"\s+", " ", text).strip().lower()


@pytest.mark.skipif(not LOG, reason="SAEQUEL_REPLAY_LOG names no log of PostgreSQL")
def test_recorded_statements(tmp_path):
    gaps = tomllib.loads(GAPS.read_text())["gap"]
    (tmp_path / "docs.jsonl").write_text(DOCS)
    saequel(tmp_path / "db", "import", tmp_path / "docs.jsonl", "--corpus", "docs", "--text", "body")
    server = Server(tmp_path / "db")
    connections, failed, known = {}, [], []
    try:
        recorded = statements(LOG)
        assert recorded, f"{LOG} holds no statement"
        for pid, sql, parameters in recorded:
            if pid not in connections or connections[pid].closed:
                connections[pid] = psycopg.connect(f"host=127.0.0.1 port={server.pg_port} user=x dbname=saequel")
            wire = connections[pid].pgconn
            if parameters is None:
                result = wire.exec_(sql.encode())
            else:
                result = wire.exec_params(sql.encode(), [value and value.encode() for value in parameters])
            if result.status not in (psycopg.pq.ExecStatus.FATAL_ERROR, psycopg.pq.ExecStatus.BAD_RESPONSE):
                continue
            state = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
            gap = next((gap for gap in gaps if plain(sql).startswith(plain(gap["starts"]))), None)
            if gap and gap["sqlstate"] == state:
                known.append(sql)
                if wire.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                    wire.exec_(b"ROLLBACK")
            else:
                failed.append(f"{state} {result.error_message.decode(errors='replace')}\n{sql}")
    finally:
        for connection in connections.values():
            connection.close()
        server.stop()
    print(f"{len(recorded)} statements, {len(known)} known gaps")
    assert not failed, "\n\n".join(failed)
