"""What must not happen, tried through every door: each attempt gets a clear error, and the server still answers afterwards.

A door whose client is not installed, or which the server does not have, is left out.
"""

import asyncio
import contextlib
import gzip
import json
import os
import shutil
import socket
import threading
import time

import pytest
from conftest import N_DOCS, Server, saequel, until

# What a guess at a file's content would find.
PASSWD = "root:"
ENDLESS = "SELECT count(*) AS n FROM generate_series(1, 100000000000) WHERE value % 7 = 3"


class Refused(Exception):
    """An error of the server: its SQLSTATE, or the HTTP status where there is none."""

    def __init__(self, state, message):
        super().__init__(f"{state}: {message}")
        self.state, self.message = state, message


class Http:
    name = "http"

    def __init__(self, server):
        self.server = server

    def run(self, statement, token=None, parameters=None):
        headers = {"Content-Type": "application/json"}
        body = json.dumps({"sql": statement, **({"params": parameters} if parameters else {})})
        status, _, answer = self.server.http("/v1/sql?format=json", body, token, headers=headers, timeout=240)
        if status == 200:
            # Rows are objects, or objects with the rows in them.
            rows = json.loads(answer)
            rows = rows if isinstance(rows, list) else rows.get("rows", rows.get("data"))
            return [list(row.values()) if isinstance(row, dict) else row for row in rows]
        error = json.loads(answer)["error"]
        assert error["message"] and "panicked" not in error["message"]
        raise Refused(error.get("sqlstate", status), error["message"])


class Postgres:
    name = "postgres"
    user = None

    def __init__(self, server):
        self.psycopg = pytest.importorskip("psycopg")
        if server.pg_port is None:
            pytest.skip("this server has no PostgreSQL wire")
        self.server = server

    def run(self, statement, token=None, parameters=None):
        user, password = token.split("|", 1) if token and "|" in token else ("nobody", token or "")
        # Names come with the token: SCRAM needs both.
        user = self.server.names.get(password, user) if hasattr(self.server, "names") else user
        try:
            with self.psycopg.connect(
                host="127.0.0.1", port=self.server.pg_port, user=user, password=password or "x", dbname="saequel",
                autocommit=True, connect_timeout=20,
            ) as connection:
                if parameters:
                    for n in range(len(parameters), 0, -1):
                        statement = statement.replace(f"${n}", "%s")
                cursor = connection.execute(statement, parameters)
                return [list(row) for row in cursor.fetchall()] if cursor.description else []
        except self.psycopg.Error as error:
            raise Refused(error.sqlstate or "08006", str(error)) from None


class Flight:
    name = "flight"

    def __init__(self, server):
        self.flightsql = pytest.importorskip("adbc_driver_flightsql.dbapi")
        self.server = server

    def run(self, statement, token=None, parameters=None):
        from adbc_driver_flightsql import DatabaseOptions

        options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"} if token else {}
        try:
            with self.flightsql.connect(
                f"grpc://localhost:{self.server.port}", db_kwargs=options, autocommit=True
            ) as connection, connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return [list(row) for row in cursor.fetchall()]
        except self.flightsql.Error as error:
            state = error.sqlstate
            state = state if state and state.strip("0") else getattr(error.status_code, "name", "?")
            raise Refused(state, str(error)) from None


class Mcp:
    name = "mcp"

    def __init__(self, server):
        self.mcp = pytest.importorskip("mcp")
        self.server = server

    def run(self, statement, token=None, parameters=None):
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        if parameters:
            pytest.skip("agents give no parameters")

        async def ask():
            url = self.server.url + "/mcp"
            client = create_mcp_http_client(headers={"Authorization": f"Bearer {token}"} if token else {})
            async with Client(streamable_http_client(url, http_client=client)) as connected:
                return await connected.call_tool("query", {"sql": statement})

        try:
            answer = asyncio.run(ask())
        except BaseException as error:  # groups of errors, of which the SDK makes many
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise Refused("28P01" if "401" in str(error) or "Unauthorized" in str(error) else "?", str(error)) from None
        if answer.is_error:
            raise Refused("?", answer.content[0].text)
        return [list(row) for row in answer.structured_content["rows"]]


