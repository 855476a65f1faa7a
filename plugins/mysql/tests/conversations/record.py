#!/usr/bin/env python3
"""Records the conversations of this folder again, with real servers and clients on loopback.

    python3 -m venv VENV && VENV/bin/pip install pymysql mysql-connector-python cryptography pynacl
    VENV/bin/python record.py [NAME...]

Needs MariaDB (mariadbd, mariadb-install-db, mariadb), MySQL where scripts/fetch-mysql.sh puts it, and sysbench. Everything
runs in a temporary folder and has ended when this ends. Writes NAME.conversation and, without names, README.md.
"""
import ctypes
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import mysql.connector
import pymysql
from pymysql.constants import CLIENT, COMMAND

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tcpcopy-tests"
MYSQL = CACHE / "mysql" / "bin"
PASSWORD = "s3cret,pass@word"
OTHER_PASSWORD = "another one"

SCHEMA = """
CREATE DATABASE shop;
CREATE DATABASE other;
CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(60) CHARACTER SET utf8mb4, price DECIMAL(10,2), weight DOUBLE,
  small FLOAT, stock SMALLINT UNSIGNED, big BIGINT, added DATETIME(6), day DATE, length TIME(3), picture LONGBLOB, flags BIT(5), kind ENUM('a','b'));
INSERT INTO shop.item VALUES
 (1, 'one', 1.50, 0.5, 1.25, 65535, -9223372036854775808, '2024-02-29 12:34:56.789012', '2024-02-29', '-101:02:03.004', x'00fffe', b'10101', 'a'),
 (2, 'zwei \u00fc', NULL, -1e300, NULL, 0, 9223372036854775807, NULL, NULL, '00:00:00', NULL, NULL, NULL),
 (3, '', 0, 0, 0, 1, 0, '1000-01-01 00:00:00', '9999-12-31', '838:59:59.000', '', b'0', 'b');
CREATE TABLE shop.empty (id INT PRIMARY KEY);
CREATE TABLE shop.note (id INT AUTO_INCREMENT PRIMARY KEY, body LONGBLOB);
"""
PROCEDURE = "CREATE PROCEDURE shop.two_sets() BEGIN SELECT 1 AS a; SELECT id, name FROM shop.item; SELECT id FROM shop.empty; END"


class Server:
    """A server on loopback with the data above."""

    def __init__(self, kind, folder):
        self.kind = kind
        self.folder = folder / kind
        self.folder.mkdir()
        self.process = None
        data = self.folder / "data"
        if kind == "mysql":
            self.command = [MYSQL / "mysqld", "--no-defaults"]
            self.extra = ["--mysqlx=OFF", "--skip-log-bin", "--secure-file-priv="]
            subprocess.run(self.command + ["--initialize-insecure", f"--datadir={data}", "--user=root"],
                           check=True, stderr=open(self.folder / "initialise", "w"))
        else:
            self.command = ["mariadbd", "--no-defaults"]
            plugins = next(CACHE.glob("mariadb-plugins-*"), "/usr/lib/mysql/plugin")
            self.extra = [f"--plugin-dir={plugins}", "--plugin-load-add=auth_ed25519"]
            subprocess.run(["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", "--user=root",
                            "--auth-root-authentication-method=normal"], check=True, stdout=subprocess.DEVNULL)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        listener.close()
        self.start()
        with self.root() as connection, connection.cursor() as cursor:
            for statement in SCHEMA.split(";"):
                if statement.strip():
                    cursor.execute(statement)
            cursor.execute(PROCEDURE)
            for name, plugin, password in self.users():
                how = f"WITH {plugin} BY '{password}'" if kind == "mysql" else f"VIA {plugin} USING PASSWORD('{password}')"
                cursor.execute(f"CREATE USER '{name}'@'%' IDENTIFIED {how}")
                cursor.execute(f"GRANT ALL ON *.* TO '{name}'@'%'")

    def users(self):
        if self.kind == "mysql":
            return [("sha2", "caching_sha2_password", PASSWORD), ("sha256", "sha256_password", PASSWORD),
                    ("empty", "caching_sha2_password", ""), ("second", "caching_sha2_password", OTHER_PASSWORD)]
        return [("native", "mysql_native_password", PASSWORD), ("ed25519", "ed25519", PASSWORD),
                ("empty", "mysql_native_password", ""), ("second", "mysql_native_password", OTHER_PASSWORD)]

    def start(self):
        self.socket = self.folder / "socket"
        self.process = subprocess.Popen(
            self.command + [f"--datadir={self.folder}/data", f"--socket={self.socket}", f"--port={self.port}", "--user=root",
                            "--bind-address=127.0.0.1", f"--pid-file={self.folder}/pid", "--local-infile=ON", "--skip-name-resolve",
                            "--max-allowed-packet=64M"] + self.extra,
            stderr=open(self.folder / "log", "a"), stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                self.root().close()
                return
            except pymysql.Error:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)
        raise RuntimeError("the server does not come up")

    def without_grants(self):
        """Starts it again with --skip-grant-tables. MySQL then listens on its Unix socket only."""
        self.stop()
        self.extra.append("--skip-grant-tables")
        self.start()

    def with_grants(self):
        self.stop()
        self.extra.remove("--skip-grant-tables")
        self.start()

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def forget_passwords(self):
        """Empties the cache of caching_sha2_password. FLUSH PRIVILEGES and ALTER USER leave it as it is in MySQL 9.7."""
        self.stop()
        self.start()

    def root(self):
        return pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True)

    def version(self):
        with self.root() as connection:
            return connection.get_server_info()


