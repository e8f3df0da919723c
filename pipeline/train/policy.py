"""Ray Train's elastic group of workers under this project's rules (`elastic.Rules`).

Ray decides in `ElasticScalingPolicy`, which is internal to Ray 2.60: `tests/ray/test_elastic_contract.py` holds what is
relied on here. Nodes that are gone do not count: Ray's own view of them is up to 20 s old, and a group planned on a
dead node waits for the time-out of its start. Before a group that trains is replaced by a larger one it is asked for a
checkpoint, so hardly a step is computed twice.
"""

import time
from collections.abc import Mapping
from typing import Any

import ray
import ray.train.torch
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

from pipeline.train.elastic import Rules
from pipeline.train.notice import ask_for_checkpoint, checkpoint_wanted

SAVE_WAIT_S = 120.0
"""How long a group that shall grow is waited for, for its checkpoint."""


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
