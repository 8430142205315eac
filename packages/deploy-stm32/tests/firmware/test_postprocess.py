"""The C post-processing against PyTorch's decoding and the evaluator's selection."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stdet.structures import Detections, Thresholds
from stdet_deploy_stm32.firmware.facts import Firmware

Build = Callable[..., Firmware]
CODINGS, KINDS = ("yolox", "ssd"), ("float32", "int8", "uint8")


def lifelike(firmware: Firmware, seed: int) -> list[np.ndarray]:
    """Outputs with a few objects that many neighbours see, on a quiet background."""
    rng = np.random.default_rng(seed)
    outputs = [rng.normal(0, 0.6, tensor.shape).astype(np.float32) for tensor in firmware.outputs]
    scores = outputs[firmware.scores_output]
    likely = rng.random(firmware.rows) < 0.3
    if firmware.coding.name == "yolox":
        scores[..., 4:] = rng.uniform(0, 0.1, scores[..., 4:].shape)
        scores[0, likely, 4:] = rng.uniform(0.3, 1, scores[0, likely, 4:].shape)
    else:
        scores[..., 0] += 3
        scores[0, likely, 1:] += rng.uniform(0, 6, scores[0, likely, 1:].shape)
    return [tensor.quantize(output) for tensor, output in zip(firmware.outputs, outputs, strict=True)]


def assert_same(found: Detections, wanted: Detections) -> None:
    assert len(found) == len(wanted)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-6)
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coding", CODINGS)
def test_the_same_boxes_in_the_same_order_as_in_python(
    firmware: Build, compiled: Any, reference: Any, coding: str, kind: str
) -> None:
    facts = firmware(coding, kind)
    model = compiled(facts)
    for seed in range(20):
        outputs = lifelike(facts, seed)
        wanted = reference(facts, outputs)
        assert len(wanted) > 5
        assert_same(model.detect(outputs), wanted)


@pytest.mark.parametrize("coding", CODINGS)
def test_more_candidates_than_there_is_room_for_change_nothing(
    firmware: Build, compiled: Any, reference: Any, coding: str
) -> None:
    facts = firmware(coding, thresholds=Thresholds(0.0, 0.2, 60))
    outputs = lifelike(facts, 1)
    wanted = reference(facts, outputs)
    assert len(wanted) > 30
    assert_same(compiled(facts, "-DSTDET_CANDIDATES=7").detect(outputs), wanted)


@pytest.mark.parametrize("iou", [0.0, 0.45, 1.0])
@pytest.mark.parametrize("confidence", [0.0, 0.05, 1.0])
def test_thresholds_mean_what_they_mean_in_python(
    firmware: Build, compiled: Any, reference: Any, confidence: float, iou: float
) -> None:
    for coding in CODINGS:
        facts = firmware(coding, thresholds=Thresholds(confidence, iou, 40))
        outputs = lifelike(facts, 2)
        assert_same(compiled(facts).detect(outputs), reference(facts, outputs))


def test_outputs_in_the_other_order_are_found_by_their_names(firmware: Build, compiled: Any, reference: Any) -> None:
    facts = firmware("ssd")
    outputs = lifelike(facts, 3)
    turned = dataclasses.replace(facts, outputs=facts.outputs[::-1])
    assert (turned.scores_output, turned.boxes_output) == (1, 0)
    assert_same(compiled(turned).detect(outputs[::-1]), reference(facts, outputs))


def test_a_box_that_is_no_number_is_no_detection(firmware: Build, compiled: Any, reference: Any) -> None:
    for coding in CODINGS:
        facts = firmware(coding)
        outputs = lifelike(facts, 0)
        first = compiled(facts).detect(outputs)
        boxes, scores = outputs[facts.boxes_output], outputs[facts.scores_output]
        boxes[0, ::3, 2] = 200  # the exponential overflows
        boxes[0, 1::7, 0] = np.nan
        scores[0, 2::5, -1] = np.nan
        scores[0, 3::11, 0 if coding == "ssd" else 4] = np.nan
        found = compiled(facts).detect(outputs)
        assert np.isfinite(found.boxes).all()
        assert len(found) < len(first) or not np.array_equal(found.boxes, first.boxes)
        assert_same(found, reference(facts, outputs))


MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
#include "stdet_model.h"
int main(int count, char **names)
{
    static const size_t sizes[] = {%s};
    void *outputs[STDET_MODEL_OUTPUTS];
    stdet_detection_t *found = malloc(STDET_MODEL_MAX_DETECTIONS * sizeof *found);
    stdet_work_t *work = malloc(sizeof *work);
    FILE *file = fopen(names[count - 1], "rb");
    int i, more = 1;
    if (!file || !found || !work) return 1;
    for (i = 0; i < STDET_MODEL_OUTPUTS; i++) outputs[i] = malloc(sizes[i]);
    for (;;) {
        int32_t boxes;
        for (i = 0; i < STDET_MODEL_OUTPUTS; i++) more = more && fread(outputs[i], sizes[i], 1, file) == 1;
        if (!more) break;
        boxes = stdet_postprocess(&stdet_model, (const void *const *)outputs, work, found);
        fwrite(&boxes, 4, 1, stdout);
        fwrite(found, sizeof *found, (size_t)boxes, stdout);
    }
    for (i = 0; i < STDET_MODEL_OUTPUTS; i++) free(outputs[i]);
    free(work); free(found); fclose(file);
    return 0;
}
"""