class Relay:
    """Passes one connection on to a server and keeps what it hears, in order: [side, bytes]."""

    def __init__(self, server):
        self.server = server
        self.heard = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        client, _ = self.listener.accept()
        self.listener.close()
        if "--skip-grant-tables" in self.server.extra:
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.server.socket))
        else:
            server = socket.create_connection(("127.0.0.1", self.server.port))
        back = threading.Thread(target=self.pass_on, args=("S", server, client), daemon=True)
        back.start()
        self.pass_on("C", client, server)
        back.join()

    def pass_on(self, side, source, sink):
        while True:
            try:
                data = source.recv(1 << 20)
            except OSError:
                data = b""
            if not data:
                try:
                    sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                return
            with self.lock:
                if self.heard and self.heard[-1][0] == side:
                    self.heard[-1][1] += data
                else:
                    self.heard.append([side, bytearray(data)])
            try:
                sink.sendall(data)
            except OSError:
                pass

    def finish(self):
        self.thread.join(30)
        assert not self.thread.is_alive(), "the conversation does not end"
        return self.heard


def encode(heard):
    return b"".join(side.encode() + len(data).to_bytes(4, "little") + bytes(data) for side, data in heard)


CONVERSATIONS = []


def conversation(kind, description, cold=False, grants=True):
    """Makes a function of (port, server) a conversation, named after it."""

    def add(function):
        CONVERSATIONS.append((function.__name__.replace("_", "-"), kind, description, cold, grants, function))
        return function

    return add


def python(port, user, password=PASSWORD, **options):
    options.setdefault("ssl_disabled", True)
    return pymysql.connect(host="127.0.0.1", port=port, user=user, password=password, **options)


def connector(port, user="sha2", password=PASSWORD, **options):
    return mysql.connector.connect(host="127.0.0.1", port=port, user=user, password=password, use_pure=True,
                                   ssl_disabled=options.pop("ssl_disabled", True), **options)


def mariadb(port, user, *arguments, password=PASSWORD, text=None, check=True):
    return client(["mariadb", "--no-defaults", "--skip-ssl"], port, user, arguments, password, text, check)


def mysql_client(port, user, *arguments, password=PASSWORD, text=None, check=True, tls="DISABLED"):
    return client([MYSQL / "mysql", "--no-defaults", "--commands", f"--ssl-mode={tls}"], port, user, arguments, password, text, check)


def client(program, port, user, arguments, password, text, check):
    done = subprocess.run(program + ["--host=127.0.0.1", "--protocol=tcp", f"--port={port}", f"--user={user}", *arguments],
                          env={**os.environ, "MYSQL_PWD": password}, input=text and text.encode(), capture_output=True)
    if check and done.returncode:
        raise RuntimeError(done.stderr)
    if check is False and not done.returncode:
        raise RuntimeError("that should have failed")
    return done


def refused(work):
    """The work must be refused by the server."""
    try:
        work()
    except (pymysql.Error, mysql.connector.Error):
        return
    raise RuntimeError("that should have failed")


# Logins


@conversation("mariadb", "PyMySQL, mysql_native_password, database given, one query")
def mariadb_native_pymysql(port, _server):
    with python(port, "native", database="shop") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, name, price FROM item")


@conversation("mariadb", "`mariadb` client (connector C, extended capabilities in the filler), mysql_native_password, two statements")
def mariadb_native_client(port, _server):
    mariadb(port, "native", "shop", text="SELECT id, name FROM item; INSERT INTO note (body) VALUES ('by client');")


