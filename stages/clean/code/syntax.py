"""Read the Python code of a row: whether it parses, what it defines, whether it is a stub."""

import ast
import re
import textwrap
import warnings
from dataclasses import dataclass, field

from stages.clean.code.fingerprint import MAX_TREE_DEPTH, TooDeepError, fingerprints
from stages.clean.code.scopes import BLOCKS, FUNCTION_NODES

MAX_PARSED_CHARACTERS = 1_000_000  # the parser takes hundreds of bytes for each
# Possessive quantifiers: without them a fence without a line end is tried at every split of its characters.
FENCED_BLOCK = re.compile(
    r"^[ \t]*+(```++|~~~++)[ \t]*+(?:\{\.?)?([\w+#.-]*+)[^\n]*+\n(.*?)(?:^[ \t]*+\1[ \t]*+$|\Z)", re.M | re.S
)
TOO_DEEP = f"nested more than {MAX_TREE_DEPTH} levels deep"
PYTHON_MARKS = {"python", "py", "python3", "py3", "ipython", "ipython3"}
# Lines of a session: Python's prompts, and those of IPython
PROMPT = re.compile(r"[ \t]*(?:>>>|\.\.\.|In \[\d+\]:|\.\.\.+:)(?: (.*)|$)")
SESSION_START = re.compile(r"^[ \t]*(?:>>>|In \[\d+\]:)", re.M)
# What IPython reads and Python does not: magics, commands of a shell, questions; also what they are assigned to
IPYTHON_LINE = re.compile(
    r"^([ \t]*+)(?:([\w, ]+=)[ \t]*(?:!|%[a-zA-Z]).*|%[a-zA-Z].*|[!$][ \t]*\w.*|(?:pip3?|conda) install\b.*|\?+[\w.]+|[\w.]+\?+)$"
)
CELL_MAGIC = re.compile(r"\s*%%(\w+)")
PYTHON_CELLS = {"time", "timeit", "capture", "prun", "python", "python3", "pypy"}  # what follows is Python
TRACEBACK = "Traceback (most recent call last):"


@dataclass
class Code:
    """What is known of a row's code; all empty for a row without any."""

    error: str = ""  # why it does not parse
    fingerprint: str = ""  # of the whole module
    # Name and canonical text of each function; dotted names for methods and nested functions
    functions: list[tuple[str, str]] = field(default_factory=list)
    stub: str = ""  # name and last statement of the last function, if it does nothing
    # The module, read-only; None where nothing parses. It has at most `MAX_TREE_DEPTH` levels, so recursion
    # is safe. It is thirty times the size of its text: do not keep batches of rows whose code has been read.
    tree: ast.Module | None = None
    runs: bool = True  # as it is written: without lines of a session, of IPython or of a shell


def read_module_code(text: str) -> Code:
    """Read a row that is one Python module."""
    try:
        tree, runs = parse_cell(text)
        inner = text.count("def") > sum(isinstance(node, FUNCTION_NODES) for node in tree.body)
        digest, functions = fingerprints(tree, inner)
        stray = stray_return(tree)
        if stray:
            return Code(f"SyntaxError: 'return' outside function (line {stray.lineno})", functions=functions)
        return Code("", digest, functions, stub_body(tree), tree, runs)
    except UnparsableError as error:
        return Code(error=str(error))
    except (TooDeepError, RecursionError):
        return Code(error=TOO_DEEP)
    except ValueError as error:  # a number with too many decimal digits
        return Code(error=f"{type(error).__name__}: {error}")


