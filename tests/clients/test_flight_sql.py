"""Arrow Flight SQL with ADBC (Python), polars, pandas, and Arrow's own Flight client."""

import base64
import subprocess
import threading
import time

import adbc_driver_flightsql.dbapi as flightsql
import adbc_driver_manager
import pandas
import polars
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from adbc_driver_flightsql import DatabaseOptions
from conftest import N_DOCS, Server, until


def connect(server, token=None, tls=None, **options):
    """An ADBC connection; with `tls`, the text of the certificate to trust."""
    if token:
        options[DatabaseOptions.AUTHORIZATION_HEADER.value] = f"Bearer {token}"
    if tls:
        options[DatabaseOptions.TLS_ROOT_CERTS.value] = tls
    scheme = "grpc+tls" if tls else "grpc"
    return flightsql.connect(f"{scheme}://localhost:{server.port}", db_kwargs=options, autocommit=True)


def fetch(connection, statement, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetch_arrow_table()


@pytest.fixture(scope="module")
def adbc(server):
    with connect(server) as connection:
        yield connection


# Messages of Flight SQL, by hand.


def varint(number):
    out = b""
    number &= (1 << 64) - 1
    while True:
        low, number = number & 0x7F, number >> 7
        out += bytes([low | (0x80 if number else 0)])
        if not number:
            return out


def field(number, value):
    """A field of a message: text, bytes or a number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def packed(name, *fields):
    """A message in an `Any`."""
    message = b"".join(field(number, value) for number, value in fields)
    return field(1, f"type.googleapis.com/arrow.flight.protocol.sql.{name}") + field(2, message)


class Raw:
    """Arrow's Flight client, with a token."""

    def __init__(self, server, token=None):
        self.client = fl.connect(f"grpc://localhost:{server.port}")
        headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
        self.options = fl.FlightCallOptions(headers=headers, timeout=60)

    def info(self, name, *fields):
        descriptor = fl.FlightDescriptor.for_command(packed(name, *fields))
        return self.client.get_flight_info(descriptor, self.options)

    def read(self, info):
        table = self.client.do_get(info.endpoints[0].ticket, self.options).read_all()
        assert table.schema.equals(info.schema, check_metadata=True)
        return table

    def table(self, name, *fields):
        return self.read(self.info(name, *fields))

    def act(self, name, body=b""):
        return [result.body.to_pybytes() for result in self.client.do_action((name, body), self.options)]


# Who comes in.


def test_anybody_where_no_token_is_needed(server):
    for options in ({}, {"username": "alice", "password": "pw"}, {DatabaseOptions.AUTHORIZATION_HEADER.value: "Bearer x"}):
        with connect(server, **options) as connection:
            assert fetch(connection, "SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_tokens(guarded, tokens):
    with connect(guarded, tokens["reader"]) as connection:
        assert fetch(connection, "SELECT count(*) AS n FROM answers").to_pylist() == [{"n": N_DOCS}]
    with connect(guarded, username="reader", password=tokens["reader"]) as connection:
        assert fetch(connection, "SELECT count(*) AS n FROM secret").to_pylist() == [{"n": N_DOCS}]
    with connect(guarded, **{f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}x-api-key": tokens["reader"]}) as connection:
        assert fetch(connection, "SELECT 1 AS one").num_rows == 1


@pytest.mark.parametrize("wrong", [{}, {"token": "sq_wrong"}, {"username": "reader", "password": "sq_wrong"}])
def test_wrong_tokens(guarded, wrong):
    with pytest.raises(adbc_driver_manager.Error) as refused:
        with connect(guarded, **wrong) as connection:
            fetch(connection, "SELECT 1")
    assert refused.value.status_code == adbc_driver_manager.AdbcStatusCode.UNAUTHENTICATED
    assert "token" in str(refused.value)


def test_basic_token_of_the_flight_client(guarded, tokens):
    client = fl.connect(f"grpc://localhost:{guarded.port}")
    header = client.authenticate_basic_token("reader", tokens["reader"])
    assert header == (b"authorization", f"Bearer {tokens['reader']}".encode())
    for padding in (b"", b"="):
        text = f"x:{tokens['reader']}"
        text += " " * (2 - (len(text) % 3)) if padding else ""
        basic = base64.b64encode(text.strip().encode()).rstrip(b"=") + padding * (-len(text.strip()) % 3)
        options = fl.FlightCallOptions(headers=[(b"authorization", b"Basic " + basic)])
        assert list(client.list_actions(options))


def test_every_call_needs_a_token(guarded):
    raw = Raw(guarded)
    calls = [
        lambda: raw.info("CommandGetCatalogs"),
        lambda: raw.client.get_schema(fl.FlightDescriptor.for_command(packed("CommandGetCatalogs"))),
        lambda: list(raw.client.list_actions()),
        lambda: list(raw.client.list_flights()),
        lambda: raw.act("CloseSession"),
        lambda: raw.client.do_get(fl.Ticket(packed("CommandGetTables"))).read_all(),
        lambda: raw.client.do_get(fl.Ticket(packed("CommandGetSqlInfo"))).read_all(),
    ]
    for call in calls:
        # Some calls of pyarrow 26 turn the status into another exception.
        with pytest.raises((fl.FlightUnauthenticatedError, OSError), match="a token is needed"):
            call()


def test_a_ticket_is_its_owners_alone(guarded, tokens):
    admin, reader = Raw(guarded, tokens["admin"]), Raw(guarded, tokens["reader"])
    info = admin.info("CommandStatementQuery", (1, "SELECT count(*) AS n FROM secret"))
    assert admin.read(info).to_pylist() == [{"n": N_DOCS}] == admin.read(info).to_pylist()
    with pytest.raises(fl.FlightUnauthorizedError, match="not given to this caller"):
        reader.read(info)
    forged = bytearray(info.endpoints[0].ticket.ticket)
    forged[-3] ^= 1
    with pytest.raises(fl.FlightUnauthorizedError):
        admin.client.do_get(fl.Ticket(bytes(forged)), admin.options).read_all()
    with connect(guarded, tokens["admin"]) as one, connect(guarded, tokens["reader"]) as other:
        handle = prepare(Raw(guarded, tokens["admin"]), "SELECT 1")
        with pytest.raises(KeyError, match="no such prepared statement"):
            reader.info("CommandPreparedStatementQuery", (1, handle))
        assert fetch(one, "SELECT 1").num_rows == fetch(other, "SELECT 1").num_rows


def prepare(raw, statement):
    """The handle of a prepared statement."""
    [body] = raw.act("CreatePreparedStatement", packed("ActionCreatePreparedStatementRequest", (1, statement)))
    start = body.index(b"\x0a\x20", body.index(b"ActionCreatePreparedStatementResult")) + 2
    return body[start : start + 32]


def test_a_narrow_token_sees_its_corpora(guarded, tokens):
    with connect(guarded, tokens["narrow"]) as connection:
        names = {table["table_name"] for _, table in tables_of(connection, "tables") if "answers" in table["table_name"] or "secret" in table["table_name"]}
        assert names == {"answers", "answers_activations"}
        with pytest.raises(adbc_driver_manager.Error, match="not found"):
            fetch(connection, "SELECT * FROM secret")
        with pytest.raises(adbc_driver_manager.Error):
            connection.adbc_get_table_schema("secret")


def test_http1_is_refused(server):
    status, headers, _ = server.http("/arrow.flight.protocol.FlightService/ListActions", b"\0\0\0\0\0")
    assert (status, headers["grpc-status"]) == (200, "3")


# Statements.


def test_values_of_every_type(adbc):
    table = fetch(
        adbc,
        """SELECT TRUE AS b, 1 AS i, CAST(2 AS SMALLINT) AS s, 1.5 AS d, CAST(2.25 AS DECIMAL(10, 2)) AS n, 'ä' AS t,
           DATE '2026-01-31' AS day, TIMESTAMP '2026-01-31 12:00:00' AS ts, CAST(NULL AS VARCHAR) AS nothing,
           [1, 2] AS list, {a: 1, b: 'x'} AS record, X'00ff' AS bytes, arrow_cast('d', 'Dictionary(Int32, Utf8)') AS dict,
           arrow_cast('v', 'Utf8View') AS view""",
    )
    row = table.to_pylist()[0]
    assert (row["b"], row["i"], row["s"], row["d"], str(row["n"]), row["t"]) == (True, 1, 2, 1.5, "2.25", "ä")
    assert (str(row["day"]), str(row["ts"]), row["nothing"]) == ("2026-01-31", "2026-01-31 12:00:00", None)
    assert (row["list"], row["record"], row["bytes"]) == ([1, 2], {"a": 1, "b": "x"}, b"\x00\xff")
    assert (row["dict"], row["view"]) == ("d", "v")
    assert table.schema.field("dict").type == table.schema.field("view").type == pa.string()


def test_parameters(adbc):
    assert fetch(adbc, "SELECT $1 + 1 AS n, $2 AS t", (41, "x")).to_pylist() == [{"n": 42, "t": "x"}]
    assert fetch(adbc, "SELECT ? AS a, '?' AS q, ? AS b", (1, None)).to_pylist() == [{"a": 1, "q": "?", "b": None}]
    assert fetch(adbc, "SELECT count(*) AS n FROM answers WHERE doc_id <> $1", ("x",)).to_pylist() == [{"n": N_DOCS}]
    evil = "x'; DROP CORPUS answers; --"
    assert fetch(adbc, "SELECT ? AS t", (evil,)).to_pylist() == [{"t": evil}]


def test_parameters_by_name(adbc):
    with adbc.cursor() as cursor:
        cursor.adbc_prepare("SELECT $low AS low, $high AS high")
        cursor.adbc_statement.bind(pa.record_batch({"high": [2], "low": [1]}))
        stream, _ = cursor.adbc_statement.execute_query()
        assert pa.RecordBatchReader._import_from_c(stream.address).read_all().to_pylist() == [{"low": 1, "high": 2}]


def test_parameters_of_table_functions(adbc):
    # Its columns are known when the values are.
    statement = "SELECT label FROM diff($1, $2) LIMIT 3"
    assert fetch(adbc, statement, ("answers", "SELECT * FROM secret WHERE n_tokens > 100")).column_names == ["label"]
    with pytest.raises(adbc_driver_manager.Error, match="no value was given for parameter"):
        fetch(adbc, statement)


def test_several_rows_of_parameters(adbc):
    with adbc.cursor() as cursor:
        cursor.adbc_prepare("SELECT $1 * 10 AS n FROM generate_series(1, 2)")
        cursor.adbc_statement.bind(pa.record_batch({"0": [1, 2, 3]}))
        stream, _ = cursor.adbc_statement.execute_query()
        table = pa.RecordBatchReader._import_from_c(stream.address).read_all()
    assert table.column("n").to_pylist() == [10, 10, 20, 20, 30, 30]
    with adbc.cursor() as cursor:
        cursor.executemany("SELECT value FROM generate_series(1, $1)", [(2,), (3,)])
        assert cursor.rowcount == 5


@pytest.mark.parametrize("values, told", [((1,), "2 parameters"), ((1, 2, 3), "2 parameters"), (None, "no value was given")])
def test_wrong_number_of_parameters(adbc, values, told):
    with pytest.raises(adbc_driver_manager.Error, match=told) as refused:
        fetch(adbc, "SELECT $1, $2", values)
    assert refused.value.status_code == adbc_driver_manager.AdbcStatusCode.INVALID_ARGUMENT


def test_schema_without_running(adbc):
    with adbc.cursor() as cursor:
        began = time.monotonic()
        schema = cursor.adbc_execute_schema("SELECT sum(value) AS s FROM generate_series(1, 10000000000)")
        assert time.monotonic() - began < 5
        assert schema.names == ["s"] and schema.field("s").type == pa.int64()
        assert cursor.adbc_execute_schema("SELECT doc_id, features FROM answers").names == ["doc_id", "features"]


def test_prepared_statements_are_run_again(adbc):
    with adbc.cursor() as cursor:
        cursor.adbc_prepare("SELECT $1 AS n")
        for number in (1, 2):
            cursor.execute("SELECT $1 AS n", (number,))
            assert cursor.fetchall() == [(number,)]


def test_features_are_a_struct_of_lists(adbc):
    table = fetch(adbc, "SELECT doc_id, features FROM answers LIMIT 5")
    features = table.schema.field("features").type
    assert pa.types.is_struct(features) and all(pa.types.is_list(inner.type) for inner in features)
    first = table.column("features")[0].as_py()
    ids, values = first.values()
    assert len(ids) == len(values) > 0


def test_a_million_rows(adbc):
    statement = """SELECT value AS id, value * 0.5 AS half, repeat('word ', 1 + value % 20) AS text,
                   [value, value + 1] AS pair FROM generate_series(1, 1000000)"""
    with adbc.cursor() as cursor:
        cursor.execute(statement)
        rows = total = 0
        for batch in cursor.fetch_record_batch():
            rows += batch.num_rows
            total += pa.compute.sum(batch.column("id")).as_py()
            assert batch.nbytes < 4 << 20
    assert (rows, total) == (1_000_000, 500_000_500_000)


def test_an_empty_result_has_columns(adbc):
    table = fetch(adbc, "SELECT doc_id, features FROM answers WHERE FALSE")
    assert table.num_rows == 0 and table.column_names == ["doc_id", "features"]


def test_errors_say_what_and_why(adbc):
    status = adbc_driver_manager.AdbcStatusCode
    cases = {
        "SELECT * FROM answrs": (status.NOT_FOUND, "did you mean 'answers'", "42P01"),
        "SELEKT 1": (status.INVALID_ARGUMENT, "SELEKT", "42601"),
        "CREATE CONCEPT x AS (1)": (None, "", None),
        "SELECT * FROM '/etc/passwd.csv'": (None, "", None),
        "DELETE FROM answers": (None, "", None),
        "-- nothing": (status.INVALID_ARGUMENT, "", None),
    }
    for statement, (code, told, sqlstate) in cases.items():
        with pytest.raises(adbc_driver_manager.Error) as refused:
            fetch(adbc, statement)
        assert told in str(refused.value), statement
        assert code is None or refused.value.status_code == code, statement
        if sqlstate:
            assert (b"sqlstate", sqlstate.encode()) in refused.value.details, statement


def test_an_error_while_rows_are_sent(adbc):
    with pytest.raises(adbc_driver_manager.Error, match="[Dd]ivide by zero"):
        fetch(adbc, "SELECT 1 / (value - 500000) AS x FROM generate_series(1, 1000000)")


def running(server, part, token=None):
    """Queries that run and hold `part`."""
    with connect(server, token) as connection:
        statement = "SELECT statement FROM saequel.queries WHERE state = 'running' AND strpos(statement, $1) > 0"
        return fetch(connection, statement, (part,)).num_rows


def test_a_cancelled_query_ends(server):
    with connect(server) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT value AS cancelled FROM generate_series(1, 100000000000)")
        reader = cursor.fetch_record_batch()
        reader.read_next_batch()
        until(lambda: running(server, "cancelled") == 1)
        began = time.monotonic()
        cursor.adbc_cancel()
        until(lambda: running(server, "cancelled") == 0)
        assert time.monotonic() - began < 2
        with pytest.raises((adbc_driver_manager.Error, OSError, pa.ArrowException)):
            while True:
                reader.read_next_batch()


def test_a_client_that_goes_away_ends_its_query(server):
    # Before the first row too: the sum needs all of them.
    for statement in ("SELECT value AS gone FROM generate_series(1, 100000000000)", "SELECT sum(value) AS gone FROM generate_series(1, 100000000000)"):
        raw = Raw(server)
        info = raw.info("CommandStatementQuery", (1, statement))
        failed = []

        def read():
            try:
                reader = raw.client.do_get(info.endpoints[0].ticket, fl.FlightCallOptions(timeout=1.5))
                while True:
                    reader.read_chunk()
            except (fl.FlightError, pa.ArrowException, StopIteration) as error:
                failed.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        until(lambda: running(server, "gone") == 1)
        thread.join()
        assert failed
        until(lambda: running(server, "gone") == 0, 2)


def test_cancelling_by_ticket(guarded, tokens):
    admin, reader = Raw(guarded, tokens["admin"]), Raw(guarded, tokens["reader"])
    info = reader.info("CommandStatementQuery", (1, "SELECT value AS ticketed FROM generate_series(1, 100000000000)"))
    stream = reader.client.do_get(info.endpoints[0].ticket, reader.options)
    stream.read_chunk()
    with pytest.raises(fl.FlightUnauthorizedError):
        admin.act("CancelFlightInfo", field(1, info.serialize()))
    assert running(guarded, "ticketed", tokens["admin"]) == 1
    assert reader.act("CancelFlightInfo", field(1, info.serialize())) == [b"\x08\x01"]  # cancelled
    with pytest.raises(fl.FlightCancelledError, match="cancelled"):
        while True:
            stream.read_chunk()
    until(lambda: running(guarded, "ticketed", tokens["admin"]) == 0)
    again = reader.act("CancelQuery", packed("ActionCancelQueryRequest", (1, info.serialize())))
    assert again[0].endswith(b"\x08\x03")  # nothing to cancel


def test_writes_give_a_count(guarded, tokens):
    with connect(guarded, tokens["admin"]) as connection, connection.cursor() as cursor:
        feature = fetch(connection, "SELECT feature_id FROM answers_activations LIMIT 1").column(0)[0].as_py()
        cursor.execute(f"CREATE CONCEPT flight_concept AS ({feature})")
        assert cursor.fetchall()
        cursor.adbc_statement.set_sql_query("DROP CONCEPT flight_concept")
        assert cursor.adbc_statement.execute_update() == 0
    for token in ("reader", "narrow"):
        with connect(guarded, tokens[token]) as connection:
            with pytest.raises(adbc_driver_manager.Error) as refused:
                fetch(connection, f"CREATE CONCEPT denied AS ({feature})")
            assert refused.value.status_code == adbc_driver_manager.AdbcStatusCode.UNAUTHORIZED


def test_what_is_not_there_says_so(guarded, tokens):
    with connect(guarded, tokens["writer"]) as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.NotSupportedError, match="documents"):
            cursor.adbc_ingest("new", pa.table({"text": ["x"]}), mode="create")
    raw = Raw(guarded, tokens["writer"])
    for name in ("BeginTransaction", "CreatePreparedSubstraitPlan", "NoSuchAction"):
        with pytest.raises(pa.ArrowNotImplementedError):
            raw.act(name)
    with pytest.raises(pa.ArrowNotImplementedError, match="transactions"):
        raw.info("CommandStatementQuery", (1, "SELECT 1"), (2, b"transaction"))
    with pytest.raises(pa.ArrowNotImplementedError):
        raw.info("CommandStatementSubstraitPlan", (1, b""))
    for garbage in (b"SELECT 1", b"", b"\xff" * 100):
        with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError)):
            raw.client.get_flight_info(fl.FlightDescriptor.for_command(garbage), raw.options)
        with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError)):
            raw.client.do_get(fl.Ticket(garbage), raw.options).read_all()
    assert {action.type for action in raw.client.list_actions(raw.options)} >= {"CreatePreparedStatement", "CancelFlightInfo"}