DOORS = [Http, Postgres, Flight, Mcp]
# How a state shows where there is no SQLSTATE.
GRPC = {"42501": "UNAUTHORIZED", "28P01": "UNAUTHENTICATED", "53300": "?"}


@pytest.fixture(params=DOORS, ids=[door.name for door in DOORS])
def door(request, server):
    return opened(request.param, server)


@pytest.fixture(params=DOORS, ids=[door.name for door in DOORS])
def locked(request, guarded, tokens):
    """A door of the server that asks for tokens."""
    guarded.names = {token: name for name, token in tokens.items() if name != "path"}
    return opened(request.param, guarded, tokens["admin"])


def opened(kind, server, token=None):
    door = kind(server)
    try:
        assert door.run("SELECT 1 AS a", token)[0][0] in (1, "1")
    except (Refused, AssertionError) as error:
        if kind is Http:
            raise
        pytest.skip(f"the server has no door for {kind.name}: {error}")
    return door


def refused(door, statement, token=None, parameters=None):
    """The error that a statement gives; then the door must still answer."""
    with pytest.raises(Refused) as caught:
        rows = door.run(statement, token, parameters)
        pytest.fail(f"{statement[:200]}: expected an error, got {str(rows)[:500]}")
    assert alive(door.server)
    return caught.value


def alive(server):
    status, _, _ = server.http("/health", timeout=20)
    return status == 200


# Statements that would change or read what they must not.


@pytest.mark.parametrize(
    "statement",
    [
        "COPY answers TO '/tmp/stolen.csv'",
        "COPY (SELECT 1) TO '/tmp/stolen.csv'",
        "COPY answers FROM '/etc/passwd'",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE TABLE x AS SELECT 1",
        "CREATE VIEW x AS SELECT 1",
        "CREATE FUNCTION x() RETURNS INT RETURN 1",
        "CREATE DATABASE x",
        "CREATE SCHEMA x",
        "INSERT INTO answers SELECT * FROM answers",
        "UPDATE answers SET answer = 'x'",
        "MERGE INTO answers USING answers AS b ON true WHEN MATCHED THEN DELETE",
        "DELETE FROM answers WHERE true",
        "DROP CORPUS answers",
        "DROP TABLE answers",
        "TRUNCATE TABLE answers",
        "ALTER FEATURE 0 RENAME TO 'x'",
        "CREATE CONCEPT x AS (0)",
        "CREATE CORPUS x FROM '/etc/passwd' FORMAT text",
        "IMPORT INTO answers FROM '/etc/passwd' FORMAT text",
        "COMPACT answers",
        "WITH x AS (DELETE FROM answers WHERE true RETURNING *) SELECT * FROM x",
        "SELECT * INTO x FROM answers",
        "EXPLAIN ANALYZE DELETE FROM answers WHERE true",
        "LOAD DATA INPATH '/etc/passwd' INTO TABLE answers",
        "ATTACH '/etc/passwd' AS x",
        "CALL system('id')",
    ],
)
def test_nothing_is_changed_by_who_only_reads(door, statement):
    state = refused(door, statement).state
    assert state[:2] in ("42", "25", "0A", "22") or state in ("?", "INVALID_ARGUMENT", "UNAUTHORIZED", "NOT_FOUND",
                                                              "NOT_IMPLEMENTED", "PERMISSION_DENIED"), state
    assert not os.path.exists("/tmp/stolen.csv")
    assert door.run("SELECT count(*) AS n FROM answers")[0][0] in (N_DOCS, str(N_DOCS))


def paths(server):
    db, up = server.db, "../" * 40
    return [
        "/etc/passwd", "/etc/passwd.csv", f"{up}etc/passwd", f"{db}/{up}etc/passwd", "/proc/self/environ", "/proc/self/fd/0",
        "/proc/self/root/etc/passwd", "/proc/self/cmdline.csv", "/etc/*", "/etc/pass*", "file:///etc/passwd", "//etc/passwd",
        "/etc/./passwd", f"{db}/tokens.json", f"{db}/./tokens.json", f"{db}/corpora/../tokens.json", f"{db}//tokens.json",
        f"{db}/*.json", f"{db}/tok*n?.json", f"{db}/lock", f"{db}/catalog/meta.lance", f"{db}/link.json", f"{db}/link.csv", f"{db}/hard.json",
        "http://169.254.169.254/latest.json", "s3://bucket/x.parquet", "/dev/stdin", "/dev/zero.csv", "~/.ssh/id_rsa.csv",
        "/etc/passwd\x01.csv", "\\\\host\\share.csv",
    ]


