"""Compiling the shipped kernels ahead of time, with or without a GPU: `python -m mica_kernels build`.

Every kernel takes the way of an ordinary launch, `kernel.warmup(...)`, short of starting it, with a driver that merely
says what GPU to compile for. So Triton files it under the key that the launch will look for. Triton runs in processes
of its own, which import neither torch, that an installation does not have yet, nor the rest of the package.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mica_kernels import prebuilt
from mica_kernels.launch import ARCHITECTURES, DTYPES, Variant, configured, kernels
from mica_kernels.prebuilt import Manifest
from mica_kernels.spectral.configs import MAX_FRAMES, size

FAMILIES = ("mica_kernels.contrastive", "mica_kernels.spectral")
"""Where kernels lie: each has kernels.py, and configs.py with `variants(architecture)`."""

COMMAND = "python -m mica_kernels build"
DESCRIPTION = f"""\
Compile the shipped kernels ahead of time, so that the first call of an operator finds them and waits for no compiler.
Needs Triton but no GPU. What is there already is not compiled again. `mica doctor` lists what is built.

What few need still compiles at its first call: products of float32 in tf32, where PyTorch was told to take them;
the spectral gate of clips that each span 2^31 elements of memory or more; and configurations that tuning chose.

  {COMMAND} --arch native              for the GPU in this machine
  {COMMAND} --arch sm_90 sm_100        for H100 and H200, and for B200, on any machine
  {COMMAND} --arch sm_90 --dtype bfloat16 --frames 64 100

The kernels go to Triton's cache: TRITON_CACHE_DIR, or .triton/cache in TRITON_HOME or in the home directory.

To have a package that carries its kernels, say the same in MICA_KERNELS_BUILD when it is installed from source:

  MICA_KERNELS_BUILD=sm_90 pip install .
  MICA_KERNELS_BUILD="sm_90 --dtype bfloat16 --frames 64 100" pip install .

It copies them to Triton's cache when a kernel is first launched. pip compiles apart from what is installed, with the
Triton that it finds installed already, else with the newest.

Triton finds a kernel that was compiled by the same version of Triton, from the same source, under the same TRITON_*
settings; it compiles any other at its first launch, as if nothing had been built."""

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR

# The package without what its __init__.py imports, and Triton without torch, which it loads to know its tensors.
_WORKER = """
import sys, types
class NoTorch:
    def find_spec(name, path, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch)
package = sys.modules["mica_kernels"] = types.ModuleType("mica_kernels")
package.__path__ = [sys.argv[1]]
from mica_kernels.build import work
work()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument(
        "--arch",
        nargs="+",
        required=True,
        choices=("native", *ARCHITECTURES),
        metavar="ARCH",
        help=f"what to compile for: native, for the GPU in this machine, or {', '.join(ARCHITECTURES)}",
    )
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        metavar="DTYPE",
        help=f"only for {', '.join(DTYPES)}; default: all",
    )
    parser.add_argument(
        "--frames",
        nargs="+",
        type=_frames,
        metavar="T",
        help=f"of the spectral gate, only for clips of T frames; default: 1 to {MAX_FRAMES}",
    )
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="processes; default: one for every core"
    )