def test_autocommit_off_warns_and_works(server):
    with pytest.warns(Warning, match="autocommit"):
        connection = flightsql.connect(f"grpc://localhost:{server.port}")
    with connection:
        assert fetch(connection, "SELECT 1 AS one").num_rows == 1


def test_session_options(server):
    raw = Raw(server)
    assert b"saequel" in raw.act("GetSessionOptions")[0]
    option = field(1, field(1, "catalog") + field(2, field(1, "saequel")))
    assert raw.act("SetSessionOptions", option) == [b""]
    wrong = field(1, field(1, "nonsense") + field(2, field(1, "x")))
    assert b"nonsense" in raw.act("SetSessionOptions", wrong)[0]
    assert raw.act("CloseSession") == [b"\x08\x01"]


# Metadata.


def tables_of(connection, depth, **filters):
    """Pairs of schema and table."""
    for catalog in connection.adbc_get_objects(depth=depth, **filters).read_all().to_pylist():
        assert catalog["catalog_name"] == "saequel"
        for schema in catalog["catalog_db_schemas"] or []:
            for table in schema["db_schema_tables"] or []:
                yield schema["db_schema_name"], table


def test_objects_at_each_depth(adbc):
    catalogs = adbc.adbc_get_objects(depth="catalogs").read_all().to_pylist()
    assert [catalog["catalog_name"] for catalog in catalogs] == ["saequel"]
    [catalog] = adbc.adbc_get_objects(depth="db_schemas").read_all().to_pylist()
    assert {"main", "stored", "saequel"} <= {schema["db_schema_name"] for schema in catalog["catalog_db_schemas"]}
    tables = {(schema, table["table_name"]) for schema, table in tables_of(adbc, "tables")}
    assert {("main", "answers"), ("main", "answers_activations"), ("stored", "answers"), ("saequel", "features")} <= tables
    [(_, answers)] = tables_of(adbc, "columns", db_schema_filter="main", table_name_filter="answers")
    columns = {column["column_name"]: column for column in answers["table_columns"]}
    assert columns["doc_id"]["ordinal_position"] == 1 and "features" in columns
    assert not list(tables_of(adbc, "tables", table_name_filter="no such"))
    views = {table["table_type"] for _, table in tables_of(adbc, "tables", table_types_filter=["VIEW"])}
    assert views <= {"VIEW"}


