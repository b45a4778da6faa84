"""The page of a sweep and its CSV, from made-up experiments in a git repository and a DVC cache."""

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from matplotlib.figure import Figure

from stages.common.core.errors import UserError
from stages.sweep import sweep_plots
from stages.sweep.comparisons import (
    PointComparison,
    compare_points,
    describe_results,
    list_cautions,
    objective_name,
    round_value,
)
from stages.sweep.cost import tally_costs
from stages.sweep.page import write_report
from stages.sweep.results import Attempt, PointResult, SweepResults, collect_results
from tests.helpers.sweep_points import (
    experiment_files,
    finished_attempt,
    git,
    make_repository,
    unfinished_attempt,
)

PASS_AT_1 = "reports/evaluate/tuned.json:pass_at_1"
HOSTILE = "</pre><script>alert(1)</script>$\\frac{"
LUCKY = "looks better than it is"


@dataclass(frozen=True)
class MadeUpSweep:
    root: Path
    cache: Path
    start: str
    attempts: list[Attempt]

    def results(
        self, *attempts: Attempt, objective: str = PASS_AT_1, direction: str = "maximize"
    ) -> SweepResults:
        points = list(attempts) or self.attempts
        return collect_results(
            self.root, self.cache, "ranks", self.start, self.start, objective, direction, points
        )

    def point(self, value: str, solves: int, loss: float, level: str = "A", **more: Any) -> Attempt:
        files = experiment_files(self.cache, frozenset(range(solves)), loss, level)
        return finished_attempt(self.root, self.start, {"train.lora.rank": value}, files, solves / 40, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUpSweep:
    """Ranks 4, 8 and 16, solving 10, 12 and 4 of 40 problems, where the base solves 4; and one that failed."""
    folder = tmp_path_factory.mktemp("sweep")
    root, cache = folder / "repository", folder / "cache"
    new = MadeUpSweep(root, cache, make_repository(root), [])
    new.attempts.extend([new.point("4", 10, 0.9), new.point("8", 12, 0.8), new.point("16", 4, 1.0)])
    new.attempts.append(
        unfinished_attempt({"train.lora.rank": "1024"}, "failed", "a long log\nCUDA out of memory")
    )
    return new


def found(sweep: SweepResults) -> dict[str, PointComparison]:
    return {next(iter(f.point.attempt.overrides.values())): f for f in compare_points(sweep)}


def written(folder: Path, sweep: SweepResults) -> tuple[str, list[dict[str, str]]]:
    """Write the report; return the page's text and the rows of sweep.csv."""
    write_report(folder, sweep)
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return (folder / "index.html").read_text("utf-8"), list(csv.DictReader(file))


def test_points_are_compared_with_the_base_and_the_best_and_corrected(made: MadeUpSweep) -> None:
    of = found(made.results())
    # 6 and 8 problems won, none lost, and nothing that differs: p is 2/2^6, 2/2^8, 1
    base = {value: f.base for value, f in of.items() if f.base}
    assert {value: (d.value, d.p) for value, d in base.items()} == {
        "4": (0.15, 0.03125),
        "8": (0.2, 0.0078125),
        "16": (0.0, 1.0),
    }
    assert {value: d.p_holm for value, d in base.items()} == {"4": 0.0625, "8": 0.0234375, "16": 1.0}
    # The best solves 2 and 8 problems more: 2/2^2, 2/2^8. The third pair, 2/2^6, counts in Holm's correction
    assert [value for value, f in of.items() if f.is_best] == ["8"]
    best = {value: (f.best.value, f.best.p, f.best.p_holm) for value, f in of.items() if f.best}
    assert best == {"4": (-0.05, 0.5, 0.5), "16": (-0.2, 0.0078125, 0.0234375)}
    assert (of["1024"].base, of["1024"].best, of["1024"].low) == (None, None, None)


def test_sentences_name_differences_beyond_noise(made: MadeUpSweep) -> None:
    sweep = made.results()
    sentences = describe_results(sweep, compare_points(sweep))
    assert sentences[0] == (
        "3 points finished, 1 failed. The highest pass@1 is 30.0% (95% interval 18.1% to 45.4%), of rank 8."
    )
    assert sentences[1] == (
        "One point differs from the base in pass@1 by more than noise (Holm's correction for 3 points): rank 8 (better)."
    )
    assert sentences[2].startswith(
        "The best differs in pass@1 by more than noise from 1 of the other 2 points: rank 16 "
    )
    assert LUCKY in sentences[3]
    assert len(sentences) == 4


def test_a_best_point_within_noise_is_not_praised(made: MadeUpSweep) -> None:
    sweep = made.results(made.attempts[0], made.attempts[1])
    sentences = " ".join(describe_results(sweep, compare_points(sweep)))
    assert "The best does not differ in pass@1 from the other point by more than noise" in sentences
    assert "cannot tell which is better" in sentences
    tie = made.results(made.attempts[0], replace(made.attempts[0], overrides={"train.lora.rank": "5"}))
    assert (
        "2 points have it; the first of them counts as the best."
        in describe_results(tie, compare_points(tie))[0]
    )
    assert [finding.is_best for finding in compare_points(tie)] == [True, False]
    assert LUCKY not in " ".join(describe_results(tie, compare_points(tie))), "a tie is no lead"


def test_the_csv_holds_every_figure_and_opens_in_pandas(made: MadeUpSweep, tmp_path: Path) -> None:
    _, rows = written(tmp_path, made.results())
    assert list(rows[0])[:5] == ["name", "train.lora.rank", "objective", "low", "high"]
    assert rows[0] == {
        "name": "rank-4-0f3a51c2",
        "train.lora.rank": "4",
        "objective": "0.25",
        "low": rows[0]["low"],
        "high": rows[0]["high"],
        "difference": "0.15",
        "p": "0.03125",
        "p_holm": "0.0625",
        "difference_best": "-0.05",
        "p_best": "0.5",
        "p_best_holm": "0.5",
        "validation_loss": "0.9",
        "seconds": "390.5",
        "train_seconds": "309.0",
        "tokens_per_second": "350.5",
        "peak_memory_mib": "3270",
        "status": "ran 5 stages",
        "commit": git(made.root, "rev-parse", str(made.attempts[0].ref)),
    }
    frame = pandas.read_csv(tmp_path / "sweep.csv").set_index("train.lora.rank")
    assert frame.loc[4, "low"] == pytest.approx(0.1419, abs=1e-4)  # Wilson, 10 of 40
    assert frame.loc[4, "high"] == pytest.approx(0.4019, abs=1e-4)
    assert frame.loc[1024, "status"] == "failed"
    assert frame.loc[1024, ["objective", "p", "p_best", "commit"]].isna().all()


def test_the_page_has_each_point_with_the_command_that_adopts_it(made: MadeUpSweep, tmp_path: Path) -> None:
    page, _ = written(tmp_path, made.results())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "sweep.csv"]
    for point in made.attempts[:3]:
        assert f'<code class="take">dvc exp apply {point.name}</code>' in page
    assert page.count("dvc exp apply") == 3
    assert page.index("apply rank-8-") < page.index("apply rank-4-") < page.index("apply rank-16-")
    assert "base model</td>" in page
    assert "p 0.008, Holm 0.023" in page
    assert "a long log\nCUDA out of memory</pre>" in page
    assert page.count("<img") == 2  # over the rank, and the loss curves
    assert "http" not in page.replace("https://", "http://").split("</style>")[1]