@conversation("mariadb", "`mysql` client of MySQL, which names caching_sha2_password: switched to mysql_native_password")
def mariadb_native_switched(port, _server):
    mysql_client(port, "native", "shop", text="SELECT 1;")


@conversation("mariadb", "`mariadb` client, ed25519: switched from mysql_native_password")
def mariadb_ed25519(port, _server):
    mariadb(port, "ed25519", text="SELECT 1;")


@conversation("mariadb", "PyMySQL, empty password")
def mariadb_empty_password(port, _server):
    with python(port, "empty", "") as connection:
        connection.ping()


@conversation("mariadb", "PyMySQL, wrong password")
def mariadb_refused(port, _server):
    refused(lambda: python(port, "native", "wrong"))


@conversation("mariadb", "PyMySQL, a database that does not exist")
def mariadb_unknown_database(port, _server):
    refused(lambda: python(port, "native", database="none"))


@conversation("mysql", "PyMySQL, caching_sha2_password, password not in the server's cache: public key asked for, password encrypted", cold=True)
def mysql_sha2_full(port, _server):
    with python(port, "sha2", database="shop") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, name, price FROM item")


@conversation("mysql", "PyMySQL, caching_sha2_password, password in the server's cache")
def mysql_sha2_fast(port, server):
    python(server.port, "sha2").close()
    with python(port, "sha2", database="shop") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, name, price FROM item")


@conversation("mysql", "`mysql` client (query attributes, deprecate-EOF, connection attributes), caching_sha2_password with the cache cold", cold=True)
def mysql_sha2_client_full(port, _server):
    mysql_client(port, "sha2", "--get-server-public-key", "shop", text="SELECT 1;")


@conversation("mysql", "`mysql` client, caching_sha2_password with the cache warm, two statements")
def mysql_sha2_client_fast(port, server):
    python(server.port, "sha2").close()
    mysql_client(port, "sha2", "shop", text="SELECT id, name FROM item; INSERT INTO note (body) VALUES ('by client');")


@conversation("mysql", "`mariadb` client, which names mysql_native_password: switched to caching_sha2_password, cache warm")
def mysql_sha2_switched(port, server):
    python(server.port, "sha2").close()
    mariadb(port, "sha2", "--default-auth=mysql_native_password", "shop", text="SELECT 1;")


@conversation("mysql", "PyMySQL, sha256_password: switched from caching_sha2_password, public key asked for")
def mysql_sha256(port, _server):
    with python(port, "sha256") as connection:
        connection.ping()


@conversation("mysql", "PyMySQL, empty password")
def mysql_empty_password(port, _server):
    with python(port, "empty", "") as connection:
        connection.ping()


@conversation("mysql", "PyMySQL, wrong password, cache warm")
def mysql_refused(port, server):
    python(server.port, "sha2").close()
    refused(lambda: python(port, "sha2", "wrong"))


@conversation("mysql", "`mysql` client asks for TLS: only what is readable, up to its SSLRequest and the first record")
def mysql_tls(port, _server):
    mysql_client(port, "sha2", tls="REQUIRED", text="SELECT 1;")


# --skip-grant-tables: any user, any proof


@conversation("mariadb", "--skip-grant-tables: `mariadb` client with a password", grants=False)
def mariadb_without_grants(port, _server):
    mariadb(port, "anybody", "shop", text="SELECT 1;")


@conversation("mysql", "--skip-grant-tables: `mysql` client with a password: full authentication, in which everything is right", grants=False)
def mysql_without_grants(port, _server):
    mysql_client(port, "anybody", "--get-server-public-key", "shop", text="SELECT 1;", check=None)


@conversation("mysql", "--skip-grant-tables: `mariadb` client that names mysql_native_password", grants=False)
def mysql_without_grants_native(port, _server):
    mariadb(port, "anybody", "--default-auth=mysql_native_password", "shop", text="SELECT 1;", check=None)


@conversation("mysql", "--skip-grant-tables: PyMySQL without a password", grants=False)
def mysql_without_grants_empty(port, _server):
    with python(port, "anybody", "") as connection:
        connection.ping()


# Servers that end it


def too_many_connections(port, server, user):
    with server.root() as connection:
        query(connection, "SET GLOBAL max_connections = 10")
        held = []
        try:
            while True:
                held.append(python(server.port, user))
        except pymysql.Error:
            refused(lambda: python(port, user))
        for one in held:
            one.close()
        query(connection, "SET GLOBAL max_connections = 151")


