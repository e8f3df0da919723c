"""One network on several workers: DistributedDataParallel, or FSDP2, which gives each worker rows of every weight.

Under FSDP (Rajbhandari et al. 2020, ZeRO stage 3; Zhao et al. 2023) a parameter is a `DTensor` sharded along its first
dimension; each `Block` is gathered when it is needed, everything else at once. Gradients are averaged over workers
after every pack, so that none is ever whole for long. Parameters that are a single number can't be sharded: they stay
whole, and `finish_gradients` averages theirs.

With `train.shard_over` groups of so many ranks hold the whole weights together, and gradients of equal rows are
averaged over the groups (hybrid sharding): weights travel within a node, gradients between nodes. In bf16 on a GPU the
weights of layers are gathered in bf16, which halves what travels; the stream, gradients on their way and what is kept
are float32.

Every parameter takes part in every step on every rank: a field that a pack lacks is zero tokens, not a branch.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from interlace.model.transformer import Block
from interlace.recipe.recipe import Recipe
from interlace.train.collectives import Collectives


def distribute(
    losses: nn.Module,
    recipe: Recipe,
    world_size: int,
    *,
    half: bool | None = None,
    collectives: Collectives | None = None,
) -> nn.Module:
    """The module as one of `world_size` ranks runs it; itself where there is one rank.

    Make the optimizer afterwards: sharding replaces the parameters.

    Args:
        losses: on its device, weights equal on all ranks; returns losses.
        recipe: `train.parallel`, `train.shard_over`, `train.precision`, packs of a step.
        world_size: ranks of the process group.
        half: whether FSDP gathers layers in bf16; in bf16 on a GPU where not given.
        collectives: notes those of the module, if given.
    """
    if world_size == 1:
        return losses
    device = next(losses.parameters()).device
    if recipe.train.parallel == "ddp":
        replicas = _replicate(losses, once=recipe.batch.global_batch == world_size)
        if collectives is not None:
            collectives.watch_buckets(replicas)
        return replicas
    if half is None:
        half = device.type == "cuda" and recipe.train.precision == "bf16"
    shards = _shard(losses, (world_size, recipe.train.shard_over or world_size), device, half=half)
    if collectives is not None:
        collectives.watch_rows(shards)
    return shards


def _replicate(losses: nn.Module, *, once: bool) -> DistributedDataParallel:
    """DDP. Gradients are views of what is exchanged; buffers are constants, equal on all ranks.

    The graph is static, since every parameter takes part whatever fields a pack has. Torch is told so only where a rank
    has one pack a step (`once`): of several all but the last are not exchanged, and torch 2.13 fails in the first of
    them (`expect_autograd_hooks_ INTERNAL ASSERT FAILED`).
    """
    return DistributedDataParallel(losses, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=once)


def _shard(losses: nn.Module, ranks: tuple[int, int], device: torch.device, *, half: bool) -> nn.Module:
    """FSDP2 over all of the ranks, or over groups of as many as the second number says."""
    from torch.distributed.device_mesh import init_device_mesh  # with fsdp, a second that other runs need not pay
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    world_size, together = ranks
    mesh = init_device_mesh(device.type, (world_size,))
    if together < world_size:
        shape = (world_size // together, together)
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("copies", "shards"))
    whole = {p for p in losses.parameters() if p.ndim == 0}
    policy = MixedPrecisionPolicy()
    if half:  # the stream between layers stays float32
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for module in losses.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    _gather_ahead(losses)
    root: Any = fully_shard(losses, mesh=mesh, ignored_params=whole)
    # Ranks agree on what is exchanged even where one of them has no gradient; gloo knows no averages.
    root.set_reduce_scatter_unused_params(True)
    root.set_force_sum_reduction_for_comms(dist.get_backend() == "gloo")
    assert isinstance(root, nn.Module)
    return root


def _gather_ahead(losses: nn.Module) -> None:
    """While a layer of a stack computes, the next one is gathered, and in the backward pass the one before."""
    for stack in losses.modules():
        if isinstance(stack, nn.ModuleList):
            layers: list[Any] = [layer for layer in stack if isinstance(layer, Block)]
            for layer, after in pairwise(layers):
                layer.set_modules_to_forward_prefetch([after])
                after.set_modules_to_backward_prefetch([layer])


def is_sharded(tensor: Tensor) -> TypeGuard[Any]:
    """Whether a tensor is a `DTensor`, of which this rank holds some rows."""
    return hasattr(tensor, "to_local")


def own_rows(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this rank holds, in the same memory; all of one that is not sharded."""
    own: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return own


def holds_shards(network: nn.Module) -> bool:
    """Whether a network's weights are spread over the ranks."""
    return any(is_sharded(p) for p in network.parameters())


def delay_exchange(losses: nn.Module, delay: bool) -> None:
    """DDP exchanges gradients in the backward pass of the step's last pack; FSDP in all, to keep none whole."""
    if isinstance(losses, DistributedDataParallel):
        losses.require_backward_grad_sync = not delay


def finish_gradients(network: nn.Module, limit: float) -> Tensor:
    """Complete a step's gradient and scale it to a norm of at most `limit`.

    Returns:
        The norm before, a single number on the device, equal on all ranks.
    """
    parameters = list(network.parameters())
    if not holds_shards(network):
        return nn.utils.clip_grad_norm_(parameters, limit)
    numbers = _average([p for p in parameters if p.requires_grad and not is_sharded(p)], parameters[0].device)
    rows = [p.grad.to_local() for p in parameters if is_sharded(p) and p.grad is not None]
    square = nn.utils.get_total_norm(rows).square()
    dist.all_reduce(square, group=_holders(parameters))
    norm = (square + numbers.square().sum()).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for grad in [*rows, *(p.grad for p in parameters if not is_sharded(p) and p.grad is not None)]:
        grad.mul_(scale)
    return norm


def _holders(parameters: Iterable[nn.Parameter]) -> dist.ProcessGroup:
    """The ranks that hold the weights together with this one."""
    mesh = next(p.device_mesh for p in parameters if is_sharded(p))
    group = mesh.get_group(mesh.ndim - 1)
    assert isinstance(group, dist.ProcessGroup)
    return group


def place(network: nn.Module) -> tuple[int, int, bool]:
    """Which part of a sharded network this rank holds, of how many, and whether it is the one that writes it."""
    mesh = next(p.device_mesh for p in network.parameters() if is_sharded(p))
    part, parts = mesh.get_local_rank(mesh.ndim - 1), mesh.size(mesh.ndim - 1)
    return part, parts, dist.get_rank() < parts


def _average(parameters: Iterable[nn.Parameter], device: torch.device) -> Tensor:
    """Average the gradients of single numbers over the ranks; all of them as one vector."""
    owners = list(parameters)
    if not owners:
        return torch.zeros(0, device=device)
    grads = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in owners])
    dist.all_reduce(grads)
    grads /= dist.get_world_size()
    for parameter, grad in zip(owners, grads.unbind(), strict=True):
        parameter.grad = grad.clone()
    return grads


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights, whole on every rank; all ranks must call it together."""
    return {k: v.full_tensor() if is_sharded(v) else v for k, v in network.state_dict().items()}


def rows_like(whole: Tensor, target: Tensor) -> Tensor:
    """A whole tensor, sharded as `target` is, without talking to other ranks."""
    if not is_sharded(target):
        return whole
    from torch.distributed.tensor import distribute_tensor

    rows = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    return rows.clone()  # else a view, which holds the memory of the whole
