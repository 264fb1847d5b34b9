"""A wire to a PostgreSQL server that breaks at one message: a proxy on TCP before the server's socket."""

import socket
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

LARGEST = 1 << 16
QUIET_S = 0.15  # a server that is silent for so long has answered


class Wire:
    """Counts what the client sends. `breaks_at` the n-th message: before the server hears it, or before its answer is
    heard.
    """

    def __init__(self, server, *, breaks_at=None, answered=False):
        self._server = server
        self._breaks_at = breaks_at
        self._answered = answered
        self.messages = 0
        self.broke = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self):
        return self._listening.getsockname()[1]

    def close(self):
        self._listening.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        mute = threading.Event()
        answers = threading.Thread(target=self._answers, args=(server, client, mute), daemon=True)
        answers.start()
        with suppress(OSError):
            while message := client.recv(LARGEST):
                self.messages += 1
                if self.messages == self._breaks_at:
                    self._break(server, message, mute)
                    break
                server.sendall(message)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        answers.join()
        client.close()
        server.close()

    def _break(self, server, message, mute):
        self.broke = True
        mute.set()
        if self._answered:
            server.sendall(message)
            threading.Event().wait(QUIET_S)

    @staticmethod
    def _answers(server, client, mute):
        with suppress(OSError):
            while answer := server.recv(LARGEST):
                if not mute.is_set():
                    client.sendall(answer)


@contextmanager
def wire(url, **how):
    """The wire to the server of a URL, and the URL that leads through it."""
    parts = urlsplit(url.replace("+psycopg", "", 1))
    folder = parse_qs(parts.query)["host"][0]
    (socket_file,) = [file for file in Path(folder).glob(".s.PGSQL.*") if file.suffix != ".lock"]
    through = Wire(str(socket_file), **how)
    options = "sslmode=disable&gssencmode=disable"
    try:
        yield through, f"postgresql+psycopg://postgres@127.0.0.1:{through.port}{parts.path}?{options}"
    finally:
        through.close()
