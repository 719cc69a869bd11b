"""Many clients at once, for a while: is every error one that was meant, does the memory stay flat, does what nobody waits for
end, and does a query that wants too much memory fail alone?

    python tests/bench/load.py [--clients 64] [--seconds 120] [--url URL] [--doors http,postgres,flight]

Without --url it imports the example's answers into a database of its own and serves it (SAEQUEL_BIN, or what cargo built). With
--url, PostgreSQL is at --pg HOST:PORT, and --pid tells whose memory is measured. Needs `psycopg` and `adbc-driver-flightsql` for
those doors; exit code 1 tells that something was not as it should be.
"""

import argparse
import collections
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

HERE = pathlib.Path(__file__).parent
ANSWERS = HERE / "../../examples/data/answers.jsonl"
CORPUS = "answers"
ENDLESS = "SELECT count(*) AS n FROM generate_series(1, 100000000000) WHERE value % 7 = 3"
ROWS = "SELECT value, repeat('x', 200) AS a FROM generate_series(1, 50000000)"
# More than a query may hold, where the server has 512 MiB for all.
HUNGRY = "SELECT length(string_agg(repeat('a', 1000), ',')) AS n FROM generate_series(1, 1000000)"
SHORT = [
    "SELECT 1 AS a",
    f"SELECT count(*) AS n FROM {CORPUS}",
    f"SELECT doc_id, n_tokens FROM {CORPUS} ORDER BY n_tokens DESC LIMIT 20",
    f"SELECT assistant, count(*) AS n FROM {CORPUS} GROUP BY assistant",
    "SELECT label FROM saequel.features WHERE NOT hidden LIMIT 50",
    f"SELECT * FROM {CORPUS} LIMIT 100",
]
BAD = [
    ("SELEC 1", {400}), ("SELECT nothing FROM answers", {400}), ("SELECT * FROM nowhere", {404}), ("SELECT 1 / 0", {422}),
    ("DROP CORPUS answers", {403}), ("SELECT repeat('a', 2000000000)", {503}), ("SELECT * FROM '/etc/passwd'", {403}),
    ("SELECT " + "+".join(["1"] * 5000), {400}),
]
# What may be said to a client when too much runs at once.
BUSY = {429, 503, "53300", "57P01"}
STATES = {400: {"42601", "42703", "42P01", "22012", "42000"}, 404: {"42P01"}, 422: {"22000", "22012"}, 403: {"42501"},
          503: {"53200"}, 504: {"57014"}}


class Unexpected(Exception):
    pass


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.seconds = collections.defaultdict(list)
        self.statuses = collections.Counter()
        self.problems = []

    def note(self, door, kind, status, seconds):
        with self.lock:
            self.seconds[door, kind].append(seconds)
            self.statuses[door, kind, str(status)] += 1

    def problem(self, text):
        with self.lock:
            self.problems.append(text)


class Http:
    name = "http"

    def __init__(self, load):
        self.url = urllib.parse.urlsplit(load.url)
        self.connection = None

    def request(self, statement, read=True, path="/v1/sql?format=json"):
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=60)
        try:
            self.connection.request("POST", path, statement.encode(), {"Content-Type": "text/plain"})
            answer = self.connection.getresponse()
            return answer.status, (answer.read() if read else answer)
        except (http.client.HTTPException, OSError):
            self.close()
            raise

    def ask(self, statement):
        for attempt in (1, 2):
            try:
                status, body = self.request(statement)
                break
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A kept connection may have ended meanwhile: once, that is no error.
                if attempt == 2:
                    raise
        return status, body

    def leave(self, statement, after):
        """Asks and goes away without a word."""
        self.close()
        self.connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=60)
        self.connection.request("POST", "/v1/sql?format=csv", statement.encode(), {"Content-Type": "text/plain"})
        self.connection.sock.settimeout(after)
        with contextlib.suppress(TimeoutError, OSError):
            self.connection.sock.recv(1 << 16)
            time.sleep(after)
        self.close()

    def cancel(self, statement, after):
        """Cancels by id, from beside."""
        query_id = f"load-{random.getrandbits(64):x}"
        timer = threading.Timer(after, self.cancel_now, (query_id,))
        timer.start()
        status, _ = self.request(statement, path=f"/v1/sql?format=json&query_id={query_id}")
        timer.join()
        return status

    def cancel_now(self, query_id):
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=30)
        with contextlib.suppress(OSError, http.client.HTTPException):  # whoever asked sees that it was not cancelled
            for _ in range(50):
                connection.request("DELETE", f"/v1/queries/{query_id}")
                answer = connection.getresponse()
                answer.read()
                if answer.status != 404:
                    break
                time.sleep(0.1)  # it has not come yet
        connection.close()

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None


