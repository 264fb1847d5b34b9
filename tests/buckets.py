"""An S3 server in this process, and fresh buckets in it."""

from __future__ import annotations

import itertools
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count()
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester-secret", "AWS_REGION": "us-east-1"}


@contextmanager
def serving() -> Iterator[str]:
    """The address of moto's S3 server on a free port."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def make_bucket(server: str) -> str:
    """The name of a new, empty bucket."""
    name = f"bucket-{os.getpid()}-{next(_numbers)}"
    with urlopen(Request(f"{server}/{name}", method="PUT")):
        return name


def store_url(server: str, bucket: str, prefix: str = "team/registry") -> str:
    """What ADAPTERS_STORE_URL names it by."""
    return f"s3://{bucket}/{prefix}?endpoint={server}&region=us-east-1"
