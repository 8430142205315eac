"""Every layer of the translated C code beside the integer reference, both with the C code's own inputs."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stdet_deploy_stm32.bench.emulator import INSTALL, CNetwork
from stdet_deploy_stm32.onnx_graph.integer import IntegerReference
from stdet_deploy_stm32.quantize.modes import Job, run_mode


def laid_open(model: ModelProto, sizes: dict[str, int]) -> ModelProto:
    """The graph with one float output that has the numbers of all quantized tensors, one after the other."""
    shown = ModelProto.FromString(model.SerializeToString())
    graph = shown.graph
    graph.initializer.append(numpy_helper.from_array(np.array([1, -1], np.int64), "one_row"))
    for name in sizes:
        graph.node.append(helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT))
        graph.node.append(helper.make_node("Reshape", [f"{name}_float", "one_row"], [f"{name}_row"]))
    graph.node.append(helper.make_node("Concat", [f"{name}_row" for name in sizes], ["all"], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("all", TensorProto.FLOAT, [1, sum(sizes.values())]))
    return onnx.shape_inference.infer_shapes(shown)


def test_every_layer_of_the_c_code_is_within_a_step_when_it_gets_the_same_inputs(
    saved: Path, tmp_path: Path, photos: Any, section: Any
) -> None:
    if importlib.util.find_spec("emx_onnx_cgen") is None or shutil.which("gcc") is None:
        pytest.skip(f"the translator isn't here: {INSTALL['emx-onnx-cgen']}; {INSTALL['gcc']}")
    run_mode(Job(saved, tmp_path / "int8.onnx", photos(), section(), None, None))
    model = onnx.load(tmp_path / "int8.onnx")
    reference, feeds = IntegerReference(model), {"image": photos().image(0)}
    stored = reference.run(feeds).stored
    onnx.save(laid_open(model, {name: array.size for name, array in stored.items()}), tmp_path / "all.onnx")
    (tmp_path / "c").mkdir()
    network = CNetwork(tmp_path / "all.onnx", tmp_path / "c")
    numbers = network.run(network.build(None), [feeds["image"]]).outputs[0][0][0]
    ends = np.cumsum([array.size for array in stored.values()])
    pieces = np.split(numbers, ends[:-1])
    theirs = {n: p.reshape(a.shape).astype(a.dtype) for (n, a), p in zip(stored.items(), pieces, strict=True)}
    mine = reference.run(feeds, theirs).stored
    off = {name: np.abs(mine[name].astype(int) - theirs[name]) for name in stored}
    assert len(off) > 8
    assert max(int(d.max()) for d in off.values()) <= 1
    assert sum(int((d > 0).sum()) for d in off.values()) < 0.001 * sum(d.size for d in off.values())
