"""hydra/launcher=ray: the points of a sweep as tasks of a Ray cluster, or of this machine.

    python -m stages.sweep -m train.lora.rank=4,8,16,32 hydra/launcher=ray                                  # this machine
    python -m stages.sweep -m train.lora.rank=4,8,16,32 hydra/launcher=ray hydra.launcher.address=auto hydra.launcher.gpus=1

Nodes share the repository's folder. The stock hydra-ray-launcher holds cloudpickle below 3, which joblib and MLflow are past.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher


@dataclass
class RayConf:
    _target_: str = "hydra_plugins.codetune.ray.RayLauncher"
    address: str | None = (
        None  # of a cluster (auto: the one that RAY_ADDRESS or this node tells); none: one for this sweep
    )
    cpus: float = 1.0  # of each point
    gpus: float = (
        0.0  # of each point, on a cluster; on this machine alone each point has one where there are several
    )


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

        own = not ray.is_initialized()
        if own:
            ray.init(address=self.settings.address, include_dashboard=False, logging_level="ERROR")
        try:
            task = ray.remote(num_cpus=self.settings.cpus, num_gpus=self.settings.gpus, max_retries=0)(run)
            common = (os.getcwd(), self.context, self.config, self.task_function, Singleton.get_state())
            numbered = enumerate(job_overrides, initial_job_idx)
            return list(ray.get([task.remote(number, list(o), *common) for number, o in numbered]))
        finally:
            if own:
                ray.shutdown()


def run(
    number: int,
    overrides: Sequence[str],
    root: str,
    context: Any,
    config: Any,
    task_function: Any,
    singletons: Any,
) -> Any:
    """One Hydra job, in a worker."""
    from hydra.core.singleton import Singleton
    from hydra.core.utils import run_job, setup_globals
    from omegaconf import open_dict

    os.chdir(root)  # a node's workers start elsewhere
    setup_globals()
    Singleton.set_state(singletons)
    own = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(own):
        own.hydra.job.id, own.hydra.job.num = f"{own.hydra.job.name}_{number}", number
    return run_job(
        hydra_context=context,
        config=own,
        task_function=task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
