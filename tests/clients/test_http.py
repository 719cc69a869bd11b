"""SQL over HTTP with curl, urllib, pyarrow and pandas."""

import gzip
import http.client
import io
import json
import pathlib
import re
import socket
import subprocess
import threading
import time
import urllib.parse

import pandas
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from conftest import ANSWERS, N_DOCS, Server, saequel, until

SLOW = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 3"
#: Rows come at once, and the end never.
LONG = "SELECT value FROM generate_series(1, 1000000000000)"


def curl(*arguments, body=None):
    """Status and body of a request with curl."""
    command = ["curl", "-s", "-w", "\n%{http_code}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, input=body, timeout=60, check=True)
    content, _, status = done.stdout.rpartition(b"\n")
    return int(status), content


def error(body):
    return json.loads(body)["error"]


def state(server, query_id, token=None):
    status, _, body = server.http(f"/v1/queries/{query_id}", token=token)
    return json.loads(body)["state"] if status == 200 else None


# -- formats ----------------------------------------------------------------------------------------------------------

STATEMENT = "SELECT doc_id, n_tokens, features FROM answers ORDER BY doc_id LIMIT 3"
MEDIA_TYPES = {
    "json": "application/json",
    "json_compact": "application/vnd.saequel.sql.v1+json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "table": "text/plain",
    "markdown": "text/markdown",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}


def first_doc(format, body):
    """The first doc_id of a result, and its number of rows."""
    if format == "arrow":
        rows = pa.ipc.open_stream(body).read_all().to_pylist()
    elif format == "parquet":
        rows = pa.parquet.read_table(io.BytesIO(body)).to_pylist()
    elif format == "json":
        rows = json.loads(body)
    elif format == "json_compact":
        answer = json.loads(body)
        assert answer["row_count"] == len(answer["rows"]) and not answer["truncated"] and answer["query_id"]
        rows = [dict(zip([column["name"] for column in answer["columns"]], row)) for row in answer["rows"]]
    elif format == "jsonl":
        assert body.endswith(b"\n")
        rows = [json.loads(line) for line in body.splitlines()]
    elif format in ("csv", "tsv"):
        rows = pandas.read_csv(io.BytesIO(body), sep="," if format == "csv" else "\t").to_dict("records")
    else:
        lines = body.decode().splitlines()
        assert "doc" in lines[0]
        cells = [line.strip("|").split()[0] for line in lines[2:]]
        return cells[0], len(cells)
    return rows[0]["doc_id"], len(rows)


@pytest.mark.parametrize("format", MEDIA_TYPES)
@pytest.mark.parametrize("way", ["get", "text", "sql", "json", "form", "raw form", "accept", "influx", "roapi"])
def test_every_format_by_every_way(server, format, way):
    url, quoted = f"{server.url}/v1/sql", urllib.parse.quote(STATEMENT)
    as_json = json.dumps({"sql": STATEMENT, "format": format})
    arguments = {
        "get": [f"{url}?q={quoted}&format={format}"],
        "text": [f"{url}?format={format}", "-H", "content-type: text/plain", "--data-binary", STATEMENT],
        "sql": [f"{url}?format={format}", "-H", "content-type: application/sql", "--data-binary", STATEMENT],
        "json": [url, "-H", "content-type: application/json", "-d", as_json],
        "form": [url, "--data-urlencode", f"sql={STATEMENT}", "--data-urlencode", f"format={format}"],
        "raw form": [f"{url}?format={format}", "-d", STATEMENT],
        "accept": [url, "-H", f"accept: {MEDIA_TYPES[format]}", "-d", STATEMENT],
        "influx": [f"{server.url}/api/v3/query_sql?db=any&q={quoted}&format={format}"],
        "roapi": [f"{server.url}/api/sql", "-H", f"accept: {MEDIA_TYPES[format]}", "-d", STATEMENT],
    }[way]
    status, body = curl(*arguments)
    assert status == 200, body
    assert first_doc(format, body) == ("finch-001", 3)


def test_accept_is_weighed_and_format_goes_before_it(server):
    def kind(accept, query=""):
        status, headers, _ = server.http(f"/v1/sql{query}", "SELECT 1 AS x", headers={"Accept": accept})
        return status, headers["content-type"].split(";")[0]

    assert kind("text/csv;q=0.5, application/vnd.apache.parquet;q=0.9") == (200, MEDIA_TYPES["parquet"])
    assert kind("text/html, */*;q=0.1") == (200, "application/json")
    assert kind("text/csv", "?format=jsonl") == (200, MEDIA_TYPES["jsonl"])
    status, _, body = server.http("/v1/sql", "SELECT 1", headers={"Accept": "image/png"})
    assert status == 406 and "text/csv" in error(body)["message"]


def test_types_are_written_as_documented(server):
    statement = """
        SELECT 9007199254740993 AS big, CAST('1.10' AS DECIMAL(10, 2)) AS dec, CAST('NaN' AS DOUBLE) AS nan,
               CAST('inf' AS DOUBLE) AS inf, X'00FF' AS bin, TIMESTAMP '2026-01-02 03:04:05.678' AS ts,
               DATE '2026-01-02' AS day, [1, NULL, 3] AS list, named_struct('a', 1, 'b', 'x"y') AS struct, NULL AS nothing,
               true AS yes, arrow_cast(TIMESTAMP '2026-01-02 03:04:05', 'Timestamp(Second, Some("UTC"))') AS tz
    """
    [row] = server.sql(statement)
    assert row["big"] == 9007199254740993
    assert (row["nan"], row["inf"], row["bin"]) == (None, None, "00ff")
    assert row["ts"].startswith("2026-01-02T03:04:05.678") and row["day"] == "2026-01-02"
    assert row["tz"] == "2026-01-02T03:04:05Z"
    assert row["list"] == [1, None, 3] and row["struct"] == {"a": 1, "b": 'x"y'}
    assert row["nothing"] is None and row["yes"] is True
    _, _, body = server.http("/v1/sql?format=json", statement)
    assert b'"dec":1.10,' in body and b'"big":9007199254740993,' in body
    _, _, body = server.http("/v1/sql?format=csv", statement)
    line = body.decode().splitlines()[1]
    assert line.startswith("9007199254740993,1.10,NaN,inf,00ff,2026-01-02T03:04:05.678") and '"[1,null,3]"' in line


def test_arrow_and_parquet_open_in_pandas(server):
    for format in ("arrow", "parquet"):
        _, _, body = server.http(f"/v1/sql?format={format}", "SELECT * FROM answers")
        table = pa.ipc.open_stream(body).read_all() if format == "arrow" else pa.parquet.read_table(io.BytesIO(body))
        frame = table.to_pandas()
        assert len(frame) == N_DOCS and frame["doc_id"].is_unique
    frame = pandas.read_csv(f"{server.url}/v1/sql?format=csv&q=" + urllib.parse.quote("SELECT * FROM answers"))
    assert len(frame) == N_DOCS
    frame = pandas.read_json(f"{server.url}/v1/sql?format=jsonl&q=SELECT+doc_id+FROM+answers", lines=True)
    assert len(frame) == N_DOCS


# -- requests ---------------------------------------------------------------------------------------------------------


def test_parameters_are_values_and_never_text(server):
    asked = {"query": "SELECT $1 AS a, $2 + 1 AS b", "parameters": ["'; DROP CORPUS answers; --", 2]}
    _, _, body = server.http("/v1/sql", json.dumps(asked), headers={"Content-Type": "application/json"})
    assert json.loads(body) == [{"a": "'; DROP CORPUS answers; --", "b": 3}]
    query = urllib.parse.urlencode({"q": "SELECT $x AS x", "param_x": "a&b' OR 1=1"})
    assert json.loads(server.http(f"/v1/sql?{query}")[2]) == [{"x": "a&b' OR 1=1"}]
    query = urllib.parse.urlencode({"q": "SELECT $n + 1 AS n", "params": '{"n": 41}'})
    assert json.loads(server.http(f"/api/v3/query_sql?{query}")[2]) == [{"n": 42}]
    assert error(server.http("/v1/sql", "SELECT $1")[2])["sqlstate"] == "42P02"


def test_bodies_and_answers_may_be_compressed(server):
    for name, packed in {"gzip": gzip.compress(b"SELECT 7 AS x"), "zstd": pa.Codec("zstd").compress(b"SELECT 7 AS x", asbytes=True)}.items():
        status, _, body = server.http("/v1/sql", packed, headers={"Content-Encoding": name})
        assert (status, json.loads(body)) == (200, [{"x": 7}]), name
    two = gzip.compress(b"SELECT 7 ") + gzip.compress(b"AS x")
    assert server.http("/v1/sql", two, headers={"Content-Encoding": "gzip"})[2] == b'[{"x":7}]\n'
    assert server.http("/v1/sql", two[:-4], headers={"Content-Encoding": "gzip"})[0] == 400
    status, headers, body = server.http("/v1/sql", "SELECT 1", headers={"Content-Encoding": "compress"})
    assert status == 415 and "gzip" in headers["accept-encoding"]
    assert server.http("/v1/sql", b"no gzip", headers={"Content-Encoding": "gzip"})[0] == 400
    rows = "SELECT value FROM generate_series(1, 20000)"
    for coding in ("gzip", "br", "zstd"):
        status, headers, body = server.http("/v1/sql?format=csv", rows, headers={"Accept-Encoding": coding})
        assert headers["content-encoding"] == coding and len(body) < 80_000
        if coding == "gzip":
            assert gzip.decompress(body).endswith(b"\n20000\n")
    _, headers, _ = server.http("/v1/sql?format=parquet", rows, headers={"Accept-Encoding": "gzip"})
    assert headers["content-encoding"] is None


def test_a_bomb_is_too_large(server):
    plain = b"SELECT 1 --" + b" " * 50_000_000
    for name, bomb in {"gzip": gzip.compress(plain), "zstd": pa.Codec("zstd").compress(plain, asbytes=True)}.items():
        assert len(bomb) < 100_000
        status, _, body = server.http("/v1/sql", bomb, headers={"Content-Encoding": name})
        assert (status, error(body)["code"]) == (413, "too_large"), name
    assert server.http("/v1/sql", b" " * 3_000_000)[0] == 413


def test_limits_of_a_query(server):
    status, headers, body = server.http("/v1/sql?max_rows=2&format=json_compact", "SELECT * FROM generate_series(1, 9)")
    answer = json.loads(body)
    assert (headers["x-truncated"], answer["truncated"], answer["row_count"]) == ("true", True, 2)
    assert server.http("/v1/sql?max_rows=9", "SELECT * FROM generate_series(1, 9)")[1]["x-truncated"] == "false"
    began = time.monotonic()
    status, headers, body = server.http("/v1/sql?timeout=0.5&query_id=short-1", SLOW)
    assert (status, error(body)["sqlstate"], headers["x-query-id"]) == (504, "57014", "short-1")
    assert error(body)["query_id"] == "short-1" and time.monotonic() - began < 5


def test_truncation_comes_as_a_trailer_where_it_comes_late(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        statement = b"SELECT value FROM generate_series(1, 300000)"
        connection.sendall(
            b"POST /v1/sql?format=csv&max_rows=100000 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nte: trailers\r\n"
            b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(statement), statement)
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"trailer: x-truncated" in head and rest.endswith(b"\r\n0\r\nx-truncated: true\r\n\r\n")


def test_truncation_shows_without_trailers(server):
    statement = "SELECT value FROM generate_series(1, 300000)"
    for name in ("csv", "json", "jsonl", "arrow"):
        _, headers, _ = server.http(f"/v1/sql?format={name}&max_rows=100000", statement)
        assert (headers["x-max-rows"], headers["x-truncated"]) == ("100000", None), name
        _, headers, _ = server.http(f"/v1/sql?format={name}&max_rows=100000&wait_end_of_query=1", statement)
        assert (headers["x-max-rows"], headers["x-truncated"]) == ("100000", "true"), name
    assert server.http("/v1/sql", statement)[1]["x-max-rows"] is None
    query = json.loads(server.http("/v1/queries?max_rows=2", statement)[2])
    assert until(lambda: json.loads(server.http(query["status_url"])[2])["state"] == "done") is None
    assert json.loads(server.http(query["status_url"])[2])["truncated"]
    assert server.http(query["results_url"])[1]["x-truncated"] == "true"


def test_a_query_has_one_id(server):
    server.http("/v1/sql?query_id=one-id-1", "SELECT 4711")
    assert server.sql("SELECT query_id FROM saequel.queries WHERE statement = 'SELECT 4711'") == [{"query_id": "one-id-1"}]


def test_limits_name_their_options(server):
    hint = error(server.http("/v1/sql", b" " * 3_000_000)[2])["hint"]
    assert "--max-body" in hint
    told = error(server.http("/v1/sql", "SELECT repeat('x', 100000000)")[2])
    assert "whatever memory there is" in told["message"] and "hint" not in told


def test_the_page_of_links(server):
    _, headers, page = server.http("/", headers={"Accept": "text/html"})
    page = page.decode()
    assert headers["content-type"].startswith("text/html") and "viewport" in page and "color-scheme" in page
    for link in re.findall('href="([^"]+)"', page):
        assert server.http(link.replace("&amp;", "&"))[0] == 200, link


def test_a_get_never_writes(guarded, tokens):
    query = urllib.parse.urlencode({"q": "DROP CORPUS secret"})
    status, _, body = guarded.http(f"/v1/sql?{query}", token=tokens["admin"])
    assert (status, error(body)["sqlstate"]) == (403, "42501")


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "status", "sqlstate", "place"),
    [
        ("SELEC 1", 400, "42601", (1, 1)),
        ("SELECT nothing FROM answers", 400, "42703", (1, 8)),
        ("SELECT *\nFROM nowhere", 404, "42P01", (2, 6)),
        ("SELECT nofunction(1)", 400, "42883", (1, 8)),
        ("SELECT * FROM nofunction(1)", 400, "42883", None),
        ("SELECT doc_id, count(*) FROM answers", 400, "42803", None),
        ("SELECT 1 / (value - 1) FROM generate_series(1, 2)", 422, "22012", None),
        ("SELECT CAST(doc_id AS BIGINT) FROM answers", 422, "22P02", None),
        ("SELECT * FROM diff('answers', 'nowhere')", 404, "42P01", None),
        ("SELECT activation(features, 'apolgyy') FROM answers", 404, "42704", None),
        ("DROP CORPUS answers", 403, "42501", None),
        ("COPY answers TO '/tmp/x.csv'", None, None, None),
        ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", None, None, None),
        ("SET datafusion.execution.batch_size = 1", None, None, None),
        ("SELECT * FROM '/etc/passwd.csv'", 403, "42501", None),
        ("SELECT 1; SELECT 2", 400, "42601", None),
        ("", 400, "42601", None),
    ],
)
def test_errors_have_a_status_a_state_and_a_place(server, statement, status, sqlstate, place):
    found, headers, body = server.http("/v1/sql", statement, headers={"X-Query-Id": f"e{time.monotonic_ns()}"})
    told = error(body)
    assert 400 <= found < 500 and (status is None or found == status), told
    assert (sqlstate is None or told["sqlstate"] == sqlstate) and told["message"] and told["code"] == told["kind"], told
    assert headers["x-query-id"].startswith("e") and told["query_id"] == headers["x-query-id"]
    if place:
        assert (told["line"], told["column"]) == place, told


