"""The page of a sweep and its CSV, over experiments that are made up in a git repository and a DVC cache."""

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from matplotlib.figure import Figure

from stages.common.errors import UserError
from stages.sweep import sweep_plots
from stages.sweep.comparisons import Finding, cautions, findings, rounded, shown_name, words
from stages.sweep.cost import cost
from stages.sweep.page import write_report
from stages.sweep.results import Point, SweepEvidence, Tried, gather
from tests.helpers.sweep_points import experiment, finished, git, repository, solved, unfinished

PASS_AT_1 = "reports/evaluate/tuned.json:pass_at_1"
HOSTILE = "</pre><script>alert(1)</script>$\\frac{"
FLATTERED = "is flattered by having been chosen"


@dataclass(frozen=True)
class Made:
    root: Path
    cache: Path
    start: str
    tried: list[Tried]

    def gather(self, *tried: Tried, objective: str = PASS_AT_1, direction: str = "maximize") -> SweepEvidence:
        points = list(tried) or self.tried
        return gather(self.root, self.cache, "ranks", self.start, objective, direction, points)

    def point(self, value: str, solves: int, loss: float, level: str = "A", **more: Any) -> Tried:
        files = experiment(self.cache, solved(range(solves)), loss, level)
        return finished(self.root, self.start, {"train.lora.rank": value}, files, solves / 40, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Ranks 4, 8 and 16, solving 10, 12 and 4 of 40 problems, where the base solves 4; and one that failed."""
    folder = tmp_path_factory.mktemp("sweep")
    root, cache = folder / "repository", folder / "cache"
    new = Made(root, cache, repository(root), [])
    new.tried.extend([new.point("4", 10, 0.9), new.point("8", 12, 0.8), new.point("16", 4, 1.0)])
    new.tried.append(unfinished({"train.lora.rank": "1024"}, "failed", "a long log\nCUDA out of memory"))
    return new


def found(sweep: SweepEvidence) -> dict[str, Finding]:
    return {next(iter(f.point.tried.overrides.values())): f for f in findings(sweep)}


def written(folder: Path, sweep: SweepEvidence) -> tuple[str, list[dict[str, str]]]:
    """The page's text and the lines of sweep.csv."""
    write_report(folder, sweep)
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return (folder / "index.html").read_text("utf-8"), list(csv.DictReader(file))


def test_points_are_compared_with_the_base_and_the_best_and_corrected(made: Made) -> None:
    of = found(made.gather())
    # 6 and 8 problems won, none lost, and nothing that differs: p is 2/2^6, 2/2^8, 1
    base = {value: f.base for value, f in of.items() if f.base}
    assert {value: (d.value, d.p) for value, d in base.items()} == {
        "4": (0.15, 0.03125),
        "8": (0.2, 0.0078125),
        "16": (0.0, 1.0),
    }
    assert {value: d.p_holm for value, d in base.items()} == {"4": 0.0625, "8": 0.0234375, "16": 1.0}
    # The best solves 2 and 8 problems more: 2/2^2, 2/2^8
    assert [value for value, f in of.items() if f.is_best] == ["8"]
    best = {value: (f.best.value, f.best.p, f.best.p_holm) for value, f in of.items() if f.best}
    assert best == {"4": (-0.05, 0.5, 0.5), "16": (-0.2, 0.0078125, 0.015625)}
    assert (of["1024"].base, of["1024"].best, of["1024"].low) == (None, None, None)


def test_words_tell_what_is_more_than_noise(made: Made) -> None:
    sweep = made.gather()
    said = words(sweep, findings(sweep))
    assert said[0] == (
        "3 points finished, 1 failed. The highest pass@1 is 30.0% (95% interval 18.1% to 45.4%), of rank 8."
    )
    assert said[1] == (
        "One point differs from the base in pass@1 by more than noise (Holm's correction for 3 points): rank 8 (better)."
    )
    assert said[2].startswith(
        "The best differs in pass@1 by more than noise from 1 of the other 2 points: rank 16 "
    )
    assert FLATTERED in said[3]
    assert len(said) == 4


def test_a_best_that_does_not_stand_out_is_not_praised(made: Made) -> None:
    sweep = made.gather(made.tried[0], made.tried[1])
    said = " ".join(words(sweep, findings(sweep)))
    assert "The best does not differ in pass@1 from the other point by more than noise" in said
    assert "cannot tell which is better" in said
    tie = made.gather(made.tried[0], replace(made.tried[0], overrides={"train.lora.rank": "5"}))
    assert "2 points have it; the first of them is taken for the best." in words(tie, findings(tie))[0]
    assert [finding.is_best for finding in findings(tie)] == [True, False]
    assert FLATTERED not in " ".join(words(tie, findings(tie))), "it leads nothing"


def test_the_csv_holds_every_figure_and_opens_in_pandas(made: Made, tmp_path: Path) -> None:
    _, rows = written(tmp_path, made.gather())
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
        "commit": git(made.root, "rev-parse", str(made.tried[0].ref)),
    }
    frame = pandas.read_csv(tmp_path / "sweep.csv").set_index("train.lora.rank")
    assert frame.loc[4, "low"] == pytest.approx(0.1419, abs=1e-4)  # Wilson, 10 of 40
    assert frame.loc[4, "high"] == pytest.approx(0.4019, abs=1e-4)
    assert frame.loc[1024, "status"] == "failed"
    assert frame.loc[1024, ["objective", "p", "p_best", "commit"]].isna().all()


