"""Kernels that were compiled ahead of time are found by ordinary launches, and nothing then compiles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mica_kernels import __main__, build, device, prebuilt
from mica_kernels.contrastive import configs as contrastive
from mica_kernels.launch import ARCHITECTURES, DTYPES, Variant
from mica_kernels.prebuilt import Manifest
from mica_kernels.spectral import configs

pytest.importorskip("triton", reason="compiling kernels takes Triton")

REPOSITORY = Path(__file__).resolve().parents[2]
SELECTION = ["sm_90", "--dtype", "bfloat16", "--frames", "32"]
KERNELS = 16 + 2 * len(contrastive.FORMS) + 2  # of the spectral gate, and of the losses
GOOD = configs.reduction(16)
BAD = replace(GOOD, constants=(("SIZE", 16), ("PAIRS", 3), ("ROWS", 16)))  # blocks are powers of two

# The operators' own way to their kernels, on a GPU that is none: what Triton looks up, and whether it finds it.
NO_GPU = """
import json, sys
from types import SimpleNamespace

import torch, triton
from mica_kernels import build, device

class Driver(build.StandIn):
    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 2**20},
        load_binary=lambda *arguments: (None, None, 0, 0, 1024),
    )

    def launcher_cls(self, source, metadata):
        return lambda *arguments: None

triton.runtime.driver.set_active(Driver(90))
found = []
triton.knobs.compilation.listener = lambda src, cache_hit, **_: found.append((src.name, cache_hit))
device.runs_kernels = lambda where: True
device.architecture = lambda where: "sm_90"
"""

SPECTRAL = '''
gate, back = torch.ops.mica_kernels.spectral_gate, torch.ops.mica_kernels.spectral_gate_backward

def launch(frames, channels, joints, order, sparsity, step=1):
    """`order`: the axes from the slowest to the fastest; every `step`-th channel is taken."""
    places = ["NCTV".index(axis) for axis in order]
    shape = [(3, step * channels, frames, joints)[place] for place in places]
    x = torch.zeros(shape, dtype=torch.bfloat16).permute(*(order.index(axis) for axis in "NCTV"))[:, ::step]
    weight = torch.zeros(2, frames // 2 + 1, joints, 2)
    threshold = None if sparsity == "none" else torch.zeros(2, joints)
    gate(x, weight, threshold, sparsity)
    if sys.argv[1] == "all":
        back(torch.zeros_like(x), x, weight, threshold, sparsity, [True, True, threshold is not None])

launch(32, 16, 25, "NTVC", "joint")
if sys.argv[1] == "all":
    for sparsity in ("none", "joint", "bin"):
        launch(32, 16, 25, "NTVC", sparsity)
        launch(17, 64, 25, "NTVC", sparsity)
        launch(32, 24, 20, "NTVC", sparsity)
        launch(1, 16, 24, "NTCV", sparsity)
        launch(32, 16, 24, "NCTV", sparsity)
        launch(31, 6, 5, "NCTV", sparsity)
        launch(32, 16, 24, "NTVC", sparsity, step=2)
        launch(24, 16, 25, "VCTN", sparsity)
print(json.dumps(found))
'''

CONTRASTIVE = """
from mica_kernels.contrastive import configs

ops = torch.ops.mica_kernels

def launch(rows, columns, width, offset, scale=torch.tensor(1.0)):
    query = torch.zeros(rows, width, dtype=torch.bfloat16)
    key = torch.zeros(width, columns, dtype=torch.bfloat16).T
    labels = torch.zeros(rows).long(), torch.zeros(columns).long()
    for given, start, both in (
        ((None, None), None, False),
        ((None, None), offset, False),
        ((None, None), offset, True),
        (labels, 0, False),
        (labels, 0, True),
    ):
        arguments = query, key, scale, *given, start, both
        results = ops.similarity_statistics(*arguments)
        ops.similarity_statistics_backward(*results, *arguments, results[0], results[2], [True] * 3)
    arguments = query, key, query[:, :1], key[:, :1], scale, scale
    results = ops.similarity_divergence(*arguments)
    ops.similarity_divergence_backward(*results, *arguments, *results[1:], [True] * 3)

