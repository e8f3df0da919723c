"""A run's numbers for Prometheus, through the exporter that Ray has on each node (`ray_interlace_*`)."""

from collections.abc import Mapping

from ray.util.metrics import Gauge

SHOWN = {
    "samples_per_second": ("samples_per_s", "Samples trained on in a second, over all workers."),
    "step_seconds": ("step_s", "Seconds of the last optimizer step."),
    "data_wait_seconds": ("data/wait_s", "Seconds of the last step spent waiting for packs, mean of the workers."),
    "data_cpu_seconds": ("data/cpu_s", "CPU seconds that data tasks spent on the packs of the last step."),
    "loss": ("train/loss", "Loss of the last step."),
    "mfu": ("train/mfu", "Share of the GPUs' bf16 peak that the real tokens of the last step used."),
    "collectives_share": ("train/collectives_share", "Share of the last step in which worker 0 exchanged gradients."),
    "memory_peak_bytes": ("train/memory_peak_bytes", "Most bytes that a worker has held: of its GPU, else of memory."),
    "slowest_rank_seconds": ("rank/slowest_s", "Seconds of the slowest worker before the exchange of gradients."),
    "mean_rank_seconds": ("rank/mean_s", "The same, mean of the workers."),
}
"""Name in Prometheus -> key in the journal, and what it is."""


class RunGauges:
    """Shows the metrics of a run's steps; the name of the run is a tag."""

    def __init__(self, run: str) -> None:
        self._gauges = {}
        for name, (key, told) in SHOWN.items():
            gauge = Gauge(f"interlace_{name}", description=told, tag_keys=("run",))
            gauge.set_default_tags({"run": run})
            self._gauges[key] = gauge

    def show(self, metrics: Mapping[str, float]) -> None:
        """Take over the numbers of a step."""
        for key, gauge in self._gauges.items():
            if key in metrics:
                gauge.set(metrics[key])
