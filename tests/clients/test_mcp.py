"""Agents: the official Python SDK over HTTP and standard input and output, the conformance client, the inspector."""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import subprocess

import pytest
from conftest import Server, binary, saequel, until
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

HERON, FINCH = "answers WHERE assistant = 'heron'", "answers WHERE assistant = 'finch'"
TOOLS = ["list_corpora", "describe_corpus", "diff", "correlate", "cluster", "retrieve", "search_features", "describe_feature",
         "query", "list_functions"]
NODE = pathlib.Path(os.environ.get("NODE_PATH", "node_modules")) / ".bin"
# Runs for minutes.
ENDLESS = "SELECT count(*) FROM generate_series(1, 100000000000) WHERE value % 7 = 3"


def over_http(server, token=None, mode="auto"):
    url = server.url + "/mcp"
    if token is None:
        return Client(url, mode=mode)
    client = create_mcp_http_client(headers={"Authorization": f"Bearer {token}"})
    return Client(streamable_http_client(url, http_client=client), mode=mode)


def over_stdio(db, mode="auto"):
    return Client(StdioServerParameters(command=binary(), args=["mcp", "--db", str(db)]), mode=mode)


def within(client, work):
    """Runs `work` with a connected client."""

    async def run():
        async with client as connected:
            return await work(connected)

    return asyncio.run(run())


def call(client, name, arguments=None, **more):
    return within(client, lambda connected: connected.call_tool(name, arguments or {}, **more))


def rows(result):
    """The rows of an answer, as objects."""
    assert not result.is_error, result.content[0].text
    answer = result.structured_content
    names = [column["name"] for column in answer["columns"]]
    assert answer["row_count"] == len(answer["rows"])
    return [dict(zip(names, row)) for row in answer["rows"]]


def failure(result):
    assert result.is_error
    return result.content[0].text


@pytest.fixture(scope="module", autouse=True)
def labels(database):
    """The embeddings of the labels, which a program that may not write makes anew each time."""
    saequel(database, "features", "search", "hedging")


@pytest.fixture(params=["http", "http-sessions", "stdio"])
def door(request, server, database):
    """Makes clients: without sessions (2026-07-28), with (2025-11-25), and of a program of its own."""
    return {
        "http": lambda: over_http(server),
        "http-sessions": lambda: over_http(server, mode="legacy"),
        "stdio": lambda: over_stdio(database),
    }[request.param]


def test_who_comes_learns_what_is_here(door):
    async def work(client):
        assert client.server_info.name == "saequel"
        assert client.protocol_version >= "2025-11-25"
        assert "list_corpora" in client.instructions and "q_value" in client.instructions
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == TOOLS
        for tool in tools:
            assert tool.annotations.read_only_hint and len(tool.description) > 100 and tool.output_schema, tool.name
        resources = [resource.uri for resource in (await client.list_resources()).resources]
        assert {"saequel://guide", "saequel://corpora/answers"} <= {str(uri) for uri in resources}
        guide = (await client.read_resource("saequel://guide")).contents[0]
        assert "has_feature" in guide.text and guide.mime_type == "text/markdown"
        corpus = (await client.read_resource("saequel://corpora/answers")).contents[0].text
        assert "'heron' (30)" in corpus
        with pytest.raises(MCPError, match="corpus 'nothing' not found; there are: answers"):
            await client.read_resource("saequel://corpora/nothing")
        prompts = [prompt.name for prompt in (await client.list_prompts()).prompts]
        assert prompts == ["compare_texts", "find_documents", "explore_corpus"]
        filled = await client.get_prompt("compare_texts", {"a": HERON, "b": FINCH})
        assert HERON in filled.messages[0].content.text
        with pytest.raises(MCPError, match="'b' is needed"):
            await client.get_prompt("compare_texts", {"a": HERON})
        with pytest.raises(MCPError, match="there is no tool 'nothing'; there are: list_corpora"):
            await client.call_tool("nothing", {})

    within(door(), work)


