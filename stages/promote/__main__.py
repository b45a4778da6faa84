"""Make the candidate the champion, unless it is worse by more than noise.

    python -m stages.promote                # exit status 0: the candidate is the champion; 1: it is not
    MLFLOW_TRACKING_URI=http://host:5000 python -m stages.promote

Reads both models' judged samples from their runs in MLflow, and compares them problem by problem with the report's
exact paired test. The decision and its reason are written to the candidate's version: tags codetune.promotion*,
and its description.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from stages.common.core.config_sections import check_overrides
from stages.common.core.errors import UserError
from stages.common.core.stage import errors_as_message
from stages.config.compose import compose_config
from stages.promote.decision import Decision, decide
from stages.promote.scored import read_scored
from stages.track.register import CANDIDATE
from stages.track.settings import TrackSettings
from stages.track.store import Store, StoreUnavailable, open_store, translate_errors

CHAMPION = "champion"
HEADING = "\n\nPromotion: "  # in a version's description, before the sentence


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with errors_as_message("promote", os.environ.get("HYDRA_FULL_ERROR") == "1"):
        settings: TrackSettings = compose_config(*check_overrides(arguments))["track"]
        try:
            store = open_store(settings)
            with translate_errors(store.uri):
                return promote(store, settings.registered_model)
        except StoreUnavailable as error:
            raise UserError(
                f"MLflow: {error}. The champion is unchanged. Run the command again later."
            ) from error


def promote(store: Store, name: str) -> int:
    """Move the alias or refuse to, print the decision, and return the exit status.

    Raises:
        UserError: there is no candidate, or the two versions are not comparable.
    """
    aliases = read_aliases(store, name)
    candidate, champion = aliases.get(CANDIDATE), aliases.get(CHAMPION)
    if candidate is None:
        raise UserError(
            f"MLflow: no version of '{name}' has the alias '{CANDIDATE}'. "
            "`dvc repro -f -s track` registers the model (track.registered_model) and sets the alias."
        )
    if candidate == champion:
        print(f"'{name}': version {candidate}, the {CANDIDATE}, is already the {CHAMPION}.")
        return 0
    decision = decide(
        read_scored(store, name, champion) if champion else None, read_scored(store, name, candidate)
    )
    record_decision(store, name, candidate, decision)
    if decision.promoted:
        store.client.set_registered_model_alias(name, CHAMPION, candidate)
    print(f"'{name}': {decision.sentence}")
    return 0 if decision.promoted else 1


def read_aliases(store: Store, name: str) -> dict[str, str]:
    """Return the version of each alias; empty if the model is not registered."""
    from mlflow.exceptions import MlflowException

    try:
        aliases: dict[str, Any] = store.client.get_registered_model(name).aliases if name else {}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        aliases = {}
    return {alias: str(version) for alias, version in aliases.items()}


def record_decision(store: Store, name: str, version: str, decision: Decision) -> None:
    """Write the decision to a version, before the alias moves: no champion without its reason."""
    for key, value in decision.tags.items():
        store.client.set_model_version_tag(name, version, key, value)
    own, *_ = (store.client.get_model_version(name, version).description or "").split(HEADING)
    store.client.update_model_version(name, version, f"{own}{HEADING}{decision.sentence}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
