"""The parent's side of a compilation: what it hears of its child, and what is left when one of the two dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sattn_edge.engine_store import BUILDS
from sattn_edge.errors import QualityError, SattnEdgeError, UnavailableError
from sattn_edge.files import digest
from sattn_runtime.tensorrt import compile_process
from sattn_runtime.tensorrt.compile_process import Compiled, CompileOptions, compile_graph
from tests.helpers_device import calls
from tests.helpers_run import environment
from tests.sattn_runtime.tensorrt.helpers_compile import FIRST, RANGE, ROOM, Heard, graph
from tests.sattn_runtime.tensorrt.helpers_tensorrt import fake

OPTIONS = CompileOptions("tensorrt", ROOM)
FORWARD = "from sattn_runtime.testing.fake_tensorrt import namespace\nglobals().update(namespace('tensorrt'))\n"
# A module that says who loaded it, and stays.
_SAYS = """
import os, pathlib, time
seen = pathlib.Path(__file__).with_name("seen")
score = pathlib.Path("/proc/self/oom_score_adj").read_text().strip()
seen.with_name("part").write_text(f"{os.getpid()} {score}")
seen.with_name("part").rename(seen)
"""
STAYS = _SAYS + "time.sleep(60)\n"
STAYS_BEHIND = _SAYS + "import ctypes\nctypes.CDLL(None).prctl(1, 0)\ntime.sleep(60)\n"


@pytest.fixture
def folder(tmp_path: Path):
    """Where the parts of a compilation lie; nothing of them may be left."""
    made = tmp_path / "parts"
    made.mkdir()
    yield made
    assert list(made.iterdir()) == []


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a module `tensorrt` of some code, in front of the fake's; gives its folder."""

    def make(code: str) -> Path:
        fake(monkeypatch)
        place = tmp_path / "modules"
        place.mkdir()
        (place / "tensorrt.py").write_text(code)
        monkeypatch.syspath_prepend(str(place))
        return place

    return make


def compiled(folder: Path, watcher: Heard | None = None) -> Compiled:
    return compile_graph(graph(), OPTIONS, watcher, "gemm, fp32", folder)


def refused(kind: type[SattnEdgeError], folder: Path, watcher: Heard | None = None) -> SattnEdgeError:
    with pytest.raises(kind) as caught:
        compiled(folder, watcher)
    assert type(caught.value) is kind
    assert "building gemm, fp32" in str(caught.value)
    return caught.value


def waited_for(path: Path, timeout_s: float = 20.0) -> tuple[int, str]:
    """The process that loaded the module, and its score."""
    end = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    pid, score = path.read_text().split()
    return int(pid), score


def is_gone(pid: int, within_s: float) -> bool:
    """Whether a process ends in time; one that nobody has buried yet has ended."""
    end = time.monotonic() + within_s
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.01)


def test_an_engine_and_what_was_heard_while_it_was_made(monkeypatch, folder):
    fake(monkeypatch)
    heard = Heard()
    made = compiled(folder, heard)
    assert (made.digest, made.release, made.warnings) == (digest(made.plan), "10.3.0", ())
    assert made.plan.startswith(b"FTRT")
    kinds = heard.kinds()
    assert (kinds[0], kinds[-1]) == ("begins", "ends")
    assert heard.events[1] == ("phase", "Building engine", "", 2)
    assert ("step", "Optimizing graph", 3) in heard.events
    assert kinds.count("phase") == 4  # two begin, two end


def test_nothing_is_heard_of_phases_on_8_6(monkeypatch, folder):
    fake(monkeypatch, release=FIRST)
    heard = Heard()
    assert compiled(folder, heard).release == FIRST
    assert heard.kinds() == ["begins", "ends"]


def test_options_reach_the_child(monkeypatch, folder, tmp_path):
    log = fake(monkeypatch, release=FIRST, log=tmp_path / "calls")
    cache = tmp_path / "timing.cache"
    options = CompileOptions("tensorrt", ROOM, half=True, int8=True, tf32=True, profile=RANGE, timing_cache=cache)
    model = graph("reference", "int8", typed=False, ranged=True)
    made = compile_graph(model, options, folder=folder)
    seen = calls(log)
    assert {f"IBuilderConfig.set_flag:{flag}" for flag in ("FP16", "INT8", "TF32")} <= set(seen)
    assert f"IBuilderConfig.set_memory_pool_limit:WORKSPACE={ROOM}" in seen
    assert cache.exists()
    size = int.from_bytes(made.plan[4:8], "little")
    assert json.loads(made.plan[8 : 8 + size])["ranges"] == {"window": [[n, 1, 32, 3] for n in (1, 2, 4)]}