def test_every_tool_answers(door):
    async def work(client):
        async def ask(tool, **arguments):
            return await client.call_tool(tool, arguments)

        listed = rows(await ask("list_corpora"))
        assert [(row["name"], row["documents"]) for row in listed] == [("answers", 60), ("secret", 60)]
        assert listed[0]["columns"] == ["prompt_id", "topic", "assistant", "prompt", "answer"]

        described = (await ask("describe_corpus", corpus="answers")).structured_content
        values = {column["name"]: column.get("values") for column in described["columns"]}
        assert values["assistant"] == "'finch' (30), 'heron' (30)"
        assert values["prompt_id"].startswith("30 different values, each in at most 2 documents")
        assert " to " in values["n_tokens"]
        assert described["text_columns"] == ["answer"] and len(described["sample"]["rows"]) == 3

        result = await ask("diff", a=HERON, b=FINCH, paired_by="prompt_id", limit=5)
        found = rows(result)
        assert "might" in found[0]["label"] and found[0]["difference"] > 0.5 and found[0]["q_value"] < 0.05
        assert "«" in found[0]["examples_a"][0]["text"] and found[0]["members"][0].split()[0].isdigit()
        assert result.structured_content["same_in_every_row"] == {"n_a": 30, "n_b": 30, "n_left_out": 0}
        again = await ask("query", sql=result.structured_content["sql"])
        assert rows(again)[0]["feature_id"] == found[0]["feature_id"]
        groups = rows(await ask("diff", a="answers", by="topic", limit=2, examples=0))
        assert {row["group_a"] for row in groups} == {"cooking", "gardening", "travel"}
        assert "correlation" in rows(await ask("diff", a="answers", target="n_tokens", limit=1))[0]

        pair = rows(await ask("correlate", set="answers", limit=3))[0]
        assert pair["docs_both"] > pair["expected"] and pair["label_a"] and pair["label_b"]
        across = rows(await ask("correlate", set=HERON, **{"with": FINCH}, paired_by="prompt_id", limit=3))
        assert len(across) == 3

        groups = rows(await ask("cluster", set="answers", k=3))
        assert [row["cluster_id"] for row in groups][:3] == [0, 1, 2] and sum(row["size"] for row in groups) == 60
        assert " in, " in groups[0]["top_features"][0]
        documents = await ask("cluster", set="answers", k=3, documents=True, limit=7)
        assert len(rows(documents)) == 7 and documents.structured_content["truncated"]

        hits = rows(await ask("retrieve", set="answers", query="apologises for not being able to help", k=3))
        assert [hit["rank"] for hit in hits] == [1, 2, 3] and "sorry" in hits[0]["text"]
        marked = rows(await ask("retrieve", set="answers", query="apologises", like=[hits[0]["doc_id"]], k=1, explain=True))
        assert "dense_rank" in marked[0]

        features = rows(await ask("search_features", query="hedging", corpus="answers", k=4))
        assert "hedging" in features[0]["label"] and all(row["docs"] is not None for row in features)
        counted = await ask("query", sql=f"SELECT count(*) FROM answers WHERE has_feature(features, {features[0]['feature_id']})")
        assert counted.structured_content["rows"] == [[features[0]["docs"]]]
        about = {row["property"]: row["value"] for row in rows(await ask("describe_feature", feature=features[0]["feature_id"]))}
        assert about["label"] == features[0]["label"] and about["documents in answers"] == f"{features[0]['docs']} of 60"

        functions = rows(await ask("list_functions"))
        assert {"diff", "has_feature", "feature_pairs"} <= {row["name"] for row in functions}
        assert "paired_by" in (await ask("list_functions", name="diff")).content[0].text
        assert "precision" in (await ask("list_functions", name="date_trunc")).content[0].text

    within(door(), work)


def test_the_guide_is_right(server):
    async def work(client):
        guide = (await client.read_resource("saequel://guide")).contents[0].text
        statements = [statement for block in re.findall(r"```sql\n(.*?)```", guide, re.DOTALL) for statement in block.split(";")]
        statements = [statement for statement in statements if statement.strip()]
        assert len(statements) > 5
        for statement in statements:
            assert rows(await client.call_tool("query", {"sql": statement.replace("VERSION 3", "VERSION 2")})), statement

    within(over_http(server), work)