def read_fenced_code(text: str) -> Code:
    """Read the fenced blocks of an answer as one module.

    Blocks marked as Python count whether or not they parse, unmarked blocks only if they parse, other blocks
    never.
    """
    blocks: list[str] = []
    read: dict[str, Code] = {}  # unmarked blocks, so that a single one is not read twice
    for _, language, block in FENCED_BLOCK.findall(text):
        block = textwrap.dedent(block)
        if block.startswith(TRACEBACK) or is_other_cell(block):
            continue
        block = python_lines(block)
        if not language:
            read[block] = read_module_code(block)
        if language.lower() in PYTHON_MARKS or (not language and not read[block].error):
            blocks.append(block)
    whole = "\n".join(blocks)
    return read.get(whole) or read_module_code(whole) if blocks else Code()


def parse_cell(text: str) -> tuple[ast.Module, bool]:
    """Parse a module, or a notebook's; return also whether it parses as it is.

    Raises:
        UnparsableError: see `parse_python`.
    """
    try:
        return parse_python(text), True
    except UnparsableError:
        mended = python_lines(text) if len(text) <= MAX_PARSED_CHARACTERS else text
        if mended == text:
            raise
        return parse_python(mended), False


def is_other_cell(block: str) -> bool:
    """Whether a block is a cell of IPython in another language, as `%%bash`."""
    found = CELL_MAGIC.match(block)
    return bool(found) and found[1] not in PYTHON_CELLS  # type: ignore[index]


def python_lines(block: str) -> str:
    """Return the Python of a session or of a cell of IPython, `pass` for a line in another language.

    A block that parses is returned as it is: `%` and `!` may begin a line of a string or of an expression.
    """
    session = SESSION_START.search(block)
    if not session and not any(map(IPYTHON_LINE.match, block.split("\n"))) and not CELL_MAGIC.match(block):
        return block
    try:
        parse_python(block)
        return block
    except UnparsableError:
        pass
    lines = block.split("\n")
    if session:
        lines = [found[1] or "" for line in lines if (found := PROMPT.match(line))]
    return "\n".join(map(python_line, lines))


def python_line(line: str) -> str:
    if CELL_MAGIC.match(line):
        return ""
    found = IPYTHON_LINE.match(line)
    return line if found is None else f"{found[1]}{found[2]} None" if found[2] else f"{found[1]}pass"


class UnparsableError(Exception):
    """Text is not Python; the message is the reason."""


def parse_python(text: str) -> ast.Module:
    """Parse untrusted text with `ast.parse`.

    Raises:
        UnparsableError: the parser fails, for whatever reason: syntax, null bytes, nesting, size.
    """
    if len(text) > MAX_PARSED_CHARACTERS:
        raise UnparsableError(f"too long to parse ({len(text)} characters)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes and the like
            return ast.parse(text)
    except SyntaxError as error:
        raise UnparsableError(f"{type(error).__name__}: {error.msg} (line {error.lineno})") from None
    except (RecursionError, MemoryError):  # which one depends on the call depth: report one reason
        raise UnparsableError(TOO_DEEP) from None
    except ValueError as error:
        raise UnparsableError(f"{type(error).__name__}: {error}") from None


def stray_return(tree: ast.Module) -> ast.Return | None:
    """Find a return outside any function, from a body that lost its indent; only the compiler rejects it."""
    waiting: list[ast.AST] = [*tree.body]
    for node in waiting:
        if isinstance(node, ast.Return):
            return node
        if not isinstance(node, FUNCTION_NODES):
            waiting += [inner for block in BLOCKS for inner in getattr(node, block, ())]
    return None


def stub_body(tree: ast.Module) -> str:
    """Return the name and last statement of the last top-level function if it does nothing, otherwise ""."""
    functions = [node for node in tree.body if isinstance(node, FUNCTION_NODES)]
    if functions and all(does_nothing(statement) for statement in functions[-1].body):
        last = functions[-1]
        return f"{last.name}: " + ast.unparse(last.body[-1])[:100]
    return ""


def does_nothing(statement: ast.stmt) -> bool:
    """Whether the statement is pass, `...`, a bare constant (a docstring) or raise NotImplementedError."""
    if isinstance(statement, ast.Raise):
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass)