@pytest.fixture(scope="module")
def bait(database, tmp_path_factory):
    """A server with its tokens where they lie by default, and links to them and to files outside."""
    db = tmp_path_factory.mktemp("bait") / "bait.saequel"
    shutil.copytree(database, db)
    os.symlink("/etc/passwd", db / "link.csv")
    os.symlink(db / "tokens.json", db / "link.json")
    names = {saequel(db, "token", "create", name, *more).strip(): name
             for name, more in {"wide": [], "narrow": ["--corpus", "answers"], "admin": ["--scope", "admin"]}.items()}
    os.link(db / "tokens.json", db / "hard.json")
    server = Server(db)
    server.names = names
    yield server
    server.stop()


@pytest.mark.parametrize("kind", DOORS, ids=[door.name for door in DOORS])
def test_no_file_is_read_that_is_not_allowed(bait, kind):
    tokens = {name: token for token, name in bait.names.items()}
    door = opened(kind, bait, tokens["admin"])
    for path in paths(bait):
        for statement in (
            f"SELECT * FROM '{path}'",
            f"DESCRIBE '{path}'",
            f'SELECT * FROM "{path}"',
            f"SELECT * FROM diff('answers', 'SELECT * FROM ''{path}''')",
        ):
            for who in tokens if kind is Http else ["wide"]:
                error = refused(door, statement, tokens[who])
                for secret in (PASSWD, "stored_key", 'sha256":', *bait.names):
                    assert secret not in error.message, (statement, error)


@pytest.mark.parametrize(
    "call",
    [
        "read_csv('/etc/passwd')", "read_parquet('/etc/passwd')", "read_text('/etc/passwd')", "read_json('/etc/passwd')",
        "pg_read_file('/etc/passwd')", "pg_ls_dir('/')", "glob('/etc/*')", "parquet_metadata('/etc/passwd')",
        "lo_import('/etc/passwd')", "getenv('PATH')", "current_setting('data_directory')", "read_blob('/etc/passwd')",
    ],
)
def test_no_function_reads_a_file(door, call):
    for statement in (f"SELECT {call}", f"SELECT * FROM {call}"):
        try:
            rows = door.run(statement)
        except Refused as error:
            assert PASSWD not in error.message
        else:
            assert PASSWD not in str(rows) and str(door.server.db) not in str(rows), rows
    assert alive(door.server)


def test_settings_do_not_leak_between_sessions(door):
    before = door.run("SELECT name, value FROM information_schema.df_settings ORDER BY name")
    for statement in (
        "SET datafusion.execution.batch_size = 7",
        "SET SESSION datafusion.execution.batch_size = 7",
        "SET TIME ZONE 'Asia/Tokyo'",
        "SET search_path = secret",
        "RESET ALL",
        "SELECT set_config('datafusion.execution.batch_size', '7', false)",
    ):
        with contextlib.suppress(Refused):
            door.run(statement)
    assert door.run("SELECT name, value FROM information_schema.df_settings ORDER BY name") == before


def test_values_are_never_statements(door):
    for value in ("'; DROP CORPUS answers; --", "' OR '1'='1", "1); DELETE FROM answers WHERE true; --", "\\'", "$1", "*/"):
        assert door.run("SELECT CAST($1 AS VARCHAR) AS a", parameters=[value]) == [[value]]
        assert door.run("SELECT doc_id FROM answers WHERE doc_id = $1", parameters=[value]) == []
    assert door.run("SELECT count(*) AS n FROM answers")[0][0] in (N_DOCS, str(N_DOCS))


# Who may do what.


@pytest.mark.parametrize("token", ["sq_" + "x" * 43, "", " ", "sq_", "x" * 10_000, "admin", "é", "null"])
def test_wrong_tokens_open_nothing(locked, token):
    with contextlib.suppress(UnicodeEncodeError, ValueError):  # what no client can send
        error = refused(locked, "SELECT 1", token)
        # gRPC's own client refuses to send what is no ASCII.
        unsent = "non-printable ASCII" in error.message
        known = ("28P01", "28000", "UNAUTHENTICATED", "53300", "?", "08006", "54000", 431, "TIMEOUT")
        assert unsent or error.state in known, error
        assert not token.startswith("sq_x") or token not in error.message