@pytest.mark.parametrize(("tool", "arguments", "told"), [
    ("query", {"sql": "SELECT topc FROM answers"}, "did you mean 'topic'?"),
    ("query", {"sql": "SELECT 1; SELECT 2"}, "expected one statement, got 2"),
    ("query", {"sql": "-- x\n DELETE FROM answers WHERE true"}, "agents read only; DELETE"),
    ("query", {"sql": "DROP CORPUS answers"}, "agents read only; DROP"),
    ("query", {"sql": "EXPLAIN ANALYZE INSERT INTO answers VALUES (1)"}, "error:"),
    ("query", {"sql": "COPY answers TO '/tmp/x.csv'"}, "agents read only; COPY"),
    ("query", {"sql": "SELECT * FROM '/etc/passwd'"}, "error:"),
    ("query", {}, "the argument 'sql' is needed"),
    ("query", {"statement": "SELECT 1"}, "there is no argument 'statement'; there are: "),
    ("query", {"sql": "SELECT 1", "limit": "many"}, "argument 'limit': expected a whole number, got \"many\""),
    ("diff", {"a": "answers"}, "expected one of the arguments 'b', 'by', 'others' and 'target'"),
    ("diff", {"a": "answerz", "b": "answers"}, "did you mean 'answers'?"),
    ("diff", {"a": HERON, "b": FINCH, "level": "word"}, "expected one of [\"token\",\"span\",\"document\"], got \"word\""),
    ("diff", {"a": "answers", "b": "answers'); DROP CORPUS answers --"}, "error:"),
    ("describe_corpus", {"corpus": "answer"}, "corpus 'answer' not found; there are: answers, secret"),
    ("describe_feature", {"feature": "apolgy"}, "search_features finds features"),
    ("list_functions", {"name": "nothing"}, "there is no function 'nothing'"),
])
def test_mistakes_are_told_to_the_model(server, tool, arguments, told):
    assert told in failure(call(over_http(server), tool, arguments))


def test_what_models_get_wrong_is_understood(server):
    loose = {"a": HERON, "b": FINCH, "paired_by": "prompt_id", "control": None, "limit": "3", "examples": "0", "level": "",
             "others": []}
    assert len(rows(call(over_http(server), "diff", loose))) == 3


def test_columns_may_have_names_of_sql(tmp_path):
    names = ["group", "order", "null", "true", "current_date"]
    rows_ = [{"answer": f"Text number {i}.", **{name: f"{name} {i % 2}" for name in names}} for i in range(4)]
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_))
    db = tmp_path / "words.saequel"
    saequel(db, "import", path, "--corpus", "words", "--text", "answer")
    result = call(over_stdio(db), "describe_corpus", {"corpus": "words"})
    assert not result.is_error, result.content[0].text
    values = {column["name"]: column.get("values") for column in result.structured_content["columns"]}
    assert {name: values[name] for name in names} == {name: f"'{name} 0' (2), '{name} 1' (2)" for name in names}


def test_an_answer_that_is_cut_is_done(server):
    count = lambda outcome: float(re.search(
        rf'saequel_queries_total{{door="mcp",outcome="{outcome}"}} (\S+)', server.http("/metrics")[2].decode())[1])
    done, cancelled = count("done"), count("cancelled")
    long = "SELECT value, repeat('ab', 10000) AS long FROM generate_series(1, 1000)"
    assert call(over_http(server), "query", {"sql": long, "limit": 1000}).structured_content["truncated"]
    assert (count("done"), count("cancelled")) == (done + 1, cancelled)


def test_answers_are_cut_and_say_so(server):
    async def work(client):
        async def ask(**arguments):
            return await client.call_tool("query", arguments)

        result = await ask(sql="SELECT value FROM generate_series(1, 5000)")
        assert (result.structured_content["row_count"], result.structured_content["truncated"]) == (100, True)
        assert "raise `limit` (at most 1000)" in result.structured_content["note"]
        result = await ask(sql="SELECT value FROM generate_series(1, 5000)", limit=5000)
        assert result.structured_content["row_count"] == 1000
        result = await ask(sql="SELECT value FROM generate_series(1, 5)")
        assert not result.structured_content["truncated"] and "note" not in result.structured_content
        result = await ask(sql="SELECT value, repeat('ab', 10000) AS long FROM generate_series(1, 1000)", limit=1000)
        assert 20 < result.structured_content["row_count"] < 60 and result.structured_content["truncated"]
        assert "40,000 characters" in result.structured_content["note"]
        assert len(json.dumps(result.structured_content)) + len(result.content[0].text) < 50_000
        assert result.structured_content["rows"][0][1].endswith("… (20000 characters)")
        result = await ask(sql="SELECT repeat('ab', 5000)", cell_chars=20000)
        assert result.structured_content["rows"] == [["ab" * 5000]]
        result = await ask(sql="SELECT doc_id, features FROM answers LIMIT 1")
        assert result.structured_content["rows"][0][1].endswith(" features)")

    within(over_http(server), work)


INITIALIZE = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
    "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}})
LIST = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
ACCEPT = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


def post(server, body, token=None, **headers):
    return server.http("/mcp", body, token, headers={**ACCEPT, **headers})


