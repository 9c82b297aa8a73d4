"""Hostile code fails its own item, and nothing else: as root, as an ordinary user, and with fewer
layers than this system has."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quantcore.errors import InputError
from suites.code import launcher, sandbox
from suites.code.sandbox import Job, Limits, ProgramRun, matches, protections, run, run_many

if sys.platform != "linux":
    pytest.skip("namespaces, Landlock and seccomp are Linux's", allow_module_level=True)

ROOT = Path(__file__).parents[2]
STRANGER = 54_321
SECRET = "kept to ourselves"
QUICK = Limits(timeout_s=4, memory_bytes=256 << 20)
HURRIED_S = 0.2
"""For what is expected to be timed out: three times as long by the clock, before a second of
processor time is used up."""

FAILED = {"raised", "out_of_limits"}
ATTACKS: dict[str, tuple[str, set[str]]] = {
    "loop": ("def f():\n    while True: pass", {"timed_out"}),
    "loop_at_import": ("while True: pass", {"timed_out"}),
    "sleep": ("import time\ndef f(): time.sleep(600)", {"timed_out"}),
    "deaf": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\ndef f():\n    while True: pass",
        {"timed_out"},
    ),
    "fork_bomb": ("import os\ndef f():\n    while True: os.fork()", FAILED),
    "daemon": (
        "import os, time\ndef f():\n    if os.fork() == 0:\n        os.setsid()\n"
        "        if os.fork() == 0: time.sleep(600)\n        os._exit(0)",
        FAILED,
    ),
    "threads": (
        "import threading, time\ndef f():\n    for _ in range(10**4):\n"
        "        threading.Thread(target=time.sleep, args=(600,)).start()",
        FAILED,
    ),
    "program": ("import os\ndef f(): os.posix_spawn('/bin/sleep', ['sleep', '600'], {})", FAILED),
    "memory": (
        "def f():\n    a = []\n    while True: a.append(bytearray(1 << 20))", {"out_of_limits"}
    ),
    "big_file": ("def f():\n    open('big', 'w').write('x' * 10**7)", FAILED),
    "big_file_in_tmp": ("def f():\n    open('/tmp/big', 'w').write('x' * 10**7)", FAILED),
    "many_files": ("def f():\n    a = [open(f'{n}', 'w') for n in range(10**5)]", FAILED),
    "flood": ("import os\ndef f():\n    for _ in range(300): os.write(1, b'x' * 10**6)\n"
              "    print('x' * 10**7)\n    return 1", {"finished"}),
    "flood_of_the_report": ("def f(): return 'x' * (5 << 20)", {"out_of_limits"}),
    "flood_of_the_pipe": (
        "import os\ndef f():\n    while True: os.write(3, b'x' * 10**5)", {"out_of_limits"}
    ),
    "closed_pipe": ("import os\ndef f():\n    os.close(3)\n    while True: pass", {"timed_out"}),
    "exit": ("import sys\nsys.exit(0)", {"raised"}),
    "hard_exit": ("import os\nos._exit(0)", {"raised"}),
    "base_exception": ("class E(BaseException): pass\ndef f(): raise E", {"raised"}),
    "bad_exception": (
        "class E(BaseException):\n    def __str__(self): raise self\ndef f(): raise E", {"raised"}
    ),
    "recursion": ("def f(): return f()", {"raised"}),
    "deep_recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(*_): return list(map(f, [1]))", FAILED
    ),
    "segfault": ("import ctypes\ndef f(): ctypes.string_at(0)", {"raised"}),
    "interrupt": ("def f(): raise KeyboardInterrupt", {"raised"}),
    "root": ("import os\ndef f(): os.setuid(0)", {"raised", "finished"}),
    "who": ("import os\ndef f(): return os.getuid()", {"finished"}),
    "environment": ("import os\ndef f(): return dict(os.environ)", {"finished"}),
    "environment_of_the_process": (
        "def f(): return open('/proc/self/environ').read()", {"raised", "finished"}
    ),
    "input": ("import sys\ndef f(): return sys.stdin.read()", {"finished"}),
    "more_limits": (
        "import resource\ndef f(): resource.setrlimit(resource.RLIMIT_NPROC, (99, 99))", {"raised"}
    ),
}  # fmt: skip
"""What the needed layers and the limit on memory stop by themselves."""
OWN_SIGNAL = (
    "import ctypes, fcntl, os, struct\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "def f():\n    try: end, start = os.pipe()\n    except OSError: end = start = 3\n    {owner}\n"
    "    fcntl.fcntl(end, 10, 9)\n    fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC)\n"
    "    os.write(start, b'x')"
)
"""A signal of one's choice to the owner of a pipe: F_SETOWN in some form, F_SETSIG, O_ASYNC."""
HELD_ATTACKS: dict[str, dict[str, tuple[str, set[str]]]] = {
    "files": {
        "read_secret": ("def f(): return open({secret!r}).read()", {"raised"}),
        "delete": ("import os\ndef f(): os.remove({victim!r})", {"raised"}),
        "delete_all": ("import shutil\ndef f(): shutil.rmtree({folder!r})", {"raised"}),
        "overwrite": ("def f(): open({victim!r}, 'w')", {"raised"}),
        "read_packages": (
            "import os\ndef f():\n    beside = os.path.dirname(os.__file__)\n"
            "    for base in (beside + '/site-packages', beside + '/dist-packages', "
            "'/usr/lib/python3/dist-packages'):\n"
            "        for folder, _, files in os.walk(base):\n"
            "            for file in files:\n"
            "                return open(os.path.join(folder, file), 'rb').read(1)[0]\n"
            "    raise OSError('nothing there')",
            {"raised"},
        ),
        "read_system": (
            "import os\ndef f():\n    for folder, _, files in os.walk('/usr/lib'):\n"
            "        for file in files:\n"
            "            if '.so' not in file and 'python' not in folder:\n"
            "                return open(os.path.join(folder, file), 'rb').read(1)[0]\n"
            "    raise OSError('nothing there')",
            {"raised"},
        ),
    },
    "attributes": {
        "chmod": ("import os\ndef f(): os.chmod({victim!r}, 0o777)", {"raised"}),
        "chown": ("import os\ndef f(): os.chown({victim!r}, -1, os.getgid())", {"raised"}),
        "utime": ("import os\ndef f(): os.utime({victim!r}, (1, 1))", {"raised"}),
        "setxattr": ("import os\ndef f(): os.setxattr({victim!r}, 'user.a', b'1')", {"raised"}),
        "truncate": ("import os\ndef f(): os.truncate({victim!r}, 0)", {"raised"}),
    },
    "names": {
        "stat": ("import os\ndef f(): return os.stat({secret!r}).st_size", {"raised"}),
        "host": ("import os\ndef f(): return os.uname().nodename", {"finished"}),
    },
    "network": {
        "connect": (
            "import socket\ndef f():\n    socket.create_connection(('127.0.0.1', {port}), 1)",
            {"raised"},
        ),
    },
    "signals": {
        "kill_parent": (
            "import os\ndef f():\n    os.kill(os.getppid() or 1, 9)\n    return 1",
            {"raised", "finished"},
        ),
        "kill_bystander": ("import os\ndef f(): os.kill({bystander}, 9)", {"raised"}),
        "kill_all": (
            "import os\ndef f():\n    os.kill(-1, 9)\n    return 1", {"raised", "finished"}
        ),
        "kill_group": (
            "import os\ndef f():\n    os.kill(0, 9)\n    return 1", {"raised", "finished"}
        ),
        "own": (
            OWN_SIGNAL.replace("{owner}", "fcntl.fcntl(end, fcntl.F_SETOWN, {bystander})"),
            {"raised"},
        ),
        "own_by_type": (
            OWN_SIGNAL.replace(
                "{owner}", "fcntl.fcntl(end, 15, struct.pack('ii', 1, {bystander}))"
            ),
            {"raised"},
        ),
        "own_with_a_high_half": (
            OWN_SIGNAL.replace(
                "{owner}",
                "call = {{'x86_64': 72, 'aarch64': 25}}[os.uname().machine]\n"
                "    if libc.syscall(call, end, ctypes.c_ulong(8 | 1 << 32), {bystander}) < 0:\n"
                "        raise OSError(ctypes.get_errno(), 'fcntl')",
            ),
            {"raised"},
        ),
        "own_for_the_parent": (
            OWN_SIGNAL.replace("{owner}", "fcntl.fcntl(end, fcntl.F_SETOWN, os.getppid())"),
            {"raised", "finished"},
        ),
        "slow": (
            "import os\ndef f(): os.setpriority(os.PRIO_PROCESS, {bystander}, 19)", {"raised"}
        ),
        "slow_all": (
            "import os\ndef f(): os.setpriority(os.PRIO_USER, os.getuid(), 19)",
            {"raised", "finished"},
        ),
        "pin": ("import os\ndef f(): os.sched_setaffinity({bystander}, [0])", {"raised"}),
    },
}  # fmt: skip
"""By the danger that they are; what `protections` says is held has to stand against them."""
ALL_ATTACKS = ATTACKS | {
    name: attack for attacks in HELD_ATTACKS.values() for name, attack in attacks.items()
}

