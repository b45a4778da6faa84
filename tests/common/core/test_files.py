"""What is written whole or not at all: files and folders that are replaced, killed at each of their steps."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, atomic_write

STEPS = ("mkdir", "open", "rename", "replace", "rmdir", "unlink")  # calls of os that change what is on disk


def write_folder(path: Path, text: str) -> None:
    with atomic_folder(path) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(text)


def write_file(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write_text(text)


def contents(path: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (path.iterdir() if path.is_dir() else [path])}


def killed_at(step: int, write: Callable[[], None]) -> bool:
    """Run `write` in a child process that ends hard before its call number `step`; whether it came so far."""
    child = os.fork()
    if child == 0:
        left = iter(range(step))

        def counted(call: Callable) -> Callable:
            def run(*args: Any, **kwargs: Any) -> Any:
                if next(left, None) is None:
                    os._exit(9)
                return call(*args, **kwargs)

            return run

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            write()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("write", [write_folder, write_file])
def test_a_writer_killed_at_any_step_leaves_the_old_or_the_new_whole(
    write: Callable[[Path, str], None], tmp_path: Path
) -> None:
    step, seen = 0, set()
    while True:
        path = tmp_path / str(step) / "out"
        write(path, "old")
        names = contents(path).keys()
        killed = killed_at(step, lambda path=path: write(path, "new"))
        with suppress(ZeroDivisionError):  # the next run, which fails before it has written anything
            if write is write_folder:
                with atomic_folder(path):
                    raise ZeroDivisionError
            else:
                with atomic_write(path):
                    raise ZeroDivisionError
        (text,) = {*contents(path).values()}
        assert contents(path).keys() == names
        assert [one.name for one in path.parent.iterdir()] == ["out"]
        seen.add((killed, text))
        if not killed:
            break
        step += 1
    assert (False, "new") in seen
    assert (True, "old") in seen
    assert step >= (8 if write is write_folder else 1)


def test_a_rename_that_fails_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "out", os.rename
    write_folder(path, "old")

    def fails(source: Path, target: Path) -> None:
        if Path(source).suffix == ".tmp":
            raise OSError("full")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="full"):
        write_folder(path, "new")
    assert contents(path) == {"a": "old", "b": "old"}
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_a_folder_given_as_a_file_and_a_file_given_as_a_folder_stay(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "a").write_text("mine")
    file.write_text("mine")
    with pytest.raises(UserError, match="folder is a folder, expected the name of a file to write"):
        write_file(folder, "new")
    with pytest.raises(UserError, match="file is a file where a folder is written"):
        write_folder(file, "new")
    assert contents(folder) == {"a": "mine"}
    assert file.read_text() == "mine"


def test_links_are_followed_but_not_into_the_cache_of_dvc(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name, write in (("file", write_file), ("folder", write_folder), ("new", write_file)):
        link, target = tmp_path / name, tmp_path / "disk" / name
        link.symlink_to(target)
        if name != "new":
            write(target, "old")
        write(link, "new")
        assert link.is_symlink()
        assert {*contents(target).values()} == {"new"}
    cached, link = tmp_path / "disk" / "cached", tmp_path / "cached"
    cached.write_text("old")
    cached.chmod(0o444)
    link.symlink_to(cached)
    write_file(link, "new")
    assert not link.is_symlink()
    assert (link.read_text(), cached.read_text()) == ("new", "old")


def test_streams_and_devices_are_written_to(tmp_path: Path) -> None:
    code = (
        "import sys; from stages.common.core.files import atomic_write\n"
        "print('before')\n"
        "for place in sys.argv[1:]:\n"
        "    with atomic_write(place) as file: file.write_text('rows of ' + place + chr(10))\n"
        "print('after')\n"
    )
    places = ["/dev/null", "/dev/stdout", "/dev/fd/1"]
    expected = "before\nrows of /dev/stdout\nrows of /dev/fd/1\nafter\n"
    command = [sys.executable, "-c", code, *places]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == expected
    kept = tmp_path / "kept"
    kept.write_text("mine\n")
    for mode, text in (("a", f"mine\n{expected}"), ("w", expected)):
        with kept.open(mode) as out:
            subprocess.run(command, stdout=out, check=True)
        assert kept.read_text() == text
    assert Path("/dev/null").is_char_device()


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        write_file(pipe, "rows")
        assert reader.communicate()[0] == "rows"
    assert pipe.is_fifo()
