"""Table, CSV and page of a sweep, from made-up experiments in a git repository and a DVC cache."""

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from stages.common.core.errors import UserError
from stages.common.git import experiment_ref
from stages.sweep.page import write_report
from stages.sweep.point import PointOutcome
from stages.sweep.points_table import format_table
from stages.sweep.results import Sweep, SweepPoint, best_point, gather_sweep
from stages.sweep.sweep_plots import axis_places
from stages.sweep.words import describe_sweep, list_cautions, objective_name
from tests.helpers.sweep_points import (
    PASS_AT_1,
    experiment_files,
    finished_point,
    git,
    make_repository,
    sweep_spec,
    unfinished_point,
)

HOSTILE = "</pre><script>alert(1)</script>$\\frac{"
LUCKY = "looks better than it is"


@dataclass(frozen=True)
class MadeUpSweep:
    root: Path
    cache: Path
    start: str
    outcomes: list[PointOutcome]

    def gathered(self, *outcomes: PointOutcome, **changes: Any) -> Sweep:
        spec = sweep_spec(self.root, self.start, self.cache, **changes)
        return gather_sweep(spec, list(outcomes) or self.outcomes)

    def point(self, value: str, solves: int, loss: float, level: str = "A") -> PointOutcome:
        files = experiment_files(self.cache, frozenset(range(solves)), loss, level)
        return finished_point(self.root, self.start, {"train.lora.rank": value}, files, solves / 40)

    def ref(self, number: int) -> str:
        return experiment_ref(self.start, self.outcomes[number].name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUpSweep:
    """Ranks 4, 8 and 16, solving 10, 12 and 4 of 40 problems, where the base solves 4; and one that failed."""
    folder = tmp_path_factory.mktemp("sweep")
    root, cache = folder / "repository", folder / "cache"
    new = MadeUpSweep(root, cache, make_repository(root), [])
    new.outcomes.extend([new.point("4", 10, 0.9), new.point("8", 12, 0.8), new.point("16", 4, 1.0)])
    failed = unfinished_point({"train.lora.rank": "1024"}, "failed", "a long log\nCUDA out of memory")
    new.outcomes.append(failed)
    return new


def by_rank(sweep: Sweep) -> dict[str, SweepPoint]:
    return {next(iter(point.outcome.overrides.values())): point for point in sweep.points}


def written(folder: Path, sweep: Sweep) -> tuple[str, list[dict[str, str]]]:
    """Write the report; return the page's text and the rows of sweep.csv."""
    write_report(folder, sweep)
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return (folder / "index.html").read_text("utf-8"), list(csv.DictReader(file))


def test_points_are_compared_with_the_base_and_the_best_and_corrected(made: MadeUpSweep) -> None:
    of = by_rank(made.gathered())
    # 6 and 8 problems won, none lost, and nothing that differs: p is 2/2^6, 2/2^8, 1
    base = {value: point.base for value, point in of.items() if point.base}
    assert {value: (d.value, d.p, d.p_holm) for value, d in base.items()} == {
        "4": (0.15, 0.03125, 0.0625),
        "8": (0.2, 0.0078125, 0.0234375),
        "16": (0.0, 1.0, 1.0),
    }
    # The best solves 2 and 8 problems more: 2/2^2, 2/2^8. The third pair, 2/2^6, counts in Holm's correction
    assert [value for value, point in of.items() if point.is_best] == ["8"]
    best = {value: (p.best.value, p.best.p, p.best.p_holm) for value, p in of.items() if p.best}
    assert best == {"4": (-0.05, 0.5, 0.5), "16": (-0.2, 0.0078125, 0.0234375)}
    assert (of["1024"].base, of["1024"].best, of["1024"].interval(PASS_AT_1)) == (None, None, None)


def test_sentences_name_differences_beyond_noise(made: MadeUpSweep) -> None:
    sentences = describe_sweep(made.gathered())
    assert sentences[0] == (
        "3 points finished, 1 failed. The highest pass@1 is 30.0% (95% interval 18.1% to 45.4%), of rank-8."
    )
    assert sentences[1] == (
        "One point differs from the base in pass@1 by more than noise (Holm's correction for 3 points): rank-8 (better)."
    )
    assert sentences[2].startswith(
        "The best differs in pass@1 by more than noise from 1 of the other 2 points: rank-16 "
    )
    assert LUCKY in sentences[3]
    assert len(sentences) == 4


def test_a_best_point_within_noise_is_not_praised(made: MadeUpSweep) -> None:
    sentences = " ".join(describe_sweep(made.gathered(*made.outcomes[:2])))
    assert "The best does not differ in pass@1 from the other point by more than noise" in sentences
    assert "cannot tell which is better" in sentences
    tie = made.gathered(made.outcomes[0], made.point("5", 10, 0.9))
    assert "2 points have it; the first of them counts as the best." in describe_sweep(tie)[0]
    assert [point.is_best for point in tie.points] == [True, False]
    assert LUCKY not in " ".join(describe_sweep(tie)), "a tie is no lead"
    one = describe_sweep(made.gathered(made.outcomes[1]))
    assert one[0].startswith("1 point finished. Its pass@1 is 30.0%")
    assert one[1:] == ["It differs from the base in pass@1 by more than noise (+20.0 points, p = 0.008)."]


def test_the_terminal_shows_the_best_first_in_eighty_columns(made: MadeUpSweep) -> None:
    lines = format_table(made.gathered())
    assert max(map(len, lines)) <= 80
    assert lines == [
        "point      pass@1                status        over base        over best",
        "rank-8     30.0% (18.1 to 45.4)  ran 5 stages  +20.0 (p 0.023)  best",
        "rank-4     25.0% (14.2 to 40.2)  ran 5 stages  +15.0 (p 0.062)  -5.0 (p 0.50)",
        "rank-16    10.0% (4.0 to 23.1)   ran 5 stages  0.0 (p 1.00)     -20.0 (p 0.023)",
        "rank-1024  -                     failed        -                -",
    ]


def test_the_csv_holds_every_figure_and_opens_in_pandas(made: MadeUpSweep, tmp_path: Path) -> None:
    _, rows = written(tmp_path, made.gathered())
    assert rows[0] == {
        "name": "rank-4",
        "train.lora.rank": "4",
        "objective": "0.25",
        "low": rows[0]["low"],
        "high": rows[0]["high"],
        "difference": "0.15",
        "p": "0.03125",
        "p_holm": "0.0625",
        "difference_best": "-0.05",
        "p_best": "0.5",
        "p_holm_best": "0.5",
        "validation_loss": "0.9",
        "seconds": "390.5",
        "train_seconds": "309.0",
        "tokens_per_second": "350.5",
        "peak_memory_mib": "3270",
        "status": "ran 5 stages",
        "commit": git(made.root, "rev-parse", made.ref(0)),
    }
    frame = pandas.read_csv(tmp_path / "sweep.csv").set_index("train.lora.rank")
    assert frame.loc[4, "low"] == pytest.approx(0.1419, abs=1e-4)  # Wilson, 10 of 40
    assert frame.loc[1024, "status"] == "failed"
    assert frame.loc[1024, ["objective", "p", "p_best", "commit"]].isna().all()


def test_the_page_has_each_point_with_the_command_that_adopts_it(made: MadeUpSweep, tmp_path: Path) -> None:
    page, _ = written(tmp_path / "a", made.gathered())
    written(tmp_path / "b", made.gathered())
    for name in ("index.html", "sweep.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert page.count("dvc exp apply rank-") == 3
    assert page.index("apply rank-8") < page.index("apply rank-4") < page.index("apply rank-16")
    assert "base model</td>" in page
    assert "+20.0 (p 0.023)" in page
    assert "a long log\nCUDA out of memory</pre>" in page
    assert page.count("<img") == 1
    assert "http" not in page.split("</style>")[1]


def test_samples_that_are_not_in_the_cache_leave_out_their_comparison_only(
    made: MadeUpSweep, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(made.cache, cache)
    lost = [path for path in cache.rglob("*") if path.is_file() and path.read_text().count('"passed"') == 10]
    assert len(lost) == 1
    lost[0].unlink()
    sweep = replace(made, cache=cache).gathered()
    of = by_rank(sweep)
    assert (of["4"].best, of["4"].base is None) == (None, False)
    assert of["16"].best is not None
    assert of["16"].best.p_holm == of["16"].best.p == 0.0078125, "Holm counts the points that are compared"
    sentence = "Not compared with the best: rank-4. The reason: its judged samples are not in DVC's cache."
    assert sentence in describe_sweep(sweep)
    page, rows = written(tmp_path / "page", sweep)
    assert "left out</td>" in page
    assert (rows[0]["p"], rows[0]["p_best"]) == ("0.03125", "")


@pytest.mark.parametrize("damage", [None, "[", "{}", "[1]", "[]"])
def test_without_the_best_points_samples_nothing_is_compared_with_it(
    made: MadeUpSweep, tmp_path: Path, damage: str | None
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(made.cache, cache)
    lock = git(made.root, "show", f"{made.ref(1)}:dvc.lock")
    md5 = next(word for word in lock.split() if word.endswith(".dir"))
    listing = cache / "files/md5" / md5[:2] / md5[2:]
    listing.unlink() if damage is None else listing.write_text(damage, "utf-8")
    sweep = replace(made, cache=cache).gathered()
    assert all(point.best is None for point in sweep.points)
    reason = "rank-4; rank-16. The reason: the best point cannot be compared: its judged"
    assert any(reason in sentence for sentence in describe_sweep(sweep))


def test_points_judged_on_other_problems_are_not_compared(made: MadeUpSweep) -> None:
    files = experiment_files(made.cache, frozenset(range(11)), 0.7)
    path = "reports/evaluate/tuned.json"
    files[path] = json.dumps(json.loads(files[path]) | {"benchmark": "mbpp"})
    other = finished_point(made.root, made.start, {"train.lora.rank": "77"}, files, 0.275)
    sweep = made.gathered(*made.outcomes[:2], other)
    assert by_rank(sweep)["77"].left_out == "it was judged on other problems than the best"
    assert any("different benchmarks (humaneval, mbpp)" in caution for caution in list_cautions(sweep))


def test_each_benchmark_has_a_column_and_a_choice_by_score_is_called_flattered(
    made: MadeUpSweep, tmp_path: Path
) -> None:
    sweep = made.gathered(*made.outcomes[:2])
    scores = [{"humaneval": 0.1, "mbpp": 0.25}, {"humaneval": 0.2}]
    points = [
        replace(point, metrics={**point.metrics, "evaluate/tuned": {"benchmarks": {
            name: {"pass_at_1": value} for name, value in parts.items()}}})
        for point, parts in zip(sweep.points, scores, strict=True)
    ]  # fmt: skip
    sweep = replace(sweep, points=points)
    page, rows = written(tmp_path, sweep)
    assert "<th>humaneval</th><th>mbpp</th>" in page
    assert [(row["pass_at_1_humaneval"], row["pass_at_1_mbpp"]) for row in rows] == [
        ("0.1", "0.25"),
        ("0.2", ""),
    ]
    assert "so this figure is flattered" in page

    def flattered(objective: str) -> list[str]:
        return list_cautions(replace(sweep, spec=replace(sweep.spec, objective=objective)))

    assert flattered("reports/train.json:validation_loss_kept") == []
    (caution,) = flattered("reports/evaluate/tuned.json:benchmarks.mbpp-dev.pass_at_1")
    assert caution.startswith(
        "The best point was chosen by its score on mbpp-dev, so this figure is flattered"
    )
    assert list_cautions(replace(sweep, points=points[:1])) == [], "one point chose nothing"


def test_hostile_text_stays_text(made: MadeUpSweep, tmp_path: Path) -> None:
    overrides = {"train.lora.rank": "8", f"prompt.{HOSTILE}": f'a, "b"\n{HOSTILE}'}
    failed = unfinished_point({"train.lora.rank": HOSTILE}, "failed", f"wrong: {HOSTILE}")
    page, rows = written(tmp_path, made.gathered(replace(made.outcomes[1], overrides=overrides), failed))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert rows[0][f"prompt.{HOSTILE}"] == f'a, "b"\n{HOSTILE}'
    assert rows[1]["train.lora.rank"] == HOSTILE
    assert len(pandas.read_csv(tmp_path / "sweep.csv")) == 2


def test_a_pipeline_with_few_files_has_a_page(made: MadeUpSweep, tmp_path: Path) -> None:
    files = {
        "reports/evaluate/tuned.json": '{"pass_at_1": 0.04}',
        "reports/report.json": '{"p": 0.05, "difference": 0.03}',
    }
    points = [finished_point(made.root, made.start, {"toy.size": v}, files, 0.04) for v in ("4", "8")]
    page, rows = written(tmp_path, made.gathered(*points))
    assert [(row["objective"], row["low"], row["p_holm"], row["validation_loss"]) for row in rows] == [
        ("0.04", "", "0.1", "")
    ] * 2
    assert "its pipeline keeps no judged samples" in page
    assert "<th>validation loss" not in page
    assert page.count("<img") == 1
    bare = {"reports/evaluate/tuned.json": "{}"}
    page, rows = written(
        tmp_path, made.gathered(finished_point(made.root, made.start, {"toy.size": "2"}, bare, 0.5))
    )
    assert rows[0]["p"] == ""
    assert "over base</th>" not in page


def test_points_that_all_failed_have_a_page_with_their_errors(made: MadeUpSweep, tmp_path: Path) -> None:
    log = "\n".join(f"line {number}" for number in range(30))
    points = [unfinished_point({"train.lora.rank": str(rank)}, "failed", log) for rank in (4, 8)]
    pruned = unfinished_point({"train.lora.rank": "6"}, "pruned at step 10", "")
    page, rows = written(tmp_path, made.gathered(*points, pruned))
    assert "No point finished" in page
    assert "<img" not in page
    assert "line 18\n" in page
    assert "line 17" not in page, "the last lines of an error tell what went wrong"
    assert [row["status"] for row in rows] == ["failed", "failed", "pruned at step 10"]


def test_an_objective_that_is_better_when_lower(made: MadeUpSweep, tmp_path: Path) -> None:
    losses = (0.9, 0.8, 1.0, None)
    points = [replace(p, objective=loss) for p, loss in zip(made.outcomes, losses, strict=True)]
    objective = "reports/train.json:validation_loss_kept"
    sweep = made.gathered(*points, objective=objective, direction="minimize")
    assert [point.is_best for point in sweep.points] == [False, True, False, False]
    page, _ = written(tmp_path, sweep)
    assert "The lowest validation loss kept is 0.8, of rank-8." in page
    assert "lower is better" in page
    assert "base model</td>" not in page, "the base has no such figure"


@pytest.mark.parametrize(("direction", "expected"), [("maximize", "b"), ("minimize", "a")])
def test_of_equally_good_points_the_first_is_best(direction: str, expected: str) -> None:
    values = {"a": 0.1, "b": 0.3, "c": 0.3, "d": None, "e": 0.1}
    points = [SweepPoint(PointOutcome(0, name, "", value, 0.0)) for name, value in values.items()]
    best = best_point(points, direction)
    assert best is not None
    assert best.name == expected
    assert best_point(points[3:4], direction) is None


def test_a_weak_sandbox_is_named_on_the_page_and_beside_its_points(made: MadeUpSweep) -> None:
    weak = made.point("64", 20, 0.5, level="C")
    sweep = made.gathered(made.outcomes[0], weak)
    assert list_cautions(sweep)[0].startswith("rank-64 was judged in a weak sandbox (level C")
    assert [line.count("weak sandbox") for line in format_table(sweep)] == [0, 1, 0]
    assert list_cautions(made.gathered(made.outcomes[0])) == []
    assert list_cautions(made.gathered(weak))[0].startswith("Every point was judged in a weak sandbox")


def test_an_experiment_that_is_gone_is_a_point_without_its_files(made: MadeUpSweep, tmp_path: Path) -> None:
    gone = made.point("65", 9, 0.6)
    git(made.root, "update-ref", "-d", experiment_ref(made.start, gone.name))
    page, rows = written(tmp_path, made.gathered(made.outcomes[0], gone))
    assert "dvc exp apply rank-65" not in page
    assert (rows[1]["objective"], rows[1]["commit"], rows[1]["p"]) == ("0.225", "", "")


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("reports/train.json", "{", r"reports/train\.json of refs/exps/.*not JSON"),
        ("dvc.lock", "stages: [", r"dvc\.lock of refs/exps/.*not YAML"),
    ],
)
def test_a_damaged_file_of_an_experiment_is_named(
    made: MadeUpSweep, path: str, text: str, message: str
) -> None:
    damaged = finished_point(made.root, made.start, {"toy.size": "1"}, {path: text}, 0.5)
    with pytest.raises(UserError, match=message):
        made.gathered(damaged)


def test_sixty_four_points_have_a_page(made: MadeUpSweep, tmp_path: Path) -> None:
    one = made.gathered(made.outcomes[1])
    points = [
        replace(
            one.points[0],
            outcome=replace(
                one.points[0].outcome,
                name=f"point-{number}",
                overrides={"a.rate": f"0.000{number + 10}7349", "train.lora.rank": str(2 ** (number % 4))},
            ),
            is_best=number == 9,
        )
        for number in range(64)
    ]
    page, rows = written(tmp_path, replace(one, points=points))
    assert (len(rows), page.count("dvc exp apply point-"), page.count("<img")) == (64, 64, 2)


@pytest.mark.parametrize(
    ("values", "log", "places"),
    [
        (["4", "8", "16", "32"], True, [4, 8, 16, 32]),
        (["1e-5", "1e-4"], True, [1e-5, 1e-4]),
        (["2e-4", "4e-4"], False, [2e-4, 4e-4]),
        (["10", "20", "30"], False, [10, 20, 30]),
        (["0", "1", "10", "100"], False, [0, 1, 10, 100]),
        (["adamw", "lion", "8", "lion"], False, [0, 1, 2]),
        (["nan", "1"], False, [0, 1]),
        (["7"], False, [7]),
    ],
)
def test_keys_have_the_axis_that_fits_their_values(values: list[str], log: bool, places: list[float]) -> None:
    found, is_log = axis_places(values)
    assert (list(found.values()), is_log) == (places, log)


def test_objectives_have_readable_names() -> None:
    assert objective_name("reports/evaluate/tuned.json:pass_at_10") == "pass@10"
    assert objective_name("reports/train.json:validation_loss_kept") == "validation loss kept"
