"""hydra/launcher=ray: run the points of a sweep as tasks of a Ray cluster, or of this machine.

    python -m stages.sweep -m train.lora.rank=4,8 hydra/launcher=ray                         # this machine
    python -m stages.sweep -m train.lora.rank=4,8 hydra/launcher=ray hydra.launcher.address=auto hydra.launcher.gpus=1

All nodes have to see the repository's folder. The stock hydra-ray-launcher needs cloudpickle below 3; joblib and
MLflow need a newer one.
"""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher


@dataclass
class RayConf:
    _target_: str = "hydra_plugins.codetune.ray.RayLauncher"
    # Of a cluster; auto: the one that RAY_ADDRESS or this node names; none: a local one for this sweep
    address: str | None = None
    # Of each point
    cpus: float = 1.0
    # Of each point, on a cluster. On this machine alone each point has its own GPU if there are several
    gpus: float = 0.0


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayConf, provider="codetune")


class RayLauncher(Launcher):
    def __init__(self, **settings: Any) -> None:
        self.settings = RayConf(**settings)
        self.context: Any = None
        self.task_function: Any = None
        self.config: Any = None

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        import ray
        from hydra.core.singleton import Singleton

        started_here = not ray.is_initialized()
        if started_here:
            # Without an address Ray would join a cluster that happens to run here, and wait for ever once it is gone
            address = self.settings.address or "local"
            ray.init(address=address, include_dashboard=False, logging_level="ERROR")
        try:
            task = ray.remote(num_cpus=self.settings.cpus, num_gpus=self.settings.gpus, max_retries=0)(
                run_in_worker
            )
            common = (os.getcwd(), self.context, self.config, self.task_function, Singleton.get_state())
            numbered = enumerate(job_overrides, initial_job_idx)
            tasks = [task.remote(number, list(overrides), *common) for number, overrides in numbered]
            return [returned(future) for future in tasks]
        finally:
            if started_here:
                ray.shutdown()


def returned(future: Any) -> Any:
    """Wait for a job's result; one whose worker was lost (killed, out of memory, its node gone) has failed alone."""
    import ray
    from hydra.core.utils import JobReturn, JobStatus

    try:
        return ray.get(future)
    except ray.exceptions.RayError as error:
        print(f"sweep: Ray lost a point: {error}", file=sys.stderr, flush=True)
        return JobReturn(_return_value=math.nan, status=JobStatus.COMPLETED)


def run_in_worker(
    number: int,
    overrides: Sequence[str],
    root: str,
    context: Any,
    config: Any,
    task_function: Any,
    singletons: Any,
) -> Any:
    """Run one Hydra job in a worker process."""
    from hydra.core.singleton import Singleton
    from hydra.core.utils import run_job, setup_globals
    from omegaconf import open_dict

    os.chdir(root)  # workers start in another folder
    setup_globals()
    Singleton.set_state(singletons)
    job_config = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job_config):
        job_config.hydra.job.id = f"{job_config.hydra.job.name}_{number}"
        job_config.hydra.job.num = number
    return run_job(
        hydra_context=context,
        config=job_config,
        task_function=task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
