"""Answers on a terminal: side by side where it is wide enough, else one below the other; plain lines elsewhere."""

import sys
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stages.generation.completion import Completion

COLUMN_WIDTH = 60  # of an answer, at least, where answers stand side by side


class Screen:
    """Shows the answers of several models while they come, and whole when they are done."""

    def __init__(self, titles: Sequence[str], console: Console | None = None) -> None:
        self.titles, self.texts = list(titles), [""] * len(titles)
        self.notes = ["" for _ in titles]
        self.console = console or Console(highlight=False)
        self.live: Live | None = None
        if self.console.is_terminal:  # what is longer than the terminal is shown whole at the end
            self.live = Live(
                console=self.console, transient=True, auto_refresh=False, vertical_overflow="crop"
            )

    def __enter__(self) -> "Screen":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()
            self.console.print(self.layout())

    def writer(self, number: int) -> Callable[[str], None]:
        """Return what shows the text of an answer so far."""

        def write(text: str) -> None:
            self.texts[number] = text
            if self.live:
                self.live.update(self.layout(), refresh=True)

        return write

    def end(self, number: int, completion: Completion) -> None:
        """Show an answer as it is in the end: cut where evaluate cuts it."""
        self.texts[number] = completion.text
        self.notes[number] = f"{completion.new_tokens} tokens, {completion.stop}"
        if self.live:
            self.live.update(self.layout(), refresh=True)
        else:
            print(f"== {self.titles[number]}: {self.notes[number]}\n{completion.text}", flush=True)

    def layout(self) -> RenderableType:
        panels = [
            Panel(Text(text), title=Text(title), subtitle=Text(note), title_align="left")
            for title, text, note in zip(self.titles, self.texts, self.notes, strict=True)
        ]
        if self.console.width < COLUMN_WIDTH * len(panels):
            return Group(*panels)
        grid = Table.grid(expand=True)
        for _ in panels:
            grid.add_column(ratio=1)
        grid.add_row(*panels)
        return grid


def read_question() -> str:
    """Return the next line of standard input, "" at its end."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  (edits and recalls lines)
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
