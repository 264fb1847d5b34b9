"""An HTTP proxy in front of a store that spoils chosen answers: what a network and a busy server do, on demand."""

from __future__ import annotations

import base64
import hashlib
import http.client
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# what reaches the server, and what the client sees of it
FAULTS = (
    "refused",  # closed before the server hears of the request
    "lost",  # done by the server, answer lost
    "late",  # answered after a while
    "cut",  # half of the answer, then closed
    "twice",  # the server gets the request two times
    "500",
    "503",
    "409",
    "412",
    "lost-500",  # done by the server, 500 told
)
_HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass(frozen=True)
class Request:
    """One request as the proxy saw it; `number` counts from 0."""

    number: int
    method: str
    path: str


@dataclass
class FaultProxy:
    """`plan` names the fault of a request, or None. `requests` is everything that came. `comparing`: what has not the
    sha256 that its request tells is refused, as by S3, and as moto does not.
    """

    address: str = ""
    plan: Callable[[Request], str | None] = lambda request: None
    requests: list[Request] = field(default_factory=list)
    spoil: Callable[[bytes], bytes] = lambda body: body
    headers: dict[str, str] = field(default_factory=dict)
    comparing: bool = False

    def clear(self) -> None:
        """Forget what came, and spoil nothing from here on."""
        self.requests.clear()
        self.plan = lambda request: None


@contextmanager
def proxying(server: str) -> Iterator[FaultProxy]:
    """A proxy in front of `server` on a free port."""
    proxy = FaultProxy()
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy, urlsplit(server)))
    listener.daemon_threads = True
    proxy.address = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield proxy
    listener.shutdown()
    listener.server_close()
    thread.join()


def _handler(proxy: FaultProxy, upstream) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            with lock:
                request = Request(len(proxy.requests), self.command, self.path)
                proxy.requests.append(request)
            fault = proxy.plan(request)
            if fault == "refused":
                return self.drop()
            if fault in ("500", "503", "409", "412"):
                return self.answer(int(fault), {}, _refusal(fault))
            if fault == "spoiled-request":
                body = proxy.spoil(body)
            if fault == "gone":
                return self.answer(404, {}, _refusal("404", "NoSuchUpload"))
            if fault == "forbidden":
                return self.answer(403, {}, _refusal("403"))
            if fault == "skewed":
                return self.answer(403, {}, _refusal("403", "RequestTimeTooSkewed"))
            told = self.headers.get("x-amz-checksum-sha256")
            if proxy.comparing and told and base64.b64decode(told) != hashlib.sha256(body).digest():
                return self.answer(400, {}, _refusal("400", "BadDigest"))
            status, headers, content = self.forward(body)
            if fault == "twice":
                status, headers, content = self.forward(body)
            if fault == "late":
                time.sleep(0.3)
            if fault == "lost":
                return self.drop()
            if fault == "lost-500":
                return self.answer(500, {}, _refusal("500"))
            if fault == "spoiled":
                content = proxy.spoil(content)
            spoken = {name.lower() for name in proxy.headers}
            headers = {name: value for name, value in headers.items() if name.lower() not in spoken} | proxy.headers
            return self.answer(status, headers, content, cut=fault == "cut")

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 (http.server's names)

        def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(upstream.hostname, upstream.port)
            kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            connection.request(self.command, self.path, body, kept)
            answer = connection.getresponse()
            content = answer.read()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            connection.close()
            return answer.status, headers, content

        def answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
            length = next((value for name, value in headers.items() if name.lower() == "content-length"), None)
            if self.command != "HEAD" or length is None:
                length = str(len(content))
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() != "content-length":
                    self.send_header(name, value)
            self.send_header("content-length", length)
            self.end_headers()
            if cut:
                self.wfile.write(content[: len(content) // 2])
                return self.drop()
            if self.command != "HEAD":
                self.wfile.write(content)
            return None

        def drop(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *words: object) -> None:
            pass

    return Handler


def _refusal(status: str, code: str | None = None) -> bytes:
    names = {
        "500": "InternalError",
        "503": "SlowDown",
        "409": "ConditionalRequestConflict",
        "412": "PreconditionFailed",
    }
    return f"<?xml version='1.0'?><Error><Code>{code or names.get(status, 'AccessDenied')}</Code></Error>".encode()
