"""Ray Train's elastic group of workers under this project's rules (`elastic.Rules`).

Ray decides in `ElasticScalingPolicy`, which is internal to Ray 2.60: `tests/ray/test_elastic_contract.py` holds what is
relied on here. Nodes that are gone do not count: Ray's own view of them is up to 20 s old, and a group planned on a
dead node waits for the time-out of its start; nor do those with notice to go away, where nothing starts any more.
Before a group that trains is replaced by a larger one it is asked for a checkpoint, so hardly a step is computed twice.
"""

import time
from collections.abc import Mapping
from typing import Any

import ray
import ray.train.torch
from ray.train import TrainingFailedError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

from interlace.train.elastic import Rules
from interlace.train.signals import PreemptedError, ask_for_checkpoint, checkpoint_wanted

SAVE_WAIT_S = 120.0
"""How long a group that shall grow is waited for, for its checkpoint."""


class Policy(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's elastic policy under `Rules`."""

    def __init__(self, scaling_config: ray.train.ScalingConfig, rules: Rules) -> None:
        super().__init__(scaling_config)
        self.rules = rules
        self.waiting_since: float | None = None

    def _count_possible_workers(self, reserved_resources: Mapping[str, Mapping[str, float]]) -> int:
        leaving = ray._private.state.state.get_draining_nodes()
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
        staying = {node["NodeID"] for node in nodes}
        there = {node: have for node, have in reserved_resources.items() if node in staying}
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


class Failures(DefaultFailurePolicy):  # type: ignore[misc]
    """Ray's rule of when to try again, by which workers that leave nodes in time are no failure."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Ray's decision; to try again, uncounted, where the group ended for `PreemptedError`."""
        failures = getattr(training_failed_error, "worker_failures", {}).values()
        if any(isinstance(failure, PreemptedError) for failure in failures):
            return FailureDecision.RETRY
        return super().make_decision(training_failed_error)


class Trainer(ray.train.torch.TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` that leaves Ctrl-C to whoever called it; Ray's own handler ends workers without a checkpoint."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Nothing: see the class."""


class ElasticTrainer(Trainer):
    """A `Trainer` whose number of workers is decided under `Rules`."""

    def __init__(self, *args: Any, rules: Rules, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rules = rules

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        return super()._initialize_and_run_controller(
            **kwargs
            | {
                "scaling_policy": Policy(self.scaling_config, self.rules),
                "failure_policy": Failures(self.run_config.failure_config),
            }
        )