DRIVER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from suites.code import sandbox
from suites.code.sandbox import Job, Limits

request = json.load(sys.stdin)
layers = [name for name in sandbox._layers() if name not in request["without"]]
sandbox._layers = lambda: layers
lacking = {line.partition(":")[0] for line in sandbox.not_held()}
sources = request["sources"] | {
    name: source
    for danger, aimed in request["aimed"].items() if danger not in lacking
    for name, source in aimed.items()
}

def one(source):
    job = Job(source=source[0], entry_point="f", calls=("[]",))
    limits = Limits(timeout_s=source[1], memory_bytes=256 << 20)
    program = sandbox._run(job, limits, layers)
    return [program.kind, program.detail, list(program.values)]

with ThreadPoolExecutor(4) as pool:
    programs = dict(zip(sources, pool.map(one, sources.values())))
print(json.dumps({"layers": layers, "programs": programs}))
"""


def python_for_all() -> str | None:
    """A Python that any user may run, fit for the sandbox's code."""
    for path in (sandbox._PYTHON, "/usr/bin/python3", "/usr/local/bin/python3"):
        check = [path, "-c", "import sys; assert sys.version_info >= (3, 11)"]
        try:
            identity: dict[str, Any] = {"user": STRANGER} if os.geteuid() == 0 else {}
            if subprocess.run(check, capture_output=True, **identity).returncode == 0:
                return path
        except OSError:
            continue
    return None


