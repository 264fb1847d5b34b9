"""What code that got into the locked-in process would try: each answers what came of it. Run through process.run."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path


def _socket(_request):
    import socket

    socket.socket().connect(("127.0.0.1", 9))


def _unix_socket(_request):
    import socket

    socket.socket(socket.AF_UNIX)


def _read(_request):
    os.open("/etc/hostname", os.O_RDONLY)


def _write(request):
    os.open(request["canary"], os.O_WRONLY | os.O_CREAT)


def _run(request):
    os.system(f"touch {request['canary']}")
    os.execv("/bin/touch", ["touch", request["canary"]])


def _fork(_request):
    os.fork()


def _thread(_request):
    threading.Thread(target=time.sleep, args=(0,)).start()


def _kill(_request):
    os.kill(os.getppid(), 0)


def _chmod(request):
    Path(request["canary"]).chmod(0)


def _rename(request):
    Path(request["canary"]).rename(request["canary"] + "2")


def _link(request):
    Path(request["canary"] + "3").symlink_to("/etc/passwd")


def _code(_request):
    import mmap

    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def _descriptor(_request):
    os.memfd_create("more")


def _limits(_request):
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))


def _trace(_request):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, os.getppid(), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def _memory(_request):
    return len(bytearray(2**30))


def _output(request):
    for _ in range(64):
        os.write(request["output"], bytes(2**20))


def _loop(_request):
    while True:
        pass


def _sleep(_request):
    threading.Event().wait(timeout=600)  # waits on a lock, which is allowed: only the clock on the wall sees it


def _talk(_request):
    os.write(1, b"x" * 200_000)
    os._exit(0)


def _answer(value):
    def attempt(_request):
        os.write(1, value)
        os._exit(0)

    return attempt


ATTEMPTS = {
    "socket": _socket, "unix socket": _unix_socket, "read": _read, "write": _write, "run": _run, "fork": _fork,
    "thread": _thread, "kill": _kill, "chmod": _chmod, "rename": _rename, "link": _link, "code": _code,
    "descriptor": _descriptor, "limits": _limits, "trace": _trace, "memory": _memory, "output": _output, "loop": _loop,
    "sleep": _sleep, "talk": _talk, "list": _answer(b"[]"), "nothing": _answer(b""), "text": _answer(b"\xff{"),
}  # fmt: skip
ANSWER_NOTHING = {"loop", "sleep", "talk", "list", "nothing", "text"}


def main():
    """Lock in where asked, then try everything that was asked for."""
    import mmap  # noqa: F401 (imported while that is possible)
    import resource  # noqa: F401
    import socket  # noqa: F401

    from engine.convert.sandbox import confine

    request = json.load(sys.stdin)
    request["environment"] = Path("/proc/self/environ").read_text()
    if request["confined"]:
        confine(memory=64 * 2**20, seconds=request.get("seconds", 20), output=request.get("output_size", 2**20))
    found = {"environment": request["environment"], "descriptors": request.get("descriptors")}
    for name in request["attempts"]:
        try:
            found[name] = f"done: {ATTEMPTS[name](request)}"
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is the answer)
            found[name] = f"{type(error).__name__} {getattr(error, 'errno', None)}"
    os.write(1, json.dumps(found).encode())
    os._exit(0)