def test_no_token_opens_nothing(locked):
    assert refused(locked, "SELECT 1").state in ("28P01", "28000", "UNAUTHENTICATED", "?", "08006")


def test_revoked_and_expired_tokens(locked, tokens):
    name = f"gone-{locked.name}"
    path = tokens["path"]
    token = saequel(locked.server.db, "token", "create", name, "--tokens", path).strip()
    locked.server.names[token] = name

    def runs(expected):
        try:
            locked.run("SELECT 1 AS a", token)
        except Refused:
            return not expected
        return expected

    until(lambda: runs(True))
    saequel(locked.server.db, "token", "revoke", name, "--tokens", path)
    until(lambda: runs(False))
    refused(locked, "SELECT 1", token)
    # Expired: the day is changed by hand, as nobody waits for one.
    token = saequel(locked.server.db, "token", "create", name, "--tokens", path, "--days", "1").strip()
    locked.server.names[token] = name
    until(lambda: runs(True))
    file = json.loads(open(path).read())
    for entry in file["tokens"]:
        if entry["name"] == name:
            entry["expires"] = "2001-01-01T00:00:00Z"
    with open(path + ".new", "w") as out:
        out.write(json.dumps(file))
    os.chmod(path + ".new", 0o600)
    os.rename(path + ".new", path)
    until(lambda: runs(False))
    saequel(locked.server.db, "token", "revoke", name, "--tokens", path)


def test_a_token_sees_its_corpora_alone(locked, tokens):
    narrow = tokens["narrow"]
    assert locked.run("SELECT count(*) AS n FROM answers", narrow)[0][0] in (N_DOCS, str(N_DOCS))
    for statement in (
        "SELECT * FROM secret", "SELECT * FROM secret_activations", "SELECT * FROM stored.secret", "DESCRIBE secret",
        "SELECT * FROM secret AS OF VERSION 1", "SELECT * FROM diff('answers', 'secret')",
        "SELECT * FROM diff('answers', 'SELECT * FROM secret')", "SELECT * FROM correlate('secret')",
        "SELECT * FROM cluster('secret')", "SELECT * FROM retrieve('secret', 'tea')",
        "SELECT * FROM answers WHERE doc_id IN (SELECT doc_id FROM secret)",
    ):
        error = refused(locked, statement, narrow)
        made_up = refused(locked, statement.replace("secret", "sebert"), narrow)
        assert error.state == made_up.state, statement
        assert "secret" not in made_up.message, made_up
    for statement in (
        "SHOW CORPORA", "SHOW TABLES", "SELECT * FROM saequel.corpora", "SELECT * FROM saequel.jobs",
        "SELECT * FROM information_schema.tables", "SELECT * FROM information_schema.columns", "DESCRIBE FEATURE 1",
        "SELECT statement FROM saequel.queries WHERE caller <> 'narrow'",
    ):
        assert "secret" not in str(locked.run(statement, narrow)), statement
    if locked.name == "postgres":
        assert "secret" not in str(locked.run("SELECT relname FROM pg_catalog.pg_class", narrow))
        assert "secret" not in str(locked.run("SELECT * FROM pg_catalog.pg_attribute", narrow))


def test_a_token_writes_what_it_may(locked, tokens):
    for who in ("reader", "narrow"):
        for statement in (
            "DELETE FROM answers WHERE true", "DELETE FROM secret WHERE true", "DROP CORPUS secret", "COMPACT answers",
            "ALTER FEATURE 0 RENAME TO 'x'", "CREATE CONCEPT x AS (0)", "IMPORT INTO answers FROM 'x.csv'",
        ):
            error = refused(locked, statement, tokens[who])
            assert error.state in ("42501", "UNAUTHORIZED", "?", "PERMISSION_DENIED"), error
    if locked.name != "mcp":
        refused(locked, "DELETE FROM answers WHERE doc_id IN (SELECT doc_id FROM nothing)", tokens["writer"])
        locked.run("DELETE FROM answers WHERE doc_id = 'none such'", tokens["writer"])


