"""The Grafana dashboard asks for numbers that exist."""

import json
import re
from importlib import resources

from interlace.train.prometheus import SHOWN

RAY_OWN = {"ray_object_store_memory", "ray_node_cpu_utilization", "ray_node_gpus_utilization"}


def test_every_number_of_the_dashboard_is_exported() -> None:
    board = json.loads(
        (resources.files("interlace.cluster") / "templates" / "grafana.json").read_text(encoding="utf-8")
    )
    asked = {name for p in board["panels"] for t in p["targets"] for name in re.findall(r"ray_\w+", t["expr"])}
    assert asked == {f"ray_interlace_{name}" for name in SHOWN} | RAY_OWN
    places = [tuple(p["gridPos"].values()) for p in board["panels"]]
    assert len(set(places)) == len(places) == 10