def test_schema_of_a_table_is_that_of_its_rows(adbc):
    for table in ("answers", "answers_activations"):
        assert adbc.adbc_get_table_schema(table) == fetch(adbc, f"SELECT * FROM {table} LIMIT 1").schema
    with pytest.raises(adbc_driver_manager.Error):
        adbc.adbc_get_table_schema("no such table")
    assert adbc.adbc_get_table_schema("features", db_schema_filter="saequel").names[0] == "feature_id"


def test_table_types_and_info(adbc):
    assert adbc.adbc_get_table_types() == ["BASE TABLE", "VIEW"]
    info = adbc.adbc_get_info()
    assert info["vendor_name"] == "saequel" and info["vendor_version"]


STANDARD_INFO = [*range(12), 100, 101, *range(500, 577)]


def test_every_info_of_the_standard(server):
    raw = Raw(server)
    table = raw.table("CommandGetSqlInfo")
    infos = {row["info_name"]: row["value"] for row in table.to_pylist()}
    assert sorted(infos) == STANDARD_INFO
    assert None not in infos.values()
    assert (infos[0], infos[3], infos[8], infos[504], infos[563]) == ("saequel", True, 0, '"', False)
    assert {"abs", "sqrt"} <= set(infos[509]) and {"upper", "strpos"} <= set(infos[510])
    assert "has_feature" in infos[511] and "date_trunc" in infos[512] and "SELECT" in infos[508]
    value = table.schema.field("value").type
    assert [value.field(i).name for i in range(value.num_fields)] == [
        "string_value", "bool_value", "bigint_value", "int32_bitmask", "string_list", "int32_to_int32_list_map",
    ]
    some = raw.table("CommandGetSqlInfo", (1, varint(504) + varint(8)))  # packed
    assert some.column("info_name").to_pylist() == [8, 504]