@dataclass(frozen=True, kw_only=True)
class World:
    """Attacks carried out by one user, under some of the layers, and what is left afterwards."""

    user: int
    layers: list[str]
    programs: dict[str, list[Any]]
    victim_before: tuple[Any, ...]
    victim_after: tuple[Any, ...]
    bystander_before: tuple[Any, ...]
    bystander_after: tuple[Any, ...]
    visitors: int
    processes_left: list[str]
    files_left: list[str]


WORLDS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "all layers": (False, ()),
    "without namespaces": (False, ("namespaces",)),
    "stranger, all layers": (True, ()),
    "stranger, without namespaces": (True, ("namespaces",)),
    "stranger, namespaces alone": (True, ("landlock", "seccomp")),
    "stranger, Landlock alone": (True, ("namespaces", "seccomp")),
    "stranger, seccomp alone": (True, ("namespaces", "landlock")),
    "stranger, only what is needed": (True, ("namespaces", "landlock", "seccomp")),
}
"""Whether as an ordinary user (another than the test's, who is root), and the layers left off."""


def state_of_file(path: Path) -> tuple[Any, ...]:
    state = path.stat()
    return path.read_text(), state.st_mode, state.st_uid, state.st_gid, state.st_mtime


def state_of_process(process: subprocess.Popen[bytes]) -> tuple[Any, ...]:
    if process.poll() is not None:
        return ("ended", process.returncode)
    return os.getpriority(os.PRIO_PROCESS, process.pid), os.sched_getaffinity(process.pid)


