"""Runs a QDQ graph over some images from layer to layer, so that a layer can be changed once its real input is known."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper
from onnxruntime import InferenceSession

from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.onnx_graph.surgery import graph_inputs, initializers, producers
from stdet_deploy_stm32.process_memory import return_memory

SWEEP_IMAGES = 32
"""Calibration images, spread over all, that layers are adjusted with; each position of a tensor counts."""


class Sweep:
    """Computes tensors in graph order; what was changed before counts for what comes after.

    Between two calls it holds, for every image, the integer tensors that later ones depend on.
    """

    def __init__(self, model: ModelProto, images: Iterable[np.ndarray]) -> None:
        """Args:
        model: QDQ form with a float input. The caller may change constants and what feeds them.
        """
        return_memory()  # of the step before: the images come on top
        self._model = model
        self._held = [{graph_inputs(model)[0].name: image} for image in images]

    def run(self, names: Sequence[str], later: Sequence[str]) -> Iterator[list[np.ndarray]]:
        """The tensors `names`, image by image, each in its dtype and shape in the graph; to be read to the end.

        Args:
            later: tensors that may be asked for after this.
        """
        nodes, _ = self._behind(names, self._held[0])
        whole = {n for node in nodes if node.op_type == "QuantizeLinear" for n in node.output}
        _, needed = self._behind(later, {*self._held[0], *whole})
        session = self._session(nodes, list(dict.fromkeys([*names, *sorted(needed & whole)])))
        for index, known in enumerate(self._held):
            feeds = {value.name: known[value.name] for value in session.get_inputs()}
            found = dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))
            yield [found[name] for name in names]
            self._held[index] = {name: (known | found)[name] for name in needed}

    def _behind(self, names: Iterable[str], held: Collection[str]) -> tuple[list[NodeProto], set[str]]:
        """The nodes that compute `names` from tensors of `held`, in graph order, and which of `held` they read."""
        writers = producers(self._model)
        used: set[str] = set()
        wanted: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in held:
                used.add(name)
            elif name in writers and writers[name].output[0] not in wanted:
                wanted.add(writers[name].output[0])
                waiting += writers[name].input
        return [node for node in self._model.graph.node if node.output[0] in wanted], used

    def _session(self, nodes: list[NodeProto], outputs: list[str]) -> InferenceSession:
        """Runs `nodes` alone, as they are written."""
        read = {name for node in nodes for name in node.input}
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in self._held[0].items()
            if name in read
        ]
        constants = [tensor for name, tensor in initializers(self._model).items() if name in read]
        part = helper.make_graph(nodes, "part", inputs, [ValueInfoProto(name=name) for name in outputs], constants)
        model = helper.make_model(part, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        return new_session(model.SerializeToString(), optimize=False)
