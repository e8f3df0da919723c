"""The kit for a bare machine with a GPU, rehearsed on a CPU: it measures what it says, and nothing stops all of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interlace.contract.batch import to_batch
from interlace.contract.sample import Pack
from interlace.model.network import Network
from interlace.train.build import build_network
from tests.benchmarks.gpu import kit, mix, results
from tests.benchmarks.gpu.__main__ import main
from tests.benchmarks.gpu.gather import LIMIT, canonical, gather, needed
from tests.benchmarks.gpu.kit import CORRECTNESS, Order
from tests.benchmarks.gpu.padded import PaddedNetwork, bucketed, in_turn
from tests.benchmarks.gpu.paper import padded_share, shares
from tests.benchmarks.gpu.results import Part
from tests.benchmarks.gpu.speed import Bench, Limits, Line, guarded
from tests.fakecuda import DEVICE, fake_cuda
from tests.gpu import stored

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two take longer over tensors this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a rehearsal of one size trains on."""
    folder = tmp_path_factory.mktemp("packs")
    kit.prepare(folder, ["20M"], tiny=True)
    return folder


@pytest.fixture
def tiny(packs: Path) -> mix.Mix:
    return mix.read(packs / kit.TINY, "20M")


def network_of(of: mix.Mix) -> Network:
    torch.manual_seed(0)
    return build_network(of.made.recipe, of.made.specs, of.made.targets)


def gradients(network: Network) -> dict[str, torch.Tensor]:
    """Taken from the network, which has none afterwards."""
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