def test_guessing_is_slowed_down(database, tokens):
    with closing(Server(database, "--tokens", tokens["path"])) as server:
        statuses = [server.http("/v1/sql", "SELECT 1", f"sq_{n}")[0] for n in range(40)]
        assert statuses[0] == 401 and statuses[-1] == 429 and set(statuses) == {401, 429}, statuses
        # Who has a right token is let in from the same address.
        assert server.http("/v1/sql", "SELECT 1", tokens["reader"])[0] == 200


@contextlib.contextmanager
def closing(server):
    try:
        yield server
    finally:
        server.stop()


def test_queries_of_others_are_nobodys_business(guarded, tokens):
    if guarded.http("/v1/queries", token=tokens["admin"])[0] == 404:
        pytest.skip("this server shows no queries")
    results = {}

    def ask():
        results["status"] = guarded.http("/v1/sql?query_id=mine", ENDLESS, tokens["reader"])[0]

    thread = threading.Thread(target=ask)
    thread.start()
    seen = lambda who: guarded.http("/v1/queries/mine", token=tokens[who])[0]
    until(lambda: seen("reader") == 200)
    assert seen("narrow") == 404 and seen("writer") == 404 and seen("admin") == 200
    assert b"mine" not in guarded.http("/v1/queries", token=tokens["narrow"])[2]
    for method, path in (("DELETE", "/v1/queries/mine"), ("POST", "/v1/queries/mine/cancel")):
        assert guarded.http(path, "", tokens["narrow"], method=method)[0] == 404
    assert guarded.http("/v1/queries/mine/results", token=tokens["narrow"])[0] == 404
    # Another may use the same id, which is neither an error nor a way to the first.
    assert guarded.http("/v1/sql?query_id=mine", "SELECT 1", tokens["narrow"])[0] == 200
    assert guarded.http("/v1/queries/mine", "", tokens["narrow"], method="DELETE")[0] == 202
    assert json.loads(guarded.http("/v1/queries/mine", token=tokens["reader"])[2])["state"] == "running"
    assert guarded.http("/v1/sql?query_id=mine", "SELECT 1", tokens["reader"])[0] == 409
    assert guarded.http("/v1/queries/mine", "", tokens["reader"], method="DELETE")[0] == 202
    thread.join(10)
    assert results["status"] == 504


# What would break a server.


def many(what, n, between):
    return between.join([what] * n)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT " + many("1", 10_000, "+"),
        "SELECT " + many("1", 200_000, "+"),
        "SELECT 1 AS a WHERE " + many("true", 20_000, " AND "),
        "SELECT count(*) AS n FROM answers WHERE " + many("doc_id = 'x'", 20_000, " OR "),
        "SELECT 'a'" + many(" || 'a'", 50_000, ""),
        "SELECT 1" + "::int" * 50_000,
        "SELECT 1" + " IS NULL" * 50_000,
        "SELECT " + "(" * 50_000 + "1" + ")" * 50_000,
        "SELECT " + "abs(" * 5_000 + "1" + ")" * 5_000,
        "SELECT " + "NOT " * 50_000 + "true",
        "SELECT " + "- " * 50_000 + "1",
        "SELECT " + "CASE WHEN true THEN " * 5_000 + "1" + " END" * 5_000,
        many("SELECT 1", 20_000, " UNION ALL "),
        "SELECT 1 FROM " + many("answers", 10_000, ", "),
        "SELECT 1 FROM answers" + many(" JOIN answers USING (doc_id)", 5_000, ""),
        "SELECT a FROM " + "(SELECT a FROM " * 2_000 + "(SELECT 1 AS a)" + ")" * 2_000,
        "WITH " + ", ".join(f"c{n} AS (SELECT 1 AS a)" for n in range(5_000)) + " SELECT 1",
        "SELECT [" * 5_000,
        "SELECT '" + "x" * 500_000,
        "/*" * 50_000,
        "SELECT * FROM diff('answers', 'answers WHERE " + many("true", 20_000, " AND ") + "')",
    ],
    ids=lambda statement: statement[:24],
)
def test_deep_statements_end_in_an_error(door, statement):
    error = refused(door, statement)
    assert error.state in ("42601", "54001", "54000", "54023", "INVALID_ARGUMENT", "?"), error


