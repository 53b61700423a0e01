"""Takes rights from the own process before it reads what others may have made to take it over.

Landlock and seccomp are asked through ``syscall`` and ``prctl``; numbers are those of the kernel's headers (``landlock.h``,
``seccomp.h``, ``unistd_64.h``).
"""

import ctypes
import os
import platform
import resource
import struct
import sys
from enum import Flag, auto
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ, _ALL_FILE = 0b1100, 0b1100_0000_0000_0110
"""Landlock's rights to read files and list folders; those that apply to a file."""

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # EPERM
_MACHINES = {
    # execve, execveat, socket, connect, bind, ptrace, process_vm_*, kill, pidfd_*, io_uring_setup, bpf, keys, namespaces, mount
    "x86_64": (0xC000003E, (59, 322, 41, 42, 49, 101, 310, 311, 62, 424, 438, 425, 321, 248, 249, 250, 272, 308, 165)),
    "aarch64": (0xC00000B7, (221, 281, 198, 203, 200, 117, 270, 271, 129, 424, 438, 425, 280, 217, 218, 219, 97, 268, 40)),
}
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/null",
    "/dev/urandom",
)
_SELF = "/proc/self"


class Confined(Flag):
    """What the kernel enforces."""

    NOTHING = 0
    FILES = auto()
    CALLS = auto()


def confine(folder: Path) -> Confined:
    """Leave this process only what it needs to read the stores in *folder*; call it before there is a second thread.

    Landlock (`Confined.FILES`): it reads only Python's files and *folder*, and changes files only there; since Linux 6.7 it
    makes no TCP connection. Seccomp (`Confined.CALLS`): it runs no program, opens no socket, and reaches no other process. What
    the kernel lacks remains allowed, and so do all calls on processors other than x86-64 and ARM64. Everywhere, it leaves no
    core file and gains no privileges. Memory and time are not limited here: they depend on the store, and the parent ends a
    silent child.
    """
    os.environ["SQLITE_TMPDIR"] = str(folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return Confined.NOTHING
    return _restrict_files(libc, folder) | _restrict_calls(libc)


def _restrict_files(libc: ctypes.CDLL, folder: Path) -> Confined:
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return Confined.NOTHING
    every = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    rights = struct.pack("=QQ", every, 0b11 if version >= 4 else 0)[: 16 if version >= 4 else 8]
    rules = libc.syscall(_CREATE_RULESET, rights, len(rights), 0)
    if rules < 0:
        return Confined.NOTHING
    try:
        package = Path(__file__).resolve().parents[2]
        modules = [place for place in sys.path if not _holds_more_than_modules(Path(place).resolve(), package.parent)]
        links = [target for place in modules for target in _linked(place)]
        for place in (*_SYSTEM, _SELF, sys.prefix, sys.base_prefix, str(package), *modules, *links):
            _allow(libc, rules, place, _READ)
        _allow(libc, rules, str(folder), every & ~1)
        return Confined.NOTHING if libc.syscall(_RESTRICT_SELF, rules, 0) else Confined.FILES
    finally:
        os.close(rules)


def _linked(place: str) -> list[str]:
    """What packages that are installed as symbolic links lead to: Landlock asks for the rights of the target."""
    try:
        with os.scandir(place) as entries:
            return [os.path.realpath(entry.path) for entry in entries if entry.is_symlink()]
    except OSError:
        return []


def _holds_more_than_modules(place: Path, packages: Path) -> bool:
    """Whether settings and data may lie there: where the caller is, and in a checkout of this project."""
    return (place / "pyproject.toml").exists() if place == packages else place == Path.cwd()


def _allow(libc: ctypes.CDLL, rules: int, place: str, rights: int) -> None:
    try:
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        given = rights if os.path.isdir(f"/proc/self/fd/{descriptor}") else rights & _ALL_FILE  # noqa: PTH112
        libc.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", given, descriptor), 0)
    finally:
        os.close(descriptor)


def _restrict_calls(libc: ctypes.CDLL) -> Confined:
    if platform.machine() not in _MACHINES:
        return Confined.NOTHING
    machine, refused = _MACHINES[platform.machine()]
    most = len(refused)
    program = [  # each jump leads to the last instruction
        (_LOAD, 0, 0, 4),  # the kind of processor
        (_EQUAL, 0, most + 3, machine),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, most + 1, 0, 0x40000000),  # x32 has numbers of its own
        *((_EQUAL, most - place, 0, number) for place, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    return Confined.NOTHING if libc.prctl(_SECCOMP, _FILTER, ctypes.c_char_p(head), 0, 0) else Confined.CALLS
