"""The Python code of a row: does it parse, what does it define, is it a stub."""

import ast
import re
import textwrap
import warnings
from dataclasses import dataclass, field

from stages.clean.code.fingerprint import MAX_DEPTH, TooDeepError, fingerprints
from stages.clean.code.scopes import BLOCKS, FUNCTIONS

MAX_CHARACTERS = 1_000_000  # the parser needs hundreds of bytes for each
# Possessive, for a fence without an end of line would otherwise be tried in every split of its characters.
FENCE = re.compile(
    r"^[ \t]*+(```++|~~~++)[ \t]*+([\w+#.-]*+)[^\n]*+\n(.*?)(?:^[ \t]*+\1[ \t]*+$|\Z)", re.M | re.S
)
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
PYTHON = {"python", "py", "python3", "py3"}


@dataclass
class Code:
    """What is known of a row's code; all empty for a row without any."""

    error: str = ""  # why it does not parse
    fingerprint: str = ""  # of the whole module
    # Name and canonical text of each function; of methods and of functions in others the name is dotted
    functions: list[tuple[str, str]] = field(default_factory=list)
    stub: str = ""  # source of the last function's body if it does nothing
    # The module, not to be changed; None where nothing parses. At most `MAX_DEPTH` levels, so it can be walked by
    # recursion. It is thirty times the size of its text: keep no batch of rows whose code has been looked at.
    tree: ast.Module | None = None


def read_module(text: str) -> Code:
    """Code of a row that is one Python module."""
    try:
        tree = parse(text)
        inner = text.count("def") > sum(isinstance(node, FUNCTIONS) for node in tree.body)
        digest, functions = fingerprints(tree, ":=" in text, inner)
        lost = lost_return(tree)
        if lost:
            return Code(f"SyntaxError: 'return' outside function (line {lost.lineno})", functions=functions)
        return Code("", digest, functions, stub_body(tree), tree)
    except UnparsableError as error:
        return Code(error=str(error))
    except (TooDeepError, RecursionError):
        return Code(error=TOO_DEEP)
    except ValueError as error:  # a number too long for decimal digits
        return Code(error=f"{type(error).__name__}: {error}")


def read_fences(text: str) -> Code:
    """Code of the fenced blocks of an answer, taken together.

    A block marked as Python must parse; one without a mark counts when it does; others are another language.
    """
    blocks: list[str] = []
    read: dict[str, Code] = {}  # of blocks without a mark: one that is alone is not read twice
    for _, language, block in FENCE.findall(text):
        block = textwrap.dedent(block)
        if not language:
            read[block] = read_module(block)
        if language.lower() in PYTHON or (not language and not read[block].error):
            blocks.append(block)
    whole = "\n".join(blocks)
    return read.get(whole) or read_module(whole) if blocks else Code()


class UnparsableError(Exception):
    """Text that is no Python; the message is the reason."""


def parse(text: str) -> ast.Module:
    """`ast.parse` for text from anywhere.

    Raises:
        UnparsableError: whatever the parser trips over: syntax, null bytes, nesting, size.
    """
    if len(text) > MAX_CHARACTERS:
        raise UnparsableError(f"too long to parse ({len(text)} characters)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like
            return ast.parse(text)
    except SyntaxError as error:
        raise UnparsableError(f"{type(error).__name__}: {error.msg} (line {error.lineno})") from None
    except (RecursionError, MemoryError):  # which of them, and when, depends on who calls: one reason for all
        raise UnparsableError(TOO_DEEP) from None
    except ValueError as error:
        raise UnparsableError(f"{type(error).__name__}: {error}") from None


def lost_return(tree: ast.Module) -> ast.Return | None:
    """A return in no function, where a body lost its indent: the parser takes it, the compiler would not."""
    waiting: list[ast.AST] = [*tree.body]
    for node in waiting:
        if isinstance(node, ast.Return):
            return node
        if not isinstance(node, FUNCTIONS):
            waiting += [inner for block in BLOCKS for inner in getattr(node, block, ())]
    return None


def stub_body(tree: ast.Module) -> str:
    """Source of the body of the last top-level function if it does nothing, else empty."""
    functions = [node for node in tree.body if isinstance(node, FUNCTIONS)]
    if functions and all(does_nothing(statement) for statement in functions[-1].body):
        last = functions[-1]
        return f"{last.name}: " + ast.unparse(last.body[-1])[:100]
    return ""


def does_nothing(statement: ast.stmt) -> bool:
    """pass, `...`, a bare constant (a docstring) or raise NotImplementedError."""
    if isinstance(statement, ast.Raise):
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass)