@conversation("mariadb", "PyMySQL: an error in place of the greeting (too many connections)")
def mariadb_too_many_connections(port, server):
    too_many_connections(port, server, "native")


@conversation("mysql", "PyMySQL: the same")
def mysql_too_many_connections(port, server):
    too_many_connections(port, server, "sha2")


def idle(port, user):
    with python(port, user) as connection:
        query(connection, "SET wait_timeout = 1")
        time.sleep(3)
        refused(lambda: connection.ping(reconnect=False))


@conversation("mariadb", "PyMySQL: nothing said for longer than wait_timeout")
def mariadb_idle(port, _server):
    idle(port, "native")


@conversation("mysql", "PyMySQL: the same; the server says why, unasked")
def mysql_idle(port, server):
    python(server.port, "sha2").close()
    idle(port, "sha2")


def killed(port, server, user):
    with python(port, user) as connection:
        with server.root() as other:
            query(other, f"KILL {connection.thread_id()}")
        time.sleep(1)
        refused(lambda: connection.ping(reconnect=False))


@conversation("mariadb", "PyMySQL: killed while idle")
def mariadb_killed(port, server):
    killed(port, server, "native")


@conversation("mysql", "PyMySQL: the same")
def mysql_killed(port, server):
    python(server.port, "sha2").close()
    killed(port, server, "sha2")


# Queries


@conversation("mariadb", "`mariadb` client: progress reports before the answer")
def mariadb_progress(port, _server):
    mariadb(port, "native", "other", text="CREATE TABLE large AS SELECT seq FROM seq_1_to_3000000; SET progress_report_time = 1; "
            "ALTER TABLE large ENGINE = Aria; DROP TABLE large;")


@conversation("mariadb", "`mariadb` client without DEPRECATE_EOF: errors, an empty result, a procedure with three results, two statements in one query")
def mariadb_queries(port, _server):
    mariadb(port, "native", "--force", "shop", text=QUERIES, check=None)


@conversation("mariadb", "`mysql` client, DEPRECATE_EOF: the same")
def mariadb_queries_deprecate_eof(port, _server):
    mysql_client(port, "native", "--force", "shop", text=QUERIES, check=None)


@conversation("mysql", "`mariadb` client without DEPRECATE_EOF: the same")
def mysql_queries(port, server):
    python(server.port, "sha2").close()
    mariadb(port, "sha2", "--force", "shop", text=QUERIES, check=None)


@conversation("mysql", "`mysql` client, DEPRECATE_EOF: the same")
def mysql_queries_deprecate_eof(port, server):
    python(server.port, "sha2").close()
    mysql_client(port, "sha2", "--force", "shop", text=QUERIES, check=None)


QUERIES = """SELECT nothing FROM item;
SELECT id FROM shop.empty;
CALL two_sets();
DELIMITER //
SELECT 1; UPDATE item SET name = 'one' WHERE id = 1; SELECT 2//
SELECT 1; SELECT nothing; SELECT 2//
DELIMITER ;
INSERT INTO item (id) VALUES (1);
SELEKT;
DO 1;
"""


@conversation("mysql", "`mysql` client: session state is told in OK packets (COM_INIT_DB, SET, transactions)")
def mysql_session_state(port, server):
    python(server.port, "sha2").close()
    mysql_client(port, "sha2", text="SET SESSION session_track_transaction_info = CHARACTERISTICS;\nUSE other;\nSET NAMES latin1;\n"
                 "SET @@session_track_system_variables = '*';\nSTART TRANSACTION;\nSELECT COUNT(*) FROM shop.item;\nCOMMIT;\n")


@conversation("mariadb", "`mysql` client: the same")
def mariadb_session_state(port, _server):
    mysql_client(port, "native", text="SET SESSION session_track_transaction_info = CHARACTERISTICS;\nUSE other;\nSET NAMES latin1;\n"
                 "SET @@session_track_system_variables = '*';\nSTART TRANSACTION;\nSELECT COUNT(*) FROM shop.item;\nCOMMIT;\n")


@conversation("mysql", "`mysql` client: a query with attributes, one without")
def mysql_query_attributes(port, server):
    python(server.port, "sha2").close()
    mysql_client(port, "sha2", text="query_attributes first 1 second zwei\nSELECT 1;\nSELECT 2;\n")


