"""Reads the rows of a Parquet file over Flight SQL and in this process, in turns, on one machine.

    pip install adbc-driver-flightsql adbc-driver-manager pyarrow
    python tests/bench/flight.py --saequel PATH/TO/saequel

The file is made by saequel: ids, text of a few hundred characters, numbers; zstd. Over Flight, saequel reads it for
each query; two clients receive it, ADBC's driver (Go) and pyarrow.flight (C++). In the process, pyarrow reads the same
columns with all threads. Each as one table and in batches as they come. Memory that was freed stays with this process
(glibc gives large pieces back at once), because pyarrow's own pool does so for reading Parquet, and taking pages anew
is no reading. Prints rows and MB (of Arrow memory) a second, medians of the repetitions after one that is not counted,
and the ratios.
"""

import argparse
import ctypes
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import adbc_driver_flightsql.dbapi as flightsql
import pyarrow as pa
import pyarrow.dataset
import pyarrow.flight
import pyarrow.parquet as parquet

TABLE = """
SELECT value AS doc_id, arrow_cast('source-' || CAST(value % 100 AS VARCHAR), 'Utf8') AS source, value * 0.37 AS score,
       CAST(value % 7 AS INT) AS label,
       arrow_cast(repeat(md5(CAST(value AS VARCHAR)) || ' ', 1 + value % 12), 'Utf8') AS text, value % 3 = 0 AS is_new
FROM generate_series(1, {rows})
"""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed():
    """Tells glibc to keep what is freed."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
    except OSError:
        pass  # another C library


def command(statement):
    """A Flight SQL command, as the protobuf message `Any` of a `CommandStatementQuery`."""
    def field(number, content):
        length, n = b"", len(content)
        while n > 127:
            length, n = length + bytes([n & 127 | 128]), n >> 7
        return bytes([number << 3 | 2]) + length + bytes([n]) + content

    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    return field(1, name) + field(2, field(1, statement.encode()))


def serve(saequel, db, folder):
    """A server; its process and port."""
    process = subprocess.Popen(
        [saequel, "--db", db, "serve", "--listen", "127.0.0.1:0", "--no-postgres", "--allow-dir", folder],
        stdout=subprocess.PIPE, text=True,
    )
    for line in process.stdout:
        if found := re.search(r":(\d+)/v1/sql", line):
            return process, found[1]
    sys.exit("the server did not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saequel", default="saequel", help="the program")
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    keep_freed()

    with tempfile.TemporaryDirectory() as folder:
        folder = os.path.realpath(folder)
        db, file = os.path.join(folder, "bench.saequel"), os.path.join(folder, "rows.parquet")
        answers = os.path.join(os.path.dirname(__file__), "../../examples/data/answers.jsonl")
        subprocess.run(
            [args.saequel, "--db", db, "--quiet", "import", answers, "--corpus", "answers", "--text", "answer", "--limit", "2"],
            check=True, stdout=sys.stderr,
        )
        subprocess.run(
            [args.saequel, "--db", db, "--quiet", "sql", TABLE.format(rows=args.rows), "--output", file],
            check=True, stdout=sys.stderr,
        )
        table = parquet.read_table(file)
        megabytes = table.nbytes / 1e6
        n_rows = table.num_rows
        del table
        print(f"{n_rows:,} rows, {megabytes:.0f} MB of Arrow, {os.path.getsize(file) / 1e6:.0f} MB of Parquet, {os.cpu_count()} cores")

        process, port = serve(args.saequel, db, folder)
        try:
            with flightsql.connect(f"grpc://127.0.0.1:{port}", autocommit=True) as connection:
                statement = f"SELECT * FROM '{file}'"
                client = pa.flight.connect(f"grpc://127.0.0.1:{port}")
                descriptor = pa.flight.FlightDescriptor.for_command(command(statement))

                def stream():
                    info = client.get_flight_info(descriptor)
                    return client.do_get(info.endpoints[0].ticket)

                def native_table():
                    return stream().read_all().num_rows

                def native_batches():
                    return sum(chunk.data.num_rows for chunk in stream())

                def flight_table():
                    with connection.cursor() as cursor:
                        cursor.execute(statement)
                        return cursor.fetch_arrow_table().num_rows

                def flight_batches():
                    with connection.cursor() as cursor:
                        cursor.execute(statement)
                        return sum(batch.num_rows for batch in cursor.fetch_record_batch())

                def saequel_alone():
                    # The same query, of which one row leaves the server: what is left is reading and decoding.
                    with connection.cursor() as cursor:
                        columns = "max(doc_id), max(source), max(score), max(label), max(text), max(is_new)"
                        cursor.execute(f"SELECT {columns} FROM '{file}'")
                        cursor.fetchall()
                        return n_rows

                def process_table():
                    return parquet.read_table(file).num_rows

                def process_batches():
                    return sum(batch.num_rows for batch in pa.dataset.dataset(file).to_batches())

                sides = {
                    "in this process, table": process_table,
                    "in this process, batches": process_batches,
                    "in the server, aggregated": saequel_alone,
                    "Flight SQL (ADBC), table": flight_table,
                    "Flight SQL (ADBC), batches": flight_batches,
                    "Flight SQL (pyarrow.flight), table": native_table,
                    "Flight SQL (pyarrow.flight), batches": native_batches,
                }
                seconds = {name: [] for name in sides}
                for repetition in range(args.repetitions + 1):
                    for name, read in sides.items():
                        start = time.perf_counter()
                        rows = read()
                        took = time.perf_counter() - start
                        assert rows == n_rows, (name, rows)
                        if repetition > 0:
                            seconds[name].append(took)
        finally:
            process.terminate()
            process.wait()
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        for name, median in medians.items():
            low, high = min(seconds[name]), max(seconds[name])
            print(f"{name:36} {median:6.2f} s ({low:.2f}-{high:.2f})  {n_rows / median / 1e6:6.2f} M rows/s  {megabytes / median:7.0f} MB/s")
        for client in ("ADBC", "pyarrow.flight"):
            for kind in ("table", "batches"):
                ratio = medians[f"in this process, {kind}"] / medians[f"Flight SQL ({client}), {kind}"]
                print(f"Flight SQL ({client}) has {ratio:.2f} of the throughput in the process ({kind})")


if __name__ == "__main__":
    main()
