"""A running server with a small real database, shared by the tests of all doors."""

import json
import os
import pathlib
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

HERE = pathlib.Path(__file__).parent
ANSWERS = HERE / "../../examples/data/answers.jsonl"
N_DOCS = 60


def binary() -> str:
    """The program: SAEQUEL_BIN, else the one that cargo built."""
    target = os.environ.get("CARGO_TARGET_DIR", os.path.expanduser("~/.cache/saequel/target"))
    return os.environ.get("SAEQUEL_BIN", f"{target}/debug/saequel")


def saequel(db, *arguments, check=True, **more):
    """Runs a command on a database; its standard output."""
    done = subprocess.run([binary(), "--db", str(db), *map(str, arguments)], capture_output=True, text=True, **more)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


class Server:
    """`saequel serve` on free ports."""

    def __init__(self, db, *arguments, env=None):
        self.db = db
        command = [binary(), "--db", str(db), "serve", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})},
        )
        self.stderr = []
        threading.Thread(target=lambda: self.stderr.extend(self.process.stderr), daemon=True).start()
        self.url = self.pg_port = None
        for line in self.process.stdout:
            if found := re.search(r"(https?://[^/\s]+)/v1/sql", line):
                self.url = self.url or found[1]
            if found := re.search(r"psql -h \S+ -p (\d+)", line):
                self.pg_port = int(found[1])
            if "Ctrl-C stops" in line:
                break
        assert self.url, "".join(self.stderr)
        self.port = int(self.url.rsplit(":", 1)[1])
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def http(self, path, body=None, token=None, method=None, headers=None, timeout=60):
        """Status, headers and body of a request."""
        data = body.encode() if isinstance(body, str) else body
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Content-Type", "text/plain")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def sql(self, statement, token=None, **more):
        """Rows of a statement, as objects."""
        status, _, body = self.http("/v1/sql", statement, token, **more)
        assert status == 200, body
        return json.loads(body)

    def stop(self, timeout=30):
        """Asks the server to stop; its exit code."""
        self.process.terminate()
        return self.process.wait(timeout)


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """Two corpora, `answers` and `secret`, of the example's answers."""
    db = tmp_path_factory.mktemp("db") / "test.saequel"
    columns = ["--text", "answer", "--key", "doc_id", "--limit", N_DOCS]
    for corpus in ("answers", "secret"):
        saequel(db, "import", ANSWERS, "--corpus", corpus, *columns)
    return db


@pytest.fixture(scope="session")
def tokens(database):
    """Tokens by name: `admin`, `writer`, `reader`, and `narrow`, which may see `answers` alone. In a file of their own."""
    path = database.parent / "tokens.json"
    made = {"path": str(path)}
    for name, more in {
        "admin": ["--scope", "admin"],
        "writer": ["--scope", "write"],
        "reader": [],
        "narrow": ["--corpus", "answers"],
    }.items():
        made[name] = saequel(database, "token", "create", name, "--tokens", path, *more).strip()
    return made


@pytest.fixture(scope="session")
def server(database):
    """A read-only server that asks for no token."""
    running = Server(database)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def guarded(database, tokens):
    """A server that can write and asks for tokens. It holds the database's write lock while it writes only."""
    running = Server(database, "--write", "--tokens", tokens["path"])
    yield running
    running.stop()


def until(what, seconds=10):
    """Waits until `what()` is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")
