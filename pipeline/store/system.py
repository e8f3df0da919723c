"""What a node has at work: CPU, memory, disk, network and GPUs, sampled beside a training worker into a journal.

One worker of each node samples; the files lie in the run folder and are shipped as the run's own journal is. Names are
those that MLflow shows on a run's page under "System metrics". A sample costs about a millisecond every few seconds.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from interlace.store.journal import Journal

MEGABYTE = 1e6
FIRST_S = 1.0
"""Seconds until the first sample, so that a short run has some."""


def system_journal(run_folder: Path, node: int) -> Path:
    """Where the samples of a node are."""
    return run_folder / f"system-{node}.jsonl"


@contextmanager
def sampled(run_folder: Path, every_s: float, *, node: int = 0, name: str | None = None) -> Iterator[None]:
    """Sample this node while the body runs.

    Args:
        run_folder: of the run.
        every_s: seconds between samples; 0 samples nothing.
        node: number of this node in the run.
        name: put into the metrics' names, where a run has several nodes.
    """
    if not every_s:
        yield
        return
    sampler = _Sampler(system_journal(run_folder, node), every_s, f"system/{name}/" if name else "system/")
    thread = threading.Thread(target=sampler.work, name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        sampler.stop.set()
        thread.join()


class _Sampler:
    def __init__(self, path: Path, every_s: float, prefix: str) -> None:
        self.journal, self.folder = Journal(path), path.parent
        self.every_s, self.prefix = every_s, prefix
        self.stop = threading.Event()
        self.process = psutil.Process()
        self.network = psutil.net_io_counters()

    def work(self) -> None:
        """Sample now, every so often, and at the end; a step is a sample, counted on over restarts."""
        psutil.cpu_percent()  # the first call only begins to measure
        step, wait_s = self.journal.last_step(), min(FIRST_S, self.every_s)
        while True:
            ended = self.stop.wait(wait_s)
            step, wait_s = step + 1, self.every_s
            self.journal.log(step, {self.prefix + key: value for key, value in self.sample().items()})
            if ended:
                self.journal.close()
                return

    def sample(self) -> dict[str, float]:
        """One look: shares in percent, sizes in megabytes."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self.folder))
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": (memory.total - memory.available) / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "worker_memory_usage_megabytes": self.process.memory_info().rss / MEGABYTE,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MEGABYTE,
        }
        network = psutil.net_io_counters()
        if network is not None and self.network is not None:
            found["network_receive_megabytes"] = (network.bytes_recv - self.network.bytes_recv) / MEGABYTE
            found["network_transmit_megabytes"] = (network.bytes_sent - self.network.bytes_sent) / MEGABYTE
        return found | gpus()


def gpus() -> dict[str, float]:
    """Utilization, memory and power of each GPU of this node; nothing without one or without `nvidia-ml-py`."""
    try:
        import pynvml
    except ImportError:
        return {}
    found = {}
    try:
        pynvml.nvmlInit()
        for i in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(i)
            memory = pynvml.nvmlDeviceGetMemoryInfo(device)
            found[f"gpu_{i}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)
            found[f"gpu_{i}_memory_usage_megabytes"] = memory.used / MEGABYTE
            found[f"gpu_{i}_memory_usage_percentage"] = 100 * memory.used / memory.total
            found[f"gpu_{i}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(device) / 1e3
    except pynvml.NVMLError:
        return found  # no driver, or a GPU that does not tell
    return found
