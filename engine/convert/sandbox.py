"""Locks the calling process in, for good: a seccomp filter of few system calls, and limits. Needs no privilege.

What is left can compute, and read and write files that are already open. Opening one, a socket, another process, new
machine code: the system answers "not permitted".
"""

from __future__ import annotations

import ctypes
import platform
import resource
import struct
import sys
from pathlib import Path

from engine.errors import ConfinementError

_NO_NEW_PRIVILEGES, _DIE_WITH_PARENT, _KILL = 38, 1, 9
_FILTER_MODE, _ALL_THREADS = 1, 1

# seccomp(2): what a filter reads, and what it answers
_CALL, _ARCHITECTURE, _THIRD_ARGUMENT = 0, 4, 32
_ALLOW, _REFUSE, _END_PROCESS = 0x7FFF0000, 0x00050001, 0x80000000  # the second is an error, EPERM
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_EXECUTABLE = 0x4  # PROT_EXEC

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS: dict[str, tuple[int, int]] = {
    # name: x86_64, aarch64
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "newfstatat": (262, 79),
    "getrandom": (318, 278),
}
_MAPPING: dict[str, tuple[int, int]] = {"mmap": (9, 222), "mprotect": (10, 226)}
"""Allowed without PROT_EXEC."""


def confine(*, memory: int, seconds: int, output: int) -> None:
    """From here on: at most `memory` more bytes of data, `seconds` of processor time, `output` bytes in a file.

    Raises ConfinementError where the system has no such filter; the process must then open nothing.
    """
    machine = platform.machine()
    if machine not in _AUDIT:
        raise ConfinementError(f"no seccomp filter is written for {machine} machines, only for {', '.join(_AUDIT)}")
    program = _program(machine)
    _limit(memory=memory, seconds=seconds, output=output)
    _install(program, _SECCOMP[machine])


def die_with_parent() -> None:
    """Ask the system to kill this process when the one that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, _KILL, 0, 0, 0)


def _limit(*, memory: int, seconds: int, output: int) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_FSIZE: output,
        resource.RLIMIT_CPU: seconds + int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])),
        resource.RLIMIT_DATA: memory + _data_bytes(),
    }
    for kind, limit in limits.items():
        _, most = resource.getrlimit(kind)
        most = sys.maxsize if most == resource.RLIM_INFINITY else most
        # the hard limit one higher: at the soft one of processor time the signal still tells which it was
        hard = min(most, limit + (kind == resource.RLIMIT_CPU))
        resource.setrlimit(kind, (min(limit, hard), hard))


def _data_bytes() -> int:
    """What the process holds of what RLIMIT_DATA counts."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmData"].split()[0]) * 1024


def _program(machine: str) -> bytes:
    """The filter: another architecture ends the process, a listed call passes, any other is refused."""
    column = list(_AUDIT).index(machine)
    calls = [numbers[column] for numbers in _NUMBERS.values()]
    mapping = [numbers[column] for numbers in _MAPPING.values()]
    allow = len(calls) + len(mapping) + 1  # how far the last three answers are from the first comparison
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _AUDIT[machine]), (_RETURN, 0, 0, _END_PROCESS)]
    steps.append((_LOAD, 0, 0, _CALL))
    steps += [(_EQUAL, allow + 2 - place, 0, number) for place, number in enumerate(calls)]
    steps += [(_EQUAL, allow - 1 - place, 0, number) for place, number in enumerate(mapping, len(calls))]
    steps.append((_RETURN, 0, 0, _REFUSE))
    steps += [(_LOAD, 0, 0, _THIRD_ARGUMENT), (_ANY_BIT, 0, 1, _EXECUTABLE)]
    steps += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _install(program: bytes, seccomp: int) -> None:
    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    steps = ctypes.create_string_buffer(program, len(program))
    described = Filter(len(program) // 8, ctypes.cast(steps, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(
        seccomp, _FILTER_MODE, _ALL_THREADS, ctypes.byref(described)
    ):
        number = ctypes.get_errno()
        raise ConfinementError(f"this system refuses a seccomp filter (errno {number}), so no pickle is opened here")