def launched(folder: Path) -> list[str]:
    """Processes that run this folder's launcher: supervisors, cells, and what cells forked."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:  # gone meanwhile
            continue
    return found


PARTLY = (
    "without namespaces", "stranger, namespaces alone", "stranger, Landlock alone",
    "stranger, seccomp alone", "stranger, only what is needed",
)  # fmt: skip
"""Worlds whose layers others have too: all their attacks take some ten seconds each."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(one, marks=[pytest.mark.slow] * (one in PARTLY)) for one in WORLDS],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    stranger, without = WORLDS[request.param]
    if stranger and os.geteuid() != 0:
        pytest.skip("only root can become another user; the other worlds are an ordinary user's")
    python = sandbox._PYTHON if not stranger and "namespaces" not in without else python_for_all()
    if python is None:
        pytest.skip("no Python of 3.11 or later that every user can run")
    user = STRANGER if stranger else os.geteuid()
    identity: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if stranger else {}
    folder = Path(tempfile.mkdtemp(prefix="sandbox-test-"))
    bystander = subprocess.Popen(["sleep", "600"], **identity)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    try:
        for name in ("suites", "suites/code", "quantcore"):
            (folder / name).mkdir()
        for path in ("suites/__init__.py", "suites/code/__init__.py", "suites/code/sandbox.py",
                     "suites/code/launcher.py", "quantcore/__init__.py",
                     "quantcore/errors.py"):  # fmt: skip
            shutil.copy(ROOT / path, folder / path)
        mine = folder / "mine"
        temporary = folder / "temporary"
        for path_ in (mine, temporary):
            path_.mkdir()
        for name in ("secret", "victim"):
            (mine / name).write_text(SECRET)
            (mine / name).chmod(0o600)
        for path_ in (folder, mine, mine / "secret", mine / "victim", temporary):
            os.chown(path_, user, -1)
        folder.chmod(0o755)
        values = {
            "secret": str(mine / "secret"), "victim": str(mine / "victim"), "folder": str(mine),
            "port": listener.getsockname()[1], "bystander": bystander.pid,
        }  # fmt: skip
        sources = {
            name: (source, HURRIED_S if expected == {"timed_out"} else QUICK.timeout_s)
            for name, (source, expected) in ATTACKS.items()
        }
        aimed = {
            danger: {
                name: (source.format(**values), QUICK.timeout_s)
                for name, (source, _) in attacks.items()
            }
            for danger, attacks in HELD_ATTACKS.items()
        }
        before = state_of_file(mine / "victim"), state_of_process(bystander)
        done = subprocess.run(
            [python, "-B", "-c", DRIVER],
            input=json.dumps({"without": without, "sources": sources, "aimed": aimed}),
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(folder), "TMPDIR": str(temporary), "A_SECRET": SECRET},
            cwd=folder,
            timeout=100,
            **identity,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        visitors = 0
        try:
            listener.accept()
            visitors = 1
        except BlockingIOError:
            pass
        yield World(
            user=user,
            layers=answer["layers"],
            programs=answer["programs"],
            victim_before=before[0],
            victim_after=state_of_file(mine / "victim"),
            bystander_before=before[1],
            bystander_after=state_of_process(bystander),
            visitors=visitors,
            processes_left=launched(folder),
            files_left=[path.name for path in temporary.iterdir()],
        )
    finally:
        listener.close()
        bystander.kill()
        bystander.wait()
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ALL_ATTACKS)
def test_an_attack_fails_its_item(world: World, name: str) -> None:
    _, expected = ALL_ATTACKS[name]
    if name not in world.programs:
        pytest.skip("what stands against it was left off, and `protections` says so")
    if name == "memory" and "memory" not in world.layers:
        pytest.skip("this system has no limit on memory")
    kind, detail, _ = world.programs[name]
    assert kind in expected, detail


def test_nothing_is_left_of_the_attacks(world: World) -> None:
    assert world.victim_after == world.victim_before
    assert world.bystander_after == world.bystander_before
    assert world.visitors == 0
    assert world.processes_left == []
    assert world.files_left == []


def test_the_code_is_nobody(world: World) -> None:
    (who,) = world.programs["who"][2]
    assert who["value"] != 0
    assert (who["value"] == world.user) == (world.user != 0)
    assert world.programs["root"][0] == "raised"
    assert world.programs["environment"][2] == [{"value": {}}]
    assert world.programs["input"][2] == [{"value": ""}]
    assert SECRET not in json.dumps(world.programs)
    if "host" in world.programs:
        assert world.programs["host"][2] == [{"value": "cell"}]


# --- what counts as right ------------------------------------------------------------------------

