"""What reading and writing ONNX files share: the order of gates, and graphs of which parts are computed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GATE_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""The gates of a node, i, o, f, c or z, r, h, by their index in ours, i, f, g, o or r, z, n."""

PEEPHOLE_ORDER = (0, 2, 1)
"""The peepholes of a node, i, o, f, by their index in ours, i, f, o."""


def require_onnx() -> Any:
    """The package onnx with the parts that are used here."""
    try:
        import onnx
        import onnx.reference
    except ImportError as error:
        raise ImportError('ONNX files need onnx: pip install "rnn_jax[interop]"') from error
    return onnx


class Graph:
    """The main graph of an ONNX model: where a value comes from, and what it is.

    Args:
        onnx: the package.
        model: an `onnx.ModelProto`.
    """

    def __init__(self, onnx: Any, model: Any) -> None:
        self.onnx, self.model = onnx, model
        self.nodes = list(model.graph.node)
        self.maker = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.constants = {one.name: one for one in model.graph.initializer}
        self.inputs = {one.name: one for one in model.graph.input if one.name not in self.constants}

    def above(self, name: str, stop: Sequence[str] = (), *, through_shapes: bool = True) -> tuple[list[int], list[str]]:
        """What a value is computed from.

        Args:
            name: the value.
            stop: values that are taken as they are.
            through_shapes: whether what only gives its shape counts.

        Returns:
            The indices of the nodes, in their order, and the names of graph inputs and constants.
        """
        nodes, leaves, seen, open_names = set(), [], set(stop), [name]
        while open_names:
            one = open_names.pop()
            if not one or one in seen:
                continue
            seen.add(one)
            if one not in self.maker:
                leaves.append(one)
                continue
            nodes.add(self.maker[one])
            node = self.nodes[self.maker[one]]
            if through_shapes or node.op_type != "Shape":
                open_names += node.input
        return sorted(nodes), leaves

    def value(self, name: str, known: Mapping[str, np.ndarray], dims: Sequence[int]) -> np.ndarray:
        """Computes a value with onnx's reference evaluator.

        Args:
            name: the value.
            known: values that are given.
            dims: the sizes that stand in for open axes of graph inputs, first to last; 1 beyond. The inputs are zeros.

        Raises:
            ValueError: it cannot be computed.
        """
        indices, leaves = self.above(name, tuple(known))
        helper, feeds = self.onnx.helper, dict(known)
        for leaf in leaves:
            if leaf in self.inputs:
                feeds[leaf] = self._zeros(leaf, dims)
        graph = helper.make_graph(
            [self.nodes[index] for index in indices],
            "part",
            [helper.make_tensor_value_info(one, self.onnx.TensorProto.FLOAT, None) for one in feeds],
            [helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, None)],
            [self.constants[leaf] for leaf in leaves if leaf in self.constants],
        )
        part = helper.make_model(graph, opset_imports=self.model.opset_import, functions=self.model.functions)
        try:
            with np.errstate(all="ignore"):
                return np.asarray(self.onnx.reference.ReferenceEvaluator(part).run([name], feeds)[0])
        except Exception as error:  # whatever an operator raises
            raise ValueError(f"{name!r} of the model cannot be computed: {error}") from error

    def _zeros(self, name: str, dims: Sequence[int]) -> np.ndarray:
        kind = self.inputs[name].type.tensor_type
        shape = [one.dim_value or (dims[i] if i < len(dims) else 1) for i, one in enumerate(kind.shape.dim)]
        return np.zeros(shape, self.onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