@conversation("mysql", "PyMySQL with OPTIONAL_RESULTSET_METADATA: a result with its columns, one without")
def mysql_optional_metadata(port, _server):
    with python(port, "sha2", client_flag=1 << 25) as connection:
        query(connection, "SELECT 1, 2 UNION SELECT 3, 4")
        query(connection, "SET resultset_metadata = NONE")
        command(connection, COMMAND.COM_QUERY, b"SELECT 1, 2 UNION SELECT 3, 4")
        # The columns' number, two rows, EOF.
        packets(connection, 4)


@conversation("mariadb", "PyMySQL: LOCAL INFILE, one of 35 bytes, one that is empty, one that the client has not")
def mariadb_local_infile(port, server):
    local_infile(port, server, "native")


@conversation("mysql", "PyMySQL: the same")
def mysql_local_infile(port, server):
    local_infile(port, server, "sha2")


def local_infile(port, server, user):
    files = {name: server.folder / name for name in ("full", "none", "missing")}
    files["full"].write_text("".join(f"line {i}\n" for i in range(5)))
    files["none"].write_text("")
    with python(port, user, database="shop", local_infile=True) as connection, connection.cursor() as cursor:
        for name, file in files.items():
            try:
                cursor.execute(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE note (body)")
            except pymysql.Error:
                assert name == "missing"
        cursor.execute("SELECT 1")


@conversation("mariadb", "PyMySQL: a row of 70,000 bytes between two short ones")
def mariadb_large_row(port, _server):
    with python(port, "native") as connection:
        query(connection, "SELECT 'a' UNION ALL SELECT REPEAT('x', 70000) UNION ALL SELECT 'b'")


@conversation("mysql", "`mysql` client, compressed with zlib")
def mysql_zlib(port, server):
    python(server.port, "sha2").close()
    mysql_client(port, "sha2", "--compression-algorithms=zlib", "shop", text="SELECT * FROM item; SELECT REPEAT('x', 400);")


@conversation("mysql", "`mysql` client, compressed with zstd")
def mysql_zstd(port, server):
    python(server.port, "sha2").close()
    mysql_client(port, "sha2", "--compression-algorithms=zstd", "shop", text="SELECT * FROM item; SELECT REPEAT('x', 400);")


@conversation("mariadb", "`mariadb` client, compressed")
def mariadb_zlib(port, _server):
    mariadb(port, "native", "--compress", "shop", text="SELECT * FROM item; SELECT REPEAT('x', 400);")


def split_row(first, length):
    """A row of one value of so many letters x, as packets. As `row_in_packets` in mod.rs."""
    row = b"\xfd" + length.to_bytes(3, "little") if length < 1 << 24 else b"\xfe" + length.to_bytes(8, "little")
    row += b"x" * length
    packets = b""
    for at in range(0, len(row) + 1, 0xFFFFFF):
        piece = row[at:at + 0xFFFFFF]
        packets += len(piece).to_bytes(3, "little") + bytes([first]) + piece
        first = (first + 1) % 256
    return packets


def check_large_rows(servers):
    """Rows of 16 MB and more are sent as mod.rs makes them."""
    for server in servers.values():
        user = {"mysql": "sha2", "mariadb": "native"}[server.kind]
        # The longest in one packet; two packets, the second empty; two packets; a value that tells its length in 8 bytes.
        for length in (0xFFFFFF - 5, 0xFFFFFF - 4, 0xFFFFFF - 3, 0xFFFFFF + 1, 0x1FFFFFE - 9):
            relay = Relay(server)
            with python(relay.port, user) as connection:
                query(connection, f"SELECT REPEAT('x', {length})")
            said = bytes(relay.finish()[-2][1])
            # The columns' number, one column, EOF.
            assert split_row(4, length) in said, (server.kind, length)


# Commands other than queries, by Connector/C


class Library:
    """A session of libmariadb."""

    def __init__(self, port, user, password=PASSWORD):
        self.library = ctypes.CDLL("libmariadb.so.3")
        self.library.mysql_init.restype = self.library.mysql_store_result.restype = ctypes.c_void_p
        self.library.mysql_list_fields.restype = self.library.mysql_stat.restype = ctypes.c_void_p
        self.session = ctypes.c_void_p(self.library.mysql_init(None))
        done = self.library.mysql_real_connect(self.session, b"127.0.0.1", user.encode(), password.encode(), b"shop", port, None, ctypes.c_ulong(0))
        assert done, "no session"

    def call(self, name, *arguments):
        return getattr(self.library, name)(self.session, *arguments)

    def query(self, text):
        assert self.call("mysql_query", text.encode()) == 0, text
        result = self.call("mysql_store_result")
        if result:
            self.library.mysql_free_result(ctypes.c_void_p(result))


def commands(port, user, others):
    library = Library(port, user)
    library.query("SET @v = 1")
    assert library.call("mysql_ping") == 0
    library.call("mysql_stat")
    assert library.call("mysql_select_db", b"other") == 0
    assert library.call("mysql_select_db", b"nowhere") != 0
    library.call("mysql_set_server_option", 0)
    library.query("SELECT 1; SELECT 2")
    assert library.call("mysql_next_result") == 0
    result = library.call("mysql_store_result")
    library.library.mysql_free_result(ctypes.c_void_p(result))
    library.call("mysql_set_server_option", 1)
    library.call("mysql_list_fields", b"shop.item", None)
    assert library.call("mysql_select_db", b"shop") == 0
    library.call("mysql_list_fields", b"item", None)
    library.call("mysql_dump_debug_info")
    assert library.call("mysql_reset_connection") == 0
    for name, password, database, works in others:
        done = library.call("mysql_change_user", name.encode(), password.encode(), database)
        assert (done == 0) == works, (name, done)
        if works:
            library.query("SELECT CURRENT_USER(), DATABASE(), @v")
    library.call("mysql_close")


@conversation("mariadb", "Connector/C: ping, statistics, init-db, set-option, list-fields, debug, reset-connection, change-user to three users, to one that is refused")
def mariadb_commands(port, _server):
    commands(port, "native", [("second", OTHER_PASSWORD, b"other", True), ("ed25519", PASSWORD, None, True), ("empty", "", b"shop", True), ("second", "wrong", None, False)])


@conversation("mysql", "Connector/C: the same; one change-user with the cache warm, one with it cold, to one that is refused", cold=True)
def mysql_commands(port, server):
    python(server.port, "sha2").close()
    python(server.port, "empty", "").close()
    commands(port, "sha2", [("sha2", PASSWORD, b"other", True), ("second", OTHER_PASSWORD, None, True), ("empty", "", b"shop", True), ("second", "wrong", None, False)])


# Prepared statements

DEPRECATE_EOF = 1 << 24


def packets(connection, count):
    """Reads packets of an answer, errors too."""
    for _ in range(count):
        connection._read_packet() if count > 1 else refuse_nothing(connection)


def refuse_nothing(connection):
    try:
        return connection._read_packet()
    except pymysql.Error:
        return None


def command(connection, number, body):
    connection._execute_command(number, body)


def query(connection, text):
    with connection.cursor() as cursor:
        cursor.execute(text)


def rows(connection, end=2):
    """Reads an answer that may be a result set, which has two EOFs, or one if its rows are to be fetched."""
    packet = refuse_nothing(connection)
    if packet is None or packet.is_ok_packet():
        return
    if connection.client_flag & DEPRECATE_EOF:
        end = 1
    while end:
        end -= connection._read_packet().is_eof_packet()


def prepare(connection, text):
    command(connection, COMMAND.COM_STMT_PREPARE, text.encode())
    packet = refuse_nothing(connection)
    if packet is None:
        return None
    number, columns, parameters = struct.unpack_from("<IHH", packet.get_all_data(), 1)
    eof = 0 if connection.client_flag & DEPRECATE_EOF else 1
    packets_of = (parameters and parameters + eof) + (columns and columns + eof)
    for _ in range(packets_of):
        connection._read_packet()
    return number


def execute(connection, number, parameters=b"", nulls=b"", types=None, flags=0):
    body = struct.pack("<IBI", number, flags, 1)
    if nulls:
        body += nulls + (b"\0" if types is None else b"\1" + types) + parameters
    command(connection, COMMAND.COM_STMT_EXECUTE, body)


def statements(port, user, flags=0):
    with python(port, user, database="shop", client_flag=flags) as connection:
        every = prepare(connection, "SELECT * FROM item ORDER BY id")
        execute(connection, every)
        rows(connection)
        by_id = prepare(connection, "SELECT id, name FROM item WHERE id = ? OR name = ?")
        # A number of 8 bytes and a string; then without types; then NULL for the string; then other types.
        execute(connection, by_id, struct.pack("<q", 1) + b"\3two", b"\0", b"\x08\x00\xfd\x00")
        rows(connection)
        execute(connection, by_id, struct.pack("<q", 3) + b"\3one", b"\0")
        rows(connection)
        execute(connection, by_id, struct.pack("<q", 2), b"\2")
        rows(connection)
        execute(connection, by_id, struct.pack("<H", 2) + b"\0", b"\0", b"\x02\x80\xfe\x00")
        rows(connection)
        # Rows on demand: two, then the last, then none.
        execute(connection, every, flags=1)
        rows(connection, end=1)
        for _ in range(3):
            command(connection, COMMAND.COM_STMT_FETCH, struct.pack("<II", every, 2))
            # Rows begin like an OK packet. When there are no more, the next one is an error.
            packet = refuse_nothing(connection)
            while packet is not None and not packet.is_eof_packet():
                packet = connection._read_packet()
        # A cursor asked for where there are no rows to keep.
        insert = prepare(connection, "INSERT INTO note (body) VALUES (?)")
        for part in (b"long ", b"data"):
            command(connection, COMMAND.COM_STMT_SEND_LONG_DATA, struct.pack("<IH", insert, 0) + part)
        execute(connection, insert, b"", b"\0", b"\xfb\x00", flags=1)
        rows(connection)
        command(connection, COMMAND.COM_STMT_SEND_LONG_DATA, struct.pack("<IH", insert, 0) + b"forgotten")
        command(connection, COMMAND.COM_STMT_RESET, struct.pack("<I", insert))
        refuse_nothing(connection)
        execute(connection, insert, b"\5short", b"\0", b"\xfc\x00")
        rows(connection)
        assert prepare(connection, "SELEKT ?") is None
        procedure = prepare(connection, "CALL two_sets()")
        execute(connection, procedure)
        for _ in range(4):
            rows(connection)
        for number in (every, insert):
            command(connection, COMMAND.COM_STMT_CLOSE, struct.pack("<I", number))
        execute(connection, every)
        refuse_nothing(connection)
        # With nothing prepared by that number.
        command(connection, COMMAND.COM_STMT_FETCH, struct.pack("<II", 77, 2))
        refuse_nothing(connection)


@conversation("mariadb", "statements written by hand behind PyMySQL's login: all types of values, executed again without types, NULL, cursor and fetch, long data, reset, an error, a procedure, close, execute after close")
def mariadb_statements(port, _server):
    statements(port, "native")


@conversation("mysql", "the same")
def mysql_statements(port, _server):
    statements(port, "sha2")


@conversation("mariadb", "the same with DEPRECATE_EOF")
def mariadb_statements_deprecate_eof(port, _server):
    statements(port, "native", DEPRECATE_EOF)


@conversation("mysql", "the same with DEPRECATE_EOF")
def mysql_statements_deprecate_eof(port, _server):
    statements(port, "sha2", DEPRECATE_EOF)


@conversation("mysql", "MySQL Connector/Python (query attributes in EXECUTE, so types have names): a statement executed three times, one closed")
def mysql_statements_connector(port, _server):
    connection = connector(port, database="shop")
    cursor = connection.cursor(prepared=True)
    for number, name in ((1, "x"), (2, None), (3, "one")):
        cursor.execute("SELECT id, name, price, added FROM item WHERE id = %s OR name = %s", (number, name))
        cursor.fetchall()
    cursor.close()
    cursor = connection.cursor(prepared=True)
    cursor.execute("INSERT INTO note (body) VALUES (%s)", (b"by connector",))
    cursor.close()
    connection.commit()
    connection.close()


class Bind(ctypes.Structure):
    """MYSQL_BIND of Connector/C."""
    _fields_ = [(name, ctypes.c_void_p) for name in ("length", "is_null", "buffer", "error", "indicator", "store", "fetch", "skip")] + [
        ("buffer_length", ctypes.c_ulong), ("offset", ctypes.c_ulong), ("length_value", ctypes.c_ulong), ("flags", ctypes.c_uint),
        ("pack_length", ctypes.c_uint), ("buffer_type", ctypes.c_int)] + [
        (name, ctypes.c_byte) for name in ("error_value", "is_unsigned", "long_data_used", "is_null_value")] + [("extension", ctypes.c_void_p)]


ARRAY_SIZE, PREBIND_PARAMS = 201, 200


def bound(library, kind, pointer, lengths=None):
    bind = (Bind * 1)()
    bind[0].buffer_type = kind
    bind[0].buffer = ctypes.cast(pointer, ctypes.c_void_p)
    bind[0].length = ctypes.cast(lengths, ctypes.c_void_p) if lengths else None
    return bind


def new_statement(library):
    library.library.mysql_stmt_init.restype = ctypes.c_void_p
    return ctypes.c_void_p(library.call("mysql_stmt_init"))


@conversation("mariadb", "Connector/C: COM_STMT_BULK_EXECUTE with three rows")
def mariadb_bulk(port, _server):
    library = Library(port, "native")
    statement = new_statement(library)
    number = ctypes.c_uint(3)
    text = b"INSERT INTO note (body) VALUES (?)"
    assert library.library.mysql_stmt_prepare(statement, text, ctypes.c_ulong(len(text))) == 0
    library.library.mysql_stmt_attr_set(statement, ARRAY_SIZE, ctypes.byref(number))
    values = (ctypes.c_char_p * 3)(b"first", b"second", b"third")
    lengths = (ctypes.c_ulong * 3)(5, 6, 5)
    bind = bound(library, 254, values, lengths)
    assert library.library.mysql_stmt_bind_param(statement, bind) == 0
    assert library.library.mysql_stmt_execute(statement) == 0
    library.library.mysql_stmt_close(statement)
    library.call("mysql_close")


@conversation("mariadb", "Connector/C: mariadb_stmt_execute_direct, EXECUTE of statement 0xffffffff right behind PREPARE, without waiting; twice, the second refused")
def mariadb_execute_direct(port, _server):
    library = Library(port, "native")
    for text, works in ((b"SELECT id, name FROM item WHERE id = ?", True), (b"SELEKT ?", False)):
        statement = new_statement(library)
        number, value = ctypes.c_uint(1), ctypes.c_int(2)
        library.library.mysql_stmt_attr_set(statement, PREBIND_PARAMS, ctypes.byref(number))
        bind = bound(library, 3, ctypes.byref(value))
        assert library.library.mysql_stmt_bind_param(statement, bind) == 0
        done = library.library.mariadb_stmt_execute_direct(statement, text, ctypes.c_ulong(len(text)))
        assert (done == 0) == works
        if works:
            assert library.library.mysql_stmt_store_result(statement) == 0
        library.library.mysql_stmt_close(statement)
    library.call("mysql_close")


def sysbench(server, port, user, *options):
    def run(to, what, *more):
        subprocess.run(["sysbench", "oltp_read_write", "--db-driver=mysql", "--mysql-host=127.0.0.1", f"--mysql-port={to}", f"--mysql-user={user}",
                        f"--mysql-password={PASSWORD}", "--mysql-db=other", "--mysql-ssl=off", "--tables=1", "--table-size=20", "--range-size=2",
                        "--point-selects=2", "--rand-seed=1", *more, what], check=True, stdout=subprocess.DEVNULL)

    run(server.port, "prepare")
    run(port, "run", "--threads=1", "--events=2", "--time=0", *options)
    run(server.port, "cleanup")


@conversation("mariadb", "sysbench oltp_read_write, two transactions, prepared statements (metadata cached by the client)")
def mariadb_sysbench(port, server):
    sysbench(server, port, "native")


@conversation("mariadb", "sysbench oltp_read_write, two transactions, `--db-ps-mode=disable`")
def mariadb_sysbench_text(port, server):
    sysbench(server, port, "native", "--db-ps-mode=disable")


@conversation("mysql", "sysbench oltp_read_write, two transactions, prepared statements")
def mysql_sysbench(port, server):
    sysbench(server, port, "sha2")



def main():
    wanted = sys.argv[1:]
    chosen = [one for one in CONVERSATIONS if not wanted or one[0] in wanted]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tcpcopy-record-"))
    servers = {}
    try:
        for kind in {one[1] for one in chosen}:
            servers[kind] = Server(kind, folder)
        for name, kind, _, cold, grants, function in chosen:
            print(name, flush=True)
            server = servers[kind]
            if cold:
                server.forget_passwords()
            if not grants:
                server.without_grants()
            relay = Relay(server)
            function(relay.port, server)
            heard = relay.finish()
            if not grants:
                server.with_grants()
            if name.endswith("-tls"):
                heard = heard[:3]
                heard[2][1] = heard[2][1][:64]
            (HERE / f"{name}.conversation").write_bytes(encode(heard))
        if not wanted:
            check_large_rows(servers)
            write_readme({kind: server.version() for kind, server in servers.items()})
    finally:
        for server in servers.values():
            server.stop()
        shutil.rmtree(folder)


def write_readme(versions):
    rows = [f"| {name} | {kind} | {description} | {(HERE / f'{name}.conversation').stat().st_size} |"
            for name, kind, description, *_ in CONVERSATIONS]
    text = (HERE / "README.in.md").read_text()
    text = text.replace("@VERSIONS@", ", ".join(f"{kind} {version}" for kind, version in sorted(versions.items())))
    (HERE / "README.md").write_text(text.replace("@TABLE@", "\n".join(rows)))


if __name__ == "__main__":
    main()
