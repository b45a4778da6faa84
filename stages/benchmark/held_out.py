"""Find the functions of a repository that can be held out, and choose some of them by a hash."""

import ast
import hashlib
import os
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.common.core.errors import UserError
from stages.common.git import git
from stages.fetch.function_split import PythonFunction, Unfit
from stages.fetch.functions import TEST_FILE, FunctionRow, Module, function_row

NOT_SOURCE = frozenset(("node_modules", "site-packages", "build", "dist", "venv", "__pycache__"))


@dataclass(frozen=True)
class OwnFunction:
    """A function that can stand alone; a static method is one outside its class."""

    path: str  # in the repository
    line: int
    owner: str  # class of a static method, else ""
    node: PythonFunction
    module: Module  # its file; a static method stands at the end of it, as a function
    row: FunctionRow  # prompt: imports, helpers, signature and docstring

    @property
    def place(self) -> str:
        """Its name in the repository: package/module.py:Class.function."""
        return f"{self.path}:{self.owner}{'.' if self.owner else ''}{self.node.name}"


def python_files(repository: Path) -> dict[str, str]:
    """Return the sources of a folder's Python files by path: those that git tracks, or all in no hidden folder.

    Raises:
        UserError: no such folder, or it has no Python files.
    """
    if not repository.is_dir():
        raise UserError(
            f"{repository}: no such folder. Name the root of a repository (or of an unpacked wheel)"
        )
    if (repository / ".git").exists():
        names = git("ls-files", "-z", "*.py", folder=repository).split("\0")
    else:
        names = [
            Path(folder, name).relative_to(repository).as_posix()
            for folder, folders, files in os.walk(repository)
            if not folders.__setitem__(
                slice(None), [f for f in folders if f[0] != "." and f not in NOT_SOURCE]
            )
            for name in files
            if name.endswith(".py")
        ]
    found = sorted(name for name in names if name and (repository / name).is_file())
    if not found:
        raise UserError(f"{repository}: has no Python files")
    return {name: (repository / name).read_text("utf-8", "replace") for name in found}


def commit_of(repository: Path) -> str:
    """Return the commit that is checked out, with `-dirty` where files differ from it; "" outside of git."""
    if not (repository / ".git").exists():
        return ""
    edited = git("status", "--porcelain", "--untracked-files=no", folder=repository)
    return git("rev-parse", "HEAD", folder=repository) + ("-dirty" if edited else "")


def own_functions(sources: dict[str, str], reasons: Counter[str]) -> Iterator[OwnFunction]:
    """Yield the functions and static methods that can stand alone; `reasons` counts the others."""
    for path, source in sources.items():
        if TEST_FILE.search(path):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes of other people's strings
            try:
                module = Module(source)
            except (SyntaxError, ValueError, RecursionError):
                reasons["stands in a file that does not parse"] += 1
                continue
            for node in module.tree.body:
                if isinstance(node, PythonFunction):
                    yield from fit_function(path, module, node, reasons)
                elif isinstance(node, ast.ClassDef):
                    yield from static_methods(path, module, node, reasons)


def without_copies(functions: Iterable[OwnFunction], reasons: Counter[str]) -> list[OwnFunction]:
    """Return functions without those whose text another has, as in a module that a package has in two places."""
    first: dict[tuple[str, str], OwnFunction] = {}
    for one in functions:
        if first.setdefault((one.row.prompt, one.row.completion), one) is not one:
            reasons["is a copy of another function"] += 1
    return list(first.values())


def static_methods(
    path: str, module: Module, owner: ast.ClassDef, reasons: Counter[str]
) -> Iterator[OwnFunction]:
    for method in owner.body:
        if not isinstance(method, PythonFunction):
            continue
        if [ast.unparse(each) for each in method.decorator_list] != ["staticmethod"]:
            reasons["is a method that needs its object or class"] += 1
            continue
        text = "\n".join(module.lines[method.lineno - 1 : method.end_lineno])
        try:
            alone = Module("\n".join(module.lines) + f"\n\n\n{textwrap.dedent(text)}\n")
        except SyntaxError:
            reasons["does not parse on its own"] += 1
            continue
        (*_, node) = alone.tree.body
        if isinstance(node, PythonFunction):
            yield from fit_function(path, alone, node, reasons, owner.name, method.lineno)


def fit_function(
    path: str, module: Module, node: PythonFunction, reasons: Counter[str], owner: str = "", line: int = 0
) -> Iterator[OwnFunction]:
    try:
        row = function_row(module, node, path)
    except Unfit as reason:
        reasons[str(reason)] += 1
    else:
        yield OwnFunction(path, line or node.lineno, owner, node, module, row)


def is_chosen(function: OwnFunction, share: float, seed: int) -> bool:
    """Return whether a function is held out: by the hash of its place, so that others do not change it."""
    digest = hashlib.sha256(f"{seed}:{function.place}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
