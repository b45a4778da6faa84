"""Complete the MLflow run of the trained model from the files, or create it from them.

    python -m stages.track                                        # what `dvc repro track` runs
    MLFLOW_TRACKING_URI=http://host:5000 dvc repro -f -s track    # send the same run to a server

Files are the truth: a run that `train` sent live gets what it lacks, one whose curve is not that of
reports/train.csv is replaced. Whichever way, the table in MLflow equals the files, and a second call changes nothing.
The merged model goes into the registry last (stages/track/register.py).
A server that does not answer is said in one line and is no error: `dvc repro -f -s track` sends everything later.
"""

from functools import partial

from stages.common.files import write_json
from stages.common.paths import MERGED_MODEL
from stages.common.stage import Settings, run
from stages.track.complete_run import RUN_PARTS, find_or_create_run
from stages.track.register import register_model, should_register
from stages.track.run_contents import RunContents, read_run_contents, require_path
from stages.track.settings import TrackSettings
from stages.track.store import StoreUnavailable, open_store, translate_errors
from stages.track.view import add_view


def main(settings: Settings) -> None:
    facts = read_run_contents()
    sent = send_run(settings.track, facts)
    write_json(
        "reports/mlflow.json",  # without the run's id: that is another in each store, and this file is in git
        {
            "experiment": settings.track.experiment,
            "training_key": facts.identity.training_key,
            "config_hash": facts.identity.config_hash,
            "sent": sent,
        },
    )


def send_run(settings: TrackSettings, facts: RunContents) -> bool:
    """Bring the run to what the facts say; False when the store stopped answering, and what is not sent is printed.

    Raises:
        UserError: the store refuses, or its settings are wrong.
    """
    parts = dict(RUN_PARTS)
    if should_register(settings):
        require_path(str(MERGED_MODEL))
        parts["model"] = partial(register_model, name=settings.registered_model)
    left = ["parameters", *parts]
    try:
        store = open_store(settings)
        with translate_errors(store.uri):
            add_view(store)
            mlflow_run = find_or_create_run(store, facts)
            left.remove("parameters")
            for part, complete in parts.items():
                complete(store, mlflow_run, facts)
                left.remove(part)
            if mlflow_run.info.status != "FINISHED":
                store.client.set_terminated(mlflow_run.info.run_id, "FINISHED")
    except StoreUnavailable as error:
        print(f"MLflow: {error}. Not sent: {', '.join(left)}. `dvc repro -f -s track` sends it.")
        return False
    info = mlflow_run.info
    print(f"MLflow: run '{info.run_name}' ({info.run_id}) of experiment '{settings.experiment}' is complete.")
    return True


if __name__ == "__main__":
    run("track", main)
