"""A whole comparison of tiny runs: what it trains, what it chooses by, what it leaves, and how it goes on."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mica.comparison import contestant, jobs
from mica.comparison.compare import Plan, best_trial, compare
from mica.comparison.contestant import read_contestants
from mica.comparison.jobs import Job, work_through
from mica.comparison.page import render
from mica.comparison.standings import QUESTIONS, Row, Standings, read_standings
from mica.comparison.table import markdown
from mica.configs import load_config
from mica.data.store import Store, write
from mica.data.synthetic import generate
from mica.errors import InputError, Interrupted
from mica.evaluation.choosing import best
from mica.evaluation.results import read_result
from mica.evaluation.validation import read_validated, validation_top1
from mica.training.config import PretrainConfig
from mica.training.state import states

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
        chosen = contestant.grid(method, 0.003)[0 if tried[0] >= tried[1] else 1]
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
    assert (standings.test_clips, standings.epochs, standings.seeds) == (64, (1, 1), 2)
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


def test_the_first_of_the_best_trials_is_taken(tmp_path: Path) -> None:
    trials = []
    for number, reached in enumerate((50.0, 70.0, 70.0)):
        run = tmp_path / f"trial-{number}"
        run.mkdir()
        (run / "validation.json").write_text(
            json.dumps({"SGD": {"a": 10.0, "b": reached}, "logistic regression": {"c": 60.0}})
        )
        trials.append(Job(tmp_path / "data", run, PretrainConfig(), (("validation", ""),)))
    assert best_trial(trials) is trials[1]
    assert best_trial(trials[:1]) is trials[0]


@pytest.mark.parametrize("change", [{"trials": 0}, {"trials": 99}, {"seeds": 0}, {"jobs": 0}])
def test_what_cannot_be_counted_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected") as caught:
        Plan(tmp_path / "data.arrow", tmp_path / "out", **change)
    assert caught.value.field == next(iter(change))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("mica-self+encoder.frost=false", r"encoder\.frost"),
        ("mica-self+optimizer.lr=-1", "above 0"),
        ("mica-self+split.part=fit", "other clips(.|\n)*--set split.part=fit"),
    ],
)
def test_a_change_that_cannot_be_is_told_before_anything_is_trained(
    tiny_store: Store, tmp_path: Path, name: str, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        compare(["mica-self", name], plan(tiny_store, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_data_set_without_a_recipe_is_told_what_to_give(tiny_store: Store, tmp_path: Path) -> None:
    renamed = write(
        tmp_path / "gait.arrow",
        (tiny_store.clip(i) for i in range(len(tiny_store))),
        replace(tiny_store.info, dataset="gait"),
    )
    other = plan(Store.open(renamed.path), tmp_path / "out")
    with pytest.raises(InputError, match=r"no recipe for 'gait'(.|\n)*--recipe own"):
        compare(METHODS, other)
    replace(other, recipe="own").config(contestant.Contestant("aimclr"), 0, "fit")


def test_epochs_and_streams_are_those_of_the_runs(done: tuple[Path, Standings], tmp_path: Path) -> None:
    out = Path(shutil.copytree(done[0], tmp_path / "out"))
    run = out / "supervised" / "seed-0"
    card, metrics = run / "checkpoint" / "model.json", run / "metrics.jsonl"
    assert '"stream": "joint"' in card.read_text()
    card.write_text(card.read_text().replace('"stream": "joint"', '"stream": "bone"'))
    metrics.write_text(metrics.read_text() * 2)
    standings = read_standings(out, read_contestants(METHODS), seeds=1)
    assert (standings.epochs, standings.stream) == ((1, 2), "joint, bone")
    assert "joint, bone stream" in next(markdown(standings))
    assert "1 to 2 epochs" in render(standings)


def test_a_comparison_of_other_data_is_not_taken_for_this_one(
    done: tuple[Path, Standings], tiny_store: Store, tmp_path: Path
) -> None:
    """The same clips with other labels: what was trained and scored is not of them."""
    out, _ = done
    info, clips, _ = generate(clips_per_class=8, subjects=8, num_frames=(8, 12))
    other = write(tmp_path / "other.arrow", (replace(clip, label=15 - clip.label) for clip in clips), info)
    with pytest.raises(InputError, match="other clips, labels or parts"):
        compare(METHODS, plan(Store.open(other.path), out))


def test_a_job_ends_with_the_comparison_that_started_it(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """However that ended: here nobody asks the job to stop."""
    job = Job(tiny_store.path, tmp_path / "mica" / "seed-0", tiny_config(epochs=10000), ())
    process = jobs._start(job, 1)
    assert process.stdin is not None
    while not (job.run / "metrics.jsonl").is_file() or not job.epochs_done:
        assert process.poll() is None
        time.sleep(0.1)
    process.stdin.close()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert states(job.run), "saved"


def standings_of(*rows: tuple[str, Any, list[float]]) -> Standings:
    columns = [column for _, _, column in QUESTIONS]
    made = tuple(
        Row(name, seen, (), dict.fromkeys(columns, values), None if seen is None else 1000, [1.0, 2.0])
        for name, seen, values in rows
    )
    return Standings("nw-ucla", "cross-view", "joint", 464, (25, 25), 2, made)


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
    run = Plan(tmp_path / "data", tmp_path / "out", recipe="synthetic").final(one, 0, tmp_path, ()).run
    assert run.resolve().parent.parent == (tmp_path / "out").resolve()