def test_read_only_is_told(guarded, tokens):
    for name, expected in {"admin": False, "writer": False, "reader": True}.items():
        [row] = Raw(guarded, tokens[name]).table("CommandGetSqlInfo", (1, varint(3))).to_pylist()
        assert row["value"] is expected, name


def columns(schema):
    return [f"{field.name} {field.type}{'' if field.nullable else ' not null'}" for field in schema]


TEXT = "string"
SCHEMAS = {
    "CommandGetCatalogs": ["catalog_name string not null"],
    "CommandGetDbSchemas": ["catalog_name string", "db_schema_name string not null"],
    "CommandGetTables": ["catalog_name string", "db_schema_name string", "table_name string not null", "table_type string not null"],
    "CommandGetTableTypes": ["table_type string not null"],
    "CommandGetPrimaryKeys": [
        "catalog_name string", "db_schema_name string", "table_name string not null", "column_name string not null",
        "key_name string", "key_sequence int32 not null",
    ],
    **dict.fromkeys(
        ["CommandGetExportedKeys", "CommandGetImportedKeys", "CommandGetCrossReference"],
        [
            "pk_catalog_name string", "pk_db_schema_name string", "pk_table_name string not null",
            "pk_column_name string not null", "fk_catalog_name string", "fk_db_schema_name string",
            "fk_table_name string not null", "fk_column_name string not null", "key_sequence int32 not null",
            "fk_key_name string", "pk_key_name string", "update_rule uint8 not null", "delete_rule uint8 not null",
        ],
    ),
    "CommandGetXdbcTypeInfo": [
        "type_name string not null", "data_type int32 not null", "column_size int32", "literal_prefix string",
        "literal_suffix string", "create_params list<item: string not null>", "nullable int32 not null",
        "case_sensitive bool not null", "searchable int32 not null", "unsigned_attribute bool",
        "fixed_prec_scale bool not null", "auto_increment bool", "local_type_name string", "minimum_scale int32",
        "maximum_scale int32", "sql_data_type int32 not null", "datetime_subcode int32", "num_prec_radix int32",
        "interval_precision int32",
    ],
}


