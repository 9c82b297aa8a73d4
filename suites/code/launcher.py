"""`suites.code.sandbox` starts this program for each piece of foreign code; nobody imports it.

It is two processes. The *supervisor* reads a job from stdin, keeps the time, and reports on stdout.
Its child, the *cell*, gives up every right that the job names as a layer, says ``ready``, and only
then runs the code. The cell's own report is a claim and no more: whoever reads it must not believe
what it has not asked for (see `suites.code.sandbox`). For the job ``null`` there is no cell, and
the answer is what `shared_libraries` finds.

It starts as ``python -I -S``, so it knows the standard library only, and a fresh interpreter, so
that nothing of its caller (threads, files, memory) is there to be found. It is one file,
however long: ``-I`` leaves no path to a second, and what foreign code may do is read in a piece.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import json
import math
import os
import resource
import select
import signal
import struct
import sys
import time

TYPE_CHECKING = False  # importing typing, as ast below, takes longer than all the rest
if TYPE_CHECKING:
    import ast
    from collections.abc import Callable
    from types import CodeType
    from typing import Any, NoReturn

REPORT_BYTES = 1 << 20
"""What a cell may say; more is a flood, and ends it."""
_SETUP_S = 60.0
_RESULT = 3  # the cell's only open file beside the three that lead to /dev/null

_STANDARD = os.path.dirname(os.__file__)
_PACKAGES = ("site-packages", "dist-packages")
"""What others installed below the standard library, which a cell does not see."""
_HOST_NAME = b"cell"

# Where no file may be written, disks cannot be filled; where no process may be started, none
# survives. Completions of functions need neither.
_FILE_BYTES = 0
_PROCESSES = 0
_OPEN_FILES = 32

_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
# The same numbers on every architecture that Linux gained or keeps since 5.1.
_SYS_MOUNT_SETATTR = 442
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_ADD, _SYS_LANDLOCK_RESTRICT = 444, 445, 446

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""By machine: its number for seccomp."""

# What is allowed, not what is refused: Linux has some 380 calls and gains more every year. One that
# is forgotten here is an error for the code, and the sandbox's trial sees it where Python needs it;
# one that is forgotten in a list of what is refused is a hole that nobody sees.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # open files, and reading others
    "read": (0, 63), "readv": (19, 65), "pread64": (17, 67), "write": (1, 64), "writev": (20, 66),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "fcntl": (72, 25), "open": (2, None),
    "openat": (257, 56), "getdents64": (217, 61), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72),
    # names: without them nothing is imported, and uuid and platform ask for the system's
    "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17),
    "uname": (63, 160),
    # memory
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216),
    "mprotect": (10, 226), "madvise": (28, 233), "futex": (202, 98),
    # time
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "time": (201, None), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "times": (100, 153), "getrusage": (98, 165), "alarm": (37, None), "setitimer": (38, 103),
    "getitimer": (36, 102), "restart_syscall": (219, 128),
    # itself
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "prlimit64": (302, 261), "sched_getaffinity": (204, 123), "sched_yield": (24, 124),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
"""The calls that a cell may make: their numbers on x86_64 and aarch64 (asm/unistd.h)."""
_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ZERO_BITS = {
    "open": (1, _WRITE),
    "openat": (2, _WRITE),
    # F_DUPFD, F_GETFD, F_SETFD and F_GETFL, which are 0 to 3: no signals to a file's owner
    "fcntl": (1, 0xFFFF_FFFC),
    # of the calling process, which is 0, and of no other
    "prlimit64": (0, 0xFFFF_FFFF),
    "sched_getaffinity": (0, 0xFFFF_FFFF),
}
"""Of some allowed calls: an argument (they are 32 bits, the kernel drops the rest), and the bits
that have to be 0 in it."""


# --- the layers, each a right that the cell gives up ---------------------------------------------