def test_the_same_experiments_give_the_same_bytes(made: MadeUpSweep, tmp_path: Path) -> None:
    write_report(tmp_path / "a", made.results())
    write_report(tmp_path / "b", made.results())
    for name in ("index.html", "sweep.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_samples_that_are_not_in_the_cache_leave_out_their_comparison_only(
    made: MadeUpSweep, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(made.cache, cache)
    of_four = made.results(made.attempts[0]).points[0]
    assert of_four.samples is not None
    lost = [path for path in cache.rglob("*") if path.is_file() and path.read_text().count('"passed"') == 10]
    assert len(lost) == 1
    lost[0].unlink()
    sweep = replace(made, cache=cache).results()
    of = found(sweep)
    assert (of["4"].best, of["4"].base is None) == (None, False)
    assert of["16"].best is not None
    assert of["16"].best.p_holm == of["16"].best.p == 0.0078125, "Holm counts the points that are compared"
    sentence = "Not compared with the best: rank 4. The reason: its judged samples are not in DVC's cache."
    assert sentence in describe_results(sweep, compare_points(sweep))
    page, rows = written(tmp_path / "page", sweep)
    assert "left out</span>" in page
    assert (rows[0]["p"], rows[0]["p_best"]) == ("0.03125", "")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [None, "[", "{}", "[1]", "[]"])
