#!/usr/bin/env python3
"""Records the conversations of this folder again, with real servers and clients on loopback.

    python3 -m venv VENV && VENV/bin/pip install pymysql mysql-connector-python cryptography pynacl
    VENV/bin/python record.py [NAME...]

Needs MariaDB (mariadbd, mariadb-install-db, mariadb), MySQL where scripts/fetch-mysql.sh puts it, and sysbench. Everything
runs in a temporary folder and has ended when this ends. Writes NAME.conversation and, without names, README.md.
"""
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import mysql.connector
import pymysql
from mysql.connector.constants import ClientFlag

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

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def forget_passwords(self):
        """Empties the cache of caching_sha2_password."""
        with self.root() as connection, connection.cursor() as cursor:
            cursor.execute("FLUSH PRIVILEGES")

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
            sink.sendall(data)

    def finish(self):
        self.thread.join(30)
        assert not self.thread.is_alive(), "the conversation does not end"
        return self.heard


def encode(heard):
    return b"".join(side.encode() + len(data).to_bytes(4, "little") + bytes(data) for side, data in heard)


CONVERSATIONS = []


def conversation(kind, description, cold=False):
    """Makes a function of (port, server) a conversation, named after it."""

    def add(function):
        CONVERSATIONS.append((function.__name__.replace("_", "-"), kind, description, cold, function))
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
    return client([MYSQL / "mysql", "--no-defaults", f"--ssl-mode={tls}"], port, user, arguments, password, text, check)


def client(program, port, user, arguments, password, text, check):
    done = subprocess.run(program + ["--host=127.0.0.1", "--protocol=tcp", f"--port={port}", f"--user={user}", *arguments],
                          env={**os.environ, "MYSQL_PWD": password}, input=text, text=True, capture_output=True)
    if check and done.returncode:
        raise RuntimeError(done.stderr)
    if not check and not done.returncode:
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


def main():
    wanted = sys.argv[1:]
    chosen = [one for one in CONVERSATIONS if not wanted or one[0] in wanted]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tcpcopy-record-"))
    servers = {}
    try:
        for kind in {one[1] for one in chosen}:
            servers[kind] = Server(kind, folder)
        for name, kind, _, cold, function in chosen:
            print(name, flush=True)
            server = servers[kind]
            if cold:
                server.forget_passwords()
            relay = Relay(server)
            function(relay.port, server)
            heard = relay.finish()
            if name.endswith("-tls"):
                heard = heard[:3]
                heard[2][1] = heard[2][1][:64]
            (HERE / f"{name}.conversation").write_bytes(encode(heard))
        if not wanted:
            write_readme({kind: server.version() for kind, server in servers.items()})
    finally:
        for server in servers.values():
            server.stop()
        shutil.rmtree(folder)


def write_readme(versions):
    rows = [f"| {name} | {kind} | {description} | {(HERE / f'{name}.conversation').stat().st_size} |"
            for name, kind, description, _, _ in CONVERSATIONS]
    text = (HERE / "README.in.md").read_text()
    text = text.replace("@VERSIONS@", ", ".join(f"{kind} {version}" for kind, version in sorted(versions.items())))
    (HERE / "README.md").write_text(text.replace("@TABLE@", "\n".join(rows)))


if __name__ == "__main__":
    main()
