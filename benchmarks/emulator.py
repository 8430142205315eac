"""A deployed model on an emulated Cortex-M55: instructions, the share of the post-processing, whose answers the C code gives.

`python benchmarks/emulator.py CONFIG.yaml INT8.onnx [--images 12] [--ap] [--core Cortex-M55]`

CONFIG names the test set. `--ap` also scores the C code (host build), the integer reference and onnxruntime over all of
it, and says how far each difference reaches when the images are drawn anew.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from stdet import stages
from stdet.artifacts import ModelFile
from stdet.build import Builder
from stdet.config import load
from stdet.data.loader import EvalLoader
from stdet.data.preprocess import normalize, prepare
from stdet.evaluation.chance import difference
from stdet.evaluation.coco import chooser, detections, score
from stdet.evaluation.predictors import OnnxPredictor, PlacedPredictor
from stdet.interfaces.reporter import SilentReporter
from stdet.plugins.loader import load_plugins
from stdet.runs.record import RunRecord
from stdet.stages.models import onnx_spec
from stdet.stages.run import Run
from stdet.structures import DetectorSpec
from stdet_deploy_stm32.bench.emulation import compare
from stdet_deploy_stm32.bench.emulator import MACHINES, CNetwork, Program
from stdet_deploy_stm32.bench.places import of_program, reference
from stdet_deploy_stm32.onnx_graph.integer import IntegerReference
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.onnx_graph.view import load_model

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--ap", action="store_true")
    parser.add_argument("--core", choices=MACHINES, default="Cortex-M55")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_measure(arguments, Path(folder)), indent=1))


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    components = load_plugins()[0]
    config = load(arguments.config, [f"model.model_path={arguments.model}"], components, operation_mode="evaluation")
    builder = Builder(config, components)
    run = Run(builder, RunRecord(folder / "run"), SilentReporter())
    spec = onnx_spec(run, arguments.model)
    stages.do("deploy", run)
    (folder / "c").mkdir()
    network = CNetwork(arguments.model, folder / "c", folder / "run" / "firmware")
    host, program = network.build(None), network.build(MACHINES[arguments.core])
    dataset = builder.dataset(builder.evaluation_split(), spec.class_names, spec=spec)
    images = [
        network.input.quantize(normalize(prepare(dataset.read_image(i), spec.preprocess)[0][None], spec.preprocess))
        for i in range(min(arguments.images, len(dataset)))
    ]
    ran, here = network.run(program, images), network.run(host, images)
    reference = IntegerReference(load_model(arguments.model))
    names = [output.name for output in network.outputs]
    session = new_session(arguments.model, optimize=False)
    fed = [{network.input.name: image} for image in images]
    found: dict[str, object] = {
        "model": arguments.model.name,
        "core": arguments.core,
        "images": len(images),
        "instructions_network": int(np.median(ran.network)),
        "instructions_postprocess": int(max(ran.postprocess)),
        "postprocess_percent": 100 * max(p / n for p, n in zip(ran.postprocess, ran.network, strict=True)),
        "code_bytes": program.code_bytes,
        "data_bytes": program.data_bytes,
        "boxes_equal_host": all(map(np.array_equal, ran.boxes, here.boxes)),
        "core_against_host": compare(ran.outputs, here.outputs, network.outputs),
        "c_against_reference": compare(
            here.outputs, [[reference.run(f).outputs[n] for n in names] for f in fed], network.outputs
        ),
        "c_against_onnxruntime": compare(here.outputs, [session.run(names, f) for f in fed], network.outputs),
    }
    if arguments.ap:
        found |= _scores(builder, spec, arguments.model, network, host, folder)
    return found


def _scores(
    builder: Builder, spec: DetectorSpec, model: Path, network: CNetwork, host: Program, folder: Path
) -> dict[str, object]:
    """AP of all three over the whole test set, and how far chance makes each differ from onnxruntime's."""
    session = OnnxPredictor(ModelFile(model, "int8"), builder.decoder(spec))
    predictors = {
        "onnxruntime": session,
        "C, host build": PlacedPredictor(session, of_program(network, host)),
        "integer reference": PlacedPredictor(session, reference(model, folder)),
    }
    dataset = builder.dataset(builder.evaluation_split(), spec.class_names, spec=spec)
    loader = EvalLoader(dataset, spec.preprocess, BATCH, 0, list(range(len(dataset))))
    everyone = detections(
        lambda images: {n: p(images) for n, p in predictors.items()}, loader, chooser(builder.thresholds())
    )
    found: dict[str, object] = {}
    scores = {name: score(dataset, boxes) for name, boxes in everyone.items()}
    for name, each in scores.items():
        metrics = each.metrics
        found |= {f"{metric} of {name}": metrics[metric] for metric in ("AP50", "AP")}
        if name != "onnxruntime":
            chance = difference(each.matches, scores["onnxruntime"].matches, len(dataset))
            found |= {f"{m} of {name} minus onnxruntime, points by chance": str(chance[m]) for m in ("AP50", "AP")}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