@pytest.mark.parametrize("command", SCHEMAS)
def test_schemas_of_the_standard(server, command):
    table = Raw(server).table(command)
    assert columns(table.schema) == SCHEMAS[command]
    assert (table.num_rows == 0) == ("Key" in command or "Cross" in command)


def test_filters_of_tables(server):
    raw = Raw(server)

    def names(*fields):
        return [row["table_name"] for row in raw.table("CommandGetTables", *fields).to_pylist()]

    assert names((2, "main"), (3, "answ%")) == ["answers", "answers_activations"]
    assert names((2, "mai_"), (3, "answer_")) == ["answers"]
    assert names((2, "main"), (3, "answers"), (4, "TABLE")) == names((2, "main"), (3, "answers"), (4, "BASE TABLE"))
    assert names((1, "elsewhere")) == [] and names((4, "NO SUCH TYPE")) == []
    with_schema = raw.table("CommandGetTables", (2, "main"), (3, "answers"), (5, 1))
    assert columns(with_schema.schema)[-1] == "table_schema binary not null"
    [row] = with_schema.to_pylist()
    schema = pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))
    assert schema == raw.table("CommandStatementQuery", (1, "SELECT * FROM answers")).schema
    varchar = raw.table("CommandGetXdbcTypeInfo", (1, 12)).to_pylist()
    assert [row["type_name"] for row in varchar] == ["VARCHAR"]


