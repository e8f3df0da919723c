"""What `interlace.train.policy` overrides is internal to Ray: a new version of Ray must be looked at."""

import inspect

from ray.train import FailureConfig
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import WorkerGroupError

from interlace.train.policy import Failures
from interlace.train.signals import PreemptedError


def test_ray_decides_where_the_rules_expect_it() -> None:
    for decide in ("make_decision_for_non_running_worker_group", "make_decision_for_running_worker_group"):
        assert "self._count_possible_workers(reserved_resources)" in inspect.getsource(
            getattr(ElasticScalingPolicy, decide)
        )
    assert "self._latest_monitor_time" in inspect.getsource(ElasticScalingPolicy)
    for kind in ("scaling", "failure"):
        assert f"{kind}_policy=create_{kind}_policy(" in inspect.getsource(DataParallelTrainer.fit)


def test_workers_that_leave_nodes_in_time_are_no_failure_and_all_others_are() -> None:
    left = WorkerGroupError("", {0: RuntimeError("connection reset by the other"), 1: PreemptedError("nodes go away")})
    failed = WorkerGroupError("", {1: RuntimeError("out of memory")})
    rule = Failures(FailureConfig(max_failures=1))
    assert [rule.make_decision(e) for e in (left, left, failed, left)] == [FailureDecision.RETRY] * 4
    assert rule.make_decision(failed) == FailureDecision.RAISE