def test_every_build_is_a_process_of_its_own(monkeypatch, folder):
    """A failed one spoils nothing. That it would, in one process, is in test_compiler.py."""
    fake(monkeypatch)
    good = compiled(folder).digest
    fake(monkeypatch, faults={"build": "none"})
    assert refused(QualityError, folder).exit_code == 4
    fake(monkeypatch)
    assert compiled(folder).digest == good


def test_a_builder_that_raises(monkeypatch, folder):
    fake(monkeypatch, faults={"build": "raise"})
    assert "TensorRT 10.3.0 makes no engine of it (the build was told to raise)" in str(refused(QualityError, folder))


def test_no_bindings(module, folder):
    module("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    error = refused(UnavailableError, folder)
    assert error.exit_code == 6
    assert "backend 'tensorrt': can't be loaded (libnvinfer.so.10" in str(error)


def test_no_gpu(monkeypatch, folder):
    fake(monkeypatch, visible=False)
    error = refused(UnavailableError, folder)
    assert "there is no GPU here" in str(error)
    assert "build on the device" in str(error)


class TestDies:
    """The child ends without a word."""

    def test_killed_for_want_of_memory(self, monkeypatch, folder):
        fake(monkeypatch, faults={"build": "kill"})
        counted = iter([4, 5])
        monkeypatch.setattr(compile_process, "oom_kills", lambda: next(counted))
        monkeypatch.setattr(compile_process, "available_bytes", lambda: 1234 << 20)
        heard = Heard()
        error = refused(UnavailableError, folder, heard)
        assert error.exit_code == 6
        assert "out of memory: the kernel ended the compiler (the kernel counts one more process" in str(error)
        assert "1,234 MiB were available" in str(error)
        assert "close other programs, add swap, or give it less with --workspace MIB" in str(error)
        assert heard.kinds()[-1] == "ends"

    @pytest.mark.parametrize("counts", [(4, 4), (-1, -1)], ids=["not counted", "not told"])
    def test_killed_by_whom_the_kernel_does_not_tell(self, monkeypatch, folder, counts):
        fake(monkeypatch, faults={"build": "kill"})
        counted = iter(counts)
        monkeypatch.setattr(compile_process, "oom_kills", lambda: next(counted))
        error = refused(UnavailableError, folder)
        assert "out of memory" in str(error)
        assert "one more process" not in str(error)

    @pytest.mark.parametrize("name", ["SIGSEGV", "SIGTERM"])
    def test_by_another_signal(self, module, folder, name):
        limit = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        module(f"{limit}import os, signal\nos.kill(os.getpid(), signal.{name})\n")
        error = refused(UnavailableError, folder)
        assert f"the compiler died (signal {name}: it said nothing); run sattn-doctor" in str(error)
        assert "memory" not in str(error)

    @pytest.mark.parametrize("code", [0, 7])
    def test_with_an_exit_code_and_its_last_words(self, module, folder, code):
        module(f"import os, sys\nsys.stderr.write('first\\nlast words \\n'); sys.stderr.flush()\nos._exit({code})\n")
        assert f"the compiler died (exit code {code}: last words)" in str(refused(UnavailableError, folder))

    def test_of_an_error_of_ours_that_it_did_not_expect(self, module, folder):
        module("raise ZeroDivisionError('of ours')\n")
        assert "exit code 1: ZeroDivisionError: of ours" in str(refused(UnavailableError, folder))

    def test_before_it_read_its_job(self, monkeypatch, folder):
        fake(monkeypatch)
        monkeypatch.setattr(sys, "executable", "/bin/false")
        assert "the compiler died (exit code 1: it said nothing)" in str(refused(UnavailableError, folder))

    def test_before_it_could_be_given_a_long_job(self, monkeypatch, folder):
        """More than a pipe holds: here it is the write that fails."""
        fake(monkeypatch)
        monkeypatch.setattr(sys, "executable", "/bin/false")
        options = CompileOptions("tensorrt", ROOM, timing_cache=Path("x" * 300_000))
        with pytest.raises(UnavailableError, match="exit code 1"):
            compile_graph(graph(), options, folder=folder)


class TestHangs:
    """It takes long, and somebody ends it."""

    def test_signs_of_life_and_an_interrupt(self, monkeypatch, folder):
        fake(monkeypatch, faults={"build": "hang"})
        monkeypatch.setattr(compile_process, "HEARTBEAT_S", 0.15)
        heard = Heard()

        def interrupt() -> None:  # as Ctrl-C does, once the build is under way and three signs were given
            if heard.kinds().count("alive") >= 3 and ("step", "Building engine", 0) in heard.events:
                os.kill(os.getpid(), signal.SIGINT)

        heard.at_alive = interrupt
        with pytest.raises(KeyboardInterrupt):
            compiled(folder, heard)
        alive = [event[2] for event in heard.events if event[0] == "alive"]
        assert len(alive) >= 3
        assert all(isinstance(s, float) for s in alive)
        # Seconds since it began: at least one period more each time, although the child talks all the while.
        assert all(s >= 0.14 * n for n, s in enumerate(alive, 1))
        assert heard.kinds()[-1] == "ends"

    def test_the_child_is_the_first_to_go_and_does_not_outlive_an_interrupt(self, monkeypatch, module, folder):
        place = module(STAYS)
        monkeypatch.setattr(compile_process, "HEARTBEAT_S", 0.1)
        found: list[tuple[int, str]] = []

        def interrupt() -> None:
            if (place / "seen").exists():
                (parts,) = folder.iterdir()  # private, and called what the store sweeps if all of this is killed
                assert (parts.name.startswith(BUILDS), parts.stat().st_mode & 0o777) == (True, 0o700)
                found.append(waited_for(place / "seen"))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compiled(folder, Heard(at_alive=interrupt))
        ((pid, score),) = found
        assert score == "1000"
        assert is_gone(pid, 0.0)  # it was waited for
        # The control: this process, which started it, is not marked.
        assert Path("/proc/self/oom_score_adj").read_text().strip() != "1000"

    def test_control_short_builds_give_no_sign(self, monkeypatch, folder):
        fake(monkeypatch)
        heard = Heard()
        compiled(folder, heard)
        assert "alive" not in heard.kinds()


_PARENT = """
import sys
from pathlib import Path
import onnx
sys.path.insert(0, sys.argv[1])
from sattn_runtime.tensorrt.compile_process import CompileOptions, compile_graph
compile_graph(onnx.load(sys.argv[2]), CompileOptions("tensorrt", 1 << 28), folder=Path(sys.argv[3]))
"""


def orphan(module, tmp_path: Path, code: str) -> int:
    """Starts a parent whose child stays, kills the parent by SIGKILL, and gives the child."""
    place, model = module(code), tmp_path / "graph.onnx"
    model.write_bytes(graph().SerializeToString())
    left = tmp_path / "left"
    left.mkdir()
    arguments = [sys.executable, "-c", _PARENT, str(place), str(model), str(left)]
    parent = subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pid, _ = waited_for(place / "seen")
        assert not is_gone(pid, 0.0)
    finally:
        parent.kill()
        parent.wait()
    return pid


def test_the_child_goes_with_its_parent(module, tmp_path):
    assert is_gone(orphan(module, tmp_path, STAYS), 2.0)


def test_control_a_child_that_did_not_ask_for_it_stays_behind(module, tmp_path):
    pid = orphan(module, tmp_path, STAYS_BEHIND)
    try:
        assert not is_gone(pid, 0.5)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_what_a_library_prints_does_not_disturb(module, folder):
    noise = 'import os\nprint(\'{"type":"Outcome","release":"noise"}\', flush=True)\nos.write(1, b\'more\\n\')\n'
    module(noise + FORWARD)
    heard = Heard()
    assert compiled(folder, heard).release == "10.3.0"
    assert heard.kinds().count("phase") == 4


class TestPath:
    """Where the child finds its modules: where its parent does, and nowhere else."""

    def test_the_parent_s_own_path(self, module, monkeypatch, folder):
        place = module(FORWARD + "open(__file__ + '.seen', 'w').close()\n")
        monkeypatch.delenv("PYTHONPATH")
        assert compiled(folder).release == "10.3.0"
        assert (place / "tensorrt.py.seen").exists()

    @pytest.mark.parametrize("name", ["tensorrt", "numpy", "onnx", "msgspec", "signal", "re", "sattn_runtime"])
    def test_not_the_folder_it_is_started_in(self, monkeypatch, folder, tmp_path, name):
        fake(monkeypatch)
        here = tmp_path / "here"
        here.mkdir()
        (here / f"{name}.py").write_text("open(__file__ + '.seen', 'w').close()\n" + trap(name))
        monkeypatch.chdir(here)
        assert compiled(folder).release == "10.3.0"
        assert [path.name for path in here.iterdir()] == [f"{name}.py"]

    def test_control_python_itself_would_take_it(self, monkeypatch, tmp_path):
        (tmp_path / "tensorrt.py").write_text(trap("tensorrt"))
        fake(monkeypatch)
        done = subprocess.run([sys.executable, "-c", "import tensorrt"], cwd=tmp_path, capture_output=True, check=False)
        assert b"the wrong tensorrt" in done.stderr


def trap(name: str) -> str:
    return f"raise SystemExit('the wrong {name}')\n"