def _frames(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_FRAMES:
        raise argparse.ArgumentTypeError(f"kernels take clips of 1 to {MAX_FRAMES} frames, not {text}")
    return int(text)


def run(arguments: argparse.Namespace, folder: Path | None = None) -> int:
    """Build what the parsed arguments ask for, to `folder` or to Triton's cache; returns the exit status."""
    targets = list(dict.fromkeys(arguments.arch))
    if "native" in targets:
        found = native()
        if not found:
            return _complain("--arch native: there is no NVIDIA GPU here; name one of", *ARCHITECTURES)
        targets = list(dict.fromkeys([*(target for target in targets if target != "native"), *found]))
    if prebuilt.triton_version() is None:
        return _complain("Triton is not installed: pip install 'mica[triton]'")
    folder = prebuilt.cache() if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return _complain(
            f"cannot write to {folder}: {error.strerror}; set TRITON_CACHE_DIR to another directory"
        )
    wanted = {target: list(select(target, arguments.dtype, arguments.frames)) for target in targets}
    failed = build(wanted, folder, arguments.jobs)
    for name, problem in failed.items():
        print(f"\nfailed: {name}\n  {problem}", file=sys.stderr)
    return 1 if failed else 0


def _complain(*words: str) -> int:
    print(f"{COMMAND}: error: {' '.join(words)}", file=sys.stderr)
    return 2


def native() -> list[str]:
    """The architectures of the GPUs at hand, such as "sm_90"; empty where there is none.

    Asks NVIDIA's driver, since torch may not be installed yet.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = set()
    for device in range(count.value):
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        found.add(f"sm_{major.value}{minor.value}")
    return sorted(found)


def shipped(target: str) -> Iterator[Variant]:
    """Every variant of every family for an architecture; for one without its own configurations, as at run time."""
    for family in FAMILIES:
        yield from importlib.import_module(f"{family}.configs").variants(configured(_number(target) // 10))


def _number(target: str) -> int:
    """Triton's number for an architecture."""
    return int(target.removeprefix("sm_"))


def select(
    target: str, dtypes: Sequence[str] | None = None, frames: Sequence[int] | None = None
) -> Iterator[Variant]:
    """The shipped variants that serve signals of these data types and lengths; None stands for all."""
    sizes = None if frames is None else {size(count) for count in frames}
    for variant in shipped(target):
        dtype = variant.dtype
        constants = dict(variant.constants)
        # How many pairs a variant has room for; in those that take pairs in blocks, PAIRS is a block.
        covered = next((constants[name] for name in ("SIZE", "SPAN", "PAIRS") if name in constants), None)
        if (dtypes is None or dtype is None or dtype in dtypes) and (
            sizes is None or covered is None or covered in sizes
        ):
            yield variant


def build(wanted: Mapping[str, Sequence[Variant]], folder: Path, jobs: int = 0) -> dict[str, str]:
    """Compile the wanted variants of each architecture into `folder` and record what is there.

    Shows a progress bar and prints what was done; returns what failed, and why.
    """
    from tqdm import tqdm

    total = sum(map(len, wanted.values()))
    failed = {}
    with tqdm(total=total, unit="kernel", desc="build") as bar:
        for target, variants in wanted.items():
            bar.set_description(f"build {target}")
            built: dict[str, list[str]] = {}
            compiled = 0
            try:
                for variant, answer in _compile_all(target, variants, folder, jobs):
                    bar.update()
                    if "problem" in answer:
                        failed[f"{target} {variant}"] = answer["problem"]
                    else:
                        built.setdefault(variant.family, []).append(str(variant))
                        compiled += answer["compiled"]
            finally:  # what an interruption leaves is good, too
                if built:
                    _record(target, built, folder)
            there = sum(map(len, built.values())) - compiled
            bar.write(f"{target}: {compiled} kernels compiled, {there} were there already, in {folder}")
    return failed


def _compile_all(
    target: str, variants: Sequence[Variant], folder: Path, jobs: int
) -> Iterator[tuple[Variant, dict[str, Any]]]:
    """Each variant as it is done, with what the process that compiled it answers."""
    jobs = max(1, min(jobs or len(os.sched_getaffinity(0)), len(variants)))
    idle: SimpleQueue[_Worker] = SimpleQueue()
    workers = [_Worker(target, folder) for _ in range(jobs)]
    for worker in workers:
        idle.put(worker)

    def compile_one(variant: Variant) -> dict[str, Any]:
        worker = idle.get()
        try:
            return worker.compile(variant)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(jobs)
    try:
        tasks = {pool.submit(compile_one, variant): variant for variant in variants}
        for task in as_completed(tasks):
            yield tasks[task], task.result()
    finally:
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that compiles, started when it is first needed, and anew after a compiler took it down."""

    def __init__(self, target: str, folder: Path) -> None:
        self.command = [sys.executable, "-P", "-c", _WORKER, str(Path(__file__).parent), target]
        self.environment = {**os.environ, "TRITON_CACHE_DIR": str(folder), "TRITON_STORE_BINARY_ONLY": "1"}
        self.environment.pop("TRITON_INTERPRET", None)
        self.process: subprocess.Popen[str] | None = None

    def compile(self, variant: Variant) -> dict[str, Any]:
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(asdict(variant)) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            return {"problem": f"the compiler ended with status {self.stop()}"}
        return json.loads(answer)

    def stop(self) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        process.communicate()
        return process.returncode


def work() -> None:
    """What a worker does: compile the variants that come in, a line each, and answer each with a line."""
    import triton

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # vanish without a traceback
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what compilers print shall not mix with the answers
    compiled = []
    triton.knobs.compilation.listener = lambda cache_hit, **_: compiled.append(not cache_hit)
    triton.runtime.driver.set_active(StandIn(_number(sys.argv[2])))
    for line in sys.stdin:
        variant = Variant(**json.loads(line))
        try:
            warm_up(variant)
            answer: dict[str, Any] = {"compiled": any(compiled)}
        except Exception as error:  # of any kind, by any stage of the compiler: the next variant may do well
            answer = {"problem": "\n  ".join(f"{type(error).__name__}: {error}".splitlines())}
        compiled.clear()
        print(json.dumps(answer), file=answers, flush=True)


class StandIn:
    """In place of a GPU's driver: as much of one as compiling asks for."""

    def __init__(self, number: int) -> None:
        self.number = number

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.number, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def warm_up(variant: Variant) -> None:
    """Launch without launching: compile for the active driver what is not in the cache."""
    from triton.runtime.jit import MockTensor

    kernel = getattr(kernels(variant.family), variant.kernel)
    pointers, keywords = dict(variant.pointers), variant.keywords
    arguments = {
        name: MockTensor(pointers[name]) if name in pointers else 1
        for name in kernel.arg_names
        if name not in keywords
    }
    kernel.warmup(grid=(1,), **arguments, **keywords)


def _record(target: str, built: Mapping[str, Sequence[str]], folder: Path) -> None:
    sources = {family: _source(family) for family in built}
    variants = {family: list(names) for family, names in built.items()}
    Manifest(target, prebuilt.triton_version() or "", sources, variants).write(folder)


@lru_cache
def _source(family: str) -> str:
    """A hash of the source of a family's kernels."""
    package = importlib.import_module(family).__path__[0]
    return sha256(Path(package, "kernels.py").read_bytes()).hexdigest()[:16]


def describe(target: str | None = None) -> dict[str, str]:
    """What is built, in words: for one architecture, or for all that anything is built for."""
    version = prebuilt.triton_version()
    if version is None:
        return {"none": "Triton is not installed"}
    folders = (prebuilt.cache(), prebuilt.FOLDER)
    targets = (
        [target]
        if target
        else sorted({name for folder in folders for name in prebuilt.architectures(folder)})
    )
    if not targets:
        return {"none": f"each kernel compiles at its first call; {COMMAND} does so ahead"}
    return {name: _describe(name, version, folders) for name in targets}


def _describe(target: str, version: str, folders: Sequence[Path]) -> str:
    command = f"{COMMAND} --arch {target if target in ARCHITECTURES else 'native'}"
    records = [record for folder in folders if (record := Manifest.read(folder, target)) is not None]
    if not records:
        return f"nothing; each kernel compiles at its first call, or ahead: {command}"
    wanted = {(variant.family, str(variant)) for variant in shipped(target)}
    valid = {
        (family, name)
        for record in records
        for family, names in record.variants.items()
        for name in names
        if record.triton == version and record.sources[family] == _source(family)
    }
    if built := wanted & valid:
        return f"{len(built)} of {len(wanted)} kernels, for Triton {version}"
    if all(record.triton != version for record in records):
        return f"stale: built with Triton {records[0].triton}, but {version} is installed; {command}"
    return f"stale: the kernels have changed since; {command}"