def test_schema_of_a_command(server):
    raw = Raw(server)
    descriptor = fl.FlightDescriptor.for_command(packed("CommandStatementQuery", (1, "SELECT 1 AS one")))
    assert raw.client.get_schema(descriptor).schema.names == ["one"]


# Other clients, and TLS.


def test_polars_and_pandas(adbc):
    frame = polars.read_database("SELECT doc_id, features FROM answers ORDER BY doc_id", connection=adbc)
    assert frame.shape == (N_DOCS, 2) and isinstance(frame.schema["features"], polars.Struct)
    limited = polars.read_database(
        "SELECT doc_id FROM answers LIMIT $1", connection=adbc, execute_options={"parameters": [3]}
    )
    assert limited.height == 3
    assert pandas.read_sql("SELECT count(*) AS n FROM answers", adbc)["n"][0] == N_DOCS


def test_tls(database, tokens, tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    server = Server(database, "--tokens", tokens["path"], "--tls-cert", certificate, "--tls-key", key)
    try:
        with connect(server, tokens["reader"], tls=certificate.read_text()) as connection:
            assert fetch(connection, "SELECT count(*) AS n FROM answers").to_pylist() == [{"n": N_DOCS}]
        with connect(server, tls=certificate.read_text(), username="reader", password=tokens["reader"]) as connection:
            assert fetch(connection, "SELECT 1 AS one").num_rows == 1
        with pytest.raises(adbc_driver_manager.Error):
            with connect(server, tokens["reader"]) as connection:  # plain text to a port of TLS
                fetch(connection, "SELECT 1")
    finally:
        assert server.stop() == 0