@pytest.mark.parametrize("kind", ["padded", "bucketed"])
def test_padded_loops_compute_what_packs_do(kind: str, tiny: mix.Mix) -> None:
    network, given = network_of(tiny), tiny.packs(2)
    own = sum(network.tasks["label"].loss(network(batch), batch) for batch in map(to_batch, given))
    own.backward()
    want = gradients(network)
    model = PaddedNetwork(network, compiled=False)
    steps = in_turn(given, 4) if kind == "padded" else bucketed(given, 512)
    got = sum(model(batch) for batches in steps for batch in batches)
    got.backward()
    found = gradients(network)
    assert float(got.detach()) == pytest.approx(float(own.detach()), rel=1e-5)
    assert found.keys() == want.keys()
    for name, gradient in want.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")
    batches = [batch for own in steps for batch in own]
    assert sum(batch.num_samples for batch in batches) == sum(len(pack.sample_ids) for pack in given)
    assert sum(batch.num_tokens for batch in batches) == sum(pack.num_tokens for pack in given)
    assert any(not field.seen_FL.all() for batch in batches for field in batch.fields.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
def test_padded_loops_wait_for_the_device_no_more_than_ours(tiny: mix.Mix) -> None:
    """Nor does one mix tensors of the host with those of the device."""
    network = network_of(tiny)
    with fake_cuda() as device:
        model = PaddedNetwork(network.to(DEVICE, non_blocking=True), compiled=False)
        for batches in (in_turn(tiny.packs(1), 4)[0], bucketed(tiny.packs(1), 512)[0]):
            before = device.ops
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(batches[0].to(DEVICE))
            loss.backward()
            assert device.ops - before > 500
    assert all(p.grad is not None and p.grad.device == DEVICE for p in network.parameters())


def test_each_loop_of_a_size_gives_its_figures(tiny: mix.Mix) -> None:
    limits = Limits(warm=1, steps=2, least_s=0.0, until=time.monotonic() + 60)
    lines = list(Bench(mix=tiny, device=CPU, limits=limits).lines())
    loops = {line["loop"]: line for line in lines if "loop" in line}
    assert set(loops) == {"interlace", "padded", "bucketed"}
    samples = [len(next(iter(pack.values()))) for pack in tiny.lengths]
    for name in ("interlace", "padded"):
        line = loops[name]
        assert line["samples_per_s"] * line["ms"] / 1e3 == pytest.approx(sum(samples[1:3]) / 2)
        assert line["parameters"] == sum(p.numel() for p in network_of(tiny).parameters())
    for name, share in shares(tiny).items():
        assert loops[name]["computed tokens over real"] == pytest.approx(share)
        assert share > 1
    assert 0 <= loops["interlace"]["waiting"] < 1
    top = [line for line in lines if "kernel" in line]
    (whole,) = (line for line in lines if "kernel_ms" in line)
    assert [line["ms"] for line in top] == sorted((line["ms"] for line in top), reverse=True)
    assert 0.5 < sum(line["share"] for line in top) <= 1 + 1e-9
    assert whole["kernels"] > 500


class Short(Bench):
    """A device in whose memory `FITS` samples fit at once."""

    FITS = 3

    def _padded_speed(self, name: str, made: Any, until: float, *, compiled: bool) -> Line:
        if max(batch.num_samples for batches in made for batch in batches) > self.FITS:
            raise torch.OutOfMemoryError("too many")
        return super()._padded_speed(name, made, until, compiled=compiled)


class Full(Short):
    """In whose memory none fits."""

    FITS = 0


@pytest.mark.slow
def test_what_does_not_fit_is_halved(tiny: mix.Mix) -> None:
    limits = Limits(warm=0, steps=2, least_s=0.0, until=time.monotonic() + 60)
    (line,) = Short(mix=tiny, device=CPU, limits=limits)._padded("padded", limits.until)
    assert 1 <= line["most at once"] <= Short.FITS
    assert line["steps"] == 2
    for name in ("padded", "bucketed"):
        (line,) = Full(mix=tiny, device=CPU, limits=limits)._padded(name, limits.until)
        assert line == {"loop": name, "not run": "not even one sample at once fits"}


def test_a_loop_that_breaks_is_said() -> None:
    def lines() -> Iterator[Line]:
        yield {"loop": "one", "ms": 1.0}
        raise RuntimeError("no kernel image is available")

    first, second = guarded("one", lines())
    assert first["ms"] == 1.0
    assert second == {"loop": "one", "failed": "RuntimeError: no kernel image is available"}


def test_without_time_all_parts_are_not_run_and_that_is_written(tmp_path: Path) -> None:
    order = Order(packs=tmp_path, out=tmp_path / "out", device="cpu", rehearsal=True, parts=["1B", "20M"], seconds=1.0)
    parts = kit.run(order)
    assert [(part.name, part.status) for part in parts] == [(n, "not run: no time left") for n in ("1B", "20M")]
    tree = json.loads((tmp_path / "out" / results.JSON).read_text("utf-8"))
    assert [part["status"] for part in tree["parts"]] == ["not run: no time left"] * 2
    assert tree["machine"]["torch"] == torch.__version__
    assert "| 20M | not run: no time left | 0.000 |" in (tmp_path / "out" / results.TABLE).read_text("utf-8")


def test_figures_stand_beside_their_aims() -> None:
    lines = (
        {"loop": "interlace", "samples_per_s": 300.0, "mfu": 0.41, "waiting": 0.002},
        {"loop": "interlace, not compiled", "samples_per_s": 200.0, "mfu": 0.3, "waiting": 0.5},
        {"reads": 1.0, "places": {"report.py:83": 1.0}},
        {"loop": "padded", "samples_per_s": 100.0, "mfu": 0.2},
        {"loop": "bucketed", "not run": "no time left"},
    )
    held = results.held(Part(name="1B", status="done", seconds=1.0, lines=lines))
    found = {line["figure"]: line["found"] for line in held}
    assert found == {"mfu": 0.41, "waiting": 0.002, "reads": 1.0, "over padded": 3.0, "over bucketed": None}
    assert {line["figure"]: line["aim"] for line in held} == results.AIMS
    text = results.markdown({"gpu": "none"}, [Part(name="1B", status="done", seconds=1.0, lines=lines)])
    assert "| 1B | over padded | 3.000 | 2.500 |" in text
    assert "| 1.000 | report.py:83 1.000 |" in text


def test_without_a_gpu_it_says_how_to_rehearse(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU")
    with pytest.raises(SystemExit, match="sees no GPU; `--device cpu --rehearsal` rehearses"):
        main(["run", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_padding_is_what_is_added_to_the_longest() -> None:
    batches = [{"a": np.array([64, 0]), "b": np.array([1, 32])}, {"a": np.array([100]), "b": np.array([0])}]
    fields, joint = (64 + 2 * 64) + 128, 2 * 128 + 128
    assert padded_share(batches, (2, 3)) == pytest.approx((2 * fields + 3 * joint) / (5 * 197))


def test_stored_packs_are_the_packs(tiny: mix.Mix, tmp_path: Path) -> None:
    given = tiny.packs(2)
    stored.write_packs(tmp_path / "packs.npz", given)
    found = stored.read_packs(tmp_path / "packs.npz")
    assert all(map(equal, found, given))
    assert not equal(found[0], given[1])


def equal(one: Pack, other: Pack) -> bool:
    pairs = [(one.fields[n], other.fields[n]) for n in one.fields] + [
        (one.targets[n], other.targets[n]) for n in one.targets
    ]
    arrays = [(getattr(a, part), getattr(b, part)) for a, b in pairs for part in type(a).__slots__]
    same = [a is b or (a.dtype == b.dtype and np.array_equal(a, b)) for a, b in arrays]
    return all(same) and one.position == other.position and np.array_equal(one.sample_ids, other.sample_ids)


def test_what_is_brought_is_what_pytorch_does_not_bring() -> None:
    found = [
        name.partition("==")[0] for name in needed(["torch", "numpy", "sympy", "yaml", "typing_extensions", "tests"])
    ]
    assert found == ["pyyaml", "typing-extensions"]
    assert [canonical(n) for n in ("Jinja2[x]>=3", "typing_extensions ~=4.1", "a.b")] == [
        "jinja2",
        "typing-extensions",
        "a-b",
    ]


@pytest.mark.slow
def test_a_rehearsal_runs_to_its_end_without_ray_mlflow_and_arrow(tmp_path: Path) -> None:
    kit.prepare(tmp_path / "packs", [CORRECTNESS, "150M", "20M"], tiny=True)
    blocked = "import sys\nfor name in ('ray', 'mlflow', 'pyarrow', 'pandas', 'PIL'): sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(blocked)
    out, place = tmp_path / "out", ["--packs", str(tmp_path / "packs"), "--out", str(tmp_path / "out")]
    words = ["run", *place, "--device", "cpu", "--rehearsal", "--no-arithmetic", "--parts", CORRECTNESS, "150M", "20M"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = {part["name"]: part for part in json.loads((out / results.JSON).read_text("utf-8"))["parts"]}
    assert [part["status"] for name, part in parts.items() if name != CORRECTNESS] == ["done", "done"], done.stdout
    assert parts[CORRECTNESS]["status"].startswith("done: ")
    outcomes = {line["outcome"] for line in parts[CORRECTNESS]["lines"]}
    assert outcomes == {"passed"}
    assert len(parts[CORRECTNESS]["lines"]) > 15
    loops = [line["loop"] for line in parts["150M"]["lines"] if "loop" in line]
    assert loops == ["interlace", "padded", "bucketed"]


@pytest.mark.slow
def test_a_part_that_fails_or_overruns_costs_no_other(tmp_path: Path, packs: Path) -> None:
    """Of the first what it trains on is not there; the second has no time for all of its tests."""
    stored.write(packs / kit.PARTS)
    parts = [CORRECTNESS, "1B", "20M"]
    kit_run = Order(packs=packs, out=tmp_path, device="cpu", rehearsal=False, parts=parts, seconds=20.0)
    found = {part.name: part for part in kit.run(kit_run)}
    assert "not run" in {line["outcome"] for line in found[CORRECTNESS].lines}
    assert found[CORRECTNESS].seconds < 20 + kit.GRACE_S + 5
    order = Order(packs=packs, out=tmp_path, device="cpu", rehearsal=True, parts=["1B", "20M"], seconds=120.0)
    failed, done = kit.run(order)
    assert failed.status.startswith("failed: FileNotFoundError")
    assert done.status == "done"


@pytest.mark.slow
def test_a_kit_is_gathered_and_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gather(tmp_path / "kit")
    said = capsys.readouterr().out
    wheels = {canonical(path.name.partition("-")[0]) for path in (tmp_path / "kit" / "wheels").iterdir()}
    assert {"pydantic", "pydantic-core", "pytest", "safetensors", "pyyaml"} <= wheels
    assert wheels & {"torch", "numpy", "ray", "mlflow", "pyarrow", "pillow"} == set()
    size = sum(path.stat().st_size for path in (tmp_path / "kit").rglob("*") if path.is_file())
    assert f"| all, of {LIMIT:,} at most | {size:,} |" in said
    assert size < LIMIT / 2
    assert (tmp_path / "kit" / "source" / "interlace" / "train" / "loop.py").exists()
    assert {path.name for path in (tmp_path / "kit" / "packs").iterdir()} == {
        "parts", "tiny", "20M.json", "150M.json", "1B.json"
    }  # fmt: skip
