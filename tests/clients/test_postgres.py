"""The PostgreSQL wire, with psql and the drivers that people use."""

import asyncio
import csv
import datetime
import decimal
import io
import json
import math
import os
import re
import socket
import struct
import subprocess
import threading
import time

import adbc_driver_postgresql.dbapi
import asyncpg
import pg8000.dbapi
import psycopg
import psycopg2
import psycopg2.extras
import pytest

from conftest import N_DOCS, Server, binary, saequel, until

# Long enough for every test, and ended by the server when nobody wants it any more.
LONG = "SELECT sum(a.value * b.value) FROM generate_series(1, 100000000) a(value) CROSS JOIN generate_series(1, 1000) b(value)"
BIG = "SELECT a.value, repeat('x', 100) AS filler FROM generate_series(1, 20000000) a(value)"

# One value of every type: expression, OID, value as psycopg reads it.
TYPES = {
    "flag": ("TRUE", 16, True),
    "int2": ("CAST(-2 AS SMALLINT)", 21, -2),
    "byte": ("CAST(200 AS TINYINT UNSIGNED)", 21, 200),
    "int4": ("CAST(4 AS INT)", 23, 4),
    "uint4": ("CAST(4000000000 AS INT UNSIGNED)", 20, 4000000000),
    "int8": ("CAST(8 AS BIGINT)", 20, 8),
    "uint8": ("CAST(18446744073709551615 AS BIGINT UNSIGNED)", 1700, decimal.Decimal("18446744073709551615")),
    "float4": ("CAST(1.5 AS REAL)", 700, 1.5),
    "float8": ("CAST(0.1 AS DOUBLE)", 701, 0.1),
    "huge": ("CAST(1e300 AS DOUBLE)", 701, 1e300),
    "infinite": ("CAST('-inf' AS DOUBLE)", 701, -math.inf),
    "price": ("CAST('-12345.678' AS DECIMAL(20, 3))", 1700, decimal.Decimal("-12345.678")),
    "wide": ("CAST('12345678901234567890123456789012345.678' AS DECIMAL(38, 3))", 1700,
             decimal.Decimal("12345678901234567890123456789012345.678")),
    "words": ("'it''s \"ü\"'", 25, "it's \"ü\""),
    "day": ("DATE '2024-02-29'", 1082, datetime.date(2024, 2, 29)),
    "moment": ("TIMESTAMP '2024-02-29 12:00:00.25'", 1114, datetime.datetime(2024, 2, 29, 12, 0, 0, 250000)),
    "zoned": ("arrow_cast(TIMESTAMP '2024-02-29 12:00:00', 'Timestamp(Microsecond, Some(\"UTC\"))')", 1184,
              datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc)),
    "clock": ("CAST('12:34:56' AS TIME)", 1083, datetime.time(12, 34, 56)),
    "span": ("INTERVAL '2 days 3 seconds'", 1186, datetime.timedelta(days=2, seconds=3)),
    "bytes": ("CAST('ab' AS BYTEA)", 17, b"ab"),
    "ints": ("make_array(1, NULL, 3)", 1016, [1, None, 3]),
    "texts": ("make_array('a', 'b \"c\"', '', 'NULL')", 1009, ["a", "b \"c\"", "", "NULL"]),
    "floats": ("make_array(0.5, CAST('nan' AS DOUBLE))", 1022, None),
    "none": ("CAST(NULL AS INT)", 23, None),
    "pair": ("named_struct('id', 7, 'label', 'x')", 114, {"id": 7, "label": "x"}),
    "pairs": ("make_array(named_struct('id', 7))", 114, [{"id": 7}]),
    "nested": ("make_array(make_array(1), make_array(2, 3))", 114, [[1], [2, 3]]),
    "dictionary": ("MAP {'k': 1}", 114, {"k": 1}),
}
ALL_TYPES = "SELECT " + ", ".join(f"{expression} AS {name}" for name, (expression, _, _) in TYPES.items())


def dsn(server, user="ann", password=None, **more):
    """A connection string."""
    parts = {"host": "127.0.0.1", "port": server.pg_port, "user": user, "dbname": "saequel", **more}
    if password:
        parts["password"] = password
    return " ".join(f"{name}={value}" for name, value in parts.items())


