"""Downloads against a server on this machine that behaves, lies, breaks off or is not there."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lstm_jax.config import UserError
from lstm_jax.data.fetch import download, read_cached, sha256
from lstm_jax.files import write_atomically

TEXT = b"To be, or not to be" * 10_000


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = {
            "/good": TEXT,
            "/wrong": TEXT[:-1] + b"!",
            "/short": TEXT[:100],
            "/long": TEXT * 50,
            "/breaks": TEXT[:1000],
        }.get(self.path)
        self.send_response(404 if body is None else 200)
        if self.path == "/breaks":
            self.send_header("Content-Length", str(len(TEXT)))
        self.end_headers()
        if body:
            try:
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the client had enough

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_right_bytes_arrive(server):
    assert download(f"{server}/good", len(TEXT), sha256(TEXT)) == TEXT


@pytest.mark.parametrize(
    "path, message",
    [
        ("/wrong", "did not send the expected file"),
        ("/short", "did not send the expected file"),
        ("/long", "did not send the expected file"),
        ("/breaks", "cannot fetch|did not send"),
        ("/missing", "cannot fetch.*Not Found"),
    ],
)
def test_anything_else_is_refused(server, path, message):
    with pytest.raises(UserError, match=message):
        download(f"{server}{path}", len(TEXT), sha256(TEXT))


def test_a_server_that_is_not_there():
    with pytest.raises(UserError, match="cannot fetch"):
        download("http://127.0.0.1:1/x", 1, "")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and list(path.parent.iterdir()) == [path]
    assert read_cached(path, sha256(b"two")) == b"two"
    assert read_cached(path, sha256(b"one")) is None
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(path / "below", b"a file is no folder")
