"""Fusions of the fields' states: layers within each field, one pooled vector a field, then one combination."""

# S samples, F fields, D width

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from interlace.contract.batch import move
from interlace.model.fusion import FieldTokens, Fused, Fusion, find_present, key
from interlace.recipe.model import Model


class WeightedSum(Fusion):
    """`F(X) = sum of w_i f_i(X)`: a weighted mean of the fields' states.

    One learned weight a field, by softmax over the fields that are present (Kiela et al. 2018, "Dynamic
    meta-embeddings", whose weights depend on the input as well).
    """

    votes = False
    """Whether tasks combine the predictions of the fields by these weights."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.logits = nn.ParameterDict({key(name): nn.Parameter(torch.zeros(())) for name in names})

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        """See `Fusion`; a sample without fields has zeros for state and weights."""
        fields = self.states(tokens)
        weights_SF = learned_weights(self.logits, tokens, keep_SF)
        return Fused(
            sample_SD=(weights_SF.unsqueeze(2) * stack(fields)).sum(1),
            fields=fields,
            tokens=tokens,
            weights_SF=weights_SF.detach(),
            votes_SF=weights_SF if self.votes else None,
        )


class Decision(WeightedSum):
    """Late fusion: each field predicts by itself, and tasks combine the predictions by learned weights.

    Kittler et al. 1998, "On combining classifiers". The weights are those of `WeightedSum`, shared by all tasks, and
    given to them as `votes_SF`; a task whose settings have no `decides` is refused by the recipe. The sample's state,
    for what reads states, is the weighted mean of the fields'.
    """

    votes = True


class Product(Fusion):
    """The element-wise product of the fields' projected states, less 1.

    Kim et al. 2017 (Hadamard product); a factor is `1 + tanh(P f)` as if each state ended with a 1 (Liu et al. 2018,
    low-rank fusion, of rank 1), so the product holds every field alone and every combination of them, and an absent
    field is the factor 1.
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.project = projections(model, names)

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        """See `Fusion`."""
        fields = self.states(tokens)
        projected_SFD = project_present(self.project, fields, present_on_device(tokens, keep_SF))
        return Fused(sample_SD=(1 + projected_SFD.tanh()).prod(1) - 1, fields=fields, tokens=tokens)


class Concat(Fusion):
    """The fields' states end to end, one projection, GELU (Ngiam et al. 2011, joint representation).

    Each field has its own block of the projection, to which an absent one gives zeros. Without the GELU, which their
    joint layer has as well, fields could not interact before a linear head.
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.project = projections(model, names)

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        """See `Fusion`."""
        fields = self.states(tokens)
        projected_SFD = project_present(self.project, fields, present_on_device(tokens, keep_SF))
        return Fused(sample_SD=nn.functional.gelu(projected_SFD.sum(1)), fields=fields, tokens=tokens)


class Gated(Fusion):
    """A gate for each field and dimension, opened by all present fields (Arevalo et al. 2017, GMU).

    `sum of z_i tanh(P_i f_i)`, where the gates `z` are a softmax over the present fields (there `z` and `1 - z` of two
    fields, sigmoids of more), so that they always sum to 1.
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.project = projections(model, names)
        self.gates = nn.ModuleDict({key(name): projections(model, names) for name in names})
        self.offsets = nn.ParameterDict({key(name): nn.Parameter(torch.zeros(model.dim)) for name in names})

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        """See `Fusion`; a field's weight is the mean of its gate."""
        fields, present_SF = self.states(tokens), present_on_device(tokens, keep_SF)
        projected_SFD = project_present(self.project, fields, present_SF).tanh()
        opened = [
            project_present(self.gates[key(name)], fields, present_SF).sum(1) + self.offsets[key(name)]
            for name in tokens
        ]
        gates_SFD = softmax_of_present(torch.stack(opened, dim=1), present_SF.unsqueeze(2))
        sample_SD = (gates_SFD * projected_SFD).sum(1)
        return Fused(sample_SD=sample_SD, fields=fields, tokens=tokens, weights_SF=gates_SFD.detach().mean(2))


def present_on_device(tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Tensor:
    """`find_present` where the states are."""
    return move(find_present(tokens, keep_SF), next(iter(tokens.values())).segments.device)


def stack(fields: Mapping[str, Tensor]) -> Tensor:
    """The fields' states side by side, `[S, F, D]`."""
    return torch.stack(list(fields.values()), dim=1)


def learned_weights(logits: nn.ParameterDict, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Tensor:
    """One learned weight a field, `[S, F]`: they sum to 1 over the fields of a sample that are present."""
    logits_F = torch.stack([logits[key(name)] for name in tokens])
    return softmax_of_present(logits_F.expand(keep_SF.shape), present_on_device(tokens, keep_SF))


def softmax_of_present(logits: Tensor, present: Tensor) -> Tensor:
    """Softmax over the fields (dimension 1) that are present; zeros for others, also where there is none at all."""
    logits = logits.masked_fill(~present, -torch.inf)
    most = logits.detach().amax(1, keepdim=True)
    votes = (logits - most.masked_fill(most.isinf(), 0.0)).exp()
    return votes / votes.sum(1, keepdim=True).clamp(min=1)  # the largest of any sample with a field is 1


def projections(model: Model, names: Sequence[str]) -> nn.ModuleDict:
    """A square matrix for each field, without offset: what is absent gives zeros."""
    return nn.ModuleDict({key(name): nn.Linear(model.dim, model.dim, bias=False) for name in names})


def project_present(matrices: nn.Module, fields: Mapping[str, Tensor], present_SF: Tensor) -> Tensor:
    """Each field's state times its own matrix, `[S, F, D]`, zeros where it is not present.

    In float32: few rows, and of a number that differs from pack to pack (see `attention` on shapes).
    """
    assert isinstance(matrices, nn.ModuleDict)
    with torch.autocast(present_SF.device.type, enabled=False):
        projected = [matrices[key(name)](state_SD) for name, state_SD in fields.items()]
    return torch.stack(projected, dim=1) * present_SF.unsqueeze(2)