def psql(server, *commands, user="ann", password="", check=True, **more):
    """Standard output and standard error of psql."""
    arguments = [argument for command in commands for argument in ("-c", command)]
    done = subprocess.run(
        ["psql", "-X", "-At", dsn(server, user, **more), *arguments],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PGPASSWORD": password},
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def connection(server):
    """psycopg 3, a statement a transaction."""
    with psycopg.connect(dsn(server), autocommit=True) as connection:
        yield connection


def ask(server, sql):
    """Rows of a statement, over a connection of its own."""
    with psycopg.connect(dsn(server), autocommit=True) as connection:
        return connection.execute(sql).fetchall()


def running(server, text):
    """Statements that run and hold `text`."""
    sql = f"SELECT count(*) AS n FROM saequel.queries WHERE state = 'running' AND contains(statement, '{text}') " \
          "AND NOT contains(statement, 'saequel.queries')"
    return ask(server, sql)[0][0]


# psql


def test_psql_runs_queries_and_own_statements(server):
    out, _ = psql(server, "SELECT 1; SELECT 'a;b' AS x", "SHOW CORPORA", "DESCRIBE FEATURE 1", "-- nothing", "\\timing off")
    lines = out.splitlines()
    assert lines[:2] == ["1", "a;b"]
    assert {line.split("|")[0] for line in lines[2:4]} == {"answers", "secret"}
    assert any(line.startswith("label|") for line in lines[4:]), out


def test_psql_shows_where_an_error_is(server):
    _, errors = psql(server, "SELECT 1;\nSELECT 'ü', nmae FROM answers", check=False)
    first, line, caret = errors.splitlines()[:3]
    assert "column 'nmae' not found" in first
    assert line == "LINE 2: SELECT 'ü', nmae FROM answers"
    assert caret.index("^") == line.index("nmae")
    _, errors = psql(server, "SET no_such_setting TO 1", check=False)
    assert 'unrecognized configuration parameter "no_such_setting"' in errors


def test_psql_copies_to_a_file_of_the_client(server, tmp_path):
    path = tmp_path / "answers.csv"
    psql(server, f"\\copy (SELECT doc_id, answer FROM answers ORDER BY doc_id) TO '{path}' WITH (FORMAT csv, HEADER)")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(rows) == N_DOCS and set(rows[0]) == {"doc_id", "answer"}
    expected = ask(server, "SELECT answer FROM answers ORDER BY doc_id LIMIT 1")
    assert (rows[0]["answer"],) == expected[0]
    out, _ = psql(server, "\\copy answers(doc_id) to stdout")
    assert len(out.splitlines()) == N_DOCS
    _, errors = psql(server, "COPY answers TO '/tmp/saequel-was-here'", check=False)
    assert "42501" in errors or "writes no file" in errors
    assert not os.path.exists("/tmp/saequel-was-here")


def test_psql_transactions_and_settings(server):
    out, errors = psql(
        server, "BEGIN", "SAVEPOINT a", "SELECT no_such", "SELECT 1", "ROLLBACK TO a", "SELECT 2", "COMMIT", "COMMIT",
        "SET TimeZone TO 'Europe/Berlin'", "SHOW timezone", "RESET ALL", "SHOW TIME ZONE", "DISCARD ALL",
        "LISTEN x", "UNLISTEN *",
    )
    assert out.split() == ["BEGIN", "SAVEPOINT", "ROLLBACK", "2", "COMMIT", "COMMIT", "SET", "Europe/Berlin", "RESET",
                           "UTC", "DISCARD", "ALL", "LISTEN", "UNLISTEN"]
    assert "current transaction is aborted" in errors
    assert "there is no transaction in progress" in errors


# psycopg 3


@pytest.mark.parametrize("is_binary", [False, True], ids=["text", "binary"])
def test_every_type_in_both_formats(connection, is_binary):
    cursor = connection.execute(ALL_TYPES, binary=is_binary)
    row = cursor.fetchone()
    for column, value, (name, (_, oid, expected)) in zip(cursor.description, row, TYPES.items(), strict=True):
        assert (column.name, column.type_code) == (name, oid)
        if name == "floats":
            assert value[0] == 0.5 and math.isnan(value[1])
        else:
            assert value == expected, name


@pytest.mark.parametrize("is_binary", [False, True], ids=["text", "binary"])
def test_features_are_json(connection, is_binary):
    (features,) = connection.execute("SELECT features FROM answers LIMIT 1", binary=is_binary).fetchone()
    assert len(features["ids"]) == len(features["activations"]) > 10


def test_time_zone_and_eras(connection):
    zoned = TYPES["zoned"][0]
    raw = psycopg.RawCursor(connection)
    connection.execute("SET TimeZone TO 'America/St_Johns'")
    assert connection.execute(f"SELECT {zoned}").pgresult.get_value(0, 0) == b"2024-02-29 08:30:00-03:30"
    connection.execute("SET TIME ZONE 2")
    assert raw.execute(f"SELECT {zoned}").pgresult.get_value(0, 0) == b"2024-02-29 14:00:00+02"
    assert raw.execute("SELECT DATE '0001-01-01' - INTERVAL '1 day' AS d").pgresult.get_value(0, 0).endswith(b" BC")


def test_parameters_of_many_types(connection):
    values = [
        (5, "n_tokens > %s"), (1.5, "n_tokens > %s"), ("heron-001", "doc_id = %s"), (True, "%s"),
        (datetime.date(2020, 1, 1), "DATE '2024-01-01' > %s"),
        (datetime.datetime(2020, 1, 1), "TIMESTAMP '2024-01-01 00:00:00' > %s"),
        (decimal.Decimal("1.5"), "n_tokens > %s"),
        (["heron-001", "x"], "array_has(%s, doc_id)"), (b"a", "CAST('a' AS BYTEA) = %s"),
    ]
    for value, condition in values:
        for placeholder in ("%s", "%t", "%b"):
            sql = "SELECT count(*) FROM answers WHERE " + condition.replace("%s", placeholder)
            if value is True or not (placeholder == "%t" and isinstance(value, bytes)):
                (n,) = connection.execute(sql, (value,)).fetchone()
                assert n > 0, (value, placeholder)
    assert connection.execute("SELECT count(*) FROM answers WHERE n_tokens > %s", (None,)).fetchone() == (0,)
    assert connection.execute("SELECT doc_id FROM answers ORDER BY 1 LIMIT %s", (2,)).rowcount == 2


def test_parameters_shape_columns(connection):
    day = datetime.date(2024, 2, 29)
    for value in (1, 1.5, True, b"ab", day, decimal.Decimal("2.5"), "x"):
        (got,) = connection.execute("SELECT %s AS x", (value,)).fetchone()
        assert got == value and type(got) in (type(value), float), (value, got)
    assert connection.execute("SELECT n_tokens * %s FROM answers LIMIT 1", (0.5,)).fetchone()[0] > 0
    assert connection.execute("SELECT topic, count(*) * %s FROM answers GROUP BY topic", (2,)).fetchone()[1] >= 2
    assert connection.execute("SELECT %s + 1", (1.5,)).fetchone() == (2.5,)
    sql = "SELECT DISTINCT CASE WHEN topic = %s THEN %s ELSE %s END FROM answers"
    assert connection.execute(sql, ("no such topic", 1, 2)).fetchall() == [(2,)]
    for _ in range(8):  # prepared by psycopg in the middle
        assert connection.execute("SELECT %s AS x", (1,)).fetchone() == (1,)


def test_parameters_of_table_functions(connection):
    sides = connection.execute("SELECT DISTINCT assistant FROM answers ORDER BY 1").fetchall()
    halves = [f"answers WHERE assistant = '{side}'" for (side,) in sides[:2]]
    sql = "SELECT feature_id, label FROM diff(%s, %s, min_docs => %s) LIMIT 3"
    rows = connection.execute(sql, (*halves, 3)).fetchall()
    assert len(rows) == 3
    # Drivers that send all values as untyped text leave open whether "3" is a number.
    result = connection.pgconn.exec_params(
        b"SELECT feature_id, label FROM diff($1, $2, min_docs => $3) LIMIT 3",
        [*(half.encode() for half in halves), b"3"],
    )
    assert result.status == psycopg.pq.ExecStatus.TUPLES_OK and result.ntuples == 3, result.error_message


def test_prepared_statements_and_pipeline(connection):
    for n in range(8):  # from the sixth time on, psycopg prepares it
        assert connection.execute("SELECT %s + 1", (n,)).fetchone() == (n + 1,)
    assert connection.execute("SELECT doc_id FROM answers WHERE n_tokens > %s", (0,), prepare=True).rowcount == N_DOCS
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::INT", (n,)) for n in range(50)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(50))
    with pytest.raises(psycopg.Error), connection.pipeline():
        bad = connection.execute("SELECT nmae FROM answers")
        connection.execute("SELECT 1")
        bad.fetchone()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_errors_have_state_hint_and_position(connection):
    with pytest.raises(psycopg.Error) as error:
        connection.execute("SELECT doc_id,\n  nmae FROM answers")
    assert error.value.sqlstate.startswith("42")
    assert error.value.diag.statement_position == "18"
    assert error.value.diag.severity == "ERROR"
    for sql, sqlstate in [
        ("SELECT * FROM no_such_table", "42P01"),
        ("COPY answers FROM STDIN", "0A000"),
        ("COPY answers TO PROGRAM 'cat'", "42501"),
        ("DROP CORPUS answers", "42501"),
        ("DECLARE c CURSOR FOR SELECT 1", "25P01"),
        ("FETCH 1 FROM c", "34000"),
        ("SET client_encoding TO 'LATIN1'", "22023"),
        ("SELECT $1", "42P02"),
        ("SAVEPOINT a", "25P01"),
    ]:
        with pytest.raises(psycopg.Error) as error:
            connection.execute(sql)
        assert error.value.sqlstate == sqlstate, sql


def test_transaction_state(server):
    status = psycopg.pq.TransactionStatus
    with psycopg.connect(dsn(server)) as connection:
        connection.execute("SELECT 1")
        assert connection.info.transaction_status == status.INTRANS
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT no_such")
        assert connection.info.transaction_status == status.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        assert connection.info.transaction_status == status.IDLE
        with connection.transaction():
            with pytest.raises(psycopg.Error), connection.transaction():  # a savepoint
                connection.execute("SELECT no_such")
            assert connection.execute("SELECT 1").fetchone() == (1,)
        connection.execute("SET search_path TO a")
        connection.rollback()
        assert "public" in connection.execute("SHOW search_path").fetchone()[0]
        connection.rollback()
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        assert connection.execute("SHOW transaction_read_only").fetchone() == ("on",)


def test_settings_stay_in_their_connection(server):
    with psycopg.connect(dsn(server), autocommit=True) as one, psycopg.connect(dsn(server), autocommit=True) as two:
        one.execute("SET statement_timeout TO '7s'")
        one.execute("SET application_name TO 'one'")
        one.execute("SET TimeZone TO 'Asia/Tokyo'")
        assert one.info.parameter_status("application_name") == "one"
        assert one.info.parameter_status("TimeZone") == "Asia/Tokyo"
        assert two.execute("SHOW statement_timeout").fetchone() == ("0",)
        assert two.execute("SHOW TimeZone").fetchone() == ("UTC",)
        assert two.info.parameter_status("server_version") == "16.6"
        assert two.info.server_version == 160006
        assert two.info.encoding == "utf-8"
    more = {"application_name": "three", "options": "'-c statement_timeout=3s -c TimeZone=Europe/Berlin'"}
    with psycopg.connect(dsn(server, **more), autocommit=True) as three:
        three.execute("SET statement_timeout TO 0")
        three.execute("RESET statement_timeout")
        assert three.execute("SHOW statement_timeout").fetchone() == ("3s",)
        assert three.info.parameter_status("TimeZone") == "Europe/Berlin"


def test_named_cursors(server):
    with psycopg.connect(dsn(server)) as connection:
        for is_binary in (False, True):
            with connection.cursor(name="all", binary=is_binary) as cursor:
                cursor.itersize = 7
                cursor.execute("SELECT doc_id, n_tokens FROM answers WHERE n_tokens > %s ORDER BY doc_id", (1,))
                assert [column.name for column in cursor.description] == ["doc_id", "n_tokens"]
                rows = list(cursor)
                assert len(rows) == N_DOCS and rows == sorted(rows) and isinstance(rows[0][1], int)
        # Of a large result, only what is fetched is made.
        with connection.cursor(name="large") as cursor:
            cursor.execute(BIG)
            assert len(cursor.fetchmany(10)) == 10
            cursor.scroll(90)
            assert cursor.fetchone()[0] == 101
            with pytest.raises(psycopg.Error):
                cursor.scroll(-5)
        connection.rollback()
        with connection.cursor(name="kept", withhold=True) as cursor:
            cursor.execute("SELECT doc_id FROM answers")
            connection.commit()
            assert len(cursor.fetchall()) == N_DOCS
        connection.rollback()
        connection.execute("DECLARE gone CURSOR FOR SELECT 1")
        connection.commit()
        with pytest.raises(psycopg.errors.InvalidCursorName):
            connection.execute("FETCH 1 FROM gone")


@pytest.mark.parametrize("format_", ["text", "csv", "binary"])
def test_copy(connection, format_):
    query = "SELECT doc_id, n_tokens, answer, CAST(NULL AS INT) AS nothing, make_array(1, 2) AS ids FROM answers ORDER BY 1"
    expected = connection.execute(query).fetchall()
    with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT {format_})") as copy:
        if format_ == "csv":
            text = b"".join(bytes(part) for part in copy).decode()
            rows = list(csv.reader(io.StringIO(text)))
            assert [row[0] for row in rows] == [row[0] for row in expected]
            assert [row[2] for row in rows] == [row[2] for row in expected]
            assert {(row[3], row[4]) for row in rows} == {("", "{1,2}")}
        else:
            copy.set_types(["text", "int8", "text", "int4", "int8[]"])
            assert list(copy.rows()) == expected
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY (SELECT 1 AS a WHERE FALSE) TO STDOUT WITH (FORMAT {format_})") as copy:
            empty = b"".join(bytes(part) for part in copy)
        assert empty == (b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\xff\xff" if format_ == "binary" else b"")
        with cursor.copy("COPY public.answers (doc_id) TO STDOUT WITH CSV HEADER DELIMITER ';'") as copy:
            lines = b"".join(bytes(part) for part in copy).splitlines()
        assert (lines[0], len(lines)) == (b"doc_id", N_DOCS + 1)


def test_a_statement_that_takes_too_long(connection):
    connection.execute("SET statement_timeout TO 200")
    for sql in (LONG, BIG, f"COPY ({BIG}) TO STDOUT"):
        began = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled) as error:
            if sql.startswith("COPY"):
                with connection.cursor() as cursor, cursor.copy(sql) as copy:
                    for _ in copy:
                        pass
            else:
                connection.execute(sql)
        assert time.monotonic() - began < 5 and "took longer than 0.2 s" in str(error.value)
    # A cursor that is read slowly takes no time of its own.
    with connection.transaction(), connection.cursor(name="slow") as cursor:
        cursor.execute(BIG)
        for _ in range(4):
            time.sleep(0.1)
            assert len(cursor.fetchmany(10)) == 10
    connection.execute("SET statement_timeout TO 0")
    assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("sql", [LONG, BIG], ids=["computing", "sending"])
