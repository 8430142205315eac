"""Other tools' QDQ files: checked, brought into the form, and proved to compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper

from stdet.artifacts import sha256_file, write_json
from stdet.errors import QuantizationError, Rejected
from stdet.interfaces.deploy import QuantizationResult
from stdet.structures import Table
from stdet_deploy_stm32 import __version__
from stdet_deploy_stm32.onnx_graph.session import new_session, random_inputs
from stdet_deploy_stm32.onnx_graph.surgery import own_constants, sort_nodes
from stdet_deploy_stm32.onnx_graph.view import QDQ, fix_batch, load_model
from stdet_deploy_stm32.quantize.form.borders import border_types
from stdet_deploy_stm32.quantize.form.check import Finding, check_form
from stdet_deploy_stm32.quantize.form.rewrite import rewrite_into_form
from stdet_deploy_stm32.quantize.inspection import decibel
from stdet_deploy_stm32.quantize.int8 import METADATA_KEY, write_model
from stdet_deploy_stm32.quantize.prepare import name_nodes

LEAST_SQNR_DB = 30.0
"""Rounding a float bias to int32 stays far above; less means that the normaliser changed what the model computes."""


def rewrite_file(path: Path, output: Path) -> QuantizationResult:
    """Write the QDQ file `path` in the form that ST's compiler takes; the findings go to `form.json` beside it.

    Raises:
        ArtifactError: `path` can't be read or run.
        QuantizationError: it holds no Q/DQ nodes.
        Rejected: something can't be brought into the form, or the result computes something else. `form.json` is
            written, `output` isn't.
    """
    model = load_model(path)
    _refuse_other_forms(model, path)
    fix_batch(model)
    name_nodes(model)
    before = check_form(model)
    normalised = ModelProto.FromString(model.SerializeToString())
    rewrite_into_form(normalised)
    own_constants(normalised)
    sort_nodes(normalised)
    normalised = onnx.shape_inference.infer_shapes(normalised)  # fixing the batch made the outputs' shapes unknown
    after = check_form(normalised)
    same = _agreement(model, normalised)
    record: dict[str, Any] = {
        "format": "stdet.normalisation/1",
        "source": {"name": path.name, "sha256": sha256_file(path), "producer": model.producer_name},
        "found": [_row(f) for f in before],
        "left": [_row(f) for f in after],
        "agreement_db": same,
        "borders": border_types(normalised),
        "versions": {"stdet-deploy-stm32": __version__},
    }
    write_json(output.with_name("form.json"), record)
    tables = (_table(before, after),)
    errors = [f for f in after if f.level == "error"]
    changed = [name for name, value in same.items() if value < LEAST_SQNR_DB]
    if errors or changed:
        raise Rejected(
            f"{path.name} can't be brought into the form that the compiler takes: "
            + (f"{len(errors)} findings stay, the first at {errors[0].where}: {errors[0].message}" if errors else "")
            + (f"output `{changed[0]}` would change ({same[changed[0]]:.1f} dB)" if changed and not errors else ""),
            f"all findings are in {output.with_name('form.json')}; quantize the float model with stdet instead, or let "
            "the other tool use static shapes, one scale an activation, symmetric per-channel int8 weights and "
            "standard-domain Q/DQ",
            record=record,
            tables=tables,
        )
    kept = {e.key: e.value for e in model.metadata_props}
    del normalised.metadata_props[:]
    helper.set_model_props(normalised, kept | {METADATA_KEY: json.dumps(record)})
    write_model(normalised, output)
    return QuantizationResult(record, tables)


def _refuse_other_forms(model: ModelProto, path: Path) -> None:
    operators = {node.op_type for node in model.graph.node}
    integer = sorted(o for o in operators if o.startswith("QLinear") or o.endswith("Integer"))
    if integer:
        raise QuantizationError(
            f"{path.name} holds integer operators ({', '.join(integer[:3])}), not Q/DQ pairs",
            "let the other tool export the QDQ format",
        )
    if not operators & QDQ:
        raise QuantizationError(
            f"{path.name} isn't quantized, so there is nothing to normalise",
            "use quantization.operating_mode: default",
        )


def _agreement(one: ModelProto, other: ModelProto) -> dict[str, float]:
    """SQNR of `other` against `one` on noise, by output, dB; `NO_NOISE_DB` where they are equal."""
    # not optimised: fused int8 and uint8 kernels round at different places, and the normaliser isn't to blame for that
    sessions = [new_session(m.SerializeToString(), optimize=False) for m in (one, other)]
    names = [value.name for value in one.graph.output]
    feeds = random_inputs(sessions[0])
    found = {}
    for name, x, y in zip(names, *(session.run(names, feeds) for session in sessions), strict=True):
        a, b = x.astype(np.float64), y.astype(np.float64)
        found[name] = decibel(float(np.square(a).sum()), float(np.square(a - b).sum()))
    return found


def _row(finding: Finding) -> dict[str, str]:
    return {"level": finding.level, "rule": finding.rule, "where": finding.where, "message": finding.message}


def _table(before: list[Finding], after: list[Finding]) -> Table:
    """One row a rule: how often it was broken, how often it still is, and where first."""
    rows = []
    for rule in dict.fromkeys(f.rule for f in (*before, *after)):
        old, new = ([f for f in found if f.rule == rule] for found in (before, after))
        first = (new or old)[0]
        rows.append([rule, first.level, str(len(old)), str(len(new)), f"{first.where}: {first.message}"])
    title = "the form, before and after normalising" if rows else "the file was in the form already"
    return Table(title, ["rule", "level", "found", "left", "first"], rows)