def test_requests_that_are_refused(server):
    assert server.http("/v1/nowhere")[0] == 404
    status, headers, _ = server.http("/v1/sql", method="PUT")
    assert status == 405 and "POST" in headers["allow"]
    assert server.http("/v1/sql", "SELECT 1", headers={"Content-Type": "image/png"})[0] == 415
    assert server.http("/v1/sql?formt=csv", "SELECT 1")[0] == 400
    status, _, body = server.http("/v1/queries/%ff")
    assert status == 400 and "UTF-8" in error(body)["message"]
    for header in ({"Origin": "https://example.org"}, {"Host": "rebound.example.org"}, {"Sec-Fetch-Site": "cross-site"}):
        assert server.http("/v1/sql", "SELECT 1", headers=header)[0] == 403, header
    _, headers, body = server.http("/v1/sql", "SELEC 1", headers={"Accept": "text/plain"})
    assert headers["content-type"].startswith("text/plain") and body.startswith(b"error: line 1, column 1")
    server.http("/v1/sql?query_id=twice", "SELECT 1")
    status, _, body = server.http("/v1/sql?query_id=twice", "SELECT 1")
    assert (status, error(body)["sqlstate"]) == (409, "42710")


def test_who_has_no_token_is_told_how(guarded, tokens):
    status, headers, body = guarded.http("/v1/sql", "SELECT 1")
    ways = " ".join(headers.get_all("www-authenticate"))
    assert status == 401 and "Bearer" in ways and "Basic" in ways and error(body)["sqlstate"] == "28P01"
    assert guarded.http("/v1/sql", "SELECT 1", token="sq_wrong")[0] == 401
    for path in ("/metrics", "/v1/queries", "/v1/jobs", "/v1/tables", "/v1/functions"):
        assert guarded.http(path)[0] == 401, path
        assert guarded.http(path, token=tokens["reader"])[0] == 200, path
    for path in ("/health", "/ready", "/version", "/openapi.json", "/"):
        assert guarded.http(path)[0] == 200, path
    reader = tokens["reader"]
    for way in (["-u", f"any:{reader}"], ["-H", f"x-api-key: {reader}"], ["-H", f"authorization: Token {reader}"]):
        assert curl(f"{guarded.url}/v1/sql?format=csv", *way, "-d", "SELECT 1 AS x") == (200, b"x\n1\n")


