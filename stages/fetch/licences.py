"""Check the licences of training data against an allow-list, the data set's card, and a table of known ones.

The table is short on purpose: it holds what was read on the data sets' own pages, with the address beside it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.spdx import allowed_ids, allows, fits, is_expression, licence_ids

# Permissive: use, change and redistribution for any purpose, with attribution at most.
PERMISSIVE = (
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0"),
    *("CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "NCSA", "ODC-By-1.0", "PDDL-1.0"),
    *("PSF-2.0", "Python-2.0", "UPL-1.0", "Unlicense", "Zlib"),
)
# Hub ids that are not SPDX ids in lower case (https://huggingface.co/docs/hub/repositories-licenses).
HUB_IDS = {"odc-by": "ODC-By-1.0", "pddl": "PDDL-1.0", "odbl": "ODbL-1.0", "c-uda": "C-UDA-1.0"}
FAMILIES = ("bsd", "cc", "gpl", "lgpl", "agpl", "gfdl")  # hub ids that say no version
# Words in the ids of licences that forbid commercial use: CC-BY-NC-*, PolyForm-Noncommercial-*, and
# LicenseRef-* as people name them
NOT_COMMERCIAL = re.compile(r"(^|-)(nc|ncgl|non-?commercial|research|academic)(-|$)")
UNSAID = ("", "unknown")  # what a card says that says nothing


@dataclass(frozen=True)
class Known:
    """A data set whose licence is not what its users often take it for. `licence` "": as its card says."""

    licence: str = ""
    note: str = ""  # printed, and kept in sources.lock.json


OPENAI = (
    "its answers were generated with models of OpenAI, whose terms restrict training competing models on them"
)
EVOL = "derived from nickrosh/Evol-Instruct-Code-80k-v1, which is CC-BY-NC-SA-4.0 (share alike)"
KNOWN = {
    # https://huggingface.co/datasets/nickrosh/Evol-Instruct-Code-80k-v1/commit/3ae930c20d5496e2c8386872d5628c45f6957db4
    "nickrosh/Evol-Instruct-Code-80k-v1": Known("CC-BY-NC-SA-4.0"),
    # https://huggingface.co/datasets/codefuse-ai/Evol-instruction-66k (its card names the source and the
    # licence)
    "codefuse-ai/Evol-instruction-66k": Known("CC-BY-NC-SA-4.0", EVOL),
    # Its card names no licence; a selection of mlabonne/Evol-Instruct-Python-26k:
    # https://huggingface.co/datasets/mlabonne/Evol-Instruct-Python-1k/commit/670687a18d9a239632156cd7e0d606f65522ad5e
    "mlabonne/Evol-Instruct-Python-1k": Known(
        "", "its card names no licence, and it is made of Evol-Instruct data, CC-BY-NC-SA-4.0"
    ),
    # The card's head says cc-by-4.0, its section on licensing CC BY-NC 4.0; the narrower counts:
    # https://huggingface.co/datasets/vicgalle/alpaca-gpt4/commit/e13c3065b3fd644091cf1d9eb6d1a7375f8c7cf0
    "vicgalle/alpaca-gpt4": Known("CC-BY-NC-4.0", OPENAI),
    # https://huggingface.co/datasets/tatsu-lab/alpaca_farm/commit/2b9412bcdafe6f8d4e0b0cf61f5f6dbe0cba622f
    "tatsu-lab/alpaca_farm": Known("CC-BY-NC-4.0", OPENAI),
    # https://huggingface.co/datasets/jondurbin/airoboros-gpt4-1.1/blob/main/README.md
    "jondurbin/airoboros-gpt4-1.1": Known("CC-BY-NC-4.0", OPENAI),
    # Card: cc-by-4.0. The method (text-davinci-003): https://github.com/sahil280114/codealpaca
    "sahil2801/CodeAlpaca-20k": Known("", OPENAI),
    # Cards: apache-2.0, apache-2.0, mit. Evol-Instruct asks a model of OpenAI
    # (https://arxiv.org/abs/2306.08568), OSS-Instruct too (https://arxiv.org/abs/2312.02120).
    "theblackcat102/evol-codealpaca-v1": Known("", OPENAI),
    "ise-uiuc/Magicoder-Evol-Instruct-110K": Known("", OPENAI),
    "ise-uiuc/Magicoder-OSS-Instruct-75K": Known("", OPENAI),
    # Cards: mit, with a request open since 2024 to make it cc-by-nc-4.0:
    # https://huggingface.co/datasets/WizardLMTeam/WizardLM_evol_instruct_70k/discussions/9/files
    "WizardLMTeam/WizardLM_evol_instruct_70k": Known("", OPENAI),
    "WizardLMTeam/WizardLM_evol_instruct_V2_196k": Known("", OPENAI),
}
BY_NAME = {name.casefold(): (name, known) for name, known in KNOWN.items()}


def known_of(repo: str) -> tuple[str, Known] | None:
    """What is known of a repository of the hub."""
    return BY_NAME.get(repo.casefold())


def note_on(repo: str) -> str:
    known = known_of(repo)
    return known[1].note if known else ""


def require_allowed(name: str, licence: str, licences: Sequence[str]) -> None:
    """Refuse a training source by its licence, before anything of it is downloaded.

    Raises:
        ValueError: the licence is not on the list.
    """
    ids = allowed_ids("fetch.licences", licences)
    if not allows(ids, licence):
        missing = " and ".join(one for one in licence_ids(licence) if not allows(ids, one))
        raise ValueError(
            f"fetch source '{name}': its licence {licence} is not in fetch.licences, so nothing of it is "
            f"downloaded. Use another source, or add {missing} to fetch.licences if your use of the model "
            "allows it."
        )


def forbids(expression: str) -> str:
    """What the licences of an expression forbid that most expect to be free to do, "" where they leave a choice."""
    free = fits(expression, lambda licence: not NOT_COMMERCIAL.search(licence.casefold()))
    return "" if free else "commercial use"


def require_known(name: str, licence: str, repo: str) -> None:
    """Refuse a licence that a well-known data set does not have, before anything of it is downloaded.

    Raises:
        ValueError: names both licences.
    """
    found = known_of(repo)
    if found and found[1].licence and found[1].licence.casefold() != licence.casefold():
        known, facts = found
        note = f" ({facts.note})" if facts.note else ""
        raise ValueError(
            f"fetch source '{name}': its licence is given as {licence}, but {known} is "
            f"{facts.licence}{note}. Set licence: {facts.licence}, and add it to fetch.licences if your use "
            "of the model allows it."
        )


def require_card_licence(repo: str, licence: str, card: Mapping[str, Any]) -> str | None:
    """The licence that a data set's card names, None where it names none; it must be the configuration's.

    Raises:
        ValueError: the two differ; names both.
    """
    given = card.get("license") or ""
    hub_ids = [str(one).strip().casefold() for one in (given if isinstance(given, list) else [given])]
    if all(one in UNSAID for one in hub_ids):
        return None
    shown = " AND ".join(hub_licence(one, card) for one in hub_ids)
    found = known_of(repo)
    if found and found[1].licence:  # the card is known to say something else
        return shown
    ours, theirs = licence_ids(licence), [hub_licence(one, card) for one in hub_ids]
    matched = [[same_licence(hub_id, one) for one in ours] for hub_id in theirs]
    if not (all(map(any, matched)) and all(map(any, zip(*matched, strict=True)))):
        raise ValueError(
            f"its licence is given as {licence}, but its card says {shown}. If the card is right, set "
            f"licence: {shown}"
        )
    return shown


def hub_licence(hub_id: str, card: Mapping[str, Any]) -> str:
    """A licence of the hub as SPDX writes it; one without an id as LicenseRef-<its name>, a family as it is."""
    if hub_id in FAMILIES:
        return hub_id.upper()
    if hub_id in HUB_IDS or is_expression(hub_id):
        return HUB_IDS.get(hub_id) or licence_ids(hub_id)[0]
    name = str(card.get("license_name") or hub_id) if hub_id == "other" else hub_id
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")


def same_licence(card_id: str, licence: str) -> bool:
    """Whether a card's licence is this SPDX id: an id without `only` or `or later` leaves that open, a family more."""
    base = re.sub(r"-only$|-or-later$|\+$", "", licence.partition(" WITH ")[0])
    if card_id.casefold() in FAMILIES:
        return base.casefold().startswith(f"{card_id.casefold()}-")
    return licence == card_id or base == card_id
