"""What clients find of a database through the PostgreSQL wire: tables, columns, types, functions."""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).parent
CACHE = pathlib.Path(os.environ.get("SAEQUEL_CACHE", os.path.expanduser("~/.cache/saequel"))) / "clients"
JDBC = "/usr/share/java/postgresql.jar"
ODBC = next(pathlib.Path("/usr/lib").glob("*/odbc/psqlodbcw.so"), None)


def psql(server, command, user="anna", password=None):
    """What psql prints for a command, unaligned."""
    env = {**os.environ, "PGPASSWORD": password or "", "PGSSLMODE": "disable"}
    connection = ["-h", "127.0.0.1", "-p", str(server.pg_port), "-U", user, "-d", "saequel"]
    done = subprocess.run(
        ["psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", *connection, "-c", command],
        capture_output=True, text=True, env=env, timeout=60,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def url(server, driver):
    return f"postgresql+{driver}://anna@127.0.0.1:{server.pg_port}/saequel"


# psql


def test_psql_lists_tables(server):
    lines = psql(server, r"\dt").splitlines()
    names = {line.split("|")[1] for line in lines}
    assert names == {"answers", "answers_activations", "secret", "secret_activations"}
    assert all(line.split("|")[0] == "public" and line.split("|")[2] == "table" for line in lines)
    assert "public|answers|table" in psql(server, r"\d")


def test_psql_describes_a_table(server):
    columns = dict(line.split("|")[:2] for line in psql(server, r"\d answers").splitlines() if "|" in line)
    assert columns["doc_id"] == "text"
    assert columns["n_tokens"] in ("integer", "bigint")
    assert columns["features"] == "json"
    assert "feature_id|bigint" in psql(server, r"\d answers_activations")
    assert "text_columns|text[]" in psql(server, r"\d saequel.corpora")
    assert "created_at|timestamp with time zone" in psql(server, r"\d saequel.corpora")


def test_psql_lists_other_things(server):
    assert "public|diff|SETOF record" in psql(server, r"\df")
    assert "public|activation" in psql(server, r"\df activation")
    schemas = psql(server, r"\dn").splitlines()
    assert {line.split("|")[0] for line in schemas} == {"public", "saequel", "stored"}
    assert psql(server, r"\l").startswith("saequel|")
    assert "anna|" in psql(server, r"\du")
    assert psql(server, r"\dv") == ""
    assert psql(server, r"\di") == ""
    assert "integer" in psql(server, r"\dT int4")
    assert "{NULL}" not in psql(server, r"\du")
    for command in (r"\dd", r"\dL", r"\dX", r"\dAc", r"\deu"):
        psql(server, command)
    assert psql(server, r"\sf diff").startswith("-- diff: ")
    assert psql(server, "SELECT format('%s: %I = %L%%', 1, 'My Table', 'it''s') AS f").strip() == "1: \"My Table\" = 'it''s'%"
    assert psql(server, r"\conninfo").startswith("You are connected")
    for command in (r"\dt+", r"\d+ answers", r"\df+ diff", r"\dn+", r"\l+", r"\dp", r"\ds", r"\dm", r"\db", r"\dx", r"\det", r"\dRp"):
        psql(server, command)


# Who may see what


def test_a_token_sees_its_corpora_alone(guarded, tokens):
    narrow = lambda command: psql(guarded, command, user="narrow", password=tokens["narrow"])
    assert {line.split("|")[1] for line in narrow(r"\dt").splitlines()} == {"answers", "answers_activations"}
    everywhere = " UNION ALL ".join(
        [
            "SELECT relname FROM pg_class",
            "SELECT table_name FROM information_schema.tables",
            "SELECT table_name FROM information_schema.columns",
            "SELECT tablename FROM pg_tables",
            "SELECT relname FROM pg_stat_user_tables",
            "SELECT c.relname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid",
        ]
    )
    assert narrow(f"SELECT count(*) FROM ({everywhere}) AS t (name) WHERE name LIKE 'secret%'") == "0"
    assert narrow("SELECT to_regclass('secret') IS NULL") == "t"
    oid = psql(guarded, "SELECT 'secret'::regclass::oid", user="admin", password=tokens["admin"])
    assert narrow(f"SELECT {oid}::regclass::text") == oid
    assert narrow("SELECT current_user") == "narrow"


# SQLAlchemy

INSPECT = """
import json, sys
import sqlalchemy as sa
engine = sa.create_engine(sys.argv[1])
found = sa.inspect(engine)
columns = {column["name"]: str(column["type"]) for column in found.get_columns("answers")}
with engine.connect() as connection:
    table = sa.Table("answers", sa.MetaData(), **({"autoload_with": connection}))
    rows = connection.execute(sa.select(table.c.doc_id, table.c.n_tokens).order_by(table.c.doc_id).limit(3)).fetchall()
    filtered = connection.execute(
        sa.select(sa.func.count()).select_from(table).where(table.c.doc_id.in_([rows[0][0], rows[1][0]]))
    ).scalar()
print(json.dumps({
    "version": sa.__version__,
    "tables": sorted(found.get_table_names()),
    "in_schema": sorted(found.get_table_names(schema="saequel")),
    "views": found.get_view_names(),
    "schemas": sorted(found.get_schema_names()),
    "columns": columns,
    "primary": found.get_pk_constraint("answers")["constrained_columns"],
    "foreign": found.get_foreign_keys("answers"),
    "indexes": found.get_indexes("answers"),
    "unique": found.get_unique_constraints("answers"),
    "checks": found.get_check_constraints("answers"),
    "comment": found.get_table_comment("answers")["text"],
    "has": [found.has_table("answers"), found.has_table("nothing")],
    "reflected": len(table.columns),
    "rows": len(rows),
    "filtered": filtered,
}))
"""


@pytest.fixture(scope="session")
def python_14():
    """Python with SQLAlchemy 1.4, which Superset uses."""
    folder = CACHE / "python-sqlalchemy-1.4"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        wanted = ["sqlalchemy==1.4.54", "psycopg2-binary==2.9.13"]
        pip = [folder / "bin/pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True)
        (folder / "done").touch()
    return folder / "bin/python"


def inspected(python, url):
    done = subprocess.run([python, "-W", "ignore", "-c", INSPECT, url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy_2(server, driver):
    check_inspected(inspected(sys.executable, url(server, driver)), "2.")


def test_sqlalchemy_1_4(server, python_14):
    check_inspected(inspected(python_14, url(server, "psycopg2")), "1.4")


def check_inspected(found, version):
    assert found["version"].startswith(version)
    assert found["tables"] == ["answers", "answers_activations", "secret", "secret_activations"]
    assert "corpora" in found["in_schema"] and found["views"] == []
    assert {"public", "saequel", "stored"} <= set(found["schemas"])
    assert found["columns"]["doc_id"] == "TEXT"
    assert found["columns"]["features"] == "JSON"
    assert found["columns"]["n_tokens"] in ("INTEGER", "BIGINT")
    assert found["primary"] == [] and found["foreign"] == [] and found["indexes"] == []
    assert found["unique"] == [] and found["checks"] == [] and found["comment"] is None
    assert found["has"] == [True, False]
    assert found["reflected"] == len(found["columns"]) and (found["rows"], found["filtered"]) == (3, 2)


def test_pandas_reads(server):
    pandas, sqlalchemy = pytest.importorskip("pandas"), pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(url(server, "psycopg"))
    frame = pandas.read_sql("SELECT doc_id, n_tokens FROM answers ORDER BY doc_id", engine)
    assert len(frame) == 60 and frame["n_tokens"].dtype.kind == "i"
    assert len(pandas.read_sql_table("answers", engine, columns=["doc_id"])) == 60


# asyncpg, which asks about types that it does not know, arrays among them


def test_asyncpg(server):
    asyncpg = pytest.importorskip("asyncpg")

    async def ask():
        connection = await asyncpg.connect(host="127.0.0.1", port=server.pg_port, user="anna", database="saequel", ssl=False)
        try:
            row = await connection.fetchrow("SELECT name, text_columns, created_at FROM saequel.corpora WHERE name = $1", "answers")
            assert row["text_columns"] == ["answer"] and row["created_at"].tzinfo is not None
            assert await connection.fetchval("SELECT ARRAY[1, 2, 3]") == [1, 2, 3]
            ids = [row["doc_id"] for row in await connection.fetch("SELECT doc_id FROM answers ORDER BY doc_id LIMIT 2")]
            found = await connection.fetchval("SELECT count(*) FROM answers WHERE doc_id = ANY($1::text[])", ids)
            assert found == 2
        finally:
            await connection.close()

    asyncio.run(ask())


# ADBC


@pytest.mark.parametrize("builtin", [False, True])
def test_adbc(server, builtin):
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
    options = {"adbc.postgresql.type_resolver_mode": "builtin"} if builtin else {}
    uri = f"postgresql://anna@127.0.0.1:{server.pg_port}/saequel?sslmode=disable"
    with dbapi.connect(uri, db_kwargs=options) as connection, connection.cursor() as cursor:
        if builtin:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
        cursor.execute("SELECT doc_id, n_tokens FROM answers ORDER BY doc_id")
        assert cursor.fetch_arrow_table().num_rows == 60
        if not builtin:
            objects = connection.adbc_get_objects(depth="all", db_schema_filter="public", table_name_filter="answers")
            schemas = objects.read_all().to_pylist()[0]["catalog_db_schemas"]
            tables = [table for schema in schemas for table in schema["db_schema_tables"] or []]
            assert [table["table_name"] for table in tables] == ["answers"]
            columns = {column["column_name"] for column in tables[0]["table_columns"]}
            assert {"doc_id", "n_tokens", "features"} <= columns
            schema = connection.adbc_get_table_schema("answers", db_schema_filter="public")
            assert "doc_id" in schema.names


# JDBC


@pytest.mark.skipif(not pathlib.Path(JDBC).exists(), reason="no JDBC driver")
def test_jdbc_metadata(server):
    doc_id = psql(server, "SELECT min(doc_id) FROM answers")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["javac", "-d", folder, HERE / "postgres/Metadata.java"], check=True)
        target = f"jdbc:postgresql://127.0.0.1:{server.pg_port}/saequel?sslmode=disable"
        done = subprocess.run(
            ["java", "-cp", f"{JDBC}:{folder}", "Metadata", target, "anna", "", "answers", doc_id],
            capture_output=True, text=True, timeout=120,
        )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) if ": " in line else (line.rstrip(":"), "") for line in done.stdout.splitlines())
    assert said["product"] == "PostgreSQL 16"
    assert "answers TABLE" in said["tables"].split(", ")
    columns = dict(column.split(" ") for column in said["columns"].split(", "))
    assert columns["doc_id"] == "text" and columns["features"] == "json"
    assert "public" in said["schemas"].split(", ")
    for empty in ("primary keys", "imported keys", "exported keys", "indexes"):
        assert said[empty].strip() == "", said[empty]
    assert {"text", "int4", "timestamptz"} <= set(said["types"].split(", "))
    assert "diff" in said["functions"] + said["procedures"]
    assert said["row"].startswith(doc_id) and said["row"].split(" ")[2] == "text"


# ODBC


@pytest.mark.skipif(ODBC is None, reason="no ODBC driver")
def test_odbc(server, tmp_path):
    (tmp_path / "odbc.ini").write_text(
        f"[saequel]\nDriver={ODBC}\nServername=127.0.0.1\nPort={server.pg_port}\nDatabase=saequel\nUserName=anna\n"
        "SSLmode=disable\nReadOnly=Yes\n"
    )
    env = {**os.environ, "ODBCINI": str(tmp_path / "odbc.ini"), "ODBCSYSINI": str(tmp_path)}

    def isql(command):
        done = subprocess.run(
            ["isql", "-b", "-d|", "-v", "saequel"], input=f"{command}\n", capture_output=True, text=True, env=env, timeout=60
        )
        assert done.returncode == 0 and "ISQL]ERROR" not in done.stdout, done.stdout + done.stderr
        return done.stdout

    assert "answers" in isql("help")
    columns = isql("help answers")
    assert "doc_id" in columns and "n_tokens" in columns
    assert isql("SELECT count(*) FROM answers").strip().startswith("60")


# Tools that cannot be run here: what they ask when they connect, as far as it is known


TOOLS = json.loads((HERE / "postgres/tools.json").read_text())


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_that_are_replayed(server, tool):
    psycopg = pytest.importorskip("psycopg")
    connection = psycopg.connect(f"host=127.0.0.1 port={server.pg_port} user=anna dbname=saequel sslmode=disable", autocommit=True)
    with connection:
        for asked in TOOLS[tool]:
            sql = " ".join(asked["sql"]) if isinstance(asked["sql"], list) else asked["sql"]
            rows = connection.execute(sql).fetchall() if asked.get("rows", True) else connection.execute(sql) and []
            if "has" in asked:
                assert asked["has"] in {str(value) for row in rows for value in row}, (sql, rows[:5])
            if "count" in asked:
                assert len(rows) == asked["count"], (sql, rows[:5])