launch(1, 1, 1, 0)
launch(16, 16, 16, 0)
launch(200, 300, 384, 16)
launch(3, 70, 33, 5)
configs.ROWS_AT_A_TIME, configs.BLOCK = 37, 37 * 51  # where blocks start is not at a multiple of 16 bytes
launch(100, 130, 24, 3)
print(json.dumps(found))
"""

# Every kernel's key in Triton's cache, in a process that launches the kernels in one order or another.
KEYS = """
import json, sys
from mica_kernels import build, launch

names = sorted({(variant.family, variant.kernel) for variant in build.shipped("sm_90")})
order = reversed(names) if sys.argv[1] == "reversed" else names
print(json.dumps({name: getattr(launch.kernels(family), name).cache_key for family, name in order}))
"""


def environment(cache: Path, **settings: str) -> dict[str, str]:
    return {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), **settings}


def run(where: Path, cache: Path, *arguments: str) -> str:
    """Run Python with the packages in a folder."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=where,
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def lookups(where: Path, cache: Path, launches: str, which: str = "all") -> Counter[tuple[str, bool]]:
    """What launches look up, and whether they find it."""
    return Counter(map(tuple, json.loads(run(where, cache, "-c", NO_GPU + launches, which))))


def install(source: Path, **settings: str) -> Path:
    """What pip does with a copy of the sources, as far as it concerns kernels; returns where it puts the packages."""
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    ignored = shutil.ignore_patterns("__pycache__", prebuilt.FOLDER.name)
    for name in ("mica", "mica_kernels"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    result = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", "lib"],
        cwd=source,
        env=environment(source / "unused", **settings),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert not (source / "unused").exists()
    return source / "lib"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with kernels, as MICA_KERNELS_BUILD makes it."""
    # The interpreter that other tests use must not get into the kernels.
    settings = {"MICA_KERNELS_BUILD": " ".join(SELECTION), "TRITON_INTERPRET": "1"}
    return install(tmp_path_factory.mktemp("source"), **settings)


@pytest.fixture(scope="module")
def packed(installed: Path) -> Path:
    """The kernels in the package."""
    return installed / "mica_kernels" / prebuilt.FOLDER.name


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for Triton."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_a_package_carries_serves_every_launch(installed: Path, tmp_path: Path) -> None:
    found = lookups(installed, tmp_path / "cache", SPECTRAL)
    assert found == {("forward", True): 6, ("backward", True): 9, ("reduce", True): 1}
    found = lookups(installed, tmp_path / "cache", CONTRASTIVE)
    assert found == {
        ("statistics", True): len(contrastive.FORMS),
        ("gradient", True): len(contrastive.FORMS),
        ("divergence", True): 1,
        ("divergence_gradient", True): 1,
    }


def test_a_plain_installation_builds_nothing(tmp_path: Path) -> None:
    left_over = tmp_path / "lib" / "mica_kernels" / prebuilt.FOLDER.name / "KEY"
    left_over.mkdir(parents=True)
    packages = install(tmp_path, MICA_KERNELS_BUILD="")
    assert (packages / "mica_kernels" / "build.py").is_file()
    assert not left_over.parent.exists()


def test_without_a_build_launches_compile(tmp_path: Path) -> None:
    assert lookups(REPOSITORY, tmp_path / "cache", SPECTRAL, "one") == {("forward", False): 1}


def test_no_order_of_launches_changes_what_is_looked_up(tmp_path: Path) -> None:
    keys = [json.loads(run(REPOSITORY, tmp_path, "-c", KEYS, order)) for order in ("sorted", "reversed")]
    assert len(keys[0]) > 6
    assert keys[0] == keys[1]


def test_the_command_finds_what_is_there_and_records_it(installed: Path, packed: Path, cache: Path) -> None:
    prebuilt._copy(packed)
    output = run(installed, cache, "-m", "mica_kernels", "build", "--arch", *SELECTION)
    assert f"sm_90: 0 kernels compiled, {KERNELS} were there already, in {cache}" in output
    assert Manifest.read(cache, "sm_90") == Manifest.read(packed, "sm_90")


def test_a_package_carries_no_more_than_launches_read(packed: Path) -> None:
    record = Manifest.read(packed, "sm_90")
    assert record is not None
    assert record.triton == prebuilt.triton_version()
    selected = list(build.select("sm_90", ["bfloat16"], [32]))
    assert record.variants == {
        family: sorted(str(variant) for variant in selected if variant.family == family)
        for family in build.FAMILIES
    }
    kernels = [entry for entry in packed.iterdir() if entry.is_dir()]
    assert len(kernels) == KERNELS
    for kernel in kernels:
        assert {file.suffix for file in kernel.iterdir()} == {".json", ".cubin"}
        group = json.loads(next(kernel.glob("__grp__*")).read_text())
        assert all(child == path for child, path in group["child_paths"].items())
    assert sum(file.stat().st_size for file in packed.rglob("*")) < KERNELS * 150_000


def test_copies_meet_in_the_cache(cache: Path, packed: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prebuilt._copy, [packed] * 4))
    assert sorted(entry.name for entry in cache.iterdir()) == sorted(
        entry.name for entry in packed.iterdir() if entry.is_dir()
    )
    for file in cache.glob("*/__grp__*"):
        assert all(Path(path).parent == file.parent and Path(path).is_file()
                   for path in json.loads(file.read_text())["child_paths"].values())  # fmt: skip


def test_what_the_cache_has_is_left_alone(cache: Path, packed: Path) -> None:
    name = next(entry.name for entry in packed.iterdir() if entry.is_dir())
    (cache / name).mkdir(parents=True)
    prebuilt._copy(packed)
    assert not list((cache / name).iterdir())
    times = {file: file.stat().st_mtime_ns for file in cache.rglob("*")}
    prebuilt._copy(packed)
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*")} == times


def test_kernels_for_another_triton_are_not_copied(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    (folder / "KEY").mkdir(parents=True)
    Manifest("sm_90", "0.1", {}, {}).write(folder)
    prebuilt._copy(folder)
    assert not cache.exists()


@pytest.mark.parametrize("trouble", ["cache", "package", "record"])
def test_copying_never_fails_a_launch(
    trouble: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(packed, tmp_path / "package")
    (tmp_path / "file").touch()
    if trouble == "cache":
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    else:
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
        broken = next(folder.glob("*/__grp__*")) if trouble == "package" else Manifest.file(folder, "sm_90")
        broken.write_text("{")
    monkeypatch.setattr(prebuilt, "FOLDER", folder)
    prebuilt.install.__wrapped__()
    assert not list(tmp_path.glob("cache/.mica_kernels-*"))


def test_a_failure_is_named_and_the_others_are_built(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(build, "shipped", lambda target: iter([BAD, GOOD]))
    assert __main__.main(["build", "--arch", "sm_80", "--jobs", "1"]) == 1
    captured = capsys.readouterr()
    assert f"failed: sm_80 {BAD}\n  CompilationError: " in captured.err
    assert "sm_80: 1 kernels compiled, 0 were there already" in captured.out
    record = Manifest.read(cache, "sm_80")
    assert record is not None
    assert record.variants == {GOOD.family: [str(GOOD)]}


def test_a_compiler_that_crashes_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_WORKER", "import os; input(); os.abort()")
    failed = build.build({"sm_90": [GOOD, configs.reduction(32)]}, tmp_path, jobs=1)
    assert list(failed.values()) == ["the compiler ended with status -6"] * 2
    assert not prebuilt.architectures(tmp_path)


def test_native_asks_for_the_gpus_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        capabilities = ((9, 0), (8, 6), (9, 0))

        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGetCount(self, count) -> int:
            count._obj.value = len(self.capabilities)
            return 0

        def cuDeviceGetAttribute(self, value, attribute: int, index: int) -> int:
            value._obj.value = self.capabilities[index][attribute - 75]
            return 0

    monkeypatch.setattr(build.ctypes, "CDLL", lambda name: Driver())
    assert build.native() == ["sm_86", "sm_90"]


def test_native_without_a_gpu_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(build.ctypes, "CDLL", missing)
    assert __main__.main(["build", "--arch", "native"]) == 2
    error = capsys.readouterr().err
    assert "there is no NVIDIA GPU here; name one of sm_80 sm_90 sm_100" in error


def test_a_build_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert __main__.main(["build", "--arch", "sm_90"]) == 2
    assert "Not a directory; set TRITON_CACHE_DIR to another directory" in capsys.readouterr().err
    monkeypatch.setattr(prebuilt, "triton_version", lambda: None)
    assert __main__.main(["build", "--arch", "sm_90"]) == 2
    assert "Triton is not installed: pip install 'mica[triton]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--arch", "sm_42"], "invalid choice: 'sm_42'"),
        (["--arch", "sm_90", "--dtype", "float64"], "invalid choice: 'float64'"),
        (["--arch", "sm_90", "--frames", "513"], "clips of 1 to 512 frames, not 513"),
        (["--arch", "sm_90", "--frames", "ten"], "clips of 1 to 512 frames, not ten"),
        ([], "required: --arch"),
    ],
)
def test_bad_arguments(arguments: list[str], problem: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        __main__.main(["build", *arguments])
    assert stop.value.code == 2
    assert problem in capsys.readouterr().err


def test_help_says_what_is_left_out(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["build", "--help"])
    text = capsys.readouterr().out
    built = {str(value) for variant in build.shipped("sm_90") for _, value in variant.constants}
    assert built.isdisjoint({"tf32", "far"})
    for word in ("tf32", "2^31", "tuning"):
        assert word in text


def test_help_teaches(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["build", "--help"])
    text = capsys.readouterr().out
    for word in ("native", *ARCHITECTURES, "MICA_KERNELS_BUILD", "TRITON_CACHE_DIR", "mica doctor"):
        assert word in text


def test_selections_make_up_the_whole() -> None:
    everything = list(build.select("sm_80"))
    assert everything == list(build.shipped("sm_80"))
    parts: set[Variant] = set()
    for dtype in DTYPES:
        for frames in (1, 64, 100, 200, 512):
            part = set(build.select("sm_80", [dtype], [frames]))
            assert {dict(variant.pointers).get("x", dtype) for variant in part} == {dtype}
            parts |= part
    assert parts == set(everything)


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)])
def test_builds_take_the_configurations_that_run(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "capability", lambda where: capability)
    at_run_time = device.architecture.__wrapped__(torch.device("cuda"))
    target = "sm_{}{}".format(*capability)
    expected = [*contrastive.variants(at_run_time), *configs.variants(at_run_time)]
    assert list(build.shipped(target)) == expected


def test_names_tell_variants_apart() -> None:
    for architecture in ARCHITECTURES:
        variants = list(build.shipped(architecture))
        assert len(set(map(str, variants))) == len(set(variants)) == len(variants)


def test_records_merge(tmp_path: Path) -> None:
    Manifest("sm_90", "3.7", {"a": "1", "b": "1"}, {"a": ["x"], "b": ["y"]}).write(tmp_path)
    Manifest("sm_90", "3.7", {"a": "1"}, {"a": ["z"]}).write(tmp_path)
    merged = Manifest("sm_90", "3.7", {"a": "1", "b": "1"}, {"a": ["x", "z"], "b": ["y"]})
    assert Manifest.read(tmp_path, "sm_90") == merged
    Manifest("sm_90", "3.7", {"a": "2"}, {"a": ["z"]}).write(tmp_path)
    assert Manifest.read(tmp_path, "sm_90") == replace(
        merged, sources={"a": "2", "b": "1"}, variants={"a": ["z"], "b": ["y"]}
    )
    last = Manifest("sm_90", "3.8", {"a": "2"}, {"a": ["z"]})
    last.write(tmp_path)
    assert Manifest.read(tmp_path, "sm_90") == last
    assert [file.name for file in tmp_path.iterdir()] == ["mica_kernels-sm_90.json"]
    assert prebuilt.architectures(tmp_path) == ["sm_90"]


def test_what_is_built_in_words(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuilt, "FOLDER", cache / "none")
    assert "compiles at its first call" in build.describe()["none"]
    nothing = build.describe("sm_86")
    assert list(nothing) == ["sm_86"]
    assert nothing["sm_86"].startswith("nothing; ")
    assert nothing["sm_86"].endswith("--arch native")
    cache.mkdir()
    version, source = prebuilt.triton_version(), build._source(GOOD.family)
    record = Manifest("sm_90", str(version), {GOOD.family: source}, {GOOD.family: [str(GOOD), "no longer"]})
    record.write(cache)
    count = len(list(build.shipped("sm_90")))
    assert build.describe() == {"sm_90": f"1 of {count} kernels, for Triton {version}"}
    replace(record, triton="0.1").write(cache)
    assert build.describe()["sm_90"].startswith(f"stale: built with Triton 0.1, but {version} is installed; ")
    assert build.describe()["sm_90"].endswith(f"{build.COMMAND} --arch sm_90")
    replace(record, sources={GOOD.family: "other"}).write(cache)
    assert build.describe("sm_90")["sm_90"].startswith("stale: the kernels have changed since; ")
    monkeypatch.setattr(prebuilt, "triton_version", lambda: None)
    assert build.describe() == {"none": "Triton is not installed"}
