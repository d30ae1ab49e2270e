"""What autograd knows of the uses of parameters."""

from __future__ import annotations

from torch import Tensor


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
    seen, open_nodes = {output.grad_fn}, [output.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        for following, _ in node.next_functions if node is not None else ():
            name = names.get(id(getattr(following, "variable", None)))
            if name is not None:
                uses[name] += 1
            elif following not in seen:
                seen.add(following)
                open_nodes.append(following)
    return uses