class Postgres:
    name = "postgres"

    def __init__(self, load):
        import psycopg

        self.psycopg, self.address = psycopg, load.pg
        self.connection = None

    def connect(self):
        if self.connection is None or self.connection.closed:
            host, port = self.address.rsplit(":", 1)
            self.connection = self.psycopg.connect(
                host=host, port=port, user="load", dbname="saequel", autocommit=True, connect_timeout=30)
        return self.connection

    def ask(self, statement):
        try:
            rows = self.connect().execute(statement).fetchall()
            return 200, rows
        except self.psycopg.Error as error:
            if error.sqlstate is None:
                raise
            return error.sqlstate, str(error)

    def leave(self, statement, after):
        self.close()
        connection = self.connect()
        thread = threading.Thread(target=lambda: self.quietly(connection, statement))
        thread.start()
        time.sleep(after)
        with contextlib.suppress(OSError):
            os.close(os.dup(connection.fileno()))
            import socket
            socket.socket(fileno=os.dup(connection.fileno())).shutdown(socket.SHUT_RDWR)
        thread.join()
        self.close()

    def quietly(self, connection, statement):
        with contextlib.suppress(self.psycopg.Error):
            connection.execute(statement)

    def cancel(self, statement, after):
        connection = self.connect()
        timer = threading.Timer(after, connection.cancel_safe)
        timer.start()
        status, _ = self.ask(statement)
        timer.join()
        return status

    def close(self):
        if self.connection:
            with contextlib.suppress(Exception):
                self.connection.close()
        self.connection = None


class Flight:
    name = "flight"
    GRPC = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAUTHORIZED": 403, "UNAUTHENTICATED": 401, "CANCELLED": 504,
            "TIMEOUT": 504}

    def __init__(self, load):
        import adbc_driver_flightsql.dbapi as flightsql

        self.flightsql, self.port = flightsql, urllib.parse.urlsplit(load.url).port
        self.connection = None

    def ask(self, statement):
        if self.connection is None:
            self.connection = self.flightsql.connect(f"grpc://localhost:{self.port}", autocommit=True)
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(statement)
                return 200, cursor.fetch_arrow_table()
        except self.flightsql.Error as error:
            text = str(error)
            if "ResourceExhausted" in text:
                return (503 if "memory" in text else 429), text
            for name, status in (("InvalidArgument", {400, 422}), ("NotFound", 404), ("PermissionDenied", 403),
                                 ("Unavailable", 503), ("Canceled", 504), ("Cancelled", 504)):
                if name in text:
                    return (422 if "divide by zero" in text.lower() else 400) if isinstance(status, set) else status, text
            return getattr(error.status_code, "name", "?"), text

    leave = cancel = None

    def close(self):
        if self.connection:
            with contextlib.suppress(Exception):
                self.connection.close()
        self.connection = None


DOORS = {"http": Http, "postgres": Postgres, "flight": Flight}