TESTS = "def check(g):\n    assert g(2) == 3\n    assert abs(g(3) - 4) < 1e-6\ncheck(f)\n"
RIGHT = "def f(x):\n    return x + 1\n"


def judged(source: str, tests: str = TESTS) -> ProgramRun:
    return run(Job(source=source, entry_point="f", tests=tests), QUICK)


def called(source: str, *calls: str) -> ProgramRun:
    return run(Job(source=source, entry_point="f", calls=calls), QUICK)


def test_calls_hand_back_values() -> None:
    program = called("def f(x, y=0):\n    return [x, {'a': y}]", "[1]", '["b", null]')
    assert program.kind == "finished"
    assert program.values == ({"value": [1, {"a": 0}]}, {"value": ["b", {"a": None}]})


def test_processor_time_has_its_own_limit() -> None:
    job = Job(source="def f():\n    while True: pass", entry_point="f", calls=("[]",))
    limits = Limits(timeout_s=1)
    assert run(job, limits).kind == "timed_out"
    used = sandbox._launch(job, limits, sandbox._layers(), nonce="")["cpu_s"]
    assert used < 2, "only the clock stopped it, after three seconds"


def test_the_library_is_there() -> None:
    modules = "math, re, random, itertools, functools, typing, heapq, hashlib, datetime, decimal"
    program = called(f"import {modules}\ndef f(x): return math.gcd(x, 6)", "[4]")
    assert program == ProgramRun(kind="finished", values=({"value": 2},))


def test_modules_that_are_linked_to_shared_libraries_are_there() -> None:
    linked = [
        "_bz2",
        "_ctypes",
        "_curses",
        "_hashlib",
        "_lzma",
        "_sqlite3",
        "_ssl",
        "_uuid",
        "zlib",
    ]
    source = (
        "import importlib\ndef f(names):\n    found = []\n    for name in names:\n"
        "        try: importlib.import_module(name)\n        except ImportError: continue\n"
        "        found.append(name)\n    return found\n"
    )
    outside = subprocess.run(
        [sandbox._PYTHON, "-I", "-S", "-c", f"{source}print(*f({linked}))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (found,) = called(source, json.dumps([linked])).values
    assert found == {"value": outside.stdout.split()}


# --- the layers ----------------------------------------------------------------------------------


def test_no_call_passes_but_those_allowed() -> None:
    if "seccomp" not in sandbox._layers():
        pytest.skip("no seccomp here")
    column = ["x86_64", "aarch64"].index(os.uname().machine)
    allowed = {name: numbers[column] for name, numbers in launcher._ALLOWED.items()}
    # Linux lets these two pass all filters (uretprobe, uprobe); a process without a probe ends.
    probes = {335, 336} if column == 0 else set()
    every = {*range(600), *range(0x4000_0000, 0x4000_0200)}
    refused = sorted(every - set(allowed.values()) - probes)
    high = 1 << 32
    checked = [
        [allowed["openat"], -1, 0, flags]
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_RDWR | high)
    ]
    checked += [
        [allowed["fcntl"], 3, command] for command in (4, 8, 10, 15, 1024, 1026, high | 8, high | 4)
    ]
    checked += [[allowed[name], 1] for name in ("prlimit64", "sched_getaffinity")]
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def f(calls):\n    passed = []\n    for call in calls:\n"
        "        words = [ctypes.c_ulong(word) for word in call]\n"
        "        if libc.syscall(*words) != -1 or ctypes.get_errno() != 38: passed.append(call)\n"
        "    return passed\n"
    )
    calls = [[number, *[-1] * 6] for number in refused] + checked
    program = called(source, json.dumps([calls]))
    assert program == ProgramRun(kind="finished", values=({"value": []},))


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "x86_64-linux-gnu/asm/unistd_64.h"), (1, "asm-generic/unistd.h")],
)
def test_calls_have_the_kernels_numbers(column: int, header: str) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip("no kernel headers here")
    names = r"#define __NR(?:3264)?_(\w+)\s+(\d+)$"
    numbers = {name: int(number) for name, number in re.findall(names, path.read_text(), re.M)}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    for name, both in launcher._ALLOWED.items():
        assert both[column] == numbers.get(name), name


