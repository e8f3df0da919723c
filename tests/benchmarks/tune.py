"""What a search costs and gives; from the root: `python -m tests.benchmarks.tune sixteen|script|asha [FOLDER]`.

`sixteen`: `interlace tune jobs/recipes/emoji.yaml` from a warm index, 16 trials on all CPUs: seconds, CPU seconds of
all processes, the best trial beside the recipe's own settings, decoding CPU beside that of one trial, runs in MLflow.
`script`: two of these trials in full, beside `tune_script.py`, the script that a user would write.
`asha`: 27 trials of a small recipe in full and under ASHA: the difference of the best, epochs and CPU seconds.

FOLDER (a temporary one where not given) takes data and results. The set is built by `interlace dataset emoji`.
"""

import csv
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.cost import Cost, run

ROOT = Path(__file__).parents[2]
INTERLACE = (sys.executable, "-m", "interlace.jobs")
EMOJI = ROOT / "jobs" / "recipes" / "emoji.yaml"

SMALL: dict[str, Any] = {
    "fields": {
        "english": {"modality": "text", "column": "name_en", "tokenizer": "bpe", "vocab_size": 1000, "stem": "cnn"},
        "chinese": {"modality": "text", "column": "name_zh", "tokenizer": "characters", "stem": "cnn"},
    },
    "tasks": {"group": {"task": "classification", "column": "group", "label_smoothing": 0.1}},
    "model": {"fusion": "mid", "dim": 64, "field_layers": 0, "joint_layers": 1, "pool": "max", "dropout": 0.3},
    "batch": {"token_budget": 800},
    "optim": {"lr": 2e-3, "weight_decay": 0.05},
    "train": {"steps": 360, "eval_every": 40, "model_from": "last"},
}
SMALL_SPACE: dict[str, Any] = {
    "optim.lr": {"log_uniform": [1e-4, 2e-2]},
    "optim.weight_decay": {"log_uniform": [5e-3, 0.3]},
    "model.dropout": {"uniform": [0.1, 0.6]},
    "fields.english.word_dropout": {"uniform": [0.0, 0.5]},
}


def interlace(folder: Path, name: str, *arguments: str, meter: Path | None = None) -> Cost:
    """One command; its output goes to `NAME.log`. With a meter, CPU seconds of decoding are noted there."""
    env = {"COLUMNS": "200"}
    if meter is not None:
        meter.mkdir(parents=True, exist_ok=True)
        env |= {"DECODE_METER": str(meter), "PYTHONPATH": str(Path(__file__).parent / "meter")}
    cost = run([*INTERLACE, *arguments], folder / f"{name}.log", env, ROOT)
    assert cost.code == 0, (folder / f"{name}.log").read_text()
    return cost


def decoded(meter: Path) -> tuple[float, int]:
    """CPU seconds of decoding, and records decoded, over all processes."""
    lines = [line.split() for path in meter.iterdir() for line in path.read_text().splitlines()]
    return sum(float(seconds) for seconds, _ in lines), sum(int(records) for _, records in lines)


def emoji(folder: Path) -> list[str]:
    """Arguments of a search over the emoji set, which is built where it is not there."""
    data = folder / "emoji"
    if not data.exists():
        interlace(folder, "dataset", "dataset", "emoji", str(data))
    return ["--set", f"data.root={data}"]


