"""Bring the MLflow run of the trained model up to date with the files; create it if there is none.

    python -m stages.track                                        # what `dvc repro track` runs
    MLFLOW_TRACKING_URI=http://host:5000 dvc repro -f -s track    # send the same run to a server

The files are the truth. A run that `train` sent live gets what it lacks; a run whose curve differs from
reports/train.csv is replaced. Afterwards MLflow holds what the files say, and a second call changes nothing.
The merged model goes into the registry last (stages/track/register.py). A server that does not answer is not
an error: one line says what was not sent, and the next `dvc repro` sends it. DVC would skip a stage of which no file
changed, so an attempt that failed counts up the number in .dvc/track.yaml, which is part of the stage's command.
"""

from functools import partial
from pathlib import Path

import yaml

from stages.common.core.files import atomic_write, write_json
from stages.common.core.paths import MERGED_MODEL
from stages.common.core.stage import Settings, run
from stages.track.complete_run import RUN_PARTS, find_or_create_run
from stages.track.register import register_model, should_register
from stages.track.run_contents import RunContents, read_run_contents, require_path
from stages.track.settings import TrackSettings
from stages.track.store import StoreUnavailable, open_store, translate_errors
from stages.track.view import add_view

ATTEMPTS = Path(".dvc/track.yaml")
ATTEMPTS_NOTE = (
    "# Counts the times that runs could not be sent to MLflow: a new number makes `dvc repro` try again\n"
)


def main(settings: Settings) -> None:
    contents = read_run_contents()
    sent = send_run(settings.track, contents)
    if not sent:
        count_attempt()
    write_json(
        "reports/mlflow.json",  # without the run's id, which differs in each store: this file is in git
        {
            "experiment": settings.track.experiment,
            "training_key": contents.identity.training_key,
            "config_hash": contents.identity.config_hash,
            "sent": sent,
        },
    )


def count_attempt() -> None:
    """Make DVC run this stage again: it compares the command in dvc.yaml with the one that it ran."""
    attempt = yaml.safe_load(ATTEMPTS.read_text("utf-8"))["attempt"] + 1 if ATTEMPTS.exists() else 1
    with atomic_write(ATTEMPTS) as temporary:
        temporary.write_text(f"{ATTEMPTS_NOTE}attempt: {attempt}\n", "utf-8")


def send_run(settings: TrackSettings, contents: RunContents) -> bool:
    """Send the run; return False if the store stopped answering, after printing what was not sent.

    Raises:
        UserError: the store refuses, or its settings are wrong.
    """
    parts = dict(RUN_PARTS)
    if should_register(settings):
        require_path(str(MERGED_MODEL))
        parts["model"] = partial(register_model, name=settings.registered_model)
    not_sent = ["parameters", *parts]
    try:
        store = open_store(settings)
        with translate_errors(store.uri):
            add_view(store)
            mlflow_run = find_or_create_run(store, contents)
            not_sent.remove("parameters")
            for part, complete in parts.items():
                complete(store, mlflow_run, contents)
                not_sent.remove(part)
            if mlflow_run.info.status != "FINISHED":
                store.client.set_terminated(mlflow_run.info.run_id, "FINISHED")
    except StoreUnavailable as error:
        print(f"MLflow: {error}. Not sent: {', '.join(not_sent)}. Run `dvc repro track` to send it later.")
        return False
    info = mlflow_run.info
    print(f"MLflow: run '{info.run_name}' ({info.run_id}) of experiment '{settings.experiment}' is complete.")
    return True


if __name__ == "__main__":
    run("track", main)
