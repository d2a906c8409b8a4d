"""A whole comparison of tiny runs: what it trains, what it chooses by, what it leaves, and how it goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mica.comparison import compare as compare_module
from mica.comparison import contestant, jobs
from mica.comparison.compare import Plan, compare
from mica.comparison.jobs import Job, work_through
from mica.comparison.page import render
from mica.comparison.standings import QUESTIONS, Row, Standings
from mica.comparison.table import markdown
from mica.configs import load_config
from mica.data.store import Store
from mica.errors import InputError, Interrupted
from mica.evaluation.choosing import best
from mica.evaluation.results import read_result
from mica.evaluation.validation import read_validated, validation_top1
from mica.training.config import PretrainConfig

METHODS = ["mica-self", "supervised"]
MakeConfig = Callable[..., PretrainConfig]


@pytest.fixture(scope="module")
def tiny_recipes(tiny_config: MakeConfig) -> Any:
    """Recipes of the methods whose trainings take a second."""

    def load(name: str, changes: Any = ()) -> PretrainConfig:
        full, tiny = load_config(name, changes), tiny_config()
        return replace(
            full,
            preprocessing=tiny.preprocessing,
            heads=tiny.heads,
            precision="float32",
            optimizer=replace(tiny.optimizer, lr=full.optimizer.lr),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contestant, "load_config", load)
        yield


@pytest.fixture(scope="module")
def done(
    tiny_store: Store, tiny_recipes: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Standings]:
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, compare(METHODS, plan(tiny_store, out))


def plan(store: Store, out: Path) -> Plan:
    """Two trials, of another rate each."""
    return Plan(store.path, out, seeds=2, trials=2, jobs=2, settings=("optimizer.lr=0.003",))


def test_every_method_is_tuned_on_validation_and_then_trained_from_every_seed(
    done: tuple[Path, Standings], tiny_store: Store
) -> None:
    out, standings = done
    for method in METHODS:
        tried = [validation_top1(read_validated(out / method / f"trial-{n}")) for n in range(2)]
        assert all(0 <= found <= 100 for found in tried)
        assert not any((out / method / f"trial-{n}" / "evaluation").exists() for n in range(2)), (
            "test part scored"
        )
        chosen = contestant.grid(method)[0 if tried[0] >= tried[1] else 1]
        for seed in range(2):
            found = load_config(str(out / method / f"seed-{seed}" / "config.yaml"))
            assert (found.seed, found.split.part) == (seed, "train")
            assert found.optimizer.lr == pytest.approx(0.001 if "optimizer.lr=0.001" in chosen else 0.003)
        assert next(row.chosen for row in standings.rows if row.name == method) == chosen
    assert not list(out.rglob("*.job.json"))


def test_probes_have_the_settings_that_suited_a_run_which_had_not_trained_on_the_validation_clips(
    done: tuple[Path, Standings],
) -> None:
    """Clips that taught an encoder call every setting right."""
    out, standings = done
    for row in standings.rows[3:]:
        tried = [read_validated(out / row.name / f"trial-{n}") for n in range(2)]
        chosen = max(tried, key=validation_top1)
        assert chosen.keys() == {"SGD", "logistic regression", "k = 1", "k = 5", "k = 10", "k = 20"}
        for seed in range(2):
            for protocol in ("linear", "knn"):
                result = read_result(out / row.name / f"seed-{seed}" / "evaluation" / f"{protocol}.json")
                for score in result.scores:
                    assert score.chosen == best(chosen[score.name]).as_dict()


def test_the_standings_are_what_the_runs_say(done: tuple[Path, Standings]) -> None:
    out, standings = done
    assert [row.name for row in standings.rows] == [
        "raw coordinates", "raw, turned to the front", "random encoder", *METHODS
    ]  # fmt: skip
    assert [row.supervision for row in standings.rows] == [None, None, None, "none", "labels"]
    by_name = {row.name: row for row in standings.rows}
    for method in METHODS:
        for seed in range(2):
            result = read_result(out / method / f"seed-{seed}" / "evaluation" / "linear.json")
            assert by_name[method].values["linear, SGD"][seed] == result.scores[0].top1
    assert len(by_name["random encoder"].values["kNN"]) == 2
    assert len(by_name["raw coordinates"].values["kNN"]) == 1
    assert (standings.test_clips, standings.epochs, standings.seeds) == (64, 1, 2)
    entries = json.loads((out / "comparison.json").read_text())
    kept = {row["method"]: row["top1"]["linear, SGD"] for row in entries["rows"]}
    assert kept == {name: list(row.values["linear, SGD"]) for name, row in by_name.items()}, (
        "to the last digit"
    )
    assert "| `supervised` | yes |" in (out / "comparison.md").read_text()
    page = (out / "comparison.html").read_text()
    assert page.count("<svg") == 0
    assert page.count('<img src="data:image/svg+xml;base64,') == len(QUESTIONS)


def test_what_is_done_is_not_done_again(
    done: tuple[Path, Standings], tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, standings = done
    monkeypatch.setattr(jobs, "_start", lambda job, at_once: pytest.fail(f"{job.run} is done"))
    assert compare(METHODS, plan(tiny_store, out)).rows == standings.rows


def test_what_was_not_judged_is_judged(
    done: tuple[Path, Standings], tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is trained and has one result of two."""
    started: list[Job] = []
    out, _ = done
    monkeypatch.setattr(jobs, "_start", lambda job, at_once: started.append(job) or Finished())
    monkeypatch.setattr(jobs, "_check", lambda status, job: None)
    folder = out / "supervised" / "seed-1"
    config = load_config(str(folder / "config.yaml"))
    job = Job(tiny_store.path, folder, config, (("linear", "trained"), ("knn", "trained")))
    work_through([job], 1, "train")
    assert not started
    more = replace(job, judged=(*job.judged, ("retrieval", "trained")))
    work_through([job, more], 1, "train")
    assert started == [more]
    other = replace(job, config=replace(config, seed=7))
    with pytest.raises(InputError, match="seed"):
        work_through([other], 1, "train")