def test_only_tokens_open_the_door(guarded, tokens):
    for token in (None, "sq_wrong"):
        status, headers, body = post(guarded, INITIALIZE, token)
        assert status == 401 and headers["WWW-Authenticate"].startswith("Bearer")
        assert json.loads(body)["error"]["kind"] == "unauthenticated"
    for mode in ("auto", "legacy"):
        with pytest.raises(Exception):  # which one depends on how the client begins
            call(over_http(guarded, "sq_wrong", mode), "list_corpora")
    for how in ({"Authorization": f"Bearer {tokens['reader']}"}, {"X-API-Key": tokens["reader"]}):
        assert post(guarded, INITIALIZE, **how)[0] == 200


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_token_sees_its_corpora_alone(guarded, tokens, mode):
    async def work(client):
        assert [row["name"] for row in rows(await client.call_tool("list_corpora", {}))] == ["answers"]
        resources = [str(resource.uri) for resource in (await client.list_resources()).resources]
        assert "saequel://corpora/answers" in resources and "saequel://corpora/secret" not in resources
        for tool, arguments in [
            ("query", {"sql": "SELECT * FROM secret"}),
            ("query", {"sql": "SELECT * FROM secret_activations"}),
            ("describe_corpus", {"corpus": "secret"}),
            ("diff", {"a": "answers", "b": "secret"}),
            ("retrieve", {"set": "SELECT * FROM secret", "query": "x"}),
            ("search_features", {"query": "apology", "corpus": "secret"}),
        ]:
            assert "not found" in failure(await client.call_tool(tool, arguments)), tool
        with pytest.raises(MCPError, match="not found"):
            await client.read_resource("saequel://corpora/secret")
        feature = await client.call_tool("describe_feature", {"feature": "2731"})
        assert "secret" not in feature.content[0].text

    within(over_http(guarded, tokens["narrow"], mode), work)


def test_agents_write_nothing(guarded, tokens):
    for statement in ("DELETE FROM answers WHERE doc_id = 'heron-001'", "CREATE CONCEPT x AS (1)", "COMPACT answers"):
        assert "agents read only" in failure(call(over_http(guarded, tokens["admin"]), "query", {"sql": statement}))


def test_sessions_belong_to_their_token(guarded, tokens):
    status, headers, _ = post(guarded, INITIALIZE, tokens["reader"])
    session = headers["Mcp-Session-Id"]
    assert status == 200 and session
    mine = {"Mcp-Session-Id": session}
    assert post(guarded, json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}), tokens["reader"], **mine)[0] == 202
    assert post(guarded, LIST, tokens["reader"], **mine)[0] == 200
    assert post(guarded, LIST, tokens["narrow"], **mine)[0] == 404
    assert post(guarded, LIST, None, **mine)[0] == 401
    assert guarded.http("/mcp", token=tokens["narrow"], method="DELETE", headers=mine)[0] == 404
    assert guarded.http("/mcp", token=tokens["reader"], method="DELETE", headers=mine)[0] in (200, 202, 204)
    assert post(guarded, LIST, tokens["reader"], **mine)[0] == 404


def test_web_pages_are_kept_out(server):
    assert post(server, INITIALIZE, Host="evil.example")[0] == 403
    assert post(server, INITIALIZE, Origin="https://evil.example")[0] == 403
    assert post(server, INITIALIZE, Origin="http://localhost:6274")[0] == 200
    assert post(server, "x" * 2_000_000)[0] == 413
    assert post(server, "{")[0] in (400, 415, 422)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_long_call_reports_and_can_be_cancelled(database, tmp_path, mode):
    audit = tmp_path / "audit.jsonl"
    server = Server(database, "--audit-log", audit)
    told = []

    async def progress(seconds, total, message):
        told.append((seconds, message))

    async def work(client):
        # The client gives up and says so (with sessions) or goes away (without).
        with pytest.raises(MCPError, match="timed out"):
            await client.call_tool("query", {"sql": ENDLESS}, progress_callback=progress, read_timeout_seconds=2.5)
        assert not (await client.call_tool("list_corpora", {})).is_error

    try:
        within(over_http(server, mode=mode), work)
        assert told and told[0] == (1.0, "query has run for 1 s")
        lines = lambda: [json.loads(line) for line in audit.read_text().splitlines()]  # noqa: E731
        until(lambda: any(line["statement"] == ENDLESS and line["state"] == "cancelled" for line in lines()), 5)
        assert all(line["door"] == "mcp" for line in lines())
    finally:
        server.stop()