class Load:
    def __init__(self, arguments):
        self.arguments = arguments
        self.url, self.pg, self.pid = arguments.url, arguments.pg, arguments.pid
        self.tally = Tally()
        self.end = None
        self.memory = []  # (seconds, bytes)
        self.stop = threading.Event()

    def right(self, door, kind, statement, expected):
        began = time.monotonic()
        status, body = door.ask(statement)
        self.tally.note(door.name, kind, status, time.monotonic() - began)
        wanted = expected | BUSY | {state for code in expected for state in STATES.get(code, ())}
        if status not in wanted:
            self.tally.problem(f"{door.name}, {kind}: {status} for {statement[:80]}: {str(body)[:300]}")
        if status == 503 and 503 not in expected:
            # Without memory because another had it: that is what must not be.
            if "memory" in str(body):
                self.tally.problem(f"{door.name}, {kind}: another query took the memory: {str(body)[:300]}")
        if status == "53200" and 503 not in expected:
            self.tally.problem(f"{door.name}, {kind}: another query took the memory: {str(body)[:300]}")

    def step(self, door, dice):
        draw = dice.random()
        if draw < 0.45:
            self.right(door, "short", dice.choice(SHORT), {200})
        elif draw < 0.62:
            feature = dice.randrange(2000)
            self.right(door, "filter", f"SELECT count(*) AS n FROM {CORPUS} WHERE has_feature(features, {feature})", {200})
        elif draw < 0.70:
            sets = f"'{CORPUS} WHERE assistant = ''heron''', '{CORPUS} WHERE assistant = ''finch'''"
            self.right(door, "diff", f"SELECT * FROM diff({sets}) LIMIT 10", {200})
        elif draw < 0.76:
            self.right(door, "retrieve", f"SELECT * FROM retrieve('{CORPUS}', 'apology') LIMIT 10", {200})
        elif draw < 0.90:
            statement, expected = dice.choice(BAD)
            self.right(door, "bad", statement, expected)
        elif draw < 0.93:
            self.right(door, "hungry", HUNGRY, {503})
        elif draw < 0.965 and door.leave:
            door.leave(f"{dice.choice([ENDLESS, ROWS])} /* left */", dice.uniform(0.05, 0.5))
            self.tally.note(door.name, "left", "-", 0)
        elif door.cancel:
            began = time.monotonic()
            status = door.cancel(f"{ENDLESS} /* cancelled */", 0.3)
            self.tally.note(door.name, "cancelled", status, time.monotonic() - began)
            if status not in {504, "57014"} | BUSY:
                self.tally.problem(f"{door.name}: {status} for a query that was cancelled")

    def client(self, n, names):
        dice = random.Random(n)
        door = DOORS[names[n % len(names)]](self)
        while time.monotonic() < self.end:
            try:
                self.step(door, dice)
            except Exception as error:  # noqa: BLE001: whatever it is, it was not meant
                # psycopg tells no SQLSTATE of a connection that is refused.
                if "requests in a minute" not in str(error):
                    self.tally.problem(f"{door.name}: {type(error).__name__}: {error}")
                door.close()
                time.sleep(0.2)
        door.close()

    def watch_memory(self):
        began = time.monotonic()
        while not self.stop.wait(0.25):
            with contextlib.suppress(OSError, StopIteration):
                with open(f"/proc/{self.pid}/status") as status:
                    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
                self.memory.append((time.monotonic() - began, resident << 10))

    def watch_left(self):
        """Queries whose client has gone, or has cancelled them, and that go on."""
        door = Http(self)
        statement = (
            "SELECT query_id, statement, date_part('epoch', now() - started_at) AS seconds FROM saequel.queries "
            "WHERE state = 'running' AND (statement LIKE '%/* left */' OR statement LIKE '%/* cancelled */')"
        )
        while not self.stop.wait(0.5):
            try:
                status, body = door.ask(statement)
            except (OSError, http.client.HTTPException):
                continue
            if status != 200:
                continue
            rows = json.loads(body)
            rows = rows if isinstance(rows, list) else rows.get("rows", rows.get("data"))
            for row in rows:
                row = list(row.values()) if isinstance(row, dict) else row
                # Left or cancelled after half a second at most, waiting for a turn not counted.
                if row[2] > 0.5 + 1.0 + 0.5:
                    self.tally.problem(f"a query goes on {row[2]:.1f} s after it began, though nobody waits: {row[1][-40:]}")
        door.close()

    def run(self):
        names = self.arguments.doors.split(",")
        self.end = time.monotonic() + self.arguments.seconds
        watchers = [threading.Thread(target=self.watch_left)]
        if self.pid:
            watchers.append(threading.Thread(target=self.watch_memory))
        clients = [threading.Thread(target=self.client, args=(n, names)) for n in range(self.arguments.clients)]
        for thread in watchers + clients:
            thread.start()
        for thread in clients:
            thread.join()
        self.stop.set()
        for thread in watchers:
            thread.join()
        return self.report()

    def report(self):
        tally, seconds = self.tally, self.arguments.seconds
        print(f"{'door':9} {'kind':10} {'n':>7} {'1/s':>7} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'max ms':>8}  statuses")
        total = 0
        # A server that has ended looks busy to some clients.
        for door in {door for door, _ in tally.seconds}:
            if not tally.statuses[door, "short", "200"]:
                tally.problem(f"{door}: no short query was answered")
        try:
            if Http(self).request("SELECT 1 AS a")[0] not in {200, 429}:
                tally.problem("the server does not answer afterwards")
        except (OSError, http.client.HTTPException) as error:
            tally.problem(f"the server does not answer afterwards: {error}")
        for (door, kind), times in sorted(tally.seconds.items()):
            times.sort()
            total += len(times)
            at = lambda share: 1000 * times[min(len(times) - 1, int(share * len(times)))]
            statuses = {status: n for (d, k, status), n in sorted(tally.statuses.items()) if (d, k) == (door, kind)}
            print(f"{door:9} {kind:10} {len(times):7} {len(times) / seconds:7.1f} {at(.5):8.1f} {at(.95):8.1f} {at(.99):8.1f} "
                  f"{1000 * times[-1]:8.1f}  {statuses}")
        print(f"{total / seconds:.1f} requests a second")
        if len(self.memory) > 8:
            quarter = len(self.memory) // 4
            mean = lambda part: sum(size for _, size in part) / len(part) / (1 << 20)
            parts = [mean(self.memory[i * quarter:(i + 1) * quarter]) for i in range(4)]
            peak = max(size for _, size in self.memory) / (1 << 20)
            print("resident MiB by quarters:", " ".join(f"{part:.0f}" for part in parts), f"peak {peak:.0f}")
            if parts[3] > parts[1] * 1.1 + 50:
                tally.problem(f"memory grows: {parts[1]:.0f} MiB, then {parts[3]:.0f} MiB")
        counted = collections.Counter(re.sub(r"[0-9.]+ s|load-\w+|0x\w+", "_", text) for text in tally.problems)
        for problem, n in counted.most_common(30):
            print(f"{n} x {problem}")
        return 1 if tally.problems else 0