def test_a_layer_that_python_cannot_run_under_does_not_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = sandbox._layers()
    monkeypatch.setattr(sandbox, "_TRIAL", Job(source="import no_such", entry_point="", tests=""))
    assert sandbox._setup(layers).startswith("Python cannot run: ModuleNotFoundError")


def test_a_library_out_of_reach_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    if "landlock" not in sandbox._layers():
        pytest.skip("no Landlock here")
    found = sandbox._shared_libraries()
    monkeypatch.setattr(sandbox, "_shared_libraries", lambda: (*found, "/nowhere/libown.so"))
    assert sandbox._setup(("landlock",)) == "ready"


def test_a_strict_umask_is_no_hindrance() -> None:
    layers, before = sandbox._layers(), os.umask(0o077)
    try:
        assert sandbox._setup(layers) == "ready"
    finally:
        os.umask(before)


@pytest.mark.parametrize("value", ["(1, 2)", "{1}", "b'x'", "type('L', (list,), {})([1])", "f"])
def test_what_is_not_plain_is_named_and_matches_nothing(value: str) -> None:
    (returned,) = called(f"def f(): return {value}", "[]").values
    assert set(returned) == {"other"}
    assert not matches(returned, [1])


def test_an_object_that_equals_everything_matches_nothing() -> None:
    cheat = "class E:\n    def __eq__(self, other): return True\ndef f(x): return E()\n"
    assert called(cheat, "[1]").values == ({"other": "E"},)
    assert judged(cheat, "assert f(2) == 3").kind == "failed"
    assert judged(cheat.replace("E()", "[E()]"), "assert f(2) == [3]").kind == "failed"


@pytest.mark.parametrize(
    ("returned", "expected", "same"),
    [
        (2, 2, True), (2, 3, False), (2, 2.0, True), (0.1 + 0.2, 0.3, True), (0.3, 0.31, False),
        (True, 1, False), (1, True, False), (0, False, False), (None, None, True), ("2", 2, False),
        ([1, 2], [1, 2], True), ([1, 2], [2, 1], False), ([1], [1, 2], False), ([True], [1], False),
        ({"a": 1}, {"a": 1}, True), ({"a": 1}, {"b": 1}, False), ({"a": 1}, {}, False),
        (10**400, 1.5, False), (10**20, 10**20 + 1, False), (float("nan"), 1.0, False),
    ],
)  # fmt: skip
def test_values_match_by_type_and_content(returned: object, expected: object, same: bool) -> None:
    assert matches({"value": returned}, expected) is same


def test_tests_pass_and_fail() -> None:
    assert judged(RIGHT).kind == "finished"
    assert judged("def f(x): return x").kind == "failed"
    assert judged("def f(x): return x / 0").kind == "raised"
    assert judged("def g(x): return x").kind == "raised"
    assert judged("def f(x)").kind == "syntax_error"
    assert judged("def f(x): return '" + "\\N{}'").kind == "syntax_error"


@pytest.mark.parametrize(
    "lie",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "print('passed')\nraise SystemExit",
        "import builtins; builtins.abs = lambda x: 0\ndef f(x): return 3",
        "abs = lambda x: 0\ndef f(x): return 3",
        "import builtins; builtins.vars = lambda m: {}; builtins.abs = lambda x: 0\n"
        "def f(x): return 3",
        "import __main__\nclass E:\n    __eq__ = lambda self, other: True\n"
        "__main__._checked = lambda value: E()\n"
        "import builtins; builtins.abs = lambda x: 0\ndef f(x): return 0",
        "__builtins__ = {'abs': lambda x: 0}\ndef f(x): return 3",
        "import builtins; builtins.AssertionError = type('E', (), {})\ndef f(x): return 0",
        "class N(int):\n    __eq__ = lambda self, other: True\n"
        "    __sub__ = lambda self, other: 0\n"
        "def f(x): return N()",
        "def check(g): pass\ndef f(x): return 0",
        'import os\nos.write(3, b\'{"kind": "finished"}\\n\')\nos._exit(0)',
        'import os\nos.write(3, b\'{"kind": "finished", "nonce": "", "values": []}\\n\')\n'
        "os._exit(0)",
        "import os\nos.write(3, b'[' * 10**5 + b'\\n')\nos._exit(0)",
        "import os\nos.write(3, b'cannot set up\\n')\nos._exit(1)",
        'import json; json.dumps = lambda *a, **k: \'{"kind": "finished"}\'\ndef f(x): return 0',
        "import __main__\nfor n in dir(__main__): setattr(__main__, n, lambda *a: {})\n"
        "def f(x): return 0",
    ],
)
def test_a_lie_does_not_count_as_right(lie: str) -> None:
    assert judged(lie).kind in ("failed", "raised", "syntax_error")