def nonsense(firmware: Firmware, rng: np.random.Generator) -> list[np.ndarray]:
    """Any bits at all: every float32 there is, or the whole range of the integers."""
    outputs = []
    for tensor in firmware.outputs:
        raw = rng.integers(0, 256, (*tensor.shape, tensor.dtype.itemsize), dtype=np.uint8)
        values = raw.view(tensor.dtype)[..., 0].copy()
        if tensor.dtype == np.float32:
            special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45, 88, 89], np.float32)
            mixed = rng.random(tensor.shape)
            values[mixed < 0.2] = rng.choice(special, int((mixed < 0.2).sum()))
            values[mixed > 0.6] = rng.normal(0, 2, int((mixed > 0.6).sum()))
        outputs.append(values)
    return outputs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coding", CODINGS)
def test_any_bits_at_all_are_read_without_undefined_behaviour(
    tmp_path: Path, firmware: Build, write_sources: Any, compiler: Any, reference: Any, coding: str, kind: str
) -> None:
    facts = firmware(coding, kind, Thresholds(0.1, 0.5, 50))
    rng = np.random.default_rng(7)
    trials = [nonsense(facts, rng) for _ in range(40)]
    sizes = [output.nbytes for output in trials[0]]
    sources = write_sources(facts, tmp_path / "c")
    (tmp_path / "c" / "fuzz.c").write_text(MAIN % ", ".join(map(str, sizes)))
    program = tmp_path / "fuzz"
    command = [compiler("gcc"), "-std=c99", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command += ["-fsanitize=float-cast-overflow", "-DSTDET_CANDIDATES=13", f"-I{tmp_path / 'c'}", *map(str, sources)]
    subprocess.run([*command, str(tmp_path / "c" / "fuzz.c"), "-o", str(program), "-lm"], check=True)
    (tmp_path / "trials.bin").write_bytes(b"".join(output.tobytes() for trial in trials for output in trial))
    done = subprocess.run([program, tmp_path / "trials.bin"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    answers, at, seen = done.stdout, 0, 0
    for trial in trials:
        count = int(np.frombuffer(answers, np.int32, 1, at)[0])
        rows = np.frombuffer(answers, [("box", "<f4", 4), ("score", "<f4"), ("label", "<i4")], count, at + 4)
        at += 4 + rows.nbytes
        seen += count
        assert np.isfinite(rows["box"]).all()
        assert (rows["score"][1:] <= rows["score"][:-1]).all()
        assert len(reference(facts, trial)) == count
    assert at == len(answers)
    assert seen > 0