@pytest.mark.parametrize(
    "expression",
    [
        "repeat('a', 2000000000)",
        "lpad('a', 2000000000, 'b')",
        "rpad('a', 2000000000, 'b')",
        "range(1, 3000000000)",
        "generate_series(1, 3000000000)",
        "array_repeat(1, 20000000000)",
        "array_resize([1], 20000000000, 0)",
        "replace(repeat('a', 10000000), 'a', repeat('b', 10000000))",
        "regexp_replace(repeat('a', 10000000), 'a', repeat('b', 10000000), 'g')",
        "array_to_string(range(1, 1000000), repeat('b', 1000000))",
        "levenshtein(repeat('a', 10000000), repeat('b', 10000000))",
    ],
)
def test_one_call_does_not_fill_the_memory(door, expression):
    before = resident(door.server)
    error = refused(door, f"SELECT {expression} AS a")
    assert error.state in ("53200", "RESOURCE_EXHAUSTED", "?", "INTERNAL"), error
    assert resident(door.server) < before + (1 << 30)


def resident(server):
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) << 10


def test_wide_statements_are_answered(door):
    values = ",".join(map(str, range(20_000)))
    assert door.run(f"SELECT count(*) AS n FROM generate_series(1, 10) WHERE value IN ({values})")[0][0] in (10, "10")
    columns = ", ".join(f"{n} AS c{n}" for n in range(1_000))
    assert len(door.run(f"SELECT {columns}")[0]) == 1_000
    assert door.run("SELECT /* " + "x" * 300_000 + " */ 1 AS a")[0][0] in (1, "1")


def test_thousands_of_parameters(door):
    n = 3_000
    statement = "SELECT count(*) AS n FROM generate_series(1, 10) WHERE CAST(value AS VARCHAR) IN ("
    statement += ", ".join(f"${i}" for i in range(1, n + 1)) + ")"
    assert door.run(statement, parameters=[str(i) for i in range(n)])[0][0] in (10, "10")
    error = refused(door, "SELECT CAST($1 AS VARCHAR) AS a, CAST($2 AS VARCHAR) AS b", parameters=["x"])
    assert error.message


@pytest.mark.parametrize("statement", [b"SELECT '\xff\xfe'", b"\xc3\x28", b"SELECT '\xed\xa0\x80' AS a"])
def test_bytes_that_are_no_text(server, statement):
    status, _, body = server.http("/v1/sql", statement)
    assert status == 400 and b"UTF-8" in body, body
    assert alive(server)


@pytest.mark.parametrize("statement", ["SELECT '\0' AS a", "\0", "SELECT\0 1", "SELECT * FROM '/etc/passwd\0.csv'"])
def test_zero_bytes(server, statement):
    status, _, body = server.http("/v1/sql", statement)
    assert status in (200, 400, 403, 404) and PASSWD.encode() not in body, body
    assert alive(server)


# The wire of HTTP.


