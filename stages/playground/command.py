"""Ask the models that are here: base and tuned, side by side.

    python -m stages.try "def is_palindrome(s: str) -> bool:"    # -: read the prompt from standard input
    python -m stages.try --chat                                  # a conversation; an empty line or Ctrl-D ends it
    python -m stages.try --fim stages/judge/verdict.py:30        # fill in line 30, which the models do not see

Prompts are rendered, and answers end, as in evaluate; the sections `prompt` and `evaluate` of params.yaml set both.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.core.errors import UserError
from stages.common.core.paths import ADAPTER, BASE_MODEL, MERGED_MODEL
from stages.common.text.settings import STYLES, PromptSettings

if TYPE_CHECKING:
    from stages.playground.player import Player

CONVERSATIONS = ("chat", "template")  # styles that render several turns


def try_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.try", description=__doc__.split("\n")[0])
    add, default = parser.add_argument, "default: from the configuration"
    add("prompt", nargs="?", help="a function's header, or an instruction; -: standard input")
    add("--chat", action="store_true", help="a conversation, with its history")
    add("--fim", metavar="FILE:LINE", help="fill in this line of a file")
    add(
        "--model",
        action="append",
        default=[],
        help="base, tuned or a folder; repeat it (default: base and tuned)",
    )
    add("--temperature", type=float, default=0.0, help="0: greedy (default: %(default)s)")
    add("--seed", type=int, default=0, help="of sampling (default: %(default)s)")
    add("--max-new-tokens", type=int, help=f"tokens of an answer, at most ({default})")
    add("--style", choices=STYLES, help=f"how a prompt is rendered ({default})")
    given = parser.parse_args(arguments)
    if sum((given.prompt is not None, given.chat, given.fim is not None)) != 1:
        parser.error("give one of: a prompt, --chat, --fim FILE:LINE")
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    given = try_options(arguments)
    places = [model_place(name) for name in given.model or ["base", "tuned"]]
    text, suffix = ask_for(given)
    from stages.config.compose import compose_config

    sections = compose_config()
    prompt: PromptSettings = sections["prompt"]
    prompt = prompt.with_style(given.style) if given.style else prompt
    if given.chat and prompt.style not in CONVERSATIONS:
        raise UserError(
            f"--chat: prompt.style is {prompt.style}, which renders one question. Add --style chat"
        )
    changed: dict[str, Any] = {"temperature": given.temperature, "seed": given.seed}
    if given.max_new_tokens is not None:
        changed["max_new_tokens"] = given.max_new_tokens
    settings = replace(sections["evaluate"], samples=1, pass_at=[1], benchmarks=[], scoring={}, **changed)
    from stages.playground.player import Player

    players = [Player(*place, prompt, settings) for place in places]
    if given.chat:
        converse(players)
    else:
        show_answers(players, text, suffix)


def model_place(name: str) -> tuple[str, Path, Path | None]:
    """Return a model's title, its folder, and that of an adapter on it.

    Raises:
        UserError: it is not there.
    """
    folder = {"base": BASE_MODEL, "tuned": MERGED_MODEL}.get(name, Path(name))
    if name == "tuned" and not (folder / "config.json").is_file() and ADAPTER.is_dir():
        name, folder = "tuned, not merged", BASE_MODEL
        adapter: Path | None = ADAPTER
    else:
        adapter = None
    if not (folder / "config.json").is_file():
        hint = "`dvc repro` makes it" if name in ("base", "tuned") else "Name base, tuned or a model's folder"
        other = " (--model base asks the base alone)" if name == "tuned" else ""
        raise UserError(f"--model {name}: {folder} holds no model. {hint}{other}")
    place = f"{adapter} on {folder}" if adapter else str(folder)
    return (f"{name} ({place})" if place != name else name), folder, adapter


def ask_for(given: argparse.Namespace) -> tuple[str, str | None]:
    """Return what the models continue, and what follows it in a file.

    Raises:
        UserError: it is empty, or there is no such line.
    """
    if given.fim is not None:
        return split_file(given.fim)
    text = sys.stdin.read() if given.prompt == "-" else given.prompt
    if text is not None and not text.strip():
        raise UserError("the prompt is empty")
    return text or "", None


def split_file(place: str) -> tuple[str, str]:
    """Return what stands before and after a line, FILE:LINE, of a file."""
    name, _, number = place.rpartition(":")
    if not name or not number.isdecimal():
        raise UserError(f"--fim is {place!r}: expected FILE:LINE, such as stages/judge/verdict.py:30")
    try:
        lines = Path(name).read_text("utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--fim: {name} cannot be read ({error})") from None
    if not 1 <= int(number) <= len(lines):
        raise UserError(f"--fim: {name} has no line {number}; it has {len(lines)}")
    return "".join(lines[: int(number) - 1]), "".join(lines[int(number) :])


def show_answers(players: "Sequence[Player]", text: str, suffix: str | None) -> None:
    """Show each model's answer; a model is freed before the next is loaded."""
    from stages.playground.display import Screen

    with Screen([player.title for player in players]) as screen:
        for number, player in enumerate(players):
            screen.end(number, player.answer(text, suffix, screen.writer(number)))
            player.unload()


def converse(players: "Sequence[Player]") -> None:
    """Read questions, and have each model answer them in its own conversation."""
    from stages.playground.display import Screen, read_question

    histories: list[list[dict[str, Any]]] = [[] for _ in players]
    while question := read_question():
        with Screen([player.title for player in players]) as screen:
            for number, (player, turns) in enumerate(zip(players, histories, strict=True)):
                turns.append({"role": "user", "content": question})
                done = player.reply(turns, screen.writer(number))
                turns.append({"role": "assistant", "content": done.text})
                screen.end(number, done)
