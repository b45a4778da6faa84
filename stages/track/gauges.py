"""What MLflow's UI shows under system metrics: processor, memory, disk, network and GPUs, and the training's own share."""

import contextlib
from collections.abc import Callable
from typing import Any

SYSTEM = "system/"  # prefix by which MLflow's UI knows them


class Gauges:
    """MLflow's own monitors, and the same of one process.

    Read here, in the process that sends the curve, instead of by MLflow's thread: that one ends for good at the first
    answer that a server does not give. GPUs need the package nvidia-ml-py; without it or without a GPU they are left out.
    """

    def __init__(self, pid: int) -> None:
        import psutil
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._monitors: list[Any] = []
        made: Callable[[], Any]
        for made in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
            with contextlib.suppress(
                Exception
            ):  # MLflow's monitors raise what they like where a thing is missing
                self._monitors.append(made())
        self._gone: Any = psutil.Error
        self._process: Any = None
        with contextlib.suppress(psutil.Error):
            self._process = psutil.Process(pid)
        self.read()  # shares of the processor are those since the look before

    def read(self) -> dict[str, float]:
        """Values by metric name, as of now; of the processor since the last call.

        The training's processor share is in per cent of one core: 200 is two cores at work. Its memory is what is resident.
        """
        values: dict[str, float] = {}
        for monitor in self._monitors:
            with contextlib.suppress(Exception):
                monitor.clear_metrics()
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
        with contextlib.suppress(self._gone):
            if self._process is not None:
                values["training_cpu_utilization_percentage"] = self._process.cpu_percent()
                values["training_memory_usage_megabytes"] = self._process.memory_info().rss / 1e6
        return {SYSTEM + name: float(value) for name, value in values.items()}
