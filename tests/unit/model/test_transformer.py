"""Laws of dropout and of the layer."""

import pytest
import torch
from torch import Tensor, nn

from interlace.model.attention import Segments
from interlace.model.transformer import Encoder, Layer, Residual, draw_dropout
from interlace.recipe.model import Model


def keep_scale(shape: torch.Size, rate: float, device: torch.device) -> Tensor:
    """The factors of dropout: 0 for dropped elements, 1 / (share kept) for others."""
    kept, scale = draw_dropout(shape, rate, device)
    return kept.to(torch.float32) * scale


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
def test_dropout_keeps_its_share_in_every_lane_and_the_mean(rate: float):
    torch.manual_seed(0)
    factors = keep_scale(torch.Size((1000, 200)), rate, torch.device("cpu"))
    lanes = (factors.view(-1, 8) > 0).float().mean(0)  # 8 elements of one 64-bit draw
    assert (lanes - (1 - rate)).abs().max() < 0.012
    assert abs(float(factors.mean()) - 1) < 0.02
    assert len(factors.unique()) == 2
    assert factors.unique()[0] == 0


def test_dropout_follows_the_global_generator():
    shape = torch.Size((30, 7))
    torch.manual_seed(3)
    first, second = (keep_scale(shape, 0.3, torch.device("cpu")) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(first, keep_scale(shape, 0.3, torch.device("cpu")))
    assert not torch.equal(first, second)


def test_residual_drops_in_training_only():
    torch.manual_seed(0)
    residual, x, y = Residual(0.5), torch.ones(64, 32), torch.ones(64, 32, dtype=torch.bfloat16)
    trained = residual(x, y)
    assert set(trained.unique().tolist()) == {1.0, 3.0}
    assert torch.equal(residual.eval()(x, y), torch.full((64, 32), 2.0))
    assert trained.dtype == torch.float32
    assert torch.equal(Residual(0.0)(x, y), torch.full((64, 32), 2.0))


def test_layer_equals_torchs_own():
    torch.manual_seed(0)
    model = Model(dim=32, head_dim=8, dropout=0.0)
    layer = Layer(model)
    other = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
    )
    with torch.no_grad():
        other.self_attn.in_proj_weight.copy_(layer.qkv.weight)
        other.self_attn.out_proj.weight.copy_(layer.attention_out.weight)
        other.linear1.weight.copy_(layer.mlp_in.weight)
        other.linear2.weight.copy_(layer.mlp_out.weight)
    segments = Segments(torch.tensor([16, 16, 16, 16]))
    x = torch.randn(64, 32)
    want = other(x.view(4, 16, 32)).reshape(64, 32)
    torch.testing.assert_close(layer(x, segments), want, atol=1e-5, rtol=1e-5)
    assert (want - x).abs().max() > 0.1


@pytest.mark.parametrize("lengths", [(16, 0, 3, 40), (600,)])
@pytest.mark.parametrize("bf16", [False, True])
def test_recomputed_activations_change_no_loss_and_no_gradient(lengths: tuple[int, ...], bf16: bool):
    """With dropout and both kernels of the own attention; what stays in memory are the inputs of the layers."""
    torch.manual_seed(0)
    encoder = Encoder(Model(dim=32, head_dim=16, dropout=0.3), num_layers=2)
    segments = Segments(torch.tensor(lengths))
    x = torch.randn(segments.num_rows, 32)
    found, kept = [], []
    for recompute in (False, True):
        for layer in encoder.layers:
            layer.recompute = recompute
        encoder.zero_grad()
        start = x.clone().requires_grad_()
        sizes: list[int] = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        torch.manual_seed(1)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = encoder(start, segments).square().sum()
        kept.append(sum(sizes))
        loss.backward()
        drawn = torch.rand(1)  # the generator goes on as if nothing had been drawn twice
        found.append([loss.detach(), start.grad, drawn, *(p.grad for p in encoder.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[1] < kept[0] / 5
    assert len(found[0]) == 3 + 2 * 8