class Finished:
    """A process that has come to its end."""

    returncode = 0

    def poll(self) -> int:
        return 0

    def terminate(self) -> None:
        pass

    wait = terminate


def test_a_training_that_fails_is_told_with_its_last_words(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config(batch_size=4000)
    job = Job(tiny_store.path, tmp_path / "mica" / "seed-0", config, (("linear", "trained"),))
    with pytest.raises(
        InputError, match=r"mica/seed-0 ended with status 1(.|\n)*fewer than one batch"
    ) as caught:
        work_through([job], 1, "train")
    assert caught.value.file == tmp_path / "mica" / "seed-0.log"


def test_a_stop_is_passed_on_to_the_trainings(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    start = jobs._start
    monkeypatch.setattr(
        jobs, "_start", lambda job, at_once: started.append(start(job, at_once)) or started[-1]
    )

    class Stopped(jobs.StopRequest):
        number = property(lambda self: signal.SIGTERM if started else None, lambda self, value: None)

    monkeypatch.setattr(jobs, "StopRequest", Stopped)
    job = Job(tiny_store.path, tmp_path / "mica" / "seed-0", tiny_config(epochs=10000), ())
    with pytest.raises(Interrupted):
        work_through([job], 1, "train")
    assert started[0].poll() is not None


def test_the_first_of_the_best_trials_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "work_through", lambda *_: None)
    for number, reached in enumerate((50.0, 70.0, 70.0)):
        run = tmp_path / "mica" / f"trial-{number}"
        run.mkdir(parents=True)
        (run / "validation.json").write_text(
            json.dumps({"SGD": {"a": 10.0, "b": reached}, "logistic regression": {"c": 60.0}})
        )
    for trials, number in ((3, 1), (1, 0)):
        found = compare_module._best_trial("mica", Plan(tmp_path / "data", tmp_path, trials=trials))
        assert (found.run, found.settings) == (
            tmp_path / "mica" / f"trial-{number}",
            contestant.grid("mica")[number],
        )


@pytest.mark.parametrize("change", [{"trials": 0}, {"trials": 99}, {"seeds": 0}, {"jobs": 0}])
def test_what_cannot_be_counted_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected") as caught:
        Plan(tmp_path / "data.arrow", tmp_path / "out", **change)
    assert caught.value.field == next(iter(change))


def standings_of(*rows: tuple[str, Any, list[float]]) -> Standings:
    columns = [column for _, _, column in QUESTIONS]
    made = tuple(
        Row(name, seen, (), dict.fromkeys(columns, values), None if seen is None else 1000, [1.0, 2.0])
        for name, seen, values in rows
    )
    return Standings("nw-ucla", "cross-view", 464, 25, 2, made)


def test_kinds_of_supervision_are_never_ranked_together() -> None:
    standings = standings_of(
        ("raw", None, [99.0]),
        ("a", "none", [70.0, 80.0]),
        ("b", "none", [75.0, 75.06]),
        ("c", "none", [60.0, 61.0]),
        ("alone", "words", [50.0, 52.0]),
        ("d", "labels", [90.0, 91.0]),
        ("e", "labels", [91.0, 92.0]),
    )
    lines = [line for line in markdown(standings) if line.startswith("| ")]
    best = {line.split("|")[1].strip(): "**" in line for line in lines}
    assert best == {
        "method": False, "---": False, "raw": False, "`a`": True, "`b`": True, "`c`": False, "`alone`": False,
        "`d`": False, "`e`": True,
    }  # fmt: skip
    assert "| **75.0 ± 7.1** |" in lines[3]
    assert "| 1.5 |" in lines[3]
    assert "| 99.0 |" in lines[2], "one number has no spread"


def test_the_page_escapes_what_it_is_given() -> None:
    page = render(standings_of(("mica+text_path=<b>", "none", [1.0, 2.0]), ("x", "none", [1.0, 1.0])))
    assert "<b>" not in page
    assert "text_path=&lt;b&gt;" in page


def test_a_path_among_the_changes_leads_no_run_out_of_the_comparison(tmp_path: Path) -> None:
    one = contestant.Contestant("mica+text_path=../../../weights")
    run = Plan(tmp_path / "data", tmp_path / "out", recipe="synthetic").trial(one, 0).run
    assert run.resolve().parent.parent == (tmp_path / "out").resolve()
