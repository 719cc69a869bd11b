"""Requests that a machine makes up from /openapi.json: none of them may be our mistake."""

import os
import pathlib
import subprocess
import sys

from conftest import Server, saequel, ANSWERS


def test_no_made_up_request_is_our_mistake(tmp_path):
    db = tmp_path / "fuzz.saequel"
    saequel(db, "import", ANSWERS, "--corpus", "answers", "--text", "answer", "--key", "doc_id", "--limit", 5)
    server = Server(db, "--write", "--timeout", "5")
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    try:
        done = subprocess.run(
            [
                program, "run", f"{server.url}/openapi.json", "--checks", "not_a_server_error",
                "--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1",
                "--request-timeout", "10", "--no-color",
            ],
            capture_output=True, text=True, timeout=180, cwd=tmp_path, env={**os.environ, "COLUMNS": "160"},
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert server.http("/ready")[0] == 200
    finally:
        server.stop()
