"""MLflow's system metrics: processor, memory, disk, network and GPUs, and what the training itself uses."""

import contextlib
from collections.abc import Callable
from typing import Any

SYSTEM = "system/"  # prefix by which MLflow's UI recognises system metrics


class Gauges:
    """MLflow's own monitors, plus processor and memory of one process.

    Read in the process that sends the curve, not by MLflow's thread, which ends for good the first time a
    server does not answer. GPUs need the package nvidia-ml-py; without it, or without a GPU, they are left
    out.
    """

    def __init__(self, pid: int) -> None:
        import psutil
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._monitors: list[Any] = []
        monitor_class: Callable[[], Any]
        for monitor_class in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
            # MLflow's monitors raise all kinds of errors if a device or package is missing
            with contextlib.suppress(Exception):
                self._monitors.append(monitor_class())
        self._process_error: Any = psutil.Error
        self._process: Any = None
        with contextlib.suppress(psutil.Error):
            self._process = psutil.Process(pid)
        self.read()  # processor shares count from the previous reading

    def read(self) -> dict[str, float]:
        """Return current values by metric name; processor shares cover the time since the last call.

        The training's processor share is in percent of one core: 200 means two busy cores. Its memory is the
        resident set, in megabytes.
        """
        values: dict[str, float] = {}
        for monitor in self._monitors:
            with contextlib.suppress(Exception):
                monitor.clear_metrics()
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
        with contextlib.suppress(self._process_error):
            if self._process is not None:
                values["training_cpu_utilization_percentage"] = self._process.cpu_percent()
                values["training_memory_usage_megabytes"] = self._process.memory_info().rss / 1e6
        return {SYSTEM + name: float(value) for name, value in values.items()}