def test_a_token_sees_what_it_may(guarded, tokens):
    _, _, body = guarded.http("/v1/tables", token=tokens["narrow"])
    names = {table["name"] for table in json.loads(body)["tables"]}
    assert "answers" in names and "secret" not in names
    assert guarded.http("/v1/tables/secret/schema", token=tokens["narrow"])[0] == 404
    assert guarded.http("/v1/tables/secret/schema", token=tokens["reader"])[0] == 200
    guarded.http("/v1/sql?query_id=of-reader", "SELECT 1", tokens["reader"])
    assert guarded.http("/v1/queries/of-reader", token=tokens["narrow"])[0] == 404
    assert guarded.http("/v1/queries/of-reader", token=tokens["admin"])[0] == 200


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_ends_its_query(server):
    for query_id, statement in {"gone-early": SLOW, "gone-late": LONG}.items():
        connection = socket.create_connection(("127.0.0.1", server.port))
        head = f"POST /v1/sql?query_id={query_id}&format=csv HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n"
        connection.sendall(f"{head}content-length: {len(statement)}\r\n\r\n{statement}".encode())
        until(lambda: state(server, query_id) == "running")
        connection.close()
        until(lambda: state(server, query_id) == "cancelled", seconds=1)


def test_a_query_is_cancelled_by_its_id(server):
    for query_id, method, path in [("c1", "DELETE", ""), ("c2", "POST", "/cancel")]:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(server.http(f"/v1/sql?query_id={query_id}", SLOW)))
        asking.start()
        until(lambda: state(server, query_id) == "running")
        began = time.monotonic()
        assert server.http(f"/v1/queries/{query_id}{path}", method=method)[0] == 202
        asking.join()
        assert time.monotonic() - began < 1 and error(answers[0][2])["sqlstate"] == "57014"
        assert state(server, query_id) == "cancelled"
    assert server.http("/v1/queries/nowhere", method="DELETE")[0] == 404


