"""A search on a cluster of two nodes, one of which is lost: `python -m tests.e2e.lost_node RECIPE`.

The node dies as soon as a trial on it has a whole checkpoint; a line says which trial that was.
"""

import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from interlace.jobs.listener import Shown
from interlace.results.training import Launch
from interlace.store.lock import worker_lock
from interlace.train.checkpoint import HASHES
from interlace.tune.check import load_search
from interlace.tune.tuning import tune

QUICK = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}


def lose(cluster: Cluster, trials: Path, raylet: int) -> None:
    """Remove the second node in the middle of a trial that runs there."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for trial in sorted(trials.glob("[0-9]*")):
            lock, kept = trial / worker_lock(0), list(trial.glob(f"checkpoints/step-*/{HASHES}"))
            if not (lock.exists() and kept) or (trial / "result.json").exists():
                continue
            process = int(lock.read_text().split()[1])  # "process 123 on host"
            if _parent(process) == raylet:
                node = next(n for n in cluster.worker_nodes)
                cluster.remove_node(node, allow_graceful=False)
                sys.stdout.write(f"node lost in the middle of trial {trial.name}\n")
                sys.stdout.flush()
                return
        time.sleep(0.02)


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def main() -> None:
    args = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**args, "_system_config": QUICK})
    second = cluster.add_node(**args)
    recipe, search = load_search(Path(sys.argv[1]), [])
    raylet = next(info for name, infos in second.all_processes.items() if name == "raylet" for info in infos)
    trials = Path(recipe.storage).absolute() / "sweeps" / "s" / "trials"
    killer = threading.Thread(target=lose, args=(cluster, trials, raylet.process.pid), daemon=True)
    killer.start()
    try:
        tune(recipe, search, Launch(run_name="s", address=cluster.address), Shown())
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
