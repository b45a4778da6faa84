"""Settings of the evaluate stage."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from stages.common.core.settings import require
from stages.common.text.settings import ORDINARY_STYLES, PromptSettings
from stages.generation.settings import GenerationSettings
from stages.judge.settings import JudgeSettings

TARGETS = ("base", "tuned")
WEIGHTS = ("merged", "adapter")


@dataclass
class ScoringSettings:
    """How one benchmark is scored. What has no value is as `evaluate` says, and the style as prompt.style says."""

    # Completions per problem
    samples: int | None = None
    # Each k of pass@k besides 1
    pass_at: list[int] | None = None
    # 0: greedy
    temperature: float | None = None
    # Tokens per completion, at most
    max_new_tokens: int | None = None
    # CPU time a sample may use
    cpu_seconds: float | None = None
    # Address space a sample may use, MiB
    memory_mib: int | None = None
    # Installed packages that generated code may import
    packages: list[str] | None = None
    # Which of several code fences is judged: last | first
    fence: str | None = None
    # What ends an answer; evaluate.ending
    ending: str | None = None
    # How its problems become text; prompt.style
    style: str | None = None


@dataclass
class EvaluateSettings(JudgeSettings, GenerationSettings):
    # Which model: base (models/base) | tuned (models/merged); dvc.yaml sets it
    target: str = "tuned"
    # Of the tuned model: merged (models/merged, what is shipped) | adapter (models/adapter on the quantized base: what was
    # trained, in the memory that training took; transformers only)
    weights: str = "merged"
    # With the tuned model, also score the base as training quantized it, so that the report can say what of a difference
    # is quantization and what is training; costs another evaluation (transformers only)
    quantized_base: bool = False
    # Which benchmarks are scored, in this order; []: all of `scoring`
    benchmarks: list[str] = field(default_factory=list)
    # Benchmarks by name, each a file of data/benchmarks; conf/benchmark/NAME.yaml adds one, and its source to fetch
    scoring: dict[str, ScoringSettings] = field(default_factory=dict)
    # Completions per problem, n; more than one need a temperature
    samples: int = 1
    # Each k of pass@k besides 1; at most `samples`
    pass_at: list[int] = field(default_factory=lambda: [1])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_generation()
        require(self.target in TARGETS, "evaluate.target", self.target, "one of " + ", ".join(TARGETS))
        require(self.weights in WEIGHTS, "evaluate.weights", self.weights, "one of " + ", ".join(WEIGHTS))
        reads_adapter = "transformers with evaluate.weights: adapter, which vLLM does not read"
        scorable = self.weights == "merged" or self.backend == "transformers"
        require(scorable, "evaluate.backend", self.backend, reads_adapter)
        quantizes = "transformers with evaluate.quantized_base, which vLLM does not load"
        loadable = not self.quantized_base or self.backend == "transformers"
        require(loadable, "evaluate.backend", self.backend, quantizes)
        require(self.samples >= 1, "evaluate.samples", self.samples, "at least 1")
        for k in self.pass_at:
            fits = f"numbers from 1 to evaluate.samples ({self.samples}): pass@k needs k samples per problem"
            require(1 <= k <= self.samples, "evaluate.pass_at", self.pass_at, fits)
        above = f"above 0 where evaluate.samples is {self.samples}: greedy samples are identical"
        hot = self.samples == 1 or self.temperature > 0
        require(hot, "evaluate.temperature", self.temperature, above)
        require(
            len(set(self.benchmarks)) == len(self.benchmarks),
            "evaluate.benchmarks",
            self.benchmarks,
            "each once",
        )
        for name in self.benchmarks:
            known = f"some of {', '.join(self.scoring)}; `benchmark=[...]` and conf/benchmark add one"
            require(name in self.scoring, "evaluate.benchmarks", name, known)
        for name, scoring in self.scoring.items():
            style = scoring.style
            require(
                style in (None, *ORDINARY_STYLES),
                f"evaluate.scoring.{name}.style",
                style,
                "one of " + ", ".join(ORDINARY_STYLES),
            )
            try:
                self.for_benchmark(name)
            except ValueError as error:
                raise ValueError(f"evaluate.scoring.{name}: {error}") from None

    @property
    def scored(self) -> list[str]:
        """The benchmarks that are scored, in their order."""
        return self.benchmarks or list(self.scoring)

    def for_benchmark(self, name: str) -> "EvaluateSettings":
        """Return the settings with those of one benchmark put in."""
        own = {one.name: getattr(self.scoring[name], one.name) for one in fields(ScoringSettings)}
        values: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
        values.pop("style", None)
        return replace(self, **values, benchmarks=[], scoring={})

    def prompt_for(self, name: str, prompt: PromptSettings) -> PromptSettings:
        """Return the prompt settings in a benchmark's own style, if it has one."""
        style = self.scoring[name].style
        return prompt.with_style(style) if style else prompt