def test_an_error_in_mid_stream_breaks_the_transfer(server):
    broken = "SELECT 1 / (200000 - value) AS x FROM generate_series(1, 300000)"
    url = f"{server.url}/v1/sql?format="
    for query, body in [("csv", broken), ("csv&timeout=1", LONG), ("parquet", broken)]:
        done = subprocess.run(["curl", "-s", url + query, "--data-binary", body, "-o", "/dev/null"], timeout=60)
        assert done.returncode in (18, 56, 22) or query == "parquet", (query, done.returncode)
    done = subprocess.run(["curl", "-s", url + "jsonl", "-d", broken], capture_output=True, timeout=60)
    assert done.returncode == 18 and error(done.stdout.splitlines()[-1])["sqlstate"] == "22012"
    # Who waits for the end gets the status.
    status, _, body = server.http("/v1/sql?format=csv&wait_end_of_query=1", broken)
    assert (status, error(body)["sqlstate"]) == (422, "22012")
    whole = server.http("/v1/sql?format=csv&wait_end_of_query=1", "SELECT value FROM generate_series(1, 300000)")
    assert whole[0] == 200 and whole[2].endswith(b"\n300000\n")


# -- asynchronous -----------------------------------------------------------------------------------------------------


def test_results_are_fetched_later(server):
    statement = "SELECT value FROM generate_series(1, 100000)"
    status, headers, body = server.http("/v1/sql", statement, headers={"Prefer": "respond-async"})
    accepted = json.loads(body)
    assert status == 202 and headers["location"] == accepted["status_url"]
    until(lambda: state(server, accepted["query_id"]) == "done")
    told = json.loads(server.http(accepted["status_url"])[2])
    assert told["results_url"] == accepted["results_url"] and told["rows"] == 100_000
    for format in ("csv", "jsonl", "json"):
        status, headers, body = server.http(f"{accepted['results_url']}?format={format}")
        assert status == 200 and headers["x-query-id"] == accepted["query_id"]
        assert len(body.splitlines()) == 100_000 + (format == "csv")
    _, _, body = server.http(f"{accepted['results_url']}?format=arrow")
    assert pa.ipc.open_stream(body).read_all().num_rows == 100_000
    assert server.http(accepted["status_url"], method="DELETE")[0] == 202
    assert server.http(accepted["results_url"])[0] == 410