def test_cancel(connection, sql):
    began = []

    def cancel():
        time.sleep(0.3)
        began.append(time.monotonic())
        connection.cancel_safe()

    threading.Thread(target=cancel).start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        for _ in connection.cursor().stream(sql):
            pass
    assert time.monotonic() - began[0] < 1
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.cancel_safe()  # nothing runs: the next statement is not harmed
    assert connection.execute("SELECT 2").fetchone() == (2,)


def test_a_wrong_secret_cancels_nothing(server):
    with psycopg.connect(dsn(server), autocommit=True) as connection:
        pid = connection.info.backend_pid
        done = []
        sql = "SELECT sum(value) FROM generate_series(1, 30000000) t(value)"
        thread = threading.Thread(target=lambda: done.append(connection.execute(sql).fetchone()))
        thread.start()
        for secret in (0, 1, -1):
            with socket.create_connection(("127.0.0.1", server.pg_port)) as other:
                other.sendall(struct.pack("!iiii", 16, 80877102, pid, secret))
                assert other.recv(1) == b""
        thread.join()
        assert done == [(30000000 * 30000001 // 2,)]


@pytest.mark.parametrize("sql", [LONG, BIG], ids=["computing", "sending"])
def test_a_client_that_goes_away_ends_its_query(server, sql):
    mark = f"mark{time.time_ns()}"
    connection = psycopg2.connect(dsn(server), async_=1)
    psycopg2.extras.wait_select(connection)
    connection.cursor().execute(f"{sql} /* {mark} */")
    until(lambda: running(server, mark) == 1)
    began = time.monotonic()
    os.close(connection.fileno())
    until(lambda: running(server, mark) == 0, 2)
    assert time.monotonic() - began < 1


def test_asynchronous_psycopg(server):
    async def count(n):
        async with await psycopg.AsyncConnection.connect(dsn(server)) as connection:
            cursor = await connection.execute("SELECT %s + count(*) FROM answers", (n,))
            return (await cursor.fetchone())[0]

    async def all_at_once():
        return await asyncio.gather(*(count(n) for n in range(8)))

    assert asyncio.run(all_at_once()) == [N_DOCS + n for n in range(8)]


def test_a_large_result_streams(connection):
    n = total = 0
    for value, filler in connection.cursor().stream("SELECT value, repeat('x', 50) FROM generate_series(1, 300000) t(value)"):
        n, total = n + 1, total + value
    assert (n, total, filler) == (300000, 300000 * 300001 // 2, "x" * 50)


# Other drivers


def test_psycopg2(server):
    with psycopg2.connect(dsn(server)) as connection:
        cursor = connection.cursor()
        cursor.execute(ALL_TYPES)
        row = dict(zip((column.name for column in cursor.description), cursor.fetchone(), strict=True))
        assert row["pair"] == {"id": 7, "label": "x"} and row["ints"] == [1, None, 3] and bytes(row["bytes"]) == b"ab"
        assert row["zoned"] == TYPES["zoned"][2] and row["price"] == TYPES["price"][2]
        named = connection.cursor("named")
        named.itersize = 11
        named.execute("SELECT doc_id FROM answers WHERE n_tokens > %s", (0,))
        assert len(list(named)) == N_DOCS
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT doc_id FROM answers) TO STDOUT WITH CSV", out)
        assert len(out.getvalue().splitlines()) == N_DOCS
        connection.rollback()
        connection.set_session(isolation_level="SERIALIZABLE", readonly=True)
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("on",)


def run_asyncpg(server, work, **more):
    async def run():
        connection = await asyncpg.connect(
            host="127.0.0.1", port=server.pg_port, user="ann", database="saequel", **more
        )
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def test_asyncpg(server):
    async def work(connection):
        sql = "SELECT doc_id, n_tokens FROM answers WHERE n_tokens > $1 AND doc_id <> $2 ORDER BY doc_id LIMIT 2"
        rows = await connection.fetch(sql, 5, "x")
        assert len(rows) == 2 and isinstance(rows[0]["n_tokens"], int)
        scalars = [name for name, (_, oid, _) in TYPES.items() if oid not in (1009, 1016, 1022)]
        row = await connection.fetchrow("SELECT " + ", ".join(f"{TYPES[name][0]} AS {name}" for name in scalars))
        for name in scalars:
            expected = TYPES[name][2]
            value = json.loads(row[name]) if TYPES[name][1] == 114 else row[name]
            assert value == expected, name
        async with connection.transaction():
            cursor = connection.cursor("SELECT doc_id FROM answers", prefetch=7)
            assert len([row async for row in cursor]) == N_DOCS
        out = io.BytesIO()
        assert await connection.copy_from_query("SELECT doc_id FROM answers", output=out) == f"COPY {N_DOCS}"
        with pytest.raises(asyncpg.PostgresError):
            await connection.fetch("SELECT no_such")
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetch(LONG, timeout=0.3)
        assert await connection.fetchval("SELECT 1") == 1
        # It asks for the columns before it gives the values.
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="depend on the value of a parameter"):
            await connection.fetch("SELECT * FROM diff($1, $2)", "answers", "secret")

    run_asyncpg(server, work)


def test_asyncpg_arrays_and_reset(server):
    async def work(connection):
        await connection.execute("SET application_name TO 'x'")
        await connection.reset()
        assert await connection.fetchval("SHOW application_name") == ""
        return await connection.fetchrow("SELECT make_array(1, 2) AS ids, make_array('a', NULL) AS words")

    row = run_asyncpg(server, work)
    assert (row["ids"], row["words"]) == ([1, 2], ["a", None])


def test_pg8000(server):
    connection = pg8000.dbapi.connect("ann", host="127.0.0.1", port=server.pg_port, database="saequel")
    cursor = connection.cursor()
    cursor.execute("SELECT doc_id, n_tokens FROM answers WHERE n_tokens > %s ORDER BY doc_id LIMIT %s", (5, 3))
    assert len(cursor.fetchall()) == 3
    cursor.execute(ALL_TYPES)
    row = dict(zip((column[0] for column in cursor.description), cursor.fetchone(), strict=True))
    assert row["price"] == TYPES["price"][2] and row["texts"] == TYPES["texts"][2] and row["pairs"] == [{"id": 7}]
    connection.rollback()
    connection.close()


NODE = """
const { Client, types } = require('pg');
const assert = require('assert');
(async () => {
  const client = new Client({ host: '127.0.0.1', port: +process.argv[1], user: 'ann', database: 'saequel' });
  await client.connect();
  const rows = await client.query('SELECT doc_id, n_tokens FROM answers WHERE n_tokens > $1 ORDER BY doc_id LIMIT 2', [5]);
  assert.strictEqual(rows.rows.length, 2);
  const types = await client.query(process.argv[2]);
  assert.deepStrictEqual(types.rows[0].pair, { id: 7, label: 'x' });
  assert.deepStrictEqual(types.rows[0].texts, ['a', 'b "c"', '', 'NULL']);
  assert.strictEqual(types.rows[0].moment.getTime(), new Date(2024, 1, 29, 12, 0, 0, 250).getTime());
  const diff = await client.query('SELECT * FROM diff($1, $2, min_docs => $3) LIMIT 1', [process.argv[3], 'answers', 3]);
  assert.strictEqual(diff.rows.length, 1);
  await assert.rejects(client.query('SELECT nmae FROM answers'), (error) => error.position === '8' && !!error.code);
  const named = { name: 'n', text: 'SELECT $1::int AS x', values: [7] };
  assert.strictEqual((await client.query(named)).rows[0].x, 7);
  assert.strictEqual((await client.query(named)).rows[0].x, 7);
  await client.end();
  console.log('fine');
})().catch((error) => { console.error(error); process.exit(1); });
"""


def test_node(server):
    side = ask(server, "SELECT assistant FROM answers LIMIT 1")[0][0]
    done = subprocess.run(
        ["node", "-e", NODE, str(server.pg_port), ALL_TYPES, f"answers WHERE assistant = '{side}'"],
        capture_output=True, text=True, timeout=60,
    )
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("mode", ["builtin", "builtin, COPY", "pg_type, COPY"])
def test_adbc(server, mode):
    uri = f"postgresql://ann@127.0.0.1:{server.pg_port}/saequel"
    options = {"adbc.postgresql.type_resolver_mode": "builtin"} if "builtin" in mode else {}
    statement = {} if "COPY" in mode else {"adbc.postgresql.use_copy": "false"}
    connection = adbc_driver_postgresql.dbapi.connect(uri, db_kwargs=options)
    names = ["flag", "int2", "int4", "int8", "float4", "float8", "words", "day", "moment", "bytes", "ints"]
    sql = "SELECT " + ", ".join(f"{TYPES[name][0]} AS {name}" for name in names)
    with connection, connection.cursor(adbc_stmt_kwargs=statement) as cursor:
        cursor.execute(sql)
        assert cursor.fetch_arrow_table().to_pylist() == [{name: TYPES[name][2] for name in names}]
        cursor.execute("SELECT doc_id, n_tokens FROM answers")
        assert cursor.fetch_arrow_table().num_rows == N_DOCS


# Who may come in


def test_scram(guarded, tokens):
    with psycopg.connect(dsn(guarded, "reader", tokens["reader"]), autocommit=True) as connection:
        assert connection.pgconn.used_password
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (N_DOCS,)
    with psycopg.connect(dsn(guarded, "narrow", tokens["narrow"]), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM secret")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP CORPUS answers")
        assert connection.info.parameter_status("is_superuser") == "off"
    for user, password in [("reader", "sq_wrong"), ("reader", tokens["writer"]), ("nobody", tokens["reader"]), ("reader", None)]:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(dsn(guarded, user, password))
    out, _ = psql(guarded, "SELECT 1", user="reader", password=tokens["reader"])
    assert out == "1\n"
    psycopg2.connect(dsn(guarded, "reader", tokens["reader"])).close()
    pg8000.dbapi.connect(
        "reader", host="127.0.0.1", port=guarded.pg_port, password=tokens["reader"], database="x"
    ).close()


def test_writes(guarded, tokens, tmp_path):
    with psycopg.connect(dsn(guarded, "writer", tokens["writer"])) as connection:
        cursor = connection.execute("CREATE CONCEPT wire AS (1, 2 WEIGHT 0.5)")
        assert cursor.statusmessage == "CREATE CONCEPT"
        notices = []
        connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
        connection.rollback()
        assert any("what was written since BEGIN stays" in notice for notice in notices)
        assert connection.execute("DROP CONCEPT wire").statusmessage == "DROP CONCEPT"
        connection.commit()
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="parameters are not supported here"):
            connection.execute("DELETE FROM answers WHERE doc_id = %s", ("x",))
        connection.rollback()
        connection.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DROP CONCEPT IF EXISTS wire")
    with psycopg.connect(dsn(guarded, "reader", tokens["reader"]), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM answers WHERE doc_id = 'x'")


def test_deletes_are_counted(tmp_path):
    db = tmp_path / "d.saequel"
    documents = tmp_path / "d.jsonl"
    documents.write_text("".join(json.dumps({"k": f"d{n}", "t": f"text number {n}"}) + "\n" for n in range(5)))
    saequel(db, "import", documents, "--corpus", "small", "--text", "t", "--key", "k")
    running = Server(db, "--write")
    try:
        with psycopg.connect(dsn(running), autocommit=True) as connection:
            cursor = connection.execute("DELETE FROM small WHERE doc_id <> 'd0'")
            assert (cursor.statusmessage, cursor.rowcount, cursor.description) == ("DELETE 4", 4, None)
            prepared = connection.execute("SELECT * FROM small", prepare=True)
            assert prepared.rowcount == 1
    finally:
        running.stop()


def test_a_revoked_token_ends_its_connections(database, guarded, tokens):
    path = tokens["path"]
    token = saequel(database, "token", "create", "brief", "--tokens", path).strip()
    connected = []

    def connect():
        try:
            connected.append(psycopg.connect(dsn(guarded, "brief", token), autocommit=True))
        except psycopg.OperationalError:
            return False
        return True

    until(connect)  # the file is looked at twice a second
    connection = connected[0]
    assert connection.execute("SELECT 1").fetchone() == (1,)
    saequel(database, "token", "revoke", "brief", "--tokens", path)
    time.sleep(0.6)
    with pytest.raises(psycopg.OperationalError, match="revoked") as error:
        connection.execute("SHOW TimeZone")
    assert error.value.sqlstate == "28P01" and connection.closed


@pytest.fixture(scope="module")
def encrypted(database, tokens, tmp_path_factory):
    """A server with a certificate that listens on all addresses."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "c.pem", folder / "k.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    command = [binary(), "--db", database, "serve", "--listen", "127.0.0.1:0", "--postgres", "0.0.0.0:0", "--tokens",
               tokens["path"], "--tls-cert", certificate, "--tls-key", key]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    port = None
    for line in process.stdout:
        if found := re.search(r"psql -h \S+ -p (\d+)", line):
            port = int(found[1])
            break
    threading.Thread(target=process.stdout.read, daemon=True).start()

    class Running:
        pg_port = port
        root = certificate

    yield Running
    process.terminate()
    process.wait(30)


def own_address():
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.connect(("192.0.2.1", 9))  # nothing is sent
            address = udp.getsockname()[0]
        except OSError:
            return None
    return None if address.startswith("127.") else address


def test_tls(encrypted, tokens):
    password = tokens["reader"]
    for more in ({"sslmode": "require"}, {"sslmode": "verify-full", "sslrootcert": encrypted.root}):
        with psycopg.connect(dsn(encrypted, "reader", password, **more)) as connection:
            assert connection.pgconn.ssl_in_use
            assert connection.execute("SELECT count(*) FROM answers").fetchone() == (N_DOCS,)
    out, _ = psql(encrypted, "SELECT 1", user="reader", password=password, sslmode="require")
    assert out == "1\n"
    with psycopg.connect(dsn(encrypted, "reader", password, sslmode="disable")) as connection:
        assert not connection.pgconn.ssl_in_use  # from this machine itself
    # TLS from the first byte on, as PostgreSQL 17 does.
    direct = {"sslmode": "require", "sslnegotiation": "direct"}
    if psycopg.pq.version() >= 170000:
        with psycopg.connect(dsn(encrypted, "reader", password, **direct)) as connection:
            assert connection.pgconn.ssl_in_use
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with psycopg.connect(dsn(encrypted, "reader", password, host=address, sslmode="require")) as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="not encrypted"):
        psycopg.connect(dsn(encrypted, "reader", password, host=address, sslmode="disable"))


def test_a_server_without_tls_says_so(server):
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        psycopg.connect(dsn(server, sslmode="require"))


# The protocol itself


def message(tag, body=b""):
    """A message of the client."""
    return tag + struct.pack("!i", len(body) + 4) + body


class Raw:
    """A connection byte by byte."""

    def __init__(self, server, version=0x30000, parameters=b"user\0ann\0\0"):
        self.socket = socket.create_connection(("127.0.0.1", server.pg_port))
        self.socket.settimeout(20)
        self.socket.sendall(struct.pack("!ii", 8 + len(parameters), version) + parameters)

    def exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def message(self):
        tag = self.exactly(1)
        (length,) = struct.unpack("!i", self.exactly(4))
        return tag, self.exactly(length - 4)

    def until(self, tag):
        messages = []
        while True:
            messages.append(self.message())
            if messages[-1][0] == tag:
                return messages

    def tags(self, tag):
        return b"".join(each for each, _ in self.until(tag))


def parse(sql, name=b"", oids=()):
    return message(b"P", name + b"\0" + sql + b"\0" + struct.pack(f"!h{len(oids)}i", len(oids), *oids))


BIND = message(b"B", b"\0\0" + struct.pack("!hhh", 0, 0, 0))
EXECUTE = message(b"E", b"\0" + struct.pack("!i", 0))
SYNC = message(b"S")


def test_versions_are_negotiated(server):
    new = Raw(server, 0x30002)
    key = [body for tag, body in new.until(b"Z") if tag == b"K"][0]
    assert len(key) == 36
    newer = Raw(server, 0x30063, b"user\0ann\0_pq_.future\0on\0\0")
    first = newer.message()
    assert first == (b"v", struct.pack("!ii", 0x30002, 1) + b"_pq_.future\0")
    newer.until(b"Z")
    old = Raw(server, 0x20000)
    assert b"FATAL" in old.message()[1]


def test_portals_are_suspended(server):
    raw = Raw(server)
    raw.until(b"Z")
    execute = message(b"E", b"p\0" + struct.pack("!i", 2))
    bind = message(b"B", b"p\0\0" + struct.pack("!hhh", 0, 0, 0))
    begin = message(b"Q", b"BEGIN\0")
    raw.socket.sendall(begin)
    raw.until(b"Z")
    raw.socket.sendall(parse(b"SELECT value FROM generate_series(1, 5) t(value)") + bind + message(b"D", b"Pp\0") + execute + SYNC)
    assert raw.tags(b"Z") == b"12TDDsZ"
    raw.socket.sendall(execute + execute + SYNC)
    assert raw.tags(b"Z") == b"DDsDCZ"
    raw.socket.sendall(message(b"C", b"Pp\0") + message(b"H"))
    assert raw.tags(b"3") == b"3"  # told without a Sync
    raw.socket.sendall(execute + parse(b"SELECT 1") + SYNC)
    messages = raw.until(b"Z")
    assert b"".join(tag for tag, _ in messages) == b"EZ" and b"C34000\0" in messages[0][1]
    assert messages[-1][1] == b"E"


def test_a_numeric_fits_what_was_described_before_it_was_there(server):
    """Clients that describe the statement and not the portal (sqlx, tokio-postgres) read what they were told."""
    raw = Raw(server)
    raw.until(b"Z")
    price = b"(SELECT CAST(1.5 AS DECIMAL(10, 2)) AS price)"
    for sql, expected in [
        (b"SELECT $1 AS x", (1700, 12.0)),
        (b"SELECT price + $1 AS x FROM " + price, (1700, 13.5)),
        (b"SELECT price AS x FROM " + price + b" WHERE price < $1", (1700, 1.5)),
    ]:
        raw.socket.sendall(parse(sql, oids=(1700,)) + message(b"D", b"S\0") + SYNC)
        columns = [body for tag, body in raw.until(b"Z") if tag == b"T"][0]
        (oid,) = struct.unpack("!i", columns[2:].partition(b"\0")[2][6:10])
        value = struct.pack("!i", 2) + b"12"
        raw.socket.sendall(message(b"B", b"\0\0" + struct.pack("!hh", 0, 1) + value + struct.pack("!h", 0)) + EXECUTE + SYNC)
        messages = raw.until(b"Z")
        assert not [body for tag, body in messages if tag == b"E"], (sql, messages)
        (value,) = [float(body[6:]) for tag, body in messages if tag == b"D"]
        assert (oid, value) == expected, sql


def test_errors_skip_to_sync(server):
    raw = Raw(server)
    raw.until(b"Z")
    raw.socket.sendall(parse(b"SELEC 1") + BIND + EXECUTE + parse(b"SELECT 1") + SYNC + parse(b"SELECT 1") + BIND + EXECUTE + SYNC)
    assert raw.tags(b"Z") == b"12EZ"
    assert raw.tags(b"Z") == b"12DCZ"
    raw.socket.sendall(parse(b"") + BIND + message(b"D", b"P\0") + EXECUTE + SYNC + message(b"Q", b";\0"))
    assert raw.tags(b"Z") == b"12nIZ"
    assert raw.tags(b"Z") == b"IZ"
    raw.socket.sendall(message(b"Q", b"SELECT 1; SELEC; SELECT 2\0"))
    assert raw.tags(b"Z") == b"TDCEZ"


@pytest.mark.parametrize("bytes_", [
    b"Q\0\0\0\x03", b"Q\xff\xff\xff\xff", b"\0\0\0\0\x08abcd", message(b"B", b"\0"), message(b"P", b"a"),
    message(b"B", b"\0\0" + struct.pack("!hhi", 0, 1, 1 << 30)), message(b"D"), message(b"E", b"\0"), message(b"y"),
    b"Q" + struct.pack("!i", 1 << 29),
])
def test_broken_messages_end_the_connection_and_nothing_else(server, bytes_):
    raw = Raw(server)
    raw.until(b"Z")
    raw.socket.sendall(bytes_)
    tag, body = raw.message()
    assert tag == b"E" and b"FATAL" in body, body
    with pytest.raises((EOFError, ConnectionResetError)):
        raw.message()
    assert server.process.poll() is None


@pytest.mark.parametrize("bytes_", [b"\0\0\0\x04", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b""])
def test_strangers_are_turned_away(server, bytes_):
    with socket.create_connection(("127.0.0.1", server.pg_port)) as stranger:
        stranger.settimeout(20)
        stranger.sendall(bytes_)
        if not bytes_:
            stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(1000):
            pass
    assert server.process.poll() is None


def test_stopping(database):
    server = Server(database)
    idle = psycopg.connect(dsn(server), autocommit=True)
    idle.execute("SELECT 1")
    rows = []

    def work():
        with psycopg.connect(dsn(server), autocommit=True) as connection:
            rows.append(connection.execute(
                "SELECT count(*) FROM generate_series(1, 3000000) a(value) JOIN generate_series(1, 3000000) b(value) ON a.value = b.value "
                "/* last */").fetchone())

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: running(server, "/* last */") == 1 or rows)
    assert server.stop() == 0
    thread.join()
    assert rows == [(3000000,)]
    with pytest.raises(psycopg.errors.AdminShutdown):
        idle.execute("SELECT 1")


# What PostgreSQL reads otherwise than the engine


def test_literals_are_read_as_postgresql_reads_them(connection):
    one = lambda sql: connection.execute(sql).fetchone()
    assert one(r"SELECT '\x00ff'::bytea AS b, CAST('ab' AS bytea) AS c") == (b"\x00\xff", b"ab")
    long = decimal.Decimal("12345678901234567890.123")
    assert one(f"SELECT {long}::numeric AS a, '-1.50'::numeric AS b") == (long, decimal.Decimal("-1.50"))
    assert str(one("SELECT '-1.50'::numeric AS b")[0]) == "-1.50"
    assert one("SELECT 2^10 AS a, 3 * 2 ^ 3 + 1 AS b, 2 ^ -1 AS c, -2 ^ 2 AS d") == (1024.0, 25.0, 0.5, 4.0)
    assert round(one("SELECT 2::numeric / 3 * 300 AS a")[0], 8) == 200
    assert one(r"SELECT bytea '\x61' AS b") == (b"a",)
    # What only the engine reads is not taken for an exclusive or.
    with pytest.raises(psycopg.Error, match=r"write power\(2, 2\)"):
        connection.execute("SELECT * EXCLUDE (text), 2 ^ 2 AS p FROM answers")
    assert one("SELECT 'abc' SIMILAR TO 'a%' AS a, 'abc' SIMILAR TO 'b' AS b") == (True, False)


def test_moments_have_a_time_zone(server, connection):
    for expression in ("now()", "'2024-01-01 12:00:00+01'::timestamptz", "current_timestamp"):
        cursor = connection.execute(f"SELECT {expression} AS t")
        assert cursor.description[0].type_code == 1184 and cursor.fetchone()[0].tzinfo, expression
    connection.execute("SET TimeZone TO 'Asia/Tokyo'")
    found = connection.execute("SELECT '2024-01-01 12:00:00+01'::timestamptz AS t").fetchone()[0]
    assert found == datetime.datetime(2024, 1, 1, 11, tzinfo=datetime.timezone.utc)
    now = connection.execute("SELECT now() AS t").fetchone()[0]
    assert abs(now - datetime.datetime.now(datetime.timezone.utc)) < datetime.timedelta(minutes=1)
    clock = "SELECT '2024-07-01 23:30:00Z'::timestamptz AT TIME ZONE 'Europe/Berlin' AS t"
    cursor = connection.execute(clock)
    assert cursor.description[0].type_code == 1114 and cursor.fetchone()[0] == datetime.datetime(2024, 7, 2, 1, 30)
    back = "SELECT TIMESTAMP '2024-07-02 01:30:00' AT TIME ZONE 'Europe/Berlin' AS t"
    assert connection.execute(back).fetchone()[0] == datetime.datetime(2024, 7, 1, 23, 30, tzinfo=datetime.timezone.utc)
    with pytest.raises(psycopg.Error, match="time zone"):
        connection.execute("SELECT now() AT TIME ZONE 'Europe/Nowhere' AS t")


@pytest.mark.parametrize("binary_", [False, True])
def test_decimals_as_parameters(connection, binary_):
    table = "(SELECT CAST('1.10' AS DECIMAL(10, 2)) AS price, CAST(0.1 AS DOUBLE) AS share) t"
    mark = "%b" if binary_ else "%t"
    ask_ = lambda condition, value: connection.execute(
        f"SELECT count(*) AS n FROM {table} WHERE {condition}", (decimal.Decimal(value),)).fetchone()[0]
    for condition, value, n in [
        (f"price = {mark}", "1.10", 1), (f"price = {mark}", "1.1", 1), (f"price < {mark}", "1.100000000000000001", 1),
        (f"price > {mark}", "1.1", 0), (f"share = {mark}", "0.1", 1), (f"share < {mark}", "1E-7", 0),
    ]:
        assert ask_(condition, value) == n, (condition, value)
    for value in ("1.10", "-12345678901234567890.5", "12", "0", "1E-7"):
        value = decimal.Decimal(value)
        assert connection.execute(f"SELECT {mark} AS v", (value,), prepare=True).fetchone()[0] == value
    value = lambda sql, value: connection.execute(f"SELECT {sql.replace('?', mark)} AS v", (decimal.Decimal(value),)).fetchone()[0]
    for sql, given, expected in [("5 / ?", "2", "2.5"), ("1 * ? / 4", "1", ".25"), ("? * 1000000000000", "1e10", "1e22")]:
        assert value(sql, given) == decimal.Decimal(expected), sql
    assert ask_("5 / " + mark + " > 2", "2") == 1
    rows = connection.execute(f"SELECT doc_id FROM answers LIMIT {mark}", (decimal.Decimal(2),)).fetchall()
    assert len(rows) == 2
    found = connection.execute(f"SELECT count(*) AS n FROM retrieve('answers', 'an apology', k => {mark})", (decimal.Decimal(3),))
    assert found.fetchone() == (3,)
    connection.execute(f"SELECT count(*) AS n FROM correlate('answers', min_lift => {mark})", (decimal.Decimal("1.5"),))


def test_columns_may_have_the_same_name(server, connection):
    names = lambda sql: [column.name for column in connection.execute(sql).description]
    assert names("SELECT doc_id, doc_id::text FROM answers LIMIT 1") == ["doc_id", "doc_id"]
    assert names("SELECT 1, 1") == ["?column?", "?column?"]
    assert names("SELECT Max(n_tokens), max(answers.n_tokens) FROM answers") == ["max", "max"]
    assert names("SELECT *, doc_id FROM answers ORDER BY doc_id LIMIT 1")[-1] == "doc_id"
    assert names("SELECT 1 AS a, 2 AS a UNION ALL SELECT 3, 3") == ["a", "a"]
    row = connection.execute("SELECT *, doc_id FROM answers LIMIT 1")
    named = [column.name for column in row.description]
    values = row.fetchone()
    assert values[named.index("doc_id")] == values[-1]
    out, _ = psql(server, "COPY (SELECT 1 AS a, 2 AS a) TO STDOUT WITH (FORMAT csv, HEADER)")
    assert out.splitlines() == ["a,a", "1,2"]


def test_arrays_of_a_query(connection):
    ids = [row[0] for row in connection.execute("SELECT doc_id FROM answers ORDER BY doc_id").fetchall()]
    one = lambda sql: connection.execute(sql).fetchone()[0]
    assert one("SELECT ARRAY(SELECT doc_id FROM answers ORDER BY doc_id DESC) AS a") == ids[::-1]
    assert one("SELECT ARRAY(SELECT doc_id FROM answers ORDER BY 1 LIMIT 2) AS a") == ids[:2]
    assert one("SELECT ARRAY(SELECT doc_id FROM answers WHERE false) AS a") == []
    assert one("SELECT ARRAY(SELECT DISTINCT doc_id FROM answers ORDER BY doc_id DESC) AS a") == ids[::-1]
    assert one("SELECT ARRAY(SELECT doc_id FROM answers GROUP BY doc_id ORDER BY 1) AS a") == ids
    assert one("SELECT ARRAY(SELECT count(*) + 1 FROM answers) AS a") == [len(ids) + 1]
    assert one("SELECT ARRAY(SELECT roleid FROM pg_auth_members WHERE false) AS a") == []


def test_conditions_on_subqueries_keep_their_limits(connection):
    for sql in ["SELECT 2 IN (SELECT i FROM generate_series(1, 3) i LIMIT 1) AS b",
                "WITH q AS (SELECT doc_id, text FROM answers) SELECT (SELECT text FROM q WHERE n_tokens > 0) AS m, current_schema() AS s"]:
        with pytest.raises(psycopg.Error):
            connection.execute(sql)


def test_what_would_never_be_planned_is_refused(connection):
    for sql in ["SELECT " + "cast(abs(" * 60 + "1" + ") AS int)" * 60, "SELECT " + " ^ ".join(["1"] * 60),
                "SELECT " + "coalesce(" * 30 + "1" + ", 2)" * 30, "SELECT " + "(SELECT " * 30 + "1" + ")" * 30]:
        with pytest.raises(psycopg.Error, match="nests? (too deep|within each other)"):
            connection.execute(sql)


def test_names_that_are_not_there_have_their_sqlstate(server, connection):
    for sql, sqlstate in [("SELECT 'nosuch'::regclass AS c", "42P01"), ("SHOW nosuch", "42704"),
                          ("SELECT current_setting('nosuch') AS s", "42704")]:
        with pytest.raises(psycopg.Error) as failed:
            connection.execute(sql)
        assert failed.value.sqlstate == sqlstate, sql
    _, notice = psql(server, "SET search_path = saequel, public")
    assert "found without their schema in public alone" in notice
    assert psql(server, "SET search_path = public")[1] == ""


def test_explain_takes_its_options_or_says_which(connection):
    plan = lambda options: str(connection.execute(f"EXPLAIN ({options}) SELECT doc_id FROM answers").fetchall())
    assert "metrics" in plan("ANALYZE") and "metrics" not in plan("ANALYZE false") and "metrics" in plan("ANALYZE, VERBOSE on")
    for options in ("FORMAT JSON", "NONSENSE 3", "ANALYZE maybe"):
        with pytest.raises(psycopg.Error, match="expected"):
            plan(options)
