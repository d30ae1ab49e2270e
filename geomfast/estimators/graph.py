"""What autograd's graph tells of a model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node


def nodes(output: Tensor, *, beyond: Tensor | None = None) -> Iterator[Node]:
    """Every operation that the output was made by, leaves included, each once.

    Those that `beyond` was made by only through other operations, where it is given.
    """
    seen, waiting = {output.grad_fn}, [output.grad_fn]
    if beyond is not None:
        seen.add(beyond.grad_fn)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)


def uses_in_graph(output: Tensor, parameters: dict[str, Tensor]) -> dict[str, int]:
    """How many operations took each parameter on its way to the output.

    Args:
        output: has a graph.
        parameters: by name; leaves of graphs.

    Returns:
        Name -> count, 0 for a parameter that does not reach the output.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    uses = dict.fromkeys(parameters, 0)
    for node in nodes(output):
        for following, _ in node.next_functions:
            name = names.get(id(getattr(following, "variable", None)))
            if name is not None:
                uses[name] += 1
    return uses


def reached(output: Tensor, marked: set[Node]) -> tuple[set[Node], set[Node]]:
    """Which of the marked operations the output was made by, and which of these come first.

    Returns:
        Those reached, and among them those that no other marked one went into: a backward pass
        that arrives at the latter has passed by all.
    """
    found, first = set(), set()
    below: dict[Node, bool] = {}  # whether a marked one went into it
    waiting = [output.grad_fn]
    while waiting:
        node = waiting[-1]
        if node is None or node in below:
            waiting.pop()
            continue
        children = [following for following, _ in node.next_functions if following is not None]
        unseen = [child for child in children if child not in below]
        if unseen:
            waiting += unseen
            continue
        waiting.pop()
        below[node] = any(below[child] or child in marked for child in children)
        if node in marked:
            found.add(node)
            if not below[node]:
                first.add(node)
    return found, first


def custom_functions(output: Tensor) -> list[str]:
    """Names of the operations on the way to the output whose derivative is not torch's own."""
    found = set()
    for node in nodes(output):
        function = getattr(type(node), "_forward_cls", None)
        if function is not None:
            if not getattr(function, "exact_second_derivative", False):  # geomfast's own
                found.add(function.__name__)
        elif "CppNode" in node.name():  # torch::autograd::Function of an extension
            found.add(node.name())
    return sorted(found)


def once_differentiable_functions(output: Tensor) -> list[str]:
    """Names of the autograd functions on the way to the output that say so of their backward."""
    found = set()
    for node in nodes(output):
        function = getattr(type(node), "_forward_cls", None)
        if function is None:
            continue
        backward = getattr(function, "backward", None)
        # The decorator's wrapper is defined where the decorator is.
        if getattr(backward, "__globals__", {}).get("__name__") == "torch.autograd.function":
            found.add(function.__name__)
    return sorted(found)