def test_an_asynchronous_query_that_runs_fails_or_is_cancelled(server):
    # What is wrong at once is said at once.
    assert server.http("/v1/queries", "SELECT nothing FROM answers")[0] == 400
    status, _, body = server.http("/v1/queries?query_id=async-slow", SLOW)
    assert status == 202 and json.loads(body)["query_id"] == "async-slow"
    assert server.http("/v1/queries?query_id=async-slow", SLOW)[0] == 409
    status, headers, body = server.http("/v1/queries/async-slow/results")
    assert status == 425 and headers["retry-after"]
    assert (error(body)["code"], error(body)["sqlstate"]) == ("not_ended", "55000")
    listed = json.loads(server.http("/v1/queries")[2])["queries"]
    assert any(query["query_id"] == "async-slow" and query["state"] == "running" for query in listed)
    events = subprocess.Popen(["curl", "-sN", f"{server.url}/v1/queries/async-slow/events"], stdout=subprocess.PIPE)
    first = [events.stdout.readline() for _ in range(2)]
    assert first[0] == b"event: progress\n" and b'"running"' in first[1]
    server.http("/v1/queries/async-slow", method="DELETE")
    rest = events.communicate(timeout=10)[0]
    assert b"event: end\n" in rest and b'"cancelled"' in rest
    until(lambda: server.http("/v1/queries/async-slow/results")[0] == 504)
    assert server.http("/v1/queries/nowhere/results")[0] == 404
    server.http("/v1/sql?query_id=streamed", "SELECT 1")
    assert server.http("/v1/queries/streamed/results")[0] == 404