def raw(server, data, seconds=20, close=False):
    """What a server answers to bytes until it closes the connection, or says nothing for so long."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        # The server may have closed already: ENOTCONN is no ConnectionError.
        with contextlib.suppress(OSError):
            connection.sendall(data)
            if close:
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            while piece := connection.recv(1 << 16):
                answer += piece
        return answer


def status_of(answer):
    assert answer.startswith(b"HTTP/1."), answer[:200]
    return int(answer.split()[1])


HEAD = b"POST /v1/sql HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Content-Length: 8\r\nContent-Length: 9\r\n\r\nSELECT 1",
        HEAD + b"Content-Length: 8, 9\r\n\r\nSELECT 1",
        HEAD + b"Content-Length: -1\r\n\r\nSELECT 1",
        HEAD + b"Content-Length: 0x8\r\n\r\nSELECT 1",
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\nSELECT 1",
        HEAD + b"Transfer-Encoding: gzip, chunked, identity\r\n\r\n8\r\nSELECT 1\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nSELECT 1\r\n0\r\n\r\n",
        HEAD + b"Bad Header: x\r\n\r\n",
        HEAD + b": x\r\n\r\n",
        HEAD + b"X: a\0b\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
        HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
        HEAD + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=range(17),
)
def test_broken_requests(server, data):
    answer = raw(server, data, close=True)
    assert answer == b"" or 400 <= status_of(answer) < 500, answer[:300]
    assert alive(server)


def test_one_request_is_not_two(server):
    hidden = b"GET /v1/sql?q=SELECT%20smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    # Both lengths: what is chunked wins or the request is refused, and nothing of the body is a request.
    chunked = b"8\r\nSELECT 1\r\n0\r\n\r\n"
    answer = raw(server, HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + hidden)
    assert answer.count(b"HTTP/1.1 ") == 1 and b"smuggled" not in answer, answer
    answer = raw(server, HEAD + b"Content-Length: 8\r\n\r\nSELECT 1" + hidden)
    assert answer.count(b"HTTP/1.1 ") == 1 and b"smuggled" not in answer, answer
    for value in (b"\tchunked", b"xchunked", b" chunked\r\nTransfer-Encoding: x"):
        answer = raw(server, HEAD + b"Transfer-Encoding:" + value + b"\r\nContent-Length: 8\r\n\r\n" + chunked + hidden)
        assert answer.count(b"HTTP/1.1 200") <= 1 and b"smuggled" not in answer, answer
    assert alive(server)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example.org"},
        {"Host": "evil.example.org:5434"},
        {"Host": "localhost.evil.example.org"},
        {"Host": "127.0.0.1.evil.example.org"},
        {"Host": "169.254.169.254"},
        {"Origin": "http://evil.example.org"},
        {"Origin": "https://localhost.evil.example.org"},
        {"Origin": "null"},
        {"Origin": "file://"},
    ],
    ids=str,
)
def test_pages_of_others_ask_nothing(server, headers):
    for path, method in (("/v1/sql", "POST"), ("/v1/sql?q=SELECT+1", "GET"), ("/mcp", "POST"), ("/v1/queries", "GET")):
        status, _, body = server.http(path, "SELECT 1" if method == "POST" else None, method=method, headers=headers)
        assert status in (403, 404, 405), (path, status, body)
        assert status == 403 or path != "/v1/sql"
    assert alive(server)


def test_pages_of_others_learn_nothing(server):
    for origin in ("http://evil.example.org", "null"):
        _, headers, _ = server.http("/health", headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in headers
    status, headers, _ = server.http(
        "/v1/sql", method="OPTIONS",
        headers={"Origin": "http://evil.example.org", "Access-Control-Request-Method": "POST"},
    )
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/queries/..%2f..%2fetc%2fpasswd",
                                  "/v1/queries/%00", "/v1/queries/%ff", "/v1/sql/%0d%0aX: y", "//etc/passwd", "/v1/%", "/%"])
def test_odd_urls(server, path):
    answer = raw(server, f"GET {path.replace(' ', '%20')} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert 400 <= status_of(answer) < 500 and PASSWD.encode() not in answer, answer
    assert alive(server)


def test_large_bodies_are_refused(server):
    status, _, body = server.http("/v1/sql", "SELECT '" + "x" * (3 << 20) + "'")
    assert status == 413, body
    # Also where the length is not told, before all of it has come.
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 256 << 20:
                connection.sendall(b"10000\r\n" + b"x" * (1 << 16) + b"\r\n")
                sent += 1 << 16
        assert sent < 64 << 20
    assert alive(server)


def zstd_zeros(size):
    zstandard = pytest.importorskip("zstandard")
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    piece = bytes(1 << 20)
    return b"".join([compressor.compress(piece) for _ in range(size >> 20)] + [compressor.flush()])


def gzip_zeros(size):
    return gzip.compress(bytes(size), 1)


@pytest.mark.parametrize("encoding, bomb", [("gzip", gzip_zeros), ("zstd", zstd_zeros)])
def test_what_swells_is_stopped(server, encoding, bomb):
    data = bomb(1 << 30)
    before = resident(server)
    try:
        status, _, body = server.http("/v1/sql", data, headers={"Content-Encoding": encoding})
        assert status in (413, 415, 400), body
    except OSError as error:  # the server does not wait for the rest before it says no
        assert "timed out" not in str(error)
    assert resident(server) < before + (256 << 20)
    twice = gzip.compress(gzip.compress(bytes(64 << 20)))
    assert server.http("/v1/sql", twice, headers={"Content-Encoding": "gzip, gzip"})[0] in (400, 413, 415)
    assert alive(server)


def test_slow_heads_are_not_waited_for(server):
    began = time.monotonic()
    starts = [b"", b"P", b"POST /v1/sql HTTP/1.1\r\nHost: loc", b"PRI * HTTP/2.0\r\n"]
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in starts * 10]
    for connection, start in zip(connections, starts * 10):
        connection.sendall(start)
    assert alive(server)
    dripping = connections[2]
    for connection in connections:
        while time.monotonic() - began < 30:
            if connection is dripping:  # a byte now and then does not help
                with contextlib.suppress(OSError):
                    dripping.sendall(b"x")
                dripping.settimeout(1)
            with contextlib.suppress(TimeoutError):
                try:
                    ended = connection.recv(1 << 16) == b""
                except ConnectionError:
                    ended = True
                if ended:
                    break
        else:
            pytest.fail("a connection without a request is still open")
        connection.close()
    assert time.monotonic() - began < 25


def test_who_reads_nothing_holds_no_query(database):
    with closing(Server(database, "--timeout", "2", "--max-queries", "2")) as server:
        statement = b"SELECT value, repeat('x', 1000) AS a FROM generate_series(1, 100000000)"
        readers = []
        for _ in range(2):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(statement) + statement)
            readers.append(connection)
        began = time.monotonic()
        # Both turns are taken; at the deadline they are free, though nobody has read a byte.
        until(lambda: server.http("/v1/sql", "SELECT 1")[0] == 200, 15)
        assert time.monotonic() - began < 12
        running = "SELECT count(*) AS n FROM saequel.queries WHERE state = 'running' AND statement LIKE '%100000000)'"

        def none_runs():
            with contextlib.suppress(Refused):  # of a busy machine: its own deadline is short as well
                return Http(server).run(running)[0][0] in (0, "0")

        until(none_runs, 20)
        for connection in readers:
            connection.close()


def test_who_leaves_ends_the_query(server):
    running = "SELECT count(*) AS n FROM saequel.queries WHERE state = 'running' AND statement LIKE '%leaves%'"
    count = lambda: int(Http(server).run(running)[0][0]) - 1  # without the one that counts
    statement = (ENDLESS + " /* leaves */").encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(statement) + statement)
        until(lambda: count() == 1)
    began = time.monotonic()
    until(lambda: count() == 0, 5)
    assert time.monotonic() - began < 2


def test_a_query_over_its_memory_fails_alone(database):
    with closing(Server(database, "--memory", "256MiB")) as server:
        hungry = "SELECT count(*) AS n FROM (SELECT string_agg(repeat('a', 1000), ',') AS s FROM generate_series(1, 1000000))"
        outcomes = {}

        def ask(n):
            outcomes[n] = server.http("/v1/sql", hungry if n % 2 else "SELECT count(*) AS n FROM answers")[0]

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {outcomes[n] for n in range(0, 8, 2)} == {200}, outcomes
        assert {outcomes[n] for n in range(1, 8, 2)} <= {503, 200}, outcomes
        assert alive(server)


def test_secrets_are_not_told(guarded, tokens):
    wrong = "sq_" + "secretsecret" * 3
    guarded.http("/v1/sql", "SELECT 1", wrong)
    guarded.http("/v1/sql", "SELECT nothing", tokens["reader"])
    guarded.http(f"/v1/sql?token={wrong}", "SELECT 1")
    log = "".join(guarded.stderr)
    for secret in (wrong, *[tokens[name] for name in ("admin", "writer", "reader", "narrow")]):
        assert secret not in log
    for path in ("/health", "/ready", "/version", "/metrics", "/openapi.json", "/"):
        status, _, body = guarded.http(path)
        assert status in (200, 401, 404), path
        assert str(guarded.db).encode() not in body and b"secret" not in body.replace(b"secrets", b""), (path, body[:500])
    if guarded.http("/metrics", token=tokens["admin"])[0] == 200:
        assert guarded.http("/metrics")[0] == 401 and guarded.http("/metrics", token=tokens["narrow"])[0] in (200, 403)
