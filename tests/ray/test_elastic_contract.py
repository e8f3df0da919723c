"""What `pipeline.train.policy` overrides is internal to Ray: a new version of Ray must be looked at."""

import inspect

from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def test_ray_decides_where_the_rules_expect_it() -> None:
    for decide in ("make_decision_for_non_running_worker_group", "make_decision_for_running_worker_group"):
        assert "self._count_possible_workers(reserved_resources)" in inspect.getsource(
            getattr(ElasticScalingPolicy, decide)
        )
    assert "self._latest_monitor_time" in inspect.getsource(ElasticScalingPolicy)
    assert "scaling_policy=create_scaling_policy(" in inspect.getsource(DataParallelTrainer.fit)
