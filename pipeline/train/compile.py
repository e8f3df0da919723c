"""Compiles what the layers of a network compute of each token by itself; attention stays as it is.

    tokenwise functions -> torch.compile, rows dynamic -> one compiled function for all layers of the same shape

Only these parts are compiled, not the step: lengths of segments differ from pack to pack, and with them what attention
calls. Rows are a symbol of the compiled code, so a pack of another size is no other compilation.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from typing import Any, Literal, ParamSpec

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from interlace.contract.errors import InterlaceError
from interlace.model import tokenwise
from interlace.model.tokenwise import Tokenwise
from interlace.model.transformer import Block

MAX_COMPILATIONS = 16
"""Most compilations of a worker. A network needs two to six: its functions, with and without dropout and gradient."""

Wanted = Literal["auto"] | bool
P = ParamSpec("P")


def compile_layers(
    network: nn.Module, wanted: Wanted, device: torch.device, say: Callable[[str], None]
) -> "Compiler | None":
    """Make the layers of a network train by compiled functions where `train.compile` wants it.

    Args:
        network: whose every `Block` is changed.
        wanted: the setting; `auto` means on a GPU.
        device: the network's.
        say: told of each compilation, and of the last that is allowed.

    Returns:
        What compiles and counts; None where nothing is compiled.

    Raises:
        InterlaceError: it is wanted, but what `torch.compile` needs is not here.
    """
    if not (device.type == "cuda" if wanted == "auto" else wanted):
        return None
    if (lacks := lacking(device)) is not None:
        if wanted != "auto":
            raise InterlaceError(f"`train.compile: true` on {device.type} needs {lacks}, but there is none")
        say(f"layers are not compiled: {lacks} is missing (`train.compile: auto`)")
        return None
    compiler = Compiler(say)
    compiler.apply(network)
    return compiler


def lacking(device: torch.device) -> str | None:
    """What `torch.compile` needs on such a device and this machine has not."""
    on_gpu = device.type == "cuda"
    own, names = os.environ.get("CC" if on_gpu else "CXX"), ("gcc", "clang") if on_gpu else ("g++", "clang++")
    if not any(shutil.which(name) for name in ([own] if own else names)):
        return f"a {'C' if on_gpu else 'C++'} compiler ({own or ' or '.join(names)})"
    return "Triton" if on_gpu and find_spec("triton") is None else None


class Compiler:
    """Compiles functions of tensors, at most `limit` times in all; what is new afterwards is computed uncompiled.

    Args:
        say: told of each compilation.
        limit: compilations in all.
        backend: of `torch.compile`.

    Attributes:
        count: compilations so far.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        limit: int = MAX_COMPILATIONS,
        backend: Literal["inductor", "aot_eager"] = "inductor",
    ) -> None:
        # Imported where it is wanted: torch's compiler takes seconds that other runs need not pay.
        import torch._dynamo as dynamo

        torch.compiler.reset()  # what other networks of this process compiled counts against a limit of torch's own
        dynamo.config.optimize_ddp = False  # it would cut functions that are small already
        # torch's compiler itself asks tensors whether they have one
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        self.say, self.limit = say, limit
        self.count = 0
        self._backend = dynamo.lookup_backend(backend)
        self._mark = dynamo.maybe_mark_dynamic

    def apply(self, network: nn.Module) -> None:
        """Let every layer of a network train by functions compiled here."""
        functions = Tokenwise(
            project=self.compiled(tokenwise.project),
            mix=self.compiled(tokenwise.mix),
            finish=self.compiled(tokenwise.finish),
        )
        for module in network.modules():
            if isinstance(module, Block):
                module.compiled = functions

    def compiled(self, function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        """A function of tensors, compiled; parameters have fixed sizes, of other tensors the first is dynamic."""
        name = getattr(function, "__name__", "function")

        def backend(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            self.count += 1
            last = "; from now on what is new is computed uncompiled"
            self.say(f"compiling `{name}` of the layers, {self.count} of at most {self.limit}{last * self._is_spent}")
            with warnings.catch_warnings(action="ignore"):  # torch's compiler imports what torch has deprecated
                return self._backend(graph, inputs)

        fast = torch.compile(function, backend=backend, dynamic=False, fullgraph=False)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            rows = args[0]
            assert isinstance(rows, Tensor)
            if len(rows) < 2:  # torch compiles 0 and 1 each by itself
                return function(*args, **kwargs)
            self._mark_rows(args)
            if not self._is_spent:
                return fast(*args, **kwargs)
            with torch.compiler.set_stance("eager_on_recompile"):
                return fast(*args, **kwargs)

        return call

    @property
    def _is_spent(self) -> bool:
        return self.count >= self.limit

    def _mark_rows(self, values: Sequence[Any]) -> None:
        for value in values:
            if isinstance(value, tuple):
                self._mark_rows(value)
            elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self._mark(value, 0)