def _call(result: int, what: str) -> int:
    """Give the result of a C function, or raise the OSError that it left."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def leave_namespaces() -> None:
    """Have the supervisor's next process be the first of a world of its own."""
    flags, uid, gid = _NEWPID, os.geteuid(), os.getegid()
    if uid != 0:
        flags |= _NEWUSER
    _call(_libc().unshare(flags), "unshare")
    if uid != 0:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def shared_libraries() -> list[str]:
    """Find the files that Python and its standard library are linked to, by loading all of it."""
    for folder in filter(os.path.isdir, sys.path):
        for name in os.listdir(folder):
            if name.endswith(".so"):
                try:
                    ctypes.CDLL(os.path.join(folder, name))
                except OSError:  # of no use here, so neither in a cell
                    continue
    found: set[str] = set()

    def note(told: Any, size: int, data: object) -> int:
        # Two words of what is told of each loaded file: its address and its name.
        path = os.path.normpath(os.fsdecode(told[1] or b""))
        # The kernel's own and the program have no path.
        if path.startswith("/") and not path.startswith(f"{_STANDARD}/"):
            found.add(path)
        return 0

    words = ctypes.POINTER(ctypes.c_char_p)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, words, ctypes.c_size_t, ctypes.c_void_p)
    _libc().dl_iterate_phdr(kind(note), None)
    return sorted(found)