def test_a_stopping_server_answers_what_runs(database):
    server = Server(database)

    async def work():
        async with over_http(server, mode="legacy") as client:
            slow = "SELECT count(*) FROM generate_series(1, 400000000) WHERE value % 7 = 3"
            running = asyncio.create_task(client.call_tool("query", {"sql": slow}))
            while "waiting" not in str(queries := server.sql("SELECT statement FROM saequel.queries")) and slow not in str(queries):
                await asyncio.sleep(0.05)
            server.process.terminate()
            result = await running
            assert not result.is_error, result.content[0].text
            assert result.structured_content["rows"][0][0] > 50_000_000

    # What is said after the end of the server is another matter.
    with contextlib.suppress(ExceptionGroup):
        asyncio.run(work())
    assert server.process.wait(15) == 0


def test_stdio_says_nothing_but_the_protocol(database):
    # A database with tokens: whoever starts the program needs none.
    lines = [INITIALIZE, json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}),
             json.dumps({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {
                 "name": "query", "arguments": {"sql": "SELECT 'ü' AS text"}}})]
    token = database / "tokens.json"
    subprocess.run([binary(), "--db", str(database), "token", "create", "someone"], check=True, capture_output=True)
    try:
        done = subprocess.run([binary(), "mcp", "--db", str(database)], input="\n".join(lines) + "\n", text=True,
                              capture_output=True, timeout=30, env={**os.environ, "SAEQUEL_LOG": "info"})
    finally:
        token.unlink()
    assert done.returncode == 0, done.stderr
    answers = {answer["id"]: answer["result"] for answer in map(json.loads, done.stdout.splitlines())}
    assert answers[3]["structuredContent"]["rows"] == [["ü"]]
    assert "INFO" in done.stderr
    missing = subprocess.run([binary(), "mcp", "--db", str(database / "nothing")], input="", text=True, capture_output=True)
    assert missing.returncode == 4 and missing.stdout == "" and "not found" in missing.stderr


# Scenarios of the conformance client that try a server of any kind.
CONFORMANCE = ["server-initialize", "ping", "tools-list", "resources-list", "prompts-list", "completion-complete",
               "server-sse-polling", "server-sse-multiple-streams", "dns-rebinding-protection"]
# The others try tools, resources and prompts of the reference server by their names, or what is not offered here:
# setting a level of logging (deprecated), subscriptions to resources.
REFERENCE_SERVER = {
    "tools-call-simple-text", "tools-call-image", "tools-call-audio", "tools-call-embedded-resource",
    "tools-call-mixed-content", "tools-call-with-logging", "tools-call-error", "tools-call-with-progress",
    "tools-call-sampling", "tools-call-elicitation", "json-schema-2020-12", "elicitation-sep1034-defaults",
    "elicitation-sep1330-enums", "resources-read-text", "resources-read-binary", "resources-templates-read",
    "prompts-get-simple", "prompts-get-with-args", "prompts-get-embedded-resource", "prompts-get-with-image",
}
NOT_OFFERED = {"logging-set-level", "resources-subscribe", "resources-unsubscribe"}


@pytest.mark.parametrize("scenario", CONFORMANCE)
def test_conformance(server, tmp_path, scenario):
    command = [NODE / "conformance", "server", "--url", server.url + "/mcp", "--scenario", scenario, "-o", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and " 0 failed" in done.stdout, done.stdout + done.stderr


def test_no_scenario_is_forgotten():
    listed = subprocess.run([NODE / "conformance", "list", "--server"], capture_output=True, text=True, timeout=60).stdout
    scenarios = {line.strip(" -") for line in listed.splitlines() if line.strip().startswith("- ")}
    assert scenarios == {*CONFORMANCE, *REFERENCE_SERVER, *NOT_OFFERED}


def test_the_inspector_calls_tools(server, database):
    def inspect(*arguments):
        command = [NODE / "mcp-inspector", "--cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout[done.stdout.index("{"):])

    http = [server.url + "/mcp", "--transport", "http"]
    assert [tool["name"] for tool in inspect(*http, "--method", "tools/list")["tools"]] == TOOLS
    asked = inspect(*http, "--method", "tools/call", "--tool-name", "query", "--tool-arg", "sql=SELECT 1 AS one")
    assert asked["structuredContent"]["rows"] == [[1]]
    stdio = [binary(), "mcp", "--db", database]
    listed = inspect(*stdio, "--method", "tools/call", "--tool-name", "list_corpora")
    assert listed["structuredContent"]["row_count"] == 2