def trials(sweep: Path) -> list[dict[str, str]]:
    """The table of trials that a search has left."""
    with (sweep / "report" / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def runs(storage: Path, name: str) -> tuple[int, int, int]:
    """Of a search in MLflow: parents, children, and children that are there twice."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    found = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
    parents = [r.info.run_id for r in found if r.info.run_name == name]
    children = [r.data.params["trial"] for r in found if r.data.tags.get("mlflow.parentRunId") in parents]
    return len(parents), len(children), len(children) - len(set(children))


def sixteen(folder: Path) -> None:
    """The emoji recipe's own search."""
    data = emoji(folder)
    storage = folder / "sixteen"
    command = ["tune", str(EMOJI), *data, "--storage", str(storage)]
    short = ["--trials", "1", "--set", "train.epochs=2", "--run-name", "one"]
    interlace(folder, "one", *command, *short, meter=folder / "meter-one")  # two epochs, and it makes the index
    shutil.rmtree(storage / "cache" / "decoded")
    cost = interlace(folder, "sixteen", *command, "--run-name", "emoji", meter=folder / "meter-sixteen")
    table = trials(storage / "sweeps" / "emoji")
    alone, all_of = decoded(folder / "meter-one"), decoded(folder / "meter-sixteen")
    values = {int(t["trial"]): float(t["value"]) for t in table if t["status"] == "finished"}
    if 0 not in values:
        interlace(folder, "default", *command, "--trials", "1", "--run-name", "default")
        values[0] = float(trials(storage / "sweeps" / "default")[0]["value"])
    say("sixteen trials", f"{cost.wall_s:.0f} s, {cost.cpu_s:.0f} CPU-s of all processes, {len(values)} in full")
    say("CPU-s in trials", f"{sum(float(t['cpu_s']) for t in table):.0f}")
    say("best / recipe's own settings", f"{max(values.values()):.4f} / {values[0]:.4f}")
    say("decoding", f"{all_of[0]:.2f} CPU-s ({all_of[1]} records); one trial {alone[0]:.2f} ({alone[1]})")
    say("decoding ratio", f"{all_of[0] / alone[0]:.2f}")
    parents, children, doubled = runs(storage, "emoji")
    say("MLflow", f"{parents} parent, {children} children, {doubled} doubled")


def script(folder: Path) -> None:
    """The same two trials by `interlace tune` and by the script that a user would write."""
    data = emoji(folder)
    interlace(folder, "index", "index", str(EMOJI), *data, "--storage", str(folder / "script"))
    own = ["--trials", "2", "--set", "search.scheduler=none", "--storage", str(folder / "script"), "--run-name", "two"]
    ours = interlace(folder, "ours", "tune", str(EMOJI), *data, *own)
    table = trials(folder / "script" / "sweeps" / "two")
    best = max(float(t["value"]) for t in table)
    say("interlace tune", f"{ours.cpu_s:.0f} CPU-s, {ours.wall_s:.0f} s, best {best:.4f}")
    command = [sys.executable, "-m", "tests.benchmarks.tune_script", str(folder / "emoji"), str(folder / "theirs")]
    theirs = run(command, folder / "script.log", cwd=ROOT)
    log = (folder / "script.log").read_text()
    assert theirs.code == 0, log
    say("script", f"{theirs.cpu_s:.0f} CPU-s, {theirs.wall_s:.0f} s, {log.strip().splitlines()[-1]}")
    say("ratio", f"{ours.cpu_s / theirs.cpu_s:.2f}")


def asha(folder: Path) -> None:
    """27 trials of a small recipe, in full and under ASHA."""
    data = emoji(folder)
    tree = yaml.safe_load(EMOJI.read_text(encoding="utf-8")) | SMALL
    tree["data"]["max_bad_share"] = 0.05  # some emoji have neither of the two names
    tree["search"] = {"space": SMALL_SPACE, "trials": 27}
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False))
    found = {}
    for name, scheduler in (("full", "none"), ("asha", "asha")):
        storage = folder / name
        interlace(folder, "index", "index", str(recipe), *data, "--storage", str(storage))
        more = ["--set", f"search.scheduler={scheduler}", "--storage", str(storage), "--run-name", "s"]
        cost = interlace(folder, name, "tune", str(recipe), *data, *more)
        table = trials(storage / "sweeps" / "s")
        best = max(float(t["value"]) for t in table if t["status"] == "finished")
        steps, cpu_s = sum(int(t["step"]) for t in table), sum(float(t["cpu_s"]) for t in table)
        found[name] = best, steps, cpu_s, cost.cpu_s
        say(name, f"best {best:.4f}, {steps} steps, {cpu_s:.0f} CPU-s in trials, {cost.cpu_s:.0f} CPU-s in all")
    full, less = found["full"], found["asha"]
    say("difference of the best", f"{100 * (full[0] - less[0]):+.1f} points")
    shares = [f"{less[i] / full[i]:.1%} of {what}" for i, what in ((1, "steps"), (2, "CPU in trials"), (3, "all CPU"))]
    say("ASHA", ", ".join(shares))


def say(what: str, value: str) -> None:
    sys.stdout.write(f"{what:30} {value}\n")
    sys.stdout.flush()


def main() -> None:
    folder = Path(sys.argv[2]).absolute() if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="tune-"))
    folder.mkdir(parents=True, exist_ok=True)
    {"sixteen": sixteen, "script": script, "asha": asha}[sys.argv[1]](folder)


if __name__ == "__main__":
    main()
