"""Which layers a model applies, in order: followed through ``nn.Sequential`` and, by ``torch.fx``, through classes."""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

# The package whose layers are not looked into.
OWN = "fedsim.models."
_ACTIVATIONS: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((torch.relu, functional.relu, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((torch.tanh, functional.tanh, "tanh"), nn.Tanh),
    **dict.fromkeys((torch.sigmoid, functional.sigmoid, "sigmoid"), nn.Sigmoid),
    functional.gelu: nn.GELU,
}


class NotAChain(Exception):
    """The model is not a chain of known layers; the message says what is in the way."""


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that the model applies one after the other; raises ``NotAChain``."""
    if any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules()):
        raise NotAChain("it has hooks")
    if type(module) is nn.Sequential:
        for child in module:
            yield from layers_of(child)
    elif type(module).__module__.startswith(("torch.nn", OWN)):
        yield module
    else:
        yield from _followed(module, _trace(module))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith(OWN) or super().is_leaf_module(m, module_qualified_name)


def _trace(module: nn.Module) -> fx.Graph:
    """What a copy of the module does in training; global generators are left as they were."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            return _Tracer().trace(copy.deepcopy(module).train())
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise NotAChain(f"torch.fx cannot follow it ({reason})") from error
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _followed(module: nn.Module, graph: fx.Graph) -> Iterator[nn.Module]:
    """The graph's nodes as modules; each must take what the one before returned, and nothing else."""
    last: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "placeholder" and last is None:
            last = node
        elif node.op == "output" and node.args == (last,):
            return
        elif _is_length(node):
            continue
        elif node.args[:1] == (last,) and all(other is last or _is_length(other) for other in node.all_input_nodes):
            yield module.get_submodule(str(node.target)) if node.op == "call_module" else _as_module(node)
            last = node
        else:
            raise NotAChain(f"{node.name} does not follow on the layer before alone")


def _is_length(node: fx.Node) -> bool:
    """The batch's length, with which ``view`` is called: ``x.size(0)`` or ``x.shape[0]``."""
    return (
        (node.target == "size" and node.args[1:] == (0,))
        or (node.target is getattr and node.args[1:] == ("shape",))
        or (node.target is operator.getitem and node.args[1:] == (0,) and _is_length(node.all_input_nodes[0]))
    )


def _as_module(node: fx.Node) -> nn.Module:
    """The module of a function or method, with the same meaning."""
    rest, options = node.args[1:], dict(node.kwargs)
    if node.target in _ACTIVATIONS and not rest and options.keys() <= {"inplace"}:
        return _ACTIVATIONS[node.target]()
    if node.target in (torch.flatten, "flatten") and (*rest, *options.values()) in ((1,), (1, -1)):
        return nn.Flatten()
    if node.target in ("view", "reshape") and len(rest) == 2 and not options and _spares_the_batch(*rest):
        return nn.Flatten()
    if node.target is functional.max_pool2d:
        return nn.MaxPool2d(*rest, **options)  # type: ignore[arg-type]
    raise NotAChain(f"no fast kernel for {node.name}")


def _spares_the_batch(batch: Any, values: Any) -> bool:
    """That ``view(batch, values)`` flattens each example, if it fits the layer that follows."""
    return isinstance(values, int) and (isinstance(batch, fx.Node) or (batch == -1 and values > 0))
