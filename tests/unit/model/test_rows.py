"""Rows of a GPU's tensors come in few sizes, and what is added to them changes nothing."""

import pytest
import torch
from torch import Tensor

from interlace.model import attention
from interlace.model.attention import Segments, rows_of
from interlace.model.network import Network
from tests.networks import FUSIONS, build, draw_batch

GPU, CPU = torch.device("cuda"), torch.device("cpu")
QUICK = ("mid",)
"""Fusions that are looked at whenever tests run; the others by `-m slow`."""
Result = tuple[float, dict[str, Tensor], set[int]]


def test_sizes_are_few_and_little_is_added() -> None:
    sizes = [rows_of(n, GPU) for n in range(1 << 16)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert len(set(sizes)) <= 1 + 16 + 5 * 16, "16 of 128 rows, then 16 from a number to its double"
    added = [size - n for n, size in enumerate(sizes)]
    assert min(added) == 0
    assert all(0 <= more < max(128, n / 16) for n, more in enumerate(added))
    assert all(size % 128 == 0 for size in sizes)
    budget = 1 << 15
    near = {rows_of(n, GPU) for n in range(budget - budget // 100, budget + 1)}
    assert len(near) == 1, "packs that are filled to a hundredth have one size"


def varlen(
    q_THK: Tensor, kv: tuple[Tensor, Tensor], starts: tuple[Tensor, Tensor], longest: tuple[int, int], causal: bool
) -> Tensor:
    """What torch's kernel computes; rows that no segment covers are whatever memory held."""
    parts = []
    cuts = zip(*(x.tolist() for x in starts), *(x.tolist()[1:] for x in starts), strict=False)
    for first, key_first, last, key_last in cuts:
        assert last - first <= longest[0]
        assert key_last - key_first <= longest[1]
        if last == first:
            continue
        q, k, v = q_THK[first:last], *(x[key_first:key_last] for x in kv)
        scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        found = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v) if len(k) else torch.zeros_like(q)
        parts.append(found)
    return torch.cat([*parts, torch.full_like(q_THK[int(starts[0][-1]) :], torch.nan)])


@pytest.fixture(params=[False, True], ids=["padded", "varlen"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Attention as a GPU computes it in fp32, and as in bf16 by a stand-in."""
    if request.param:
        monkeypatch.setattr(attention, "_has_varlen", lambda x: True)
        monkeypatch.setattr(attention, "_varlen", varlen)
    return bool(request.param)


def result_of(network: Network) -> Result:
    network.zero_grad()
    torch.manual_seed(1)
    batch = draw_batch(5)
    outputs = network(batch)
    loss = network.tasks["label"].loss(outputs, batch)
    loss.backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return float(loss.detach()), grads, {len(item.x_TD) for item in outputs.tokens.values()}


@pytest.mark.parametrize(
    ("fusion", "kernel"),
    [
        pytest.param(fusion, varlen, marks=() if varlen and fusion in QUICK else pytest.mark.slow)
        for fusion in FUSIONS
        for varlen in (False, True)
    ],
    indirect=["kernel"],
)
def test_losses_and_gradients_are_those_without_rounding(
    fusion: str, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(fusion).train()
    monkeypatch.setattr(attention, "rows_of", lambda num_tokens, device: num_tokens)
    loss, grads, sizes = result_of(network)
    monkeypatch.setattr(attention, "rows_of", lambda num_tokens, device: rows_of(num_tokens, GPU))
    rounded_loss, rounded_grads, rounded_sizes = result_of(network)
    assert rounded_loss == pytest.approx(loss, abs=1e-5)
    assert rounded_grads.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(rounded_grads[name], grad, atol=1e-5, rtol=1e-4)
    assert rounded_sizes <= {128, 256}
    assert len(sizes) > len(rounded_sizes)
    assert sum(float(grad.abs().sum()) for grad in grads.values()) > 1.0


def test_slack_that_no_segment_covers_is_seen(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were slack left out of the kernel's segments, weights would become nan."""
    monkeypatch.setattr(attention, "rows_of", lambda num_tokens, device: rows_of(num_tokens, GPU))
    monkeypatch.setattr(
        Segments, "cu_seqlens", property(lambda self: torch.nn.functional.pad(self.host_N.cumsum(0), (1, 0)))
    )
    _, grads, _ = result_of(build("mid").train())
    assert any(bool(grad.isnan().any()) for grad in grads.values()) == kernel
