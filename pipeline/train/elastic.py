"""A number of workers that follows the cluster: Ray Train's elastic group, with rules that Ray does not know.

- Only numbers that divide `batch.global_batch`, so that the position law holds at each.
- CPUs stay free for data tasks: a group that took the last one would wait for its own data for ever.
- Nodes that are gone do not count. Ray's own view of them is up to 20 s old, and a group planned on a dead node waits
  for the time-out of its start.
- Before a group that trains is replaced by a larger one it is asked for a checkpoint, so no step is computed twice.

Ray decides in `ElasticScalingPolicy` (internal, Ray 2.60): `test_elastic.py` holds what is relied on here.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train.torch
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

from pipeline.train.notice import ask_for_checkpoint, checkpoint_wanted

DATA_CPUS = 1.0
SAVE_WAIT_S = 120.0
"""How long a group that shall grow is waited for, for its checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a group of workers must keep.

    Args:
        sizes: numbers of workers allowed, ascending.
        cpus: CPUs of a worker.
        train_labels, data_labels: of the nodes that train, and of those that read data.
        run: folder of the run.
    """

    sizes: Sequence[int]
    cpus: float
    train_labels: Mapping[str, str]
    data_labels: Mapping[str, str]
    run: Path

    def most(self, fitting: int, nodes: Sequence[Mapping[str, Any]]) -> int:
        """The largest allowed number of workers, at most `fitting`, that leaves data tasks a CPU; 0 if none does.

        Args:
            fitting: how many Ray could place.
            nodes: as `ray.nodes()` lists them.
        """
        alone = shared = 0.0
        for node in nodes:
            cpus = node["Resources"].get("CPU", 0.0) if node["Alive"] else 0.0
            if has(node, self.train_labels):
                if has(node, self.data_labels):
                    shared += cpus
                else:
                    alone += cpus
        elsewhere = any(
            n["Alive"] and n["Resources"].get("CPU", 0.0) >= DATA_CPUS and has(n, self.data_labels)
            for n in nodes
            if not has(n, self.train_labels)
        )
        left = alone + shared - (0.0 if elsewhere else DATA_CPUS)
        room = math.floor(left / self.cpus + 1e-9)
        return max((size for size in self.sizes if size <= min(fitting, room)), default=0)


def has(node: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a node (as `ray.nodes()` lists it) has all labels."""
    own = node.get("Labels", {})
    return all(own.get(name) == value for name, value in labels.items())


class Policy(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's elastic policy under `Rules`."""

    def __init__(self, scaling_config: ray.train.ScalingConfig, rules: Rules) -> None:
        super().__init__(scaling_config)
        self.rules = rules
        self.waiting_since: float | None = None

    def _count_possible_workers(self, reserved_resources: Mapping[str, Mapping[str, float]]) -> int:
        nodes = ray.nodes()
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        there = {node: have for node, have in reserved_resources.items() if node in alive}
        return self.rules.most(super()._count_possible_workers(there), nodes)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Ray's decision, kept back until the group has written the checkpoint that it is asked for."""
        if self.waiting_since is not None:
            if checkpoint_wanted(self.rules.run) is not None and time.monotonic() - self.waiting_since < SAVE_WAIT_S:
                return NoopDecision()
            self._latest_monitor_time = float("-inf")  # decide anew, now
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision) and self.waiting_since is None:
            ask_for_checkpoint(self.rules.run, f"{worker_group_state.num_workers} to {decision.num_workers} workers")
            self.waiting_since = time.monotonic()
            return NoopDecision()
        self.waiting_since = None
        return decision


class ElasticTrainer(ray.train.torch.TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` whose number of workers is decided under `Rules`."""

    def __init__(self, *args: Any, rules: Rules, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rules = rules

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        return super()._initialize_and_run_controller(
            **kwargs | {"scaling_policy": Policy(self.scaling_config, self.rules)}
        )
