"""An HTTP server on the loopback interface that serves a folder, with configurable faults."""

import contextlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Faults:
    """The faults of the server, for every file; each entry of a list affects one request and is then removed."""

    ranges: bool = True
    announce_length: bool = True
    statuses: list[int] = field(default_factory=list)  # sent, in turn, instead of a file
    cut_after: list[int] = field(default_factory=list)  # the connection is closed after this many body bytes
    stall_after: list[int] = field(default_factory=list)  # the response stalls after this many body bytes
    flip_at: list[int] = field(default_factory=list)  # the byte at this position of the file is changed
    rate: float | None = None  # bytes per second
    before_byte: tuple[int, object] | None = None  # (position, function): called before that byte of a body is sent


class Server:
    """Serves `folder` at `url`; `log` holds (path, Range header or None) of each request."""

    def __init__(self, folder: Path):
        self.folder, self.faults, self.log = folder, Faults(), []
        self.ending = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        name = request.path.rsplit("/", 1)[-1]
        self.log.append((name, asked))
        request.close_connection = True
        if self.faults.statuses:
            request.send_error(self.faults.statuses.pop(0))
            return
        path = self.folder / name
        if not path.is_file():
            request.send_error(404)
            return
        data = path.read_bytes()
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.faults.ranges else 0
        if start and start >= len(data):
            request.send_error(416)
            return
        if self.faults.flip_at and self.faults.flip_at[0] >= start:
            position = self.faults.flip_at.pop(0)
            data = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.faults.announce_length:
            request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        cut = self.faults.cut_after.pop(0) if self.faults.cut_after else None
        stall = self.faults.stall_after.pop(0) if self.faults.stall_after else None
        with contextlib.suppress(OSError):
            self.send_body(request, data[start:], cut, stall)

    def send_body(self, request, body: bytes, cut: int | None, stall: int | None) -> None:
        end = min(len(body), *(n for n in (cut, stall, len(body)) if n is not None))
        step = 1 << 14
        for position in range(0, end, step):
            if self.faults.before_byte and position >= self.faults.before_byte[0]:
                self.faults.before_byte[1]()
            request.wfile.write(body[position : min(position + step, end)])
            if self.faults.rate:
                time.sleep(step / self.faults.rate)
        request.wfile.flush()
        if stall is not None:
            self.ending.wait(60)


@contextlib.contextmanager
def serve(folder: Path):
    """Serve `folder` until the block ends."""
    server = Server(folder)
    thread = threading.Thread(target=server.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.httpd.shutdown()
        server.httpd.server_close()
        thread.join()
