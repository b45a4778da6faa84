"""Commands that a document tells its reader to type, for the tests that run them."""

import re
from dataclasses import dataclass, field

BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class CommandBlock:
    """A ```bash block of a document, and the lines that the ```text blocks after it promise."""

    section: str
    commands: str
    promised_lines: list[str] = field(default_factory=list)


def command_blocks(markdown: str) -> list[CommandBlock]:
    """Return the ```bash blocks of a document below its `## ` headings, in their order."""
    found: list[CommandBlock] = []
    for part in re.split(r"^## ", markdown, flags=re.MULTILINE)[1:]:
        section, body = part.split("\n", 1)
        for kind, inside in BLOCK.findall(body):
            if kind == "bash":
                found.append(CommandBlock(section, inside))
            else:
                found[-1].promised_lines.extend(inside.splitlines())
    return found