def enter_empty_root(folder: str, libraries: list[str]) -> None:
    """Let the cell see no network, no name of the host, and an empty root.

    Over it, read-only as the root itself, are Python's standard library and the shared libraries.
    """
    libc = _libc()
    _call(libc.unshare(_NEWNS | _NEWNET | _NEWIPC | _NEWUTS), "unshare")
    _call(libc.sethostname(_HOST_NAME, len(_HOST_NAME)), "sethostname")

    def mount(source: str | None, target: str, kind: str | None, flags: int, data: str) -> None:
        texts = [None if text is None else text.encode() for text in (source, target, kind)]
        _call(libc.mount(*texts, ctypes.c_ulong(flags), data.encode()), f"mount {target}")

    mount(None, "/", None, _MS_REC | _MS_PRIVATE, "")
    mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,nr_inodes=1k,mode=755")
    nothing = f"{folder}/empty"
    os.mkdir(nothing)
    os.makedirs(folder + _STANDARD)
    mount(_STANDARD, folder + _STANDARD, None, _MS_BIND | _MS_REC, "")
    for name in _PACKAGES:
        if os.path.isdir(f"{_STANDARD}/{name}"):
            mount(nothing, f"{folder}{_STANDARD}/{name}", None, _MS_BIND, "")
    for library in libraries:
        os.makedirs(folder + os.path.dirname(library), exist_ok=True)
        with open(folder + library, "x"):
            pass
        mount(library, folder + library, None, _MS_BIND, "")
    # struct mount_attr: set, clear, propagation, user namespace
    attributes = struct.pack(
        "QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV, 0, 0, 0
    )
    _call(
        libc.syscall(
            _SYS_MOUNT_SETATTR,
            _AT_FDCWD,
            folder.encode(),
            _AT_RECURSIVE,
            attributes,
            ctypes.c_size_t(len(attributes)),
        ),
        "mount_setattr",
    )
    os.chdir(folder)
    _call(libc.pivot_root(b".", b"."), "pivot_root")
    _call(libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/empty")


def spare_uid() -> int:
    """Choose a user of this run alone: one that nobody has, in the range that this system knows.

    Raises:
        OSError: this root knows no other users (a container with one), so it cannot become one.
    """
    # Far above any login; then the range that systemd keeps for passing users.
    ranges = ((0x6000_0000, 1 << 24), (61_184, 4_335))
    known = [(0, 1 << 32)]
    if os.path.exists("/proc/self/uid_map"):
        with open("/proc/self/uid_map") as file:
            known = [(int(line.split()[0]), int(line.split()[2])) for line in file]
    for first, count in ranges:
        if any(low <= first and first + count <= low + length for low, length in known):
            return first + int.from_bytes(os.urandom(8)) % count
    raise OSError("this root has no other users to become")


def leave_root(folder: str | None) -> None:
    """Turn the cell into another user, who owns only ``folder`` (if given), with no way back.

    It also dies with its supervisor from here on.
    """
    if os.geteuid() == 0:
        uid = spare_uid()
        if folder is not None:
            os.chown(folder, uid, uid)
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    elif sys.platform == "linux":
        # A namespace of one's own came with all capabilities in it.
        header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
        _call(_libc().capset(header, nothing), "capset")
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # which a change of user would have undone
    try:
        os.listdir(_STANDARD)
    except PermissionError as error:
        raise OSError(
            f"an unprivileged user cannot read Python's library in {_STANDARD}"
        ) from error


def limit(cpu_s: int) -> None:
    """Allow the cell no further process, no byte written to a file, and so much processor time."""
    # Both ends the same: what ignores the signal of the soft end meets the kill of the hard one.
    for what, most in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_NPROC, _PROCESSES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def limit_memory(memory_bytes: int) -> None:
    """Allow the cell so much address space."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _prctl(option: int, *values: object) -> None:
    arguments = [*values, *[0] * (4 - len(values))]
    longs = [ctypes.c_ulong(item) if isinstance(item, int) else item for item in arguments]
    _call(_libc().prctl(option, *longs), f"prctl {option}")


def close_files(libraries: list[str]) -> None:
    """Let the cell open (Landlock) only Python's standard library and the shared libraries."""
    libc = _libc()
    abi = _call(libc.syscall(_SYS_LANDLOCK_CREATE, None, 0, 1), "landlock")
    # Bits 0 to 12 in the first version; then refer, truncate, ioctl.
    rights = (1 << (13 + (abi >= 2) + (abi >= 3) + (abi >= 5))) - 1
    ruleset = _call(
        libc.syscall(_SYS_LANDLOCK_CREATE, struct.pack("Q", rights), 8, 0), "landlock_create"
    )
    read, list_ = 0b0100, 0b1000
    # A right holds for all that is below, so files are read by what is in the folder, one by one.
    rules = {_STANDARD: list_} | dict.fromkeys(libraries, read)
    for entry in os.scandir(_STANDARD):
        if entry.name not in _PACKAGES:
            rules[entry.path] = read | list_ if entry.is_dir() else read
    for path, right in rules.items():
        if not os.path.exists(path):  # a link to nothing, or out of this user's reach
            continue
        place = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", right, place)
        _call(libc.syscall(_SYS_LANDLOCK_ADD, ruleset, 1, rule, 0), "landlock_add")
        os.close(place)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _call(libc.syscall(_SYS_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict")
    os.close(ruleset)


def refuse_calls() -> None:
    """Let the cell make (seccomp) no calls but `_ALLOWED`; others fail as if there were none.

    That is what C libraries expect of a call that they can do without (ENOSYS).
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(f"seccomp: the calls of {machine} are not listed")
    column = list(_ARCHITECTURES).index(machine)
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    allow = (give, 0, 0, 0x7FFF0000)
    refuse = (give, 0, 0, 0x00050000 | errno.ENOSYS)
    kill = (give, 0, 0, 0x80000000)
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, _ARCHITECTURES[machine]),
        kill,
        (load, 0, 0, 0),  # the call's number
    ]
    for name, numbers in _ALLOWED.items():
        number = numbers[column]
        if number is None:
            continue
        if name in _ZERO_BITS:
            index, bits = _ZERO_BITS[name]
            low_half = 16 + 8 * index
            program += [(equal, 0, 4, number), (load, 0, 0, low_half), (any_bit, 1, 0, bits)]
            program += [allow, refuse]
        else:
            program += [(equal, 0, 1, number), allow]
    program.append(refuse)
    steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(steps))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, 2, filter_)


# --- the code, and what is asked of it -----------------------------------------------------------


def _plain(value: Any) -> Any:
    """Give ``value`` if it is of JSON's types to the core (no subclass), to compare honestly.

    Raises:
        TypeError: it is not.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_plain(part) for part in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: _plain(part) for key, part in value.items()}
    raise TypeError(type(value).__name__)


def answer_calls(code: CodeType, entry_point: str, calls: list[str]) -> dict[str, Any]:
    """Give what the function returns for each list of arguments, itself in JSON."""
    names: dict[str, Any] = {"__name__": "completion"}
    exec(code, names)
    function = names[entry_point]
    values: list[Any] = []
    for arguments in calls:
        returned = function(*json.loads(arguments))
        try:
            values.append({"value": _plain(returned)})
        except TypeError as error:
            values.append({"other": str(error)})
    return {"kind": "finished", "values": values}


def _honest(tests: str) -> CodeType:
    """Compile the tests with both sides of every comparison sent through `_checked`."""
    import ast

    def wrapped(part: ast.expr) -> ast.expr:
        return ast.Call(func=ast.Name(id="__checked", ctx=ast.Load()), args=[part], keywords=[])

    tree = ast.parse(tests)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            node.left = wrapped(node.left)
            node.comparators = [wrapped(part) for part in node.comparators]
    return compile(ast.fix_missing_locations(tree), "<tests>", "exec")


def _checked(value: Any) -> Any:
    """Give ``value``, unless the code under test wrote its equality.

    Raises:
        AssertionError: it did, so that a test of equality would test nothing.
    """
    parts = value if isinstance(value, list | tuple | set | frozenset) else ()
    for part in (value, *parts, *(value.values() if isinstance(value, dict) else ())):
        for name in ("__eq__", "__ne__", "__lt__", "__gt__", "__le__", "__ge__", "__contains__"):
            written = getattr(getattr(type(part), name, None), "__code__", None)
            if written is not None and written.co_filename == "<completion>":
                raise AssertionError(f"{type(part).__name__} brings its own {name}")
        if part is not value:
            _checked(part)
    return value


def pass_tests(code: CodeType, entry_point: str, tests: str, nonce: str) -> dict[str, Any]:
    """Give the nonce if the code ran and the tests after it: nothing else leads to the return.

    Builtins and `math` are what they were before the code ran, whatever it did to them; of its
    names that hide a builtin, the tests see its entry point only.
    """
    checks = _honest(tests)
    # Held here, since the code may put others in their places.
    before = [(vars(module), dict(vars(module))) for module in (builtins, math)]
    given = {"__builtins__": builtins, "__checked": _checked}
    ours = frozenset(vars(builtins))
    names: dict[str, Any] = {"__name__": "completion"}
    exec(code, names)
    for space, was in before:
        space.clear()
        space.update(was)
    seen = {name: value for name, value in names.items() if name == entry_point or name not in ours}
    exec(checks, seen | given)
    return {"kind": "finished", "nonce": nonce}


_LIMIT_ERRORS = ("EAGAIN", "EFBIG", "EMFILE", "ENOSPC", "ENOMEM", "EDQUOT")


def _ended(error: BaseException) -> dict[str, Any]:
    """Report the exception that left the code."""
    try:
        detail = f"{type(error).__name__}: {error}"[:200]
    except Exception:  # its text is the code's, too
        detail = "an exception without a text"
    if isinstance(error, AssertionError):
        return {"kind": "failed", "detail": detail}
    full = isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in _LIMIT_ERRORS
    if full or isinstance(error, MemoryError):
        return {"kind": "out_of_limits", "detail": detail}
    return {"kind": "raised", "detail": detail}


def _try_code(job: dict[str, Any]) -> dict[str, Any]:
    try:
        code = compile(job["source"], "<completion>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return {"kind": "syntax_error", "detail": f"{type(error).__name__}: {error}"[:200]}
    try:
        if job["tests"] is not None:
            return pass_tests(code, job["entry_point"], job["tests"], job["nonce"])
        return answer_calls(code, job["entry_point"], job["calls"])
    except BaseException as error:
        return _ended(error)


# --- the two processes ---------------------------------------------------------------------------


def cell(job: dict[str, Any], result: int) -> NoReturn:
    """Give up the rights, run the code, report to ``result``, and never return."""
    os.environ.clear()  # of the locale that Python itself sets
    # A signal to its group would reach the supervisor, even out of a process namespace.
    os.setsid()
    os.umask(0o022)  # as another user, it has to pass through the folders that it makes here
    layers, folder, libraries = job["layers"], job["folder"], job["libraries"]
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.dup2(result, _RESULT)
    os.closerange(_RESULT + 1, 256)
    steps: dict[str, Callable[[], None]] = {
        "namespaces": lambda: enter_empty_root(folder, libraries),
        "unprivileged": lambda: leave_root(None if "namespaces" in layers else folder),
        "landlock": lambda: close_files(libraries),
        "limits": lambda: limit(job["cpu_s"]),
        "memory": lambda: limit_memory(job["memory_bytes"]),
        "seccomp": refuse_calls,
    }
    try:
        if "namespaces" not in layers:
            os.chdir(folder)
        for name, step in steps.items():
            if name in layers:
                step()
    except (OSError, ValueError, AttributeError) as error:
        os.write(_RESULT, f"{error}".replace("\n", " ").encode() + b"\n")
        os._exit(1)
    os.write(_RESULT, b"ready\n")
    try:
        report = json.dumps(_try_code(job)).encode()
    except BaseException as error:
        report = json.dumps(_ended(error)).encode()
    view = memoryview(report + b"\n")
    while view:
        view = view[os.write(_RESULT, view) :]
    os._exit(0)


def _ended_already(process: int) -> tuple[int, int, resource.struct_rusage] | None:
    """Tell how a process ended, or None while it runs."""
    ended = os.wait4(process, os.WNOHANG)
    return ended if ended[0] else None


def supervise(job: dict[str, Any]) -> dict[str, Any]:
    """Start a cell and end it, in time, and tell what it said, and how it ended.

    Returns:
        ``setup``: ``ready``, or what the cell could not set up; ``report``: its last line or None;
        ``late``: it was stopped by the clock; ``flooded``: it said too much; ``signal``: the number
        of the signal that ended it, or 0; ``cpu_s``: what it used.
    """
    if "namespaces" in job["layers"]:
        try:
            leave_namespaces()
        except OSError as error:
            return {"setup": f"{error}"}
    source, result = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(source)
        cell(job, result)
    os.close(result)
    said = b""
    deadline = time.monotonic() + _SETUP_S
    ready = late = flooded = False
    open_ = True
    ended: tuple[int, int, resource.struct_rusage] | None = None
    while open_ and said.count(b"\n") < 2:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([source], [], [], left)[0]:
            late = True
            break
        part = os.read(source, 1 << 16)
        open_ = bool(part)
        said += part
        if not ready and b"\n" in said:
            ready = True
            deadline = time.monotonic() + job["wall_s"]
        if len(said) > REPORT_BYTES:
            flooded = True
            break
    # A cell that closed its end and goes on is still the clock's.
    while ended is None and not open_ and not late:
        late = time.monotonic() > deadline
        ended = _ended_already(process)
        time.sleep(0.001)
    if ended is None:
        os.kill(process, signal.SIGKILL)
        ended = os.wait4(process, 0)
    _, status, usage = ended
    lines = said.decode("utf-8", "replace").split("\n")
    return {
        "setup": lines[0],
        "report": lines[1] if len(lines) > 2 else None,
        "late": late,
        "flooded": flooded,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }


if __name__ == "__main__":
    job = json.loads(sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(shared_libraries() if job is None else supervise(job)))