def test_the_page_has_each_point_with_the_command_that_adopts_it(made: Made, tmp_path: Path) -> None:
    page, _ = written(tmp_path, made.gather())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "sweep.csv"]
    for point in made.tried[:3]:
        assert f'<code class="take">dvc exp apply {point.name}</code>' in page
    assert page.count("dvc exp apply") == 3
    assert page.index("apply rank-8-") < page.index("apply rank-4-") < page.index("apply rank-16-")
    assert "base model</td>" in page
    assert "p 0.008, Holm 0.023" in page
    assert "a long log\nCUDA out of memory</pre>" in page
    assert page.count("<img") == 2  # over the rank, and the loss curves
    assert "http" not in page.replace("https://", "http://").split("</style>")[1]


def test_the_same_experiments_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    write_report(tmp_path / "a", made.gather())
    write_report(tmp_path / "b", made.gather())
    for name in ("index.html", "sweep.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_samples_that_are_not_in_the_cache_leave_out_their_comparison_only(
    made: Made, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(made.cache, cache)
    of_four = made.gather(made.tried[0]).points[0]
    assert of_four.samples is not None
    lost = [path for path in cache.rglob("*") if path.is_file() and path.read_text().count('"passed"') == 10]
    assert len(lost) == 1
    lost[0].unlink()
    sweep = replace(made, cache=cache).gather()
    of = found(sweep)
    assert (of["4"].best, of["4"].base is None) == (None, False)
    assert of["16"].best is not None
    assert of["16"].best.p_holm == of["16"].best.p == 0.0078125, "Holm counts the points that are compared"
    told = "Not compared with the best: rank 4. The reason: its judged samples are not in DVC's cache."
    assert told in words(sweep, findings(sweep))
    page, rows = written(tmp_path / "page", sweep)
    assert "left out</span>" in page
    assert (rows[0]["p"], rows[0]["p_best"]) == ("0.03125", "")


@pytest.mark.parametrize("damage", [None, "[", "{}", "[1]", "[]"])
def test_without_the_best_points_samples_nothing_is_compared_with_it(
    made: Made, tmp_path: Path, damage: str | None
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(made.cache, cache)
    lock = git(made.root, "show", f"{made.tried[1].ref}:dvc.lock")
    md5 = next(word for word in lock.split() if word.endswith(".dir"))
    listing = cache / "files/md5" / md5[:2] / md5[2:]
    listing.unlink() if damage is None else listing.write_text(damage, "utf-8")
    sweep = replace(made, cache=cache).gather()
    assert all(f.best is None for f in findings(sweep))
    said = words(sweep, findings(sweep))
    assert any(
        "rank 4; rank 16. The reason: the best point cannot be compared: its judged" in s for s in said
    )
    page, _ = written(tmp_path / "page", sweep)
    assert "against the best, points" not in page


def test_points_judged_on_other_problems_are_not_compared(made: Made, tmp_path: Path) -> None:
    files = experiment(made.cache, solved(range(11)), 0.7)
    path = "reports/evaluate/tuned.json"
    files[path] = json.dumps(json.loads(files[path]) | {"benchmark": "mbpp"})
    other = finished(made.root, made.start, {"train.lora.rank": "77"}, files, 0.275)
    sweep = made.gather(*made.tried[:2], other)
    assert found(sweep)["77"].left_out == "it was judged on other problems than the best"
    assert any("different benchmarks (humaneval, mbpp)" in said for said in cautions(sweep, findings(sweep)))


def test_hostile_text_stays_text(made: Made, tmp_path: Path) -> None:
    files = experiment(made.cache, solved(range(5)), 0.7)
    overrides = {"train.lora.rank": "9", f"prompt.{HOSTILE}": f'a, "b"\n{HOSTILE}'}
    point = finished(made.root, made.start, {"train.lora.rank": "9"}, files, 0.125)
    failed = unfinished({"train.lora.rank": HOSTILE}, "failed", f"wrong: {HOSTILE}")
    page, rows = written(tmp_path, made.gather(replace(point, overrides=overrides), failed))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert rows[0][f"prompt.{HOSTILE}"] == f'a, "b"\n{HOSTILE}'
    assert rows[1]["train.lora.rank"] == HOSTILE
    assert len(pandas.read_csv(tmp_path / "sweep.csv")) == 2


def test_a_pipeline_with_little_to_show_has_a_page_of_that(made: Made, tmp_path: Path) -> None:
    files = {
        "reports/evaluate/tuned.json": '{"pass_at_1": 0.04}',
        "reports/report.json": '{"p": 0.05, "difference": 0.03}',
    }
    points = [finished(made.root, made.start, {"toy.size": value}, files, 0.04) for value in ("4", "8")]
    page, rows = written(tmp_path, made.gather(*points))
    assert [(row["objective"], row["low"], row["p_holm"], row["validation_loss"]) for row in rows] == [
        ("0.04", "", "0.1", "")
    ] * 2
    assert "its pipeline keeps no judged samples" in page
    assert "validation loss</th>" not in page
    assert page.count("<img") == 1
    bare = finished(made.root, made.start, {"toy.size": "2"}, {"reports/evaluate/tuned.json": "{}"}, 0.5)
    page, rows = written(tmp_path, made.gather(bare))
    assert rows[0]["p"] == ""
    assert "against the base" not in page


def test_one_point_is_not_called_the_best_of_many(made: Made, tmp_path: Path) -> None:
    sweep = made.gather(made.tried[1])
    said = words(sweep, findings(sweep))
    assert said[0].startswith("1 point finished. Its pass@1 is 30.0%")
    assert said[1:] == ["It differs from the base in pass@1 by more than noise (+20.0 points, p = 0.008)."]
    page, _ = written(tmp_path, sweep)
    assert FLATTERED not in page


def test_points_that_all_failed_have_a_page_with_their_errors(made: Made, tmp_path: Path) -> None:
    log = "\n".join(f"line {number}" for number in range(30))
    points = [unfinished({"train.lora.rank": str(rank)}, "failed", log) for rank in (4, 8)]
    page, rows = written(
        tmp_path, made.gather(*points, unfinished({"train.lora.rank": "6"}, "pruned at step 10", ""))
    )
    assert "No point was finished" in page
    assert "<img" not in page
    assert "<pre>line 18\n" in page
    assert "line 17" not in page, "the last lines of an error tell what went wrong"
    assert [row["status"] for row in rows] == ["failed", "failed", "pruned at step 10"]


def test_an_objective_that_is_better_when_lower(made: Made, tmp_path: Path) -> None:
    points = [
        replace(point, objective=loss) for point, loss in zip(made.tried, (0.9, 0.8, 1.0, None), strict=True)
    ]
    sweep = made.gather(*points, objective="reports/train.json:validation_loss_kept", direction="minimize")
    assert [f.is_best for f in findings(sweep)] == [False, True, False, False]
    page, _ = written(tmp_path, sweep)
    assert "The lowest validation loss kept is 0.8, of rank 8." in page
    assert "lower is better" in page
    assert '<th class="n">pass@1</th>' in page
    assert "base model</td>" not in page, "the base has no such figure"


def test_a_weak_sandbox_is_told_on_the_page_and_beside_its_points(made: Made, tmp_path: Path) -> None:
    weak = made.point("64", 20, 0.5, level="C")
    page, _ = written(tmp_path, made.gather(made.tried[0], weak))
    assert "rank 64 was judged in a weak sandbox (level C" in page
    assert page.count('<span class="tag lost">weak sandbox</span>') == 1
    strong, _ = written(tmp_path, made.gather(made.tried[0]))
    assert "weak sandbox" not in strong
    alone = made.gather(weak)
    assert cautions(alone, findings(alone))[0].startswith("Every point was judged in a weak sandbox")


def test_an_experiment_that_is_gone_is_a_point_without_its_files(made: Made, tmp_path: Path) -> None:
    gone = made.point("65", 9, 0.6)
    git(made.root, "update-ref", "-d", str(gone.ref))
    page, rows = written(tmp_path, made.gather(made.tried[0], gone))
    assert "dvc exp apply rank-65" not in page
    assert (rows[1]["objective"], rows[1]["commit"], rows[1]["p"]) == ("0.225", "", "")


def test_a_damaged_file_of_an_experiment_is_named(made: Made) -> None:
    for path, text, told in (
        ("reports/train.json", "{", r"reports/train\.json of refs/exps/.*not JSON"),
        ("reports/train.csv", "step,loss\n1,much\n", r"reports/train\.csv of refs/exps/.*not a curve"),
        ("dvc.lock", "stages: [", r"dvc\.lock of refs/exps/.*not YAML"),
    ):
        damaged = finished(made.root, made.start, {"toy.size": "1"}, {path: text}, 0.5)
        with pytest.raises(UserError, match=told):
            made.gather(damaged)


def test_a_run_that_points_share_is_paid_once(made: Made) -> None:
    sweep = made.gather()
    told = cost(sweep, findings(sweep))
    assert told["stages"] == ["evaluate base", "evaluate tuned", "merge", "train"]
    news = [[cell["new"] for cell in line["cells"]] for line in told["lines"]]
    assert news[0] == [True, True, True, True]
    assert news[1] == [False, True, True, True], "the base is scored once"
    assert told["spent"][0] == "40.0"
    assert told["spent"][3] == f"{309 + 308 + 310:.1f}"
    assert told["saved"] == "1 min 20 s"
    before = replace(sweep, before=sweep.points[0].runs)
    assert not any(cell["new"] for cell in cost(before, findings(before))["lines"][0]["cells"])
    cached = made.gather(replace(made.tried[0], status="from the cache"))
    assert cost(cached, findings(cached))["ran"] == ""


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
    assert sweep_plots.scale_of(["lion", "adamw", "lion"]).places == {"lion": 0.0, "adamw": 1.0}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_few_lines_have_a_colour_each_and_many_leave_it_to_the_best() -> None:
    for count, names in ((8, 9), (64, 4)):
        figure = Figure()
        axes = figure.subplots()
        scale = sweep_plots.scale_of(["1", "2"])
        dots = [sweep_plots.Dot(1, 5, 4, 6), sweep_plots.Dot(2, 7, 6, 8)]
        lines = {f"seed {number}": dots for number in range(count)}
        sweep_plots.over_key(axes, "train.epochs", scale, lines, "seed 3", "pass@1 in %", base=4.5)
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
        sweep_plots.losses(figure.subplots(), curves, "rank 7", values, "pass@1 in %")
        assert len(figure.axes) == axes_count
        assert "rank 7 (best)" in legend(figure)
        assert len(legend(figure)) == (8 if count == 8 else 1)


def test_sixty_four_points_with_long_numbers_have_a_page(made: Made, tmp_path: Path) -> None:
    one = made.gather(made.tried[1])
    points = [
        Point(
            replace(
                one.points[0].tried,
                name=f"point-{number}",
                overrides={
                    "train.learning_rate": f"0.000{number + 10}7349187234",
                    "train.lora.rank": str(2 ** (number % 4)),
                },
                objective=number / 100,
            ),
            *(getattr(one.points[0], name) for name in ("commit", "metrics", "curve", "runs", "samples")),
        )
        for number in range(64)
    ]
    page, rows = written(tmp_path, replace(one, points=points))
    assert (len(rows), page.count("dvc exp apply point-"), page.count("<img")) == (64, 64, 3)
    assert rows[63]["train.learning_rate"] == "0.000737349187234"
    assert "of learning_rate 0.0007373, rank 8." in page


def test_numbers_and_objectives_are_told_as_people_say_them() -> None:
    assert [rounded(v) for v in ("0.0007373491872", "2e-4", "[q_proj, v_proj]", "16")] == [
        "0.0007373",
        "2e-4",
        "[q_proj, v_proj]",
        "16",
    ]
    assert shown_name("reports/evaluate/tuned.json:pass_at_10") == "pass@10"
    assert shown_name("reports/train.json:validation_loss_kept") == "validation loss kept"


def test_points_that_would_be_called_alike_keep_their_names(made: Made) -> None:
    values = ("0.000111111111", "0.000111111112")
    twins = [replace(made.tried[0], name=f"twin-{v}", overrides={"a.lr": v}) for v in values]
    assert [f.label for f in findings(made.gather(*twins))] == [
        "lr 0.0001111 twin-0.000111111111",
        "lr 0.0001111 twin-0.000111111112",
    ]