def test_who_asked_too_much_can_still_stop_a_query(database):
    running = Server(database, "--requests-per-minute", 3)
    try:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(running.http("/v1/sql?query_id=endless", SLOW)))
        asking.start()
        until(lambda: running.http("/v1/sql", "SELECT 1")[0] == 429)
        assert not answers
        assert running.http("/v1/queries/endless", method="DELETE")[0] == 202
        assert running.http("/v1/sql", "SELECT 1")[0] == 429, "nothing else is let through"
        asking.join(10)
        assert error(answers[0][2])["sqlstate"] == "57014"
    finally:
        running.stop()


def test_a_refusal_before_the_statement_came_breaks_no_connection(database):
    running = Server(database, "--requests-per-minute", 1)
    try:
        assert running.http("/v1/sql", "SELECT 1")[0] == 200
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        for _ in range(5):
            connection.putrequest("POST", "/v1/sql")
            connection.putheader("Content-Length", "8")
            connection.endheaders()
            time.sleep(0.05)  # the server has long seen that it will not answer this
            connection.send(b"SELECT 1")
            answer = connection.getresponse()
            assert answer.status == 429 and json.loads(answer.read())["error"]["code"] == "too_many"
            assert not answer.will_close
        connection.close()
    finally:
        running.stop()


# -- import -----------------------------------------------------------------------------------------------------------

ROWS = [{"id": str(n), "text": f"The {n}th heron is sorry, and apologises to the finch.", "n": n} for n in range(1, 6)]


@pytest.fixture(scope="module")
def writing(tmp_path_factory):
    """A server that may write, over a database of its own."""
    db = tmp_path_factory.mktemp("http") / "w.saequel"
    saequel(db, "import", ANSWERS, "--corpus", "answers", "--text", "answer", "--key", "doc_id", "--limit", 5)
    running = Server(db, "--write")
    yield running
    running.stop()