def test_a_forged_report_of_calls_is_only_another_answer() -> None:
    forged = 'import os\nos.write(3, b\'{"kind": "finished", "values": [%s]}\\n\')\nos._exit(0)'
    program = called(forged % '{"value": 7}', "[1]")
    assert program.kind == "finished"
    assert not matches(program.values[0], 2)
    assert called(forged % "", "[1]").kind == "raised"
    assert not matches(called(forged % "7", "[1]").values[0], 7)


# --- the caller ----------------------------------------------------------------------------------


def test_many_run_in_order_beside_threads() -> None:
    stop = threading.Event()
    busy = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in busy:
        thread.start()
    jobs = [
        Job(source=f"def f(): return {number}", entry_point="f", calls=("[]",))
        for number in range(8)
    ]
    try:
        programs = run_many(jobs, QUICK, workers=4)
    finally:
        stop.set()
    assert [program.values[0]["value"] for program in programs] == list(range(8))


def test_a_cell_dies_with_its_supervisor() -> None:
    def children(parent: int) -> list[int]:
        text = Path(f"/proc/{parent}/task/{parent}/children")
        return [int(child) for child in text.read_text().split()] if text.exists() else []

    def runs(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
        except OSError:
            return False

    source = (
        "import ctypes, time\n"
        "def f():\n    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n    time.sleep(600)"
    )
    layers = sandbox._layers()
    program = (
        "from suites.code import sandbox; "
        f"sandbox._run(sandbox.Job(source={source!r}, entry_point='f', calls=('[]',)), "
        f"sandbox.Limits(timeout_s=20), {layers!r})"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    cells: list[int] = []
    deadline = time.monotonic() + 30
    while not cells and time.monotonic() < deadline:
        time.sleep(0.05)
        supervisors = children(caller.pid)
        cells = [cell for supervisor in supervisors for cell in children(supervisor)]
    assert cells
    time.sleep(0.5)  # for the code to try what it is up to
    os.kill(supervisors[0], signal.SIGKILL)
    assert caller.wait(30) != 0
    while any(map(runs, cells)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, cells))


def test_protections_name_each_danger() -> None:
    held = protections()
    assert set(held) == {
        "root", "time", "memory", "processes", "disk", "environment", "output", "network",
        "signals", "files", "attributes", "names",
    }  # fmt: skip


NEEDED = ("unprivileged", "limits")


@pytest.mark.parametrize(
    ("layers", "lacking"),
    [
        (NEEDED, {"memory", "network", "signals", "files", "attributes", "names"}),
        ((*NEEDED, "memory", "seccomp"), {"files", "names"}),
        ((*NEEDED, "memory", "landlock"), {"network", "signals", "attributes", "names"}),
        ((*NEEDED, "memory", "landlock", "seccomp"), {"names"}),
        ((*NEEDED, "memory", "namespaces"), set()),
    ],
)
def test_what_is_lacking_is_told(
    monkeypatch: pytest.MonkeyPatch, layers: tuple[str, ...], lacking: set[str]
) -> None:
    monkeypatch.setattr(sandbox, "_layers", lambda: layers)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    told = {name for name, text in protections().items() if text.startswith("NOT HELD")}
    assert told == lacking


def test_without_what_is_needed_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_setup", lambda layers: "cannot leave root")
    with pytest.raises(InputError, match="unprivileged: cannot leave root"):
        sandbox._layers.__wrapped__()


def test_a_folder_is_removed_whatever_its_rights(tmp_path: Path) -> None:
    inner = tmp_path / "work" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_text("")
    (tmp_path / "work" / "link").symlink_to(tmp_path / "beside")
    (tmp_path / "beside").mkdir(mode=0o755)
    inner.chmod(0)
    inner.parent.chmod(0)
    sandbox._remove(str(tmp_path / "work"))
    assert [path.name for path in tmp_path.iterdir()] == ["beside"]
