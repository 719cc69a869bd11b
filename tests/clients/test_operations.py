"""`saequel serve` as those see it who run it: settings, logs, audit, metrics, signals, TLS, mistakes at the start."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
import tomllib
import urllib.request

import pytest
from conftest import Server, binary, saequel, until

FOREVER = "SELECT count(*) FROM generate_series(1, 1000000000000)"


def serve(db, *arguments, env=None, timeout=60):
    """Runs `saequel serve`, which must end by itself: exit code, standard output, standard error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SAEQUEL_")}
    done = subprocess.run(
        [binary(), "--db", str(db), "serve", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, env={**clean, **(env or {})}, stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


def settings(db, *arguments, env=None):
    """What `--print-config` prints: as values, and as lines by key."""
    code, out, err = serve(db, *arguments, "--print-config", env=env)
    assert code == 0, err
    lines = {line.split(" = ")[0]: line for line in out.splitlines() if " = " in line}
    return tomllib.loads(out), lines


def log_lines(server):
    """The log of a server that logs JSON; every line must parse."""
    return [json.loads(line) for line in list(server.stderr)]


def events(server, message):
    return [line for line in log_lines(server) if line["fields"].get("message") == message]


def in_background(work):
    """Runs `work` in a thread; its result, or what it raised, comes in the list."""
    results = []

    def run():
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return results


@pytest.fixture
def empty(tmp_path):
    """A database without corpora, whose folder is the test's own."""
    db = tmp_path / "empty.saequel"
    db.mkdir()
    saequel(db, "sql", "SHOW CORPORA")
    return db


# Settings


def test_an_option_beats_the_environment_which_beats_the_file(empty, tmp_path):
    (empty / "saequel.toml").write_text('timeout = 20\nmax_queries = 20\nmax_wait = 20\nmax_body = "2MiB"\n')
    env = {"SAEQUEL_MAX_QUERIES": "30", "SAEQUEL_TIMEOUT": "30", "SAEQUEL_MEMORY": "1GiB", "SAEQUEL_DRAIN": ""}
    values, lines = settings(empty, "--timeout", "40", env=env)
    assert (values["timeout"], values["max_queries"], values["max_wait"]) == (40, 30, 20)
    assert (values["max_body"], values["memory"], values["drain"]) == ("2MiB", "1GiB", 10)
    for key, source in {
        "timeout": "--timeout", "max_queries": "SAEQUEL_MAX_QUERIES", "memory": "SAEQUEL_MEMORY", "drain": "default",
        "max_wait": f"{empty}/saequel.toml, line 3",
    }.items():
        assert lines[key].endswith(f"# {source}"), lines[key]
    # A file that is named takes the place of the other one.
    other = tmp_path / "other.toml"
    other.write_text('timeout = 7\naudit_log = "logs/audit.jsonl"\n')
    for arguments, env in [(["--config", other], {}), ([], {"SAEQUEL_CONFIG": str(other)})]:
        values, _ = settings(empty, *arguments, env=env)
        assert (values["timeout"], values["max_queries"]) == (7, 8)
        assert values["audit_log"] == str(tmp_path / "logs/audit.jsonl"), "relative to the file"


def test_the_printed_settings_are_a_file_that_says_the_same(empty, tmp_path):
    arguments = [
        "--listen", "127.0.0.1:0", "--postgres", "off", "--write", "--plain-text", "--allow-dir", tmp_path, "--allow-dir",
        "/srv", "--timeout", "1.5", "--max-rows", "100", "--query-memory", "100MB", "--max-queries-per-token", "2",
        "--log-format", "json", "--log-level", "debug", "--audit-log", tmp_path / "audit", "--threads", "2",
    ]
    code, out, _ = serve(empty, *arguments, "--print-config")
    assert code == 0
    (tmp_path / "again.toml").write_text(out)
    values, lines = settings(empty, "--config", tmp_path / "again.toml")
    assert values == tomllib.loads(out)
    assert values["allow_dir"] == [str(tmp_path), "/srv"] and values["query_memory"] == "100000000"
    assert values["postgres"] == "off" and values["write"] is True
    assert all("again.toml, line" in lines[key] for key in ("timeout", "write", "allow_dir"))
    # What the file switched on can be switched off.
    values, lines = settings(empty, "--config", tmp_path / "again.toml", "--write=false", "--max-rows", "none")
    assert values["write"] is False and "max_rows" not in values
    # Nobody who reads it learns a secret.
    assert "sq_" not in out


@pytest.mark.parametrize(
    "text, says",
    [
        ("# Limits\nmax_querys = 3\n", "line 2: there is no key 'max_querys'; did you mean 'max_queries'?"),
        ("timeout = \"soon\"\n", "line 1: timeout: expected a number of seconds from 1 to 86400, got the string \"soon\""),
        ("write = 1\n", "line 1: write: expected true or false, got the integer 1"),
        ("\nmax_body = -1\n", "line 2: max_body: expected a size such as 512MiB"),
        ("[serve]\ntimeout = 3\n", "line 1: there is no key 'serve'"),
        ("timeout: 3\n", "line 1: no TOML"),
        ("db = \"other\"\n", "the database folder is named with --db"),
        ("tls_cert = \"cert.pem\"\n", "tls_key is not"),
    ],
)
def test_a_mistake_in_the_file_stops_the_start(empty, text, says):
    (empty / "saequel.toml").write_text(text)
    code, out, err = serve(empty)
    assert code == 2 and says in err and str(empty / "saequel.toml") in err and not out, err


def test_other_mistakes_stop_the_start_too(empty, tmp_path):
    for arguments, env, says in [
        ([], {"SAEQUEL_MAX_WAIT": "soon"}, "SAEQUEL_MAX_WAIT: expected a number of seconds from 0 to 86400, got 'soon'"),
        ([], {"SAEQUEL_LOG": "a=b=c"}, "SAEQUEL_LOG: 'a=b=c' is no filter"),
        (["--timeout", "0"], {}, "'--timeout <SECONDS>'"),
        (["--postgres", "off", "--no-postgres"], {}, "cannot be used with"),
        (["--tls-key", "key.pem"], {}, "tls_cert is not"),
    ]:
        code, _, err = serve(empty, *arguments, env=env)
        assert code == 2 and says in err, err
    code, _, err = serve(empty, "--config", tmp_path / "none.toml")
    assert code == 4 and "none.toml" in err
    code, _, err = serve(empty, "--audit-log", tmp_path / "no/folder/audit")
    assert code == 4 and "audit log" in err
    # What looks like a setting and is none is told, and stops nothing.
    code, _, err = serve(empty, "--print-config", env={"SAEQUEL_MAX_QUERY": "3"})
    assert code == 0 and "did you mean SAEQUEL_MAX_QUERIES?" in err


# Who may come in


def test_an_address_that_others_can_reach_needs_tokens_and_tls(empty):
    code, _, err = serve(empty, "--listen", "0.0.0.0:0", "--no-postgres")
    assert code == 5 and "--listen: 0.0.0.0:0 can be reached from other machines, and there is no token" in err
    code, _, err = serve(empty, "--listen", "127.0.0.1:0", "--postgres", "[::]:0")
    assert code == 5 and "--postgres" in err
    saequel(empty, "token", "create", "ana")
    code, _, err = serve(empty, "--listen", "0.0.0.0:0", "--no-postgres")
    assert code == 5 and "without TLS tokens can be read" in err and "--plain-text" in err
    server = Server(empty, "--plain-text")
    assert server.stop() == 0


def test_a_tokens_file_that_cannot_be_trusted_stops_the_start(empty, tmp_path):
    path = tmp_path / "tokens.json"
    saequel(empty, "token", "create", "ana", "--tokens", path)
    path.chmod(0o666)
    code, _, err = serve(empty, "--tokens", path)
    assert code == 5 and f"others than its owner may write {path} (mode 0666)" in err and f"chmod 600 '{path}'" in err
    path.chmod(0o600)
    path.write_text("ana: secret")
    code, _, err = serve(empty, "--tokens", path)
    assert code == 3 and f"{path} is no file of tokens" in err and "secret" not in err
    path.unlink()
    path.mkdir()
    code, _, err = serve(empty, "--tokens", path)
    assert code != 0 and str(path) in err


def test_a_port_that_is_taken_is_named_with_the_way_out(empty):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = serve(empty, "--listen", address, "--no-postgres")
        assert code == 6 and f"--listen: {address}" in err and "choose another port with --listen" in err
        code, _, err = serve(empty, "--listen", "127.0.0.1:0", "--postgres", address)
        assert code == 6 and f"--postgres: {address}" in err


# Logs


def test_the_log_is_json_and_tells_no_secret(database, tokens, tmp_path):
    audit = tmp_path / "audit.jsonl"
    server = Server(
        database, "--tokens", tokens["path"], "--log-format", "json", "--log-level", "debug", "--audit-log", audit,
        "--slow-query", "0.001", env={"SAEQUEL_MAX_ROW": "1"},
    )
    reader = tokens["reader"]
    server.sql("SELECT doc_id FROM answers LIMIT 3", reader, headers={"X-Query-Id": "unused"})
    body = json.dumps({"sql": "SELECT $1 AS said", "params": ["hush-hush"]})
    assert server.http("/v1/sql", body, reader, headers={"Content-Type": "application/json"})[0] == 200
    body = json.dumps({"sql": "SELECT $1::int AS n", "params": ["hush-hush"]})
    assert server.http("/v1/sql", body, reader, headers={"Content-Type": "application/json"})[0] >= 400
    assert server.http("/v1/sql", "SELECT nothing FROM answers", reader)[0] == 400
    assert server.http("/v1/sql", "SELECT 1", "sq_guessed-by-somebody")[0] == 401
    until(lambda: len(audit.read_text().splitlines()) == 5)
    assert server.stop() == 0
    until(lambda: events(server, "stopped"))

    for line in log_lines(server):
        assert {"timestamp", "level", "target", "fields"} <= line.keys(), line
    [start] = events(server, "serving")
    fields = start["fields"]
    assert fields["http"] == f"127.0.0.1:{server.port}" and fields["postgres"] == f"127.0.0.1:{server.pg_port}"
    assert fields["version"] and fields["max_queries"] == 8 and fields["tokens_needed"] is True
    assert fields["database"] and fields["write"] is False and start["level"] == "INFO"
    assert any("did you mean SAEQUEL_MAX_ROWS" in line["fields"]["message"] for line in log_lines(server))
    slow = events(server, "slow query")
    assert any(line["fields"]["statement"].startswith("SELECT doc_id") and line["level"] == "WARN" for line in slow)
    ended = slow + events(server, "query")
    assert {line["fields"]["caller"] for line in ended} == {"reader"} and len(ended) == 4
    assert {line["fields"]["outcome"] for line in ended} == {"done", "failed"}
    assert any(line["fields"].get("sqlstate") == "42703" or line["fields"]["outcome"] == "failed" for line in ended)
    assert len(events(server, "a token was refused")) == 1

    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["query", "query", "query", "query", "refused"]
    first, _, bad_value, bad_name, refused = lines
    assert (first["caller"], first["door"], first["state"], first["rows"]) == ("reader", "http", "done", 3)
    assert first["statement"] == "SELECT doc_id FROM answers LIMIT 3" and first["peer"].startswith("127.0.0.1:")
    assert first["started"] <= first["ended"] and first["elapsed_ms"] > 0 and "sqlstate" not in first
    for line in (bad_value, bad_name):
        assert line["state"] == "failed" and re.fullmatch("[0-9A-Z]{5}", line["sqlstate"]), line
    assert refused["door"] == "http" and refused["peer"].startswith("127.0.0.1:")
    assert audit.stat().st_mode & 0o777 == 0o600

    below_debug = [line for line in log_lines(server) if line["level"] != "DEBUG"]
    for secret in (reader, "guessed-by-somebody", "hush-hush", "Bearer"):
        assert secret not in audit.read_text() and secret not in json.dumps(below_debug), secret
    assert reader not in "".join(server.stderr) and "guessed-by-somebody" not in "".join(server.stderr)


def test_levels_and_text_without_colours(empty):
    server = Server(empty)
    server.sql("SELECT 1")
    until(lambda: any("elapsed_ms" in line for line in server.stderr))
    assert server.stop() == 0
    said = "".join(server.stderr)
    assert "INFO" in said and "serving" in said and "\x1b[" not in said
    for arguments, env in [(["--log-level", "warn"], {}), ([], {"SAEQUEL_LOG": "off"}), (["--log-level", "off"], {})]:
        quiet = Server(empty, *arguments, env=env)
        quiet.sql("SELECT 1")
        assert quiet.stop() == 0
        assert "INFO" not in "".join(quiet.stderr)
    # Commands are as silent as ever.
    done = subprocess.run([binary(), "--db", str(empty), "sql", "SELECT 1"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    # The end, too, is one line of JSON.
    code, _, err = serve(empty, "--log-format", "json", "--listen", "0.0.0.0:0")
    last = json.loads(err.splitlines()[-1])
    assert code == 5 and last["level"] == "ERROR" and "there is no token" in last["fields"]["error"]


def test_hangup_opens_the_audit_log_anew(empty, tmp_path):
    audit, moved = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    server = Server(empty, "--audit-log", audit, "--log-format", "json")
    server.sql("SELECT 1 AS before")
    until(lambda: "before" in audit.read_text())
    audit.rename(moved)
    server.sql("SELECT 1 AS between")
    until(lambda: "between" in moved.read_text())
    server.process.send_signal(signal.SIGHUP)
    until(lambda: events(server, "read again"))
    server.sql("SELECT 1 AS after")
    until(lambda: "after" in audit.read_text())
    assert "after" not in moved.read_text() and "between" not in audit.read_text()
    assert server.stop() == 0


# Metrics


def metrics(server):
    """Values by name with labels, and types by name."""
    status, headers, body = server.http("/metrics")
    assert status == 200, body
    values, types = {}, {}
    for line in body.decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    return values, types


def runs(server):
    """Whether a query runs."""
    return metrics(server)[0]["saequel_queries_running"] == 1


def test_metrics_move(database):
    server = Server(database)
    before, types = metrics(server)
    server.sql("SELECT doc_id FROM answers LIMIT 5")
    assert server.http("/v1/sql", "SELECT nothing FROM answers")[0] == 400
    after, _ = metrics(server)

    def moved(name):
        return after[name] - before[name]

    assert moved('saequel_queries_total{door="http",outcome="done"}') == 1
    assert moved('saequel_queries_total{door="http",outcome="failed"}') == 1
    assert moved('saequel_queries_total{door="postgres",outcome="done"}') == 0
    assert moved('saequel_rows_total{door="http"}') == 5
    assert moved('saequel_query_duration_seconds_count{door="http"}') == 2
    assert moved('saequel_query_duration_seconds_bucket{le="+Inf",door="http"}') == 2
    assert after["saequel_queries_running_limit"] == 8 and after["saequel_queries_waiting_limit"] == 64
    assert after["saequel_query_memory_limit_bytes"] == 2 << 30
    assert 10e6 < after["process_resident_memory_bytes"] < 20e9 and after["process_open_fds"] > 5
    assert abs(time.time() - after["process_start_time_seconds"]) < 60
    assert moved("process_cpu_seconds_total") >= 0
    assert types["saequel_queries"] == "counter" and types["saequel_query_duration_seconds"] == "histogram"
    assert all(re.fullmatch("(saequel|process)_[a-z_]+", name) for name in types)
    ended = in_background(lambda: server.http("/v1/sql", FOREVER))
    until(lambda: runs(server))
    server.process.kill()
    until(lambda: ended)


# Signals


def test_a_running_query_ends_before_the_server(database):
    server = Server(database, "--log-format", "json", "--drain", "60")
    # More rows than fit between the two: the query runs until the client has read them.
    n_rows = 2_000_000
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", "/v1/sql?format=csv", f"SELECT value FROM generate_series(1, {n_rows})",
                       {"Content-Type": "text/plain"})
    answer = connection.getresponse()
    first = answer.read(1000)
    server.process.terminate()
    until(lambda: any("told to stop" in line["fields"]["message"] for line in log_lines(server)))

    def refuses():
        try:
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        except OSError:
            return True
        return False

    until(refuses)
    assert server.process.poll() is None, "the query runs still"
    rows = (first + answer.read()).split()
    assert len(rows) == n_rows + 1 and rows[-1] == str(n_rows).encode()
    assert server.process.wait(30) == 0
    until(lambda: events(server, "stopped"))
    assert not any("cancelled" in line["fields"]["message"] for line in log_lines(server))


def test_a_query_that_does_not_end_in_time_is_cancelled(database):
    server = Server(database, "--log-format", "json", "--drain", "1")
    answer = in_background(lambda: server.http("/v1/sql", FOREVER))
    until(lambda: runs(server))
    began = time.monotonic()
    assert server.stop() == 0
    assert 0.9 < time.monotonic() - began < 10
    until(lambda: answer)
    status, _, body = answer[0]
    assert status == 504 and json.loads(body)["error"]["sqlstate"] == "57014", answer
    [cancelled] = [line for line in log_lines(server) if "are cancelled" in line["fields"]["message"]]
    assert cancelled["level"] == "WARN"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(database, number):
    server = Server(database, "--log-format", "json", "--drain", "600")
    answer = in_background(lambda: server.http("/v1/sql", FOREVER))
    until(lambda: runs(server))
    server.process.send_signal(number)
    until(lambda: any("told to stop" in line["fields"]["message"] for line in log_lines(server)))
    assert server.process.poll() is None
    server.process.send_signal(number)
    assert server.process.wait(5) == 0
    until(lambda: answer)


# TLS


def certificate(folder, name):
    """Makes a key and a certificate for 127.0.0.1 that vouches for itself."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )
    return cert, key


def test_tls(database, tokens, tmp_path):
    cert, key = certificate(tmp_path, "first")
    server = Server(database, "--tokens", tokens["path"], "--tls-cert", cert, "--tls-key", key, "--log-format", "json")
    assert server.url.startswith("https://")

    def ask():
        request = urllib.request.Request(server.url + "/v1/sql?format=csv", b"SELECT count(*) AS n FROM answers")
        request.add_header("Authorization", f"Bearer {tokens['reader']}")
        request.add_header("Content-Type", "text/plain")
        trusts = ssl.create_default_context(cafile=cert)
        with urllib.request.urlopen(request, timeout=30, context=trusts) as answer:
            return answer.read()

    assert ask() == b"n\n60\n"
    with pytest.raises((http.client.HTTPException, OSError)):
        plain = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        plain.request("GET", "/health")
        plain.getresponse()
    old = ssl.get_server_certificate(("127.0.0.1", server.port))
    # A certificate that cannot be used changes nothing; a good one is shown to new connections.
    good = key.read_text()
    key.write_text("no key")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: events(server, "could not be read again"))
    assert ssl.get_server_certificate(("127.0.0.1", server.port)) == old
    key.write_text(good)
    certificate(tmp_path, "second")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: events(server, "read again"))
    assert ssl.get_server_certificate(("127.0.0.1", server.port)) != old
    assert ask() == b"n\n60\n"
    assert server.stop() == 0


def test_a_bad_certificate_stops_the_start(empty, tmp_path):
    cert, key = certificate(tmp_path, "good")
    (tmp_path / "other").mkdir()
    other_cert, _ = certificate(tmp_path / "other", "other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for files, code, says in [
        ((text, key), 3, "text.pem: no certificate"),
        ((cert, text), 3, "text.pem: "),
        ((other_cert, key), 3, "cannot be used with the key in"),
        ((tmp_path / "none.pem", key), 4, "none.pem"),
    ]:
        ended, out, err = serve(empty, "--listen", "127.0.0.1:0", "--no-postgres", "--tls-cert", files[0], "--tls-key", files[1])
        assert ended == code and says in err and not out, err


# Backups


def test_a_copy_under_the_lock_is_whole(database, tmp_path):
    """The recipe of docs/serving.md: readers go on, a writer is told, the copy opens and says the same."""
    server = Server(database)
    copy = tmp_path / "copy.saequel"
    slow = f"cp -a '{database}' '{copy}' && touch '{tmp_path}/copied' && while [ ! -e '{tmp_path}/go' ]; do sleep 0.05; done"
    backup = subprocess.Popen(["flock", str(database / "lock"), "sh", "-c", slow])
    until((tmp_path / "copied").exists)
    assert server.http("/v1/sql", "SELECT count(*) FROM answers")[0] == 200
    refused = subprocess.run(
        [binary(), "--db", str(database), "sql", "DELETE FROM answers WHERE doc_id = 'none'"], capture_output=True, text=True
    )
    assert refused.returncode == 6 and "another writer is at work" in refused.stderr, refused.stderr
    (tmp_path / "go").touch()
    assert backup.wait(10) == 0 and server.stop() == 0
    count = "SELECT count(*) AS n, sum(n_tokens) AS tokens FROM answers"
    assert saequel(copy, "sql", count, "--format", "csv") == saequel(database, "sql", count, "--format", "csv")
    saequel(copy, "doctor")