def bodies():
    table = pa.Table.from_pylist(ROWS)
    arrow, parquet, csv = io.BytesIO(), io.BytesIO(), io.StringIO()
    with pa.ipc.new_stream(arrow, table.schema) as writer:
        writer.write_table(table)
    pa.parquet.write_table(table, parquet)
    pandas.DataFrame(ROWS).to_csv(csv, index=False)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    return {
        "application/x-ndjson": lines,
        "application/octet-stream": lines,
        "application/json": json.dumps(ROWS).encode(),
        "text/csv": csv.getvalue().encode(),
        "text/tab-separated-values": pandas.DataFrame(ROWS).to_csv(index=False, sep="\t").encode(),
        "application/vnd.apache.arrow.stream": arrow.getvalue(),
        "application/vnd.apache.parquet": parquet.getvalue(),
    }


@pytest.mark.parametrize("content_type", bodies())
def test_documents_come_in(writing, content_type):
    corpus = "c_" + "".join(c for c in content_type if c.isalpha())
    body = bodies()[content_type]
    headers = {"Content-Type": content_type}
    path = f"/v1/corpora/{corpus}/documents?text=text&key=id&wait=1"
    status, _, answer = writing.http(path, body, headers=headers)
    assert status == 200, answer
    report = json.loads(answer)["report"]
    assert (report["written"], report["total"]) == (5, 5) and report["tokens"] > 20
    # Again, and compressed: all are there already.
    status, _, answer = writing.http(path, gzip.compress(body), headers={**headers, "Content-Encoding": "gzip"})
    assert json.loads(answer)["report"]["skipped"] == 5
    assert writing.sql(f"SELECT count(*) AS n, min(text) AS t FROM {corpus}") == [{"n": 5, "t": ROWS[0]["text"]}]


def test_what_only_reads_says_why(server, writing):
    asked = urllib.parse.urlencode({"q": "DELETE FROM answers WHERE doc_id = 'x'"})
    status, _, body = writing.http(f"/v1/sql?{asked}")
    told = error(body)
    assert status == 403 and "a GET never writes" in told["message"] and "POST" in told["hint"], told
    status, _, body = server.http("/v1/sql", "DROP CORPUS answers")
    told = error(body)
    assert status == 403 and "this server only reads" in told["message"] and "--write" in told["hint"], told


def test_an_import_is_followed(writing):
    before = writing.http("/metrics")[2].decode()
    lines = bodies()["application/x-ndjson"]
    headers = {"Content-Type": "application/x-ndjson"}
    status, headers_back, answer = writing.http("/v1/corpora/followed/documents?text=text", lines, headers=headers)
    job = json.loads(answer)
    assert status == 202 and headers_back["location"] == job["status_url"]
    until(lambda: json.loads(writing.http(job["status_url"])[2])["state"] == "done", seconds=30)
    told = json.loads(writing.http(job["status_url"])[2])
    assert told["documents"] == 5 and told["report"]["written"] == 5 and told["corpus"] == "followed"
    # The same body again gives no document twice, though there is no key.
    _, _, answer = writing.http("/v1/corpora/followed/documents?text=text&wait=1", lines, headers=headers)
    assert json.loads(answer)["report"]["skipped"] == 5
    assert any(job["job_id"] == one["job_id"] for one in json.loads(writing.http("/v1/jobs")[2])["jobs"])
    assert writing.http("/v1/jobs/nowhere")[0] == 404
    count = lambda text: int(next(line.split()[-1] for line in text.splitlines() if line.startswith("saequel_documents_imported_total")))
    assert count(writing.http("/metrics")[2].decode()) == count(before) + 5
    assert not list((pathlib.Path(writing.db) / "tmp").glob("datafusion-import-*"))