def test_without_the_best_points_samples_nothing_is_compared_with_it(
    made: MadeUpSweep, tmp_path: Path, damage: str | None
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(made.cache, cache)
    lock = git(made.root, "show", f"{made.attempts[1].ref}:dvc.lock")
    md5 = next(word for word in lock.split() if word.endswith(".dir"))
    listing = cache / "files/md5" / md5[:2] / md5[2:]
    listing.unlink() if damage is None else listing.write_text(damage, "utf-8")
    sweep = replace(made, cache=cache).results()
    assert all(f.best is None for f in compare_points(sweep))
    sentences = describe_results(sweep, compare_points(sweep))
    assert any(
        "rank 4; rank 16. The reason: the best point cannot be compared: its judged" in s for s in sentences
    )
    page, _ = written(tmp_path / "page", sweep)
    assert "against the best, points" not in page


def test_points_judged_on_other_problems_are_not_compared(made: MadeUpSweep, tmp_path: Path) -> None:
    files = experiment_files(made.cache, frozenset(range(11)), 0.7)
    path = "reports/evaluate/tuned.json"
    files[path] = json.dumps(json.loads(files[path]) | {"benchmark": "mbpp"})
    other = finished_attempt(made.root, made.start, {"train.lora.rank": "77"}, files, 0.275)
    sweep = made.results(*made.attempts[:2], other)
    assert found(sweep)["77"].left_out == "it was judged on other problems than the best"
    assert any(
        "different benchmarks (humaneval, mbpp)" in caution
        for caution in list_cautions(sweep, compare_points(sweep))
    )


def test_hostile_text_stays_text(made: MadeUpSweep, tmp_path: Path) -> None:
    files = experiment_files(made.cache, frozenset(range(5)), 0.7)
    overrides = {"train.lora.rank": "9", f"prompt.{HOSTILE}": f'a, "b"\n{HOSTILE}'}
    point = finished_attempt(made.root, made.start, {"train.lora.rank": "9"}, files, 0.125)
    failed = unfinished_attempt({"train.lora.rank": HOSTILE}, "failed", f"wrong: {HOSTILE}")
    page, rows = written(tmp_path, made.results(replace(point, overrides=overrides), failed))
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
    points = [
        finished_attempt(made.root, made.start, {"toy.size": value}, files, 0.04) for value in ("4", "8")
    ]
    page, rows = written(tmp_path, made.results(*points))
    assert [(row["objective"], row["low"], row["p_holm"], row["validation_loss"]) for row in rows] == [
        ("0.04", "", "0.1", "")
    ] * 2
    assert "its pipeline keeps no judged samples" in page
    assert "validation loss</th>" not in page
    assert page.count("<img") == 1
    bare = finished_attempt(
        made.root, made.start, {"toy.size": "2"}, {"reports/evaluate/tuned.json": "{}"}, 0.5
    )
    page, rows = written(tmp_path, made.results(bare))
    assert rows[0]["p"] == ""
    assert "against the base" not in page


def test_one_point_is_not_called_the_best_of_many(made: MadeUpSweep, tmp_path: Path) -> None:
    sweep = made.results(made.attempts[1])
    sentences = describe_results(sweep, compare_points(sweep))
    assert sentences[0].startswith("1 point finished. Its pass@1 is 30.0%")
    assert sentences[1:] == [
        "It differs from the base in pass@1 by more than noise (+20.0 points, p = 0.008)."
    ]
    page, _ = written(tmp_path, sweep)
    assert LUCKY not in page


def test_points_that_all_failed_have_a_page_with_their_errors(made: MadeUpSweep, tmp_path: Path) -> None:
    log = "\n".join(f"line {number}" for number in range(30))
    points = [unfinished_attempt({"train.lora.rank": str(rank)}, "failed", log) for rank in (4, 8)]
    page, rows = written(
        tmp_path, made.results(*points, unfinished_attempt({"train.lora.rank": "6"}, "pruned at step 10", ""))
    )
    assert "No point finished" in page
    assert "<img" not in page
    assert "<pre>line 18\n" in page
    assert "line 17" not in page, "the last lines of an error tell what went wrong"
    assert [row["status"] for row in rows] == ["failed", "failed", "pruned at step 10"]


def test_an_objective_that_is_better_when_lower(made: MadeUpSweep, tmp_path: Path) -> None:
    points = [
        replace(point, objective=loss)
        for point, loss in zip(made.attempts, (0.9, 0.8, 1.0, None), strict=True)
    ]
    sweep = made.results(*points, objective="reports/train.json:validation_loss_kept", direction="minimize")
    assert [f.is_best for f in compare_points(sweep)] == [False, True, False, False]
    page, _ = written(tmp_path, sweep)
    assert "The lowest validation loss kept is 0.8, of rank 8." in page
    assert "lower is better" in page
    assert '<th class="n">pass@1</th>' in page
    assert "base model</td>" not in page, "the base has no such figure"


def test_a_weak_sandbox_is_named_on_the_page_and_beside_its_points(made: MadeUpSweep, tmp_path: Path) -> None:
    weak = made.point("64", 20, 0.5, level="C")
    page, _ = written(tmp_path, made.results(made.attempts[0], weak))
    assert "rank 64 was judged in a weak sandbox (level C" in page
    assert page.count('<span class="tag lost">weak sandbox</span>') == 1
    strong, _ = written(tmp_path, made.results(made.attempts[0]))
    assert "weak sandbox" not in strong
    only_weak = made.results(weak)
    assert list_cautions(only_weak, compare_points(only_weak))[0].startswith(
        "Every point was judged in a weak sandbox"
    )


def test_an_experiment_that_is_gone_is_a_point_without_its_files(made: MadeUpSweep, tmp_path: Path) -> None:
    gone = made.point("65", 9, 0.6)
    git(made.root, "update-ref", "-d", str(gone.ref))
    page, rows = written(tmp_path, made.results(made.attempts[0], gone))
    assert "dvc exp apply rank-65" not in page
    assert (rows[1]["objective"], rows[1]["commit"], rows[1]["p"]) == ("0.225", "", "")


def test_a_damaged_file_of_an_experiment_is_named(made: MadeUpSweep) -> None:
    for path, text, message in (
        ("reports/train.json", "{", r"reports/train\.json of refs/exps/.*not JSON"),
        (
            "reports/train.csv",
            "step,loss\n1,much\n",
            r"reports/train\.csv of refs/exps/.*not a training curve",
        ),
        ("dvc.lock", "stages: [", r"dvc\.lock of refs/exps/.*not YAML"),
    ):
        damaged = finished_attempt(made.root, made.start, {"toy.size": "1"}, {path: text}, 0.5)
        with pytest.raises(UserError, match=message):
            made.results(damaged)


def test_a_run_that_points_share_is_counted_once(made: MadeUpSweep) -> None:
    sweep = made.results()
    costs = tally_costs(sweep, compare_points(sweep))
    assert costs["stages"] == ["evaluate base", "evaluate tuned", "merge", "train"]
    news = [[cell["new"] for cell in line["cells"]] for line in costs["lines"]]
    assert news[0] == [True, True, True, True]
    assert news[1] == [False, True, True, True], "the base is scored once"
    assert costs["spent"][0] == "40.0"
    assert costs["spent"][3] == f"{309 + 308 + 310:.1f}"
    assert costs["saved"] == "1 min 20 s"
    before = replace(sweep, start_runs=sweep.points[0].stage_runs)
    assert not any(cell["new"] for cell in tally_costs(before, compare_points(before))["lines"][0]["cells"])
    cached = made.results(replace(made.attempts[0], status="from the cache"))
    assert tally_costs(cached, compare_points(cached))["ran"] == ""


def test_keys_have_the_axis_that_fits_their_values() -> None:
    for values, log, numeric in (
        (["4", "8", "16", "32"], True, True),
        (["1e-5", "1e-4"], True, True),
        (["2e-4", "4e-4"], False, True),
        (["10", "20", "30"], False, True),
        (["0", "1", "10", "100"], False, True),
        (["adamw", "lion", "8"], False, False),
        (["nan", "1"], False, False),
        (["7"], False, True),
    ):
        scale = sweep_plots.scale_of(values)
        assert (scale.log, scale.numeric) == (log, numeric), values
    assert sweep_plots.scale_of(["lion", "adamw", "lion"]).positions == {"lion": 0.0, "adamw": 1.0}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_few_lines_have_a_colour_each_and_many_leave_it_to_the_best() -> None:
    for count, names in ((8, 9), (64, 4)):
        figure = Figure()
        axes = figure.subplots()
        scale = sweep_plots.scale_of(["1", "2"])
        dots = [sweep_plots.Dot(1, 5, 4, 6), sweep_plots.Dot(2, 7, 6, 8)]
        lines = {f"seed {number}": dots for number in range(count)}
        sweep_plots.plot_over_key(axes, "train.epochs", scale, lines, "seed 3", "pass@1 in %", base=4.5)
        assert len(legend(figure)) == names
        assert "seed 3" in legend(figure)
        drawn = [line for line in axes.lines if line.get_label() in lines]
        assert len({line.get_color() for line in drawn}) == len(drawn) == (8 if count == 8 else 1)
    assert legend(figure) == ["base model", "seed 3", "mean of all", "63 others"]


def test_loss_curves_of_many_points_are_coloured_by_the_objective() -> None:
    rows = [{"step": float(step), "loss": 1.0, "validation_loss": 1.0} for step in range(3)]
    for count, axes_count in ((8, 1), (64, 2)):  # the second: the scale of colours
        figure = Figure()
        curves = {f"rank {number}": rows for number in range(count)}
        values = {name: float(number) for number, name in enumerate(curves)}
        sweep_plots.plot_losses(figure.subplots(), curves, "rank 7", values, "pass@1 in %")
        assert len(figure.axes) == axes_count
        assert "rank 7 (best)" in legend(figure)
        assert len(legend(figure)) == (8 if count == 8 else 1)


def test_sixty_four_points_with_long_numbers_have_a_page(made: MadeUpSweep, tmp_path: Path) -> None:
    one = made.results(made.attempts[1])
    points = [
        PointResult(
            replace(
                one.points[0].attempt,
                name=f"point-{number}",
                overrides={
                    "train.learning_rate": f"0.000{number + 10}7349187234",
                    "train.lora.rank": str(2 ** (number % 4)),
                },
                objective=number / 100,
            ),
            *(
                getattr(one.points[0], name)
                for name in ("commit", "metrics", "curve", "stage_runs", "samples")
            ),
        )
        for number in range(64)
    ]
    page, rows = written(tmp_path, replace(one, points=points))
    assert (len(rows), page.count("dvc exp apply point-"), page.count("<img")) == (64, 64, 3)
    assert rows[63]["train.learning_rate"] == "0.000737349187234"
    assert "of learning_rate 0.0007373, rank 8." in page


def test_numbers_and_objectives_are_readable() -> None:
    assert [round_value(v) for v in ("0.0007373491872", "2e-4", "[q_proj, v_proj]", "16")] == [
        "0.0007373",
        "2e-4",
        "[q_proj, v_proj]",
        "16",
    ]
    assert objective_name("reports/evaluate/tuned.json:pass_at_10") == "pass@10"
    assert objective_name("reports/train.json:validation_loss_kept") == "validation loss kept"


def test_points_with_equal_labels_keep_their_names(made: MadeUpSweep) -> None:
    values = ("0.000111111111", "0.000111111112")
    twins = [replace(made.attempts[0], name=f"twin-{v}", overrides={"a.lr": v}) for v in values]
    assert [f.label for f in compare_points(made.results(*twins))] == [
        "lr 0.0001111 twin-0.000111111111",
        "lr 0.0001111 twin-0.000111111112",
    ]