@contextlib.contextmanager
def served(arguments):
    """A server over the example's answers."""
    target = os.environ.get("CARGO_TARGET_DIR", os.path.expanduser("~/.cache/saequel/target"))
    program = os.environ.get("SAEQUEL_BIN", f"{target}/debug/saequel")
    with tempfile.TemporaryDirectory() as folder:
        db = f"{folder}/load.saequel"
        load = [program, "--db", db, "import", ANSWERS, "--corpus", CORPUS, "--text", "answer", "--key", "doc_id",
                "--limit", str(arguments.documents)]
        subprocess.run(load, check=True, capture_output=True)
        # The embeddings of the labels, which a server that may not write makes anew.
        subprocess.run([program, "--db", db, "features", "search", "hedging"], check=True, capture_output=True)
        serve = [program, "--db", db, "serve", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--memory", "512MiB",
                 "--timeout", "60", *arguments.serve.split()]
        log = open(f"{folder}/log", "w+")
        env = {"RUST_LOG": "warn", **os.environ}
        process = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        for line in process.stdout:
            if found := re.search(r"(http://[^/\s]+)/v1/sql", line):
                arguments.url = arguments.url or found[1]
            if found := re.search(r"psql -h (\S+) -p (\d+)", line):
                arguments.pg = f"{found[1]}:{found[2]}"
            if "Ctrl-C" in line:
                break
        arguments.pid = process.pid
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield
        finally:
            if process.poll() is not None:
                log.seek(0)
                print(f"the server ended by itself with {process.returncode}:", log.read()[-2000:])
            process.terminate()
            process.wait(30)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--url")
    parser.add_argument("--pg", default="127.0.0.1:5433", metavar="HOST:PORT")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--doors", default="http", help="http, postgres, flight; several with commas")
    parser.add_argument("--documents", type=int, default=500, help="of the database that is served")
    parser.add_argument("--serve", default="", help="further options of the server that is started")
    arguments = parser.parse_args()
    with contextlib.nullcontext() if arguments.url else served(arguments):
        return Load(arguments).run()


if __name__ == "__main__":
    sys.exit(main())
