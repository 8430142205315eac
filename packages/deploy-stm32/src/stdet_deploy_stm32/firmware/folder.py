"""The folder that a firmware engineer takes."""

from __future__ import annotations

import shutil
from pathlib import Path

from stdet.artifacts import atomic_folder, sha256_file
from stdet.errors import ModelError
from stdet.interfaces.deploy import Deployment, DeployReport
from stdet_deploy_stm32.firmware import c_sources
from stdet_deploy_stm32.firmware.facts import read_firmware
from stdet_deploy_stm32.firmware.generated import app_config, model_header, model_source, ssd_anchors
from stdet_deploy_stm32.firmware.readme import Destination, readme
from stdet_deploy_stm32.firmware.test_vector import make_test_vector, write_test_vector
from stdet_deploy_stm32.onnx_graph.view import load_model

MODEL = "model.onnx"


def write_folder(deployment: Deployment, folder: Path, destination: Destination) -> DeployReport:
    """Model, C files, headers, README and test vector, all or nothing.

    Raises:
        ModelError: a float model, or one that the C code can't serve (`read_firmware`).
        ArtifactError: the file can't be read or run, or the folder exists or can't be written.
    """
    model = deployment.model.path
    if deployment.model.kind != "int8":
        raise ModelError(
            f"{model} isn't quantized; firmware runs the int8 form",
            "quantize it first: `stdet quantize CONFIG`, or operation_mode: chain_qd",
        )
    firmware = read_firmware(load_model(model), deployment.spec, deployment.coding, deployment.thresholds)
    with atomic_folder(folder) as new:
        vector = make_test_vector(model, firmware, deployment.picture, deployment.picture_source, deployment.detect)
        shutil.copyfile(model, new / MODEL)
        texts = c_sources() | {
            "stdet_model.h": model_header(firmware),
            "stdet_model.c": model_source(firmware),
            "app_config.h": app_config(firmware),
            "README.md": readme(firmware, vector, destination, sha256_file(model), deployment.notes),
        }
        if firmware.coding.priors is not None:
            texts["ssd_anchors.h"] = ssd_anchors(firmware)
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
        write_test_vector(vector, firmware, new / "test_vector")
        files = tuple(sorted(str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()))
    return DeployReport(folder, files, len(vector.detections))
