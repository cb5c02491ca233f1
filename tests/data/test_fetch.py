"""Downloads against servers on this machine that behave, lie, break off, stall or never end."""

import importlib.util
import itertools
import os
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lstm_jax.data import corpora, fetch
from lstm_jax.data.fetch import download, download_wheel, read_cached, sha256
from lstm_jax.errors import UserError
from lstm_jax.files import write_atomically

TEXT = b"To be, or not to be" * 10_000


class Handler(BaseHTTPRequestHandler):
    """Behaves as the path says: `/good`, `/breaks`, … are methods below."""

    def do_GET(self):
        self.server.asked.append(self.path)
        try:
            getattr(self, self.path.strip("/").replace("-", "_"), self.missing)()
        except OSError:
            self.close_connection = True  # the client had enough

    def answer(self, *chunks, code=200, length=None, **headers):
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(chunk)

    def first_times(self, times):
        return self.server.asked.count(self.path) <= times

    def wait(self):
        self.server.over.wait(60)

    def missing(self):
        self.answer(b"no such page", code=404)

    def good(self):
        self.answer(TEXT, length=len(TEXT))

    def no_length(self):
        self.answer(TEXT)

    def wrong(self):
        self.answer(TEXT[:-1] + b"!", length=len(TEXT))

    def short(self):
        self.answer(TEXT[:100], length=100)

    def breaks(self):
        self.answer(TEXT[:1000], length=len(TEXT))

    def breaks_once(self):
        self.breaks() if self.first_times(1) else self.good()

    def claims_more(self):
        self.answer(TEXT, length=10**15)
        self.wait()

    def claims_nonsense(self):
        self.answer(TEXT, length="many")

    def endless(self):
        self.answer(*itertools.repeat(b"and so on, " * 10_000, 10_000))

    def endless_header(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nA: ")
        for _ in range(10_000):
            self.wfile.write(TEXT)

    def no_http(self):
        self.wfile.write(b"220 smtp.example ready\r\n")

    def drips(self):
        self.answer(length=len(TEXT))
        self.drip()

    def drips_a_header(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nA: ")
        self.drip()

    def drip(self):
        while not self.server.over.wait(0.05):
            self.wfile.write(b"x")

    def stalls(self):
        self.answer(TEXT[:1000], length=len(TEXT))
        self.wait()

    def silent(self):
        self.wait()

    def busy(self):
        self.answer(code=503)

    def busy_twice(self):
        self.busy() if self.first_times(2) else self.good()

    def to_good(self):
        self.answer(code=301, length=0, Location="/good")

    def to_good_endlessly(self):
        self.answer(*itertools.repeat(TEXT, 10_000), code=302, Location="/good")

    def to_http(self):
        self.answer(code=302, length=0, Location="http://127.0.0.1:1/good")

    def to_file(self):
        self.answer(code=302, length=0, Location="file:///etc/passwd")

    def loop(self):
        self.answer(code=302, length=0, Location="/loop")

    def do_CONNECT(self):
        """As a proxy does: what comes on one side goes out on the other."""
        self.server.asked.append(self.path)
        host, port = self.path.split(":")
        self.send_response(200)
        self.end_headers()
        with socket.create_connection((host, int(port))) as there:
            up = threading.Thread(target=pipe, args=(self.connection, there), daemon=True)
            up.start()
            pipe(there, self.connection)
        self.close_connection = True

    def log_message(self, *args):
        pass


def pipe(source, sink):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass  # one of the two is gone


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, context=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.context, self.asked, self.over = context, [], threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def finish_request(self, request, client_address):
        """In the connection's own thread, so that one who never shakes hands stalls nobody."""
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with self.context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, *args):
        pass  # clients that do not trust the certificate, or leave

    def server_close(self):
        self.over.set()
        self.shutdown()
        super().server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for 127.0.0.1, for this test alone."""
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *request, *names], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def tls_server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Server(context) as server:
        yield server


@pytest.fixture
def server(tls_server, certificate, monkeypatch):
    """The HTTPS server, trusted as a system's certificates are; short waits and no proxy."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "WAITS_S", (0.01, 0.02))
    tls_server.url = f"https://127.0.0.1:{tls_server.server_port}"
    tls_server.asked.clear()
    return tls_server


@pytest.mark.parametrize(
    "path, requests",
    [
        ("/good", 1),
        ("/no-length", 1),
        ("/claims-more", 1),  # no more is read than the file has
        ("/claims-nonsense", 1),
        ("/breaks-once", 2),
        ("/busy-twice", 3),
        ("/to-good", 2),
        ("/to-good-endlessly", 2),
    ],
)
def test_the_right_bytes_arrive(path, requests, server):
    assert download(server.url + path, len(TEXT), sha256(TEXT)) == TEXT
    assert len(server.asked) == requests


@pytest.mark.parametrize(
    "path, message, requests",
    [
        ("/wrong", "did not send the expected file: its sha256 is not", 1),
        ("/endless", "did not send the expected file", 1),
        ("/short", "IncompleteRead|more expected", 3),
        ("/breaks", "IncompleteRead|more expected", 3),
        ("/missing", "cannot fetch .*: Not Found", 1),
        ("/busy", "cannot fetch .*: Service Unavailable", 3),
        ("/no-http", "220 smtp.example ready", 3),
        ("/endless-header", "header line|65536", 3),
        ("/to-http", "leads to http://127.0.0.1:1/good, and only https is trusted", 1),
        ("/to-file", "file:///etc/passwd", 1),
        ("/loop", "infinite loop", None),
    ],
)
def test_anything_else_is_refused_in_one_line(path, message, requests, server, capsys):
    with pytest.raises(UserError, match=message) as error:
        download(server.url + path, len(TEXT), sha256(TEXT))
    assert "\n" not in str(error.value)
    assert requests in (None, len(server.asked))
    assert capsys.readouterr().err.count("again in") == (requests or 1) - 1


@pytest.mark.parametrize("path", ["/stalls", "/silent"])
def test_a_server_that_falls_silent(path, server, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.5)
    with pytest.raises(UserError, match=r"cannot fetch .*timed out"):
        download(server.url + path, len(TEXT), sha256(TEXT))
    assert len(server.asked) == 3


@pytest.mark.parametrize("path", ["/drips", "/drips-a-header"])
def test_a_server_that_sends_a_byte_now_and_then(path, server, monkeypatch):
    monkeypatch.setattr(fetch, "DEADLINE_S", 1)
    with pytest.raises(UserError, match="was not there after 1 s"):
        download(server.url + path, len(TEXT), sha256(TEXT))
    assert len(server.asked) == 1


def test_what_is_left_behind_does_not_keep_the_process(server, certificate):
    program = (
        "import sys; from lstm_jax.data import fetch; fetch.DEADLINE_S = 1;"
        "fetch.download(sys.argv[1], 1000, '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"{server.url}/drips-a-header"],
        env={**os.environ, "SSL_CERT_FILE": str(certificate[0])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "was not there after 1 s" in done.stderr and done.returncode == 1


def test_a_certificate_that_nobody_vouches_for(server, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match="CERTIFICATE_VERIFY_FAILED"):
        download(f"{server.url}/good", len(TEXT), sha256(TEXT))
    assert server.asked == []


def test_a_certificate_of_another_name(server):
    with pytest.raises(UserError, match="not valid for 'localhost'"):
        download(f"https://localhost:{server.server_port}/good", len(TEXT), sha256(TEXT))
    assert server.asked == []


def test_http_is_never_asked(server):
    with Server() as plain, pytest.raises(UserError, match="only https is trusted"):
        download(f"http://127.0.0.1:{plain.server_port}/good", len(TEXT), sha256(TEXT))
    assert plain.asked == []


def test_a_server_without_tls(server):
    with Server() as plain, pytest.raises(UserError, match=r"cannot fetch .*SSL"):
        download(f"https://127.0.0.1:{plain.server_port}/good", len(TEXT), sha256(TEXT))


def test_a_server_that_is_not_there(server):
    with pytest.raises(UserError, match=r"cannot fetch .*Connection refused"):
        download("https://127.0.0.1:1/x", 1, "")


@pytest.mark.parametrize("bypass", [False, True])
def test_the_proxy_of_the_environment_is_used(bypass, server, monkeypatch):
    with Server() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        if bypass:
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert download(f"{server.url}/good", len(TEXT), sha256(TEXT)) == TEXT
        assert proxy.asked == ([] if bypass else [f"127.0.0.1:{server.server_port}"])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and tiny Shakespeare's place taken by TEXT."""
    monkeypatch.setattr(corpora, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv(corpora.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(
        corpora, "TINY_SHAKESPEARE", corpora.Facts(len(TEXT), len(set(TEXT)), sha256(TEXT))
    )
    return tmp_path / "cache"


@pytest.mark.parametrize("path", ["/breaks", "/wrong", "/endless", "/missing"])
def test_a_part_of_a_file_is_never_kept(path, server, cache, monkeypatch):
    monkeypatch.setattr(corpora, "TINY_SHAKESPEARE_URL", server.url + path)
    with pytest.raises(UserError, match="name the folder in LSTM_JAX_DATA_DIR"):
        corpora.tiny_shakespeare()
    assert not cache.exists()


def test_a_part_of_a_file_is_never_used(server, cache, monkeypatch):
    monkeypatch.setattr(corpora, "TINY_SHAKESPEARE_URL", f"{server.url}/good")
    cache.mkdir()
    (cache / "tiny_shakespeare.txt").write_bytes(TEXT[:1000])
    assert corpora.tiny_shakespeare() == TEXT
    assert (cache / "tiny_shakespeare.txt").read_bytes() == TEXT
    assert corpora.tiny_shakespeare() == TEXT and server.asked == ["/good"]


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """Puts a pip of ours, a few lines of Python, in front of the real one."""

    def replace(program):
        (tmp_path / "pip.py").write_text(f"import sys, time, pathlib\n{program}\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return replace


INTO = "pathlib.Path(sys.argv[sys.argv.index('--dest') + 1], 'a-1-py3-none-any.whl')"


def test_a_wheel_is_taken_from_pip(pip):
    pip(f"{INTO}.write_bytes(b'wheel')")
    assert download_wheel("a==1", 5, sha256(b"wheel")) == b"wheel"


@pytest.mark.parametrize(
    "program, message",
    [
        (f"{INTO}.write_bytes(b'other')", "a==1 is not the expected wheel: its sha256 is not"),
        (f"{INTO}.open('wb').truncate(2**40)", "a==1 is not the expected wheel"),
        ("sys.exit('so it goes\\nERROR: No matching distribution')", "a==1: ERROR: No matching"),
        ("sys.exit('broken')", "pip cannot fetch a==1: broken"),
        ("sys.exit(1)", "pip cannot fetch a==1: no wheel"),
        ("", "a==1 is not the expected wheel"),
    ],
)
def test_any_other_wheel_is_refused_in_one_line(program, message, pip):
    pip(program)
    with pytest.raises(UserError, match=message) as error:
        download_wheel("a==1", 5, sha256(b"wheel"))
    assert "\n" not in str(error.value)


def test_a_pip_that_does_not_come_to_an_end(pip, monkeypatch):
    pip("time.sleep(600)")
    monkeypatch.setattr(fetch, "DEADLINE_S", 0.5)
    with pytest.raises(UserError, match=r"pip cannot fetch a==1: it was not there after 0.5 s"):
        download_wheel("a==1", 5, "")


def test_a_python_without_pip(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"which this Python lacks: .* -m ensurepip"):
        download_wheel("a==1", 5, "")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and list(path.parent.iterdir()) == [path]
    assert read_cached(path, sha256(b"two")) == b"two"
    assert read_cached(path, sha256(b"one")) is None
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(path / "below", b"a file is no folder")
