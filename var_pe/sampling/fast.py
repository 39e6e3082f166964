"""Fast sampling: drawings of one kind as a CUDA graph, and on processors with compiled blocks."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from var_pe.models.blocks import plainly
from var_pe.models.compiler import lacking_compiler
from var_pe.models.generator import ToDraw, VARTransformer, Walked
from var_pe.models.tokenizer import VQTokenizer

Run = Callable[[], Walked]
Capture = Callable[[Run, Sequence[nn.Module]], Run]

# Graphs of one function that dynamo keeps: one for each level of each kind of drawing. Its own limit is 8.
MOST_COMPILED = 128


class FastWalk:
    """`VARTransformer.walk`, faster: by `GraphedWalk` on a CUDA device, elsewhere with compiled blocks.

    A compiled block serves all layers; it is compiled once for each level of each kind of drawing.

    Raises:
        ValueError: a block is to be compiled, and there is no compiler.
    """

    def __init__(self) -> None:
        self.graphed: GraphedWalk | None = None
        self.compiled = torch.compile(plainly, dynamic=False)

    def __call__(self, transformer: VARTransformer, tokenizer: VQTokenizer, wanted: ToDraw) -> Walked:
        device = wanted.labels_B.device.type
        if device == "cuda":
            if self.graphed is None:
                self.graphed = GraphedWalk(CudaCapture())
            return self.graphed(transformer, tokenizer, wanted)

        lacking = lacking_compiler(device)
        if lacking:
            raise ValueError(
                f"enable_fast_sampling() compiles blocks on a processor, which needs {lacking}; "
                "disable_fast_sampling() draws without"
            )
        limit = torch._dynamo.config.patch(recompile_limit=MOST_COMPILED)
        with limit, transformer.blocks.called_by(self.compiled):
            return transformer.walk(tokenizer, wanted)


@dataclass(frozen=True)
class Graph:
    """A run that can be repeated, and what it draws: its labels and keys are read where they lie."""

    wanted: ToDraw
    run: Run


class GraphedWalk:
    """`VARTransformer.walk` as a graph for each kind of drawing: batch, pyramid, settings, type and weights.

    A kind is drawn a few times and captured when it is first met; afterwards its inputs are copied into the
    graph's own and it is replayed. The `most` kinds used last are kept. Weights that were written to, moved
    or replaced are another kind. `capture` gives a run that can be repeated; a repetition overwrites the
    results of the one before.
    """

    def __init__(self, capture: Capture, most: int = 4) -> None:
        self.capture = capture
        self.most = most
        self.graphs: OrderedDict[Hashable, Graph] = OrderedDict()

    def __call__(self, transformer: VARTransformer, tokenizer: VQTokenizer, wanted: ToDraw) -> Walked:
        modules = (transformer, tokenizer.quantizer)
        device = wanted.labels_B.device
        kind = (
            (device, len(wanted.labels_B), wanted.pyramid, wanted.choice),
            autocast_state(device),
            *[stamp(module) for module in modules],
        )

        if kind not in self.graphs:
            while len(self.graphs) >= self.most:
                self.graphs.popitem(last=False)
            own = replace(wanted, labels_B=wanted.labels_B.clone(), key_BL=wanted.key_BL.clone())
            self.graphs[kind] = Graph(own, self.capture(partial(transformer.walk, tokenizer, own), modules))

        self.graphs.move_to_end(kind)
        graph = self.graphs[kind]
        graph.wanted.labels_B.copy_(wanted.labels_B)
        graph.wanted.key_BL.copy_(wanted.key_BL)
        tokens_BL, f_hat_BZhw, sum_of_all = graph.run()
        return tokens_BL.clone(), f_hat_BZhw.clone(), sum_of_all.clone()


def autocast_state(device: torch.device) -> Hashable:
    enabled = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if enabled else None


def stamp(module: nn.Module) -> Hashable:
    """Differs whenever a graph of the module may be out of date."""
    found = []
    for tensor in tensors_of(module):
        written = 0 if tensor.is_inference() else tensor._version
        found.append((tensor.data_ptr(), tensor.dtype, written))
    # Remapped waves are in no tensor.
    line = getattr(module, "config", {}).get("encoding")
    return (module.training, line, *found)


def tensors_of(module: nn.Module) -> Iterable[Tensor]:
    return chain(module.parameters(), module.buffers())


class CudaCapture:
    """Makes CUDA graphs of runs, which must not wait for the device.

    All share one pool of memory, about what the largest of them needs: none is replayed while another one
    runs, and what one leaves behind is copied before. `bytes_kept` is how much they have claimed.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.bytes_kept = 0

    def __call__(self, run: Run, modules: Sequence[nn.Module]) -> Run:
        with torch.cuda.device(next(modules[0].parameters()).device), torch.no_grad():
            stream = torch.cuda.Stream()
            outside = warmed_up(run, modules, stream)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()

            # What autocast has cast must be cast in the graph, which owns the memory then, and by no other.
            graph = torch.cuda.CUDAGraph()
            torch.clear_autocast_cache()
            with torch.cuda.graph(graph, self.pool, stream, capture_error_mode="thread_local"):
                results = run()
            torch.clear_autocast_cache()
            self.bytes_kept += max(0, torch.cuda.memory_reserved() - before)

        return Replayed(graph, results, outside)


@dataclass(frozen=True)
class Replayed:
    """A captured graph, and the tensors that must stay at their addresses for it."""

    graph: torch.cuda.CUDAGraph
    results: Walked
    outside: list[Tensor]

    def __call__(self) -> Walked:
        self.graph.replay()
        return self.results


def warmed_up(run: Run, modules: Sequence[nn.Module], stream: torch.cuda.Stream) -> list[Tensor]:
    """Runs a few times, so that kernels are chosen, libraries have their workspaces and caches are filled.

    Gives the tensors from elsewhere that a run reads.
    """
    run()

    # On the stream of the capture
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        torch.clear_autocast_cache()
        with From(modules) as outside:
            run()
    torch.cuda.current_stream().wait_stream(stream)
    return outside.tensors


class From(TorchDispatchMode):
    """Notes the tensors from elsewhere that a run reads, such as cached positions, other than weights."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self.known = {memory_of(tensor) for module in modules for tensor in tensors_of(module)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and memory_of(tensor) not in self.known:
                self.tensors.append(tensor)
                self.known.add(memory_of(tensor))

        made = func(*args, **(kwargs or {}))
        self.known |= {memory_of(tensor) for tensor in tree_leaves(made) if isinstance(tensor, Tensor)}
        return made


def memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
