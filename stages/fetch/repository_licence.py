"""The licence that a repository names: in pyproject.toml, or by the text of its licence files."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from stages.common.core.errors import UserError
from stages.common.spdx import is_expression, licence_ids
from stages.fetch.licences import same_licence

LICENCE_FILE = re.compile(r"(?i)(licen[cs]e|copying|unlicense)([-_. ][^/]*)?|pyproject\.toml")
# Sentences that only one licence has, the narrower first: GPL's text names no `only` or `or later`
TEXTS = (
    ("AGPL-3.0", r"gnu affero general public license\s+version 3"),
    ("LGPL-3.0", r"gnu lesser general public license\s+version 3"),
    ("LGPL-2.1", r"gnu lesser general public license\s+version 2\.1"),
    ("GPL-3.0", r"gnu general public license\s+version 3"),
    ("GPL-2.0", r"gnu general public license\s+version 2"),
    ("Apache-2.0", r"apache license,?\s+version 2\.0"),
    ("MPL-2.0", r"mozilla public license,?\s+(version|v\.) 2\.0"),
    ("EPL-2.0", r"eclipse public license - v 2\.0"),
    ("BSL-1.0", r"boost software license - version 1\.0"),
    ("Unlicense", r"free and unencumbered software released into the public domain"),
    ("CC0-1.0", r"cc0 1\.0 universal"),
    ("PSF-2.0", r"python software foundation license version 2"),
    ("BSD-3-Clause", r"redistribution and use in source and binary forms[\s\S]*(endorse or promote|may be used to endorse)"),
    ("BSD-2-Clause", r"redistribution and use in source and binary forms"),
    ("MIT-0", r"permission is hereby granted, free of charge(?![\s\S]*above copyright notice)[\s\S]*without warranty of any kind"),
    ("MIT", r"permission is hereby granted, free of charge"),
    ("0BSD", r"permission to use, copy, modify, and/or distribute(?![\s\S]*above\s+copyright)"),
    ("ISC", r"permission to use, copy, modify,? and(/or)? distribute"),
    ("Zlib", r"this software is provided ['\"]as-is['\"], without any express or implied warranty"),
)  # fmt: skip
SPDX_LINE = re.compile(r"(?m)^[^\w\n]*SPDX-License-Identifier:\s*([^\n*]+)")


def found_licences(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the licence that each file of a repository's root names; files that name none are left out."""
    found = {}
    for name, data in sorted(files.items()):
        text = data.decode("utf-8", "replace")
        licence = project_licence(text) if name == "pyproject.toml" else text_licence(text)
        if licence:
            found[name] = licence
    return found


def text_licence(text: str) -> str:
    """Return the licence that a text is, "" of one that is none of TEXTS."""
    if said := SPDX_LINE.search(text):
        return said[1].strip()
    plain = re.sub(r"\s+", " ", text).casefold()
    return next((licence for licence, pattern in TEXTS if re.search(pattern, plain)), "")


def project_licence(text: str) -> str:
    """Return the SPDX expression of a pyproject.toml (PEP 639, or its `text` before that), "" without one."""
    try:
        project: Any = tomllib.loads(text).get("project") or {}
        given = project.get("license")
        given = given.get("text") if isinstance(given, dict) else given
    except (tomllib.TOMLDecodeError, AttributeError):
        return ""
    if not isinstance(given, str):
        return ""
    return given.strip() if is_expression(given) else text_licence(given)


def licence_of(given: str, found: Mapping[str, str], what: str) -> str:
    """Return the licence of a repository: the configuration's, which must agree, else the one that it names.

    Raises:
        UserError: they differ; the repository names none, or several, and the configuration none.
    """
    names = sorted(set(found.values()))
    said = ", ".join(f"{name} says {licence}" for name, licence in found.items())
    if not given:
        if len(names) == 1 and is_expression(names[0]):
            return names[0]
        if names:
            raise UserError(f"{what}: {said}. Set the source's licence, such as {' AND '.join(names)}.")
        raise UserError(
            f"{what} has no licence file in its root that is known. Set the source's licence: an SPDX id, or "
            "LicenseRef-<name> for code of your own, which fetch.licences must list too."
        )
    ours = licence_ids(given)
    theirs = [one for name in names for one in (licence_ids(name) if is_expression(name) else [name])]
    if theirs and not all(any(same_licence(one, mine) for one in theirs) for mine in ours):
        raise UserError(f"{what}: its licence is given as {given}, but {said}. Set licence to what it is.")
    return given