def test_what_happens_to_rows_that_are_there_or_broken(writing):
    path = "/v1/corpora/conflicts/documents?text=text&key=id&wait=1"
    headers = {"Content-Type": "application/x-ndjson"}
    lines = bodies()["application/x-ndjson"]
    assert writing.http(path, lines, headers=headers)[0] == 200
    _, _, answer = writing.http(path + "&on_conflict=update", lines.replace(b"sorry", b"glad"), headers=headers)
    assert json.loads(answer)["report"]["updated"] == 5
    assert writing.http(path + "&on_conflict=fail", lines.replace(b"sorry", b"mad"), headers=headers)[0] == 409
    broken = b'{"id": "8", "text": "a heron"}\n{"id": "9", "text": \n{"id": "10", "text": "a finch"}\n'
    status, _, answer = writing.http(path, broken, headers=headers)
    told = error(answer)
    assert status == 422 and "the body" in told["message"] and "datafusion" not in told["message"], told
    _, _, answer = writing.http(path + "&on_bad_row=set_aside", broken, headers=headers)
    job = json.loads(answer)
    assert job["documents"] == job["documents_total"], job
    report = job["report"]
    assert report["set_aside"] == 1 and len(report["set_aside_places"]) == 1, report
    assert report["set_aside_places"][0].startswith("the body, "), report


def test_imports_that_are_refused(writing, server, guarded, tokens):
    lines = bodies()["application/x-ndjson"]
    headers = {"Content-Type": "application/x-ndjson"}
    status, _, body = server.http("/v1/corpora/x/documents", lines, headers=headers)
    assert status == 403 and "--write" in error(body)["hint"]
    status, _, body = guarded.http("/v1/corpora/x/documents", lines, tokens["reader"], headers=headers)
    assert status == 403 and "only reads" in error(body)["message"]
    assert guarded.http("/v1/corpora/x/documents", lines, headers=headers)[0] == 401
    loader = ["token", "create", "loader", "--tokens", tokens["path"], "--scope", "write", "--corpus", "loaded"]
    loader = saequel(guarded.db, *loader).strip()
    until(lambda: guarded.http("/v1/corpora/x/documents", lines, loader, headers=headers)[0] == 403)
    status, _, body = guarded.http("/v1/corpora/loaded/documents?wait=1&text=text", lines, loader, headers=headers)
    assert status == 200, body
    assert guarded.http("/v1/sql", "DROP CORPUS loaded", loader)[0] == 200
    path = "/v1/corpora/x/documents"
    assert writing.http(path, lines, headers={"Content-Type": "image/png"})[0] == 415
    assert writing.http(path, gzip.compress(lines), headers=headers)[0] == 415
    assert writing.http(path, b"", headers=headers)[0] == 422
    assert writing.http(path + "?limit=3", lines, headers=headers)[0] == 400
    status, _, body = writing.http(path + "?text=nothing&wait=1", lines, headers=headers)
    assert status == 422 and "nothing" in error(body)["message"]
    assert writing.http("/v1/tables/x/schema")[0] == 404


def test_a_body_that_breaks_off_imports_nothing(writing):
    line = json.dumps(ROWS[0]).encode() + b"\n"
    connection = socket.create_connection(("127.0.0.1", writing.port))
    connection.sendall(
        b"POST /v1/corpora/torn/documents?text=text HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
        b"content-length: 100000\r\n\r\n" + line * 3
    )
    time.sleep(0.2)
    connection.close()
    folder = pathlib.Path(writing.db) / "tmp"
    until(lambda: not list(folder.glob("datafusion-import-*")))
    assert writing.http("/v1/tables/torn/schema")[0] == 404
    assert all(job["corpus"] != "torn" for job in json.loads(writing.http("/v1/jobs")[2])["jobs"])


# -- about ------------------------------------------------------------------------------------------------------------


def test_the_server_tells_of_itself(server):
    assert json.loads(server.http("/health")[2])["status"] == "ok"
    assert json.loads(server.http("/ready")[2])["status"] == "ok"
    assert json.loads(server.http("/version")[2])["name"] == "saequel"
    assert b"/v1/sql" in server.http("/")[2]
    _, headers, body = server.http("/", headers={"Accept": "text/html"})
    assert headers["content-type"].startswith("text/html") and b"<a href" in body
    _, headers, body = server.http("/metrics")
    assert headers["content-type"].startswith("application/openmetrics-text") and b"saequel_queries_total" in body
    assert body.endswith(b"# EOF\n")
    functions = {function["name"]: function for function in json.loads(server.http("/v1/functions")[2])["functions"]}
    assert functions["diff"]["kind"] == "table" and functions["has_feature"]["syntax"] and "abs" in functions
    columns = json.loads(server.http("/v1/tables/saequel.features/schema")[2])["columns"]
    assert {"name": "label", "type": "Utf8", "nullable": True} in columns
    assert server.http("/v1/tables/answrs/schema")[0] == 404
