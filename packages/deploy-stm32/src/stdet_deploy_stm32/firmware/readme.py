"""The README of a deploy folder: everything that somebody needs who has never seen the training side."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stdet_deploy_stm32.firmware.facts import Firmware, Tensor, elements
from stdet_deploy_stm32.firmware.generated import C_TYPES, ST_ASPECT
from stdet_deploy_stm32.firmware.test_vector import TestVector

RESIZE = {
    "fit": "Both sides are stretched to the input's, whatever the picture's proportions.",
    "letterbox": "The picture is scaled by min(input height / height, input width / width), its sides are cut to whole "
    "pixels, and it lies at the top left; the rest is grey {pad}.",
    "crop": "The picture is scaled by max(input height / height, input width / width), and its centre is cut out.",
}
WORK_BYTES = 8 * 256
"""`sizeof(stdet_work_t)`."""
NPU_SERIES = "STM32N6"
ST_TYPES = {"float32": "float32", "int8": "int8", "uint8": "uint8"}

_DECODE = {
    "yolox": """\
row = 0
for stride in {strides}:
    for y in 0 .. {height} / stride - 1:
        for x in 0 .. {width} / stride - 1:
            tx, ty, tw, th, objectness, class[0..{last}] = output[row]
            centre = (tx + x) * stride, (ty + y) * stride
            size = exp(tw) * stride, exp(th) * stride
            label = the class with the greatest score
            score = objectness * class[label]
            row = row + 1""",
    "ssd": """\
for row in 0 .. {rows} - 1:
    tx, ty, tw, th = boxes[row]
    px, py, pw, ph = priors[row]                # pixels of the input
    centre = px + tx * {center} * pw, py + ty * {center} * ph
    size = pw * exp(tw * {size}), ph * exp(th * {size})
    score[0..{classes}] = softmax(scores[row])   # [0] is the background
    each class with a score >= confidence is a detection""",
}


@dataclass(frozen=True)
class Destination:
    """Where the firmware goes, as far as that is known.

    Attributes:
        board: as ST writes it, or `any ...`.
        series: of its microcontroller, such as `STM32N6`; empty when not known.
        project: ST's firmware project on the user's disk.
        build: the configuration to build there.
    """

    board: str
    series: str = ""
    project: Path | None = None
    build: str = ""

    @property
    def cpu_series(self) -> str:
        """What ST Edge AI Core calls a series without an NPU."""
        return self.series.lower() if self.series not in ("", NPU_SERIES) else "stm32h7"


def readme(
    firmware: Firmware, vector: TestVector, destination: Destination, sha256: str, notes: Sequence[str] = ()
) -> str:
    """Markdown; `sha256` is the model file's."""
    parts = [
        _head(firmware, destination.board, sha256, notes),
        _try_it(firmware),
        _next_commands(firmware, destination),
        _input(firmware),
        _outputs(firmware),
        _boxes(firmware),
        _vector(firmware, vector),
        _files(firmware),
    ]
    return "\n".join(parts)


def _head(firmware: Firmware, board: str, sha256: str, notes: Sequence[str]) -> str:
    spec = firmware.spec
    classes = ", ".join(f"{label} {name}" for label, name in enumerate(spec.class_names))
    warnings = "".join(f"\n**{note}**\n" for note in notes)
    return f"""\
# {spec.model_name} for {board}

An int8 detector (`model.onnx`, SHA-256 `{sha256}`) with C99 code for everything around it. The code allocates nothing,
needs only `<math.h>` and `<stdint.h>`, and is the same for every compiler and core. Written by stdet.
{warnings}
Classes: {classes}.
"""


def _try_it(firmware: Firmware) -> str:
    return """\
## Try it on your computer

```bash
cc -std=c99 -O2 main.c network_recorded.c stdet_*.c -o boxes -lm && ./boxes test_vector/picture.ppm
```

prints the lines of `test_vector/boxes.txt` (the last digit may differ). `network_recorded.c` stands for the network: it
answers what the model answered to this picture. Replace it by your `network_run` (see `network.h`), and feed any picture.
"""


def _next_commands(firmware: Firmware, destination: Destination) -> str:
    into, out = ST_TYPES[firmware.input.dtype.name], ST_TYPES[firmware.outputs[0].dtype.name]
    types = f"--input-data-type {into} --output-data-type {out} --inputs-ch-position chfirst"
    npu = f"--target stm32n6 -m model.onnx --st-neural-art default@user_neuralart.json --c-api st-ai {types}"
    core = f"--target {destination.cpu_series} -m model.onnx --c-api st-ai --inputs-ch-position chfirst"
    wanted = {NPU_SERIES: [npu], "": [npu, core]}.get(destination.series, [core])
    lines = "\n".join(f"stedgeai generate {options}" for options in wanted)
    where = {NPU_SERIES: ", for the NPU", "": ", on an STM32N6 with its NPU, or on another STM32"}
    return f"""\
## Next commands

Nothing has been built or flashed: that takes ST's tools. With ST Edge AI Core{where.get(destination.series, "")}:

```bash
{lines}
```

With `--inputs-ch-position chlast`, set `.channels_last = 1` in `stdet_model.c`. Types other than these need another
`stdet_model.c`: set `quantization.quantization_input_type` and `quantization_output_type`, and deploy again.

Compile without `-ffast-math`. With `-ffp-contract=off` all cores give the same bits.

{_st_application(firmware, destination)}"""


def _st_application(firmware: Firmware, destination: Destination) -> str:
    """ST's object detection application, and what the config says of it."""
    headers = "app_config.h" + (" ssd_anchors.h" if firmware.coding.priors is not None else "")
    project = "PROJECT" if destination.project is None else shlex.quote(destination.project.as_posix())
    board = "BOARD" if " " in destination.board else destination.board
    build = f" The build configuration is `{destination.build}`." if destination.build else ""
    return f"""\
ST's object detection application takes the model with uint8 input and int8 outputs, and the headers in its own form:

```bash
cp {headers} {project}/Application/{board}/Inc/
```

Then build and flash it as its documentation says.{build}
"""


def _format(tensor: Tensor) -> str:
    if tensor.dtype.name == "float32":
        return "float32, not quantized"
    affine = f"scale {tensor.scale:.9g}, zero point {tensor.zero_point}"
    return f"{tensor.dtype.name}, {affine}: value = (number - zero point) * scale"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _input(firmware: Firmware) -> str:
    spec, tensor = firmware.spec, firmware.input
    preprocess = spec.preprocess
    order = {
        "rgb": "red, green, blue",
        "bgr": "blue, green, red",
        "grayscale": "grey",
        "rgba": "red, green, blue, alpha",
    }
    means, deviations = (", ".join(f"{v:g}" for v in values) for values in (preprocess.mean, preprocess.std))
    return f"""\
## Input

`{tensor.name}`: {_shape(tensor)}, batch x channels x rows x columns, {C_TYPES[tensor.dtype.name]},
{elements(tensor)} numbers.

* Numbers: {_format(tensor)}.
* Channels: {order[preprocess.color_mode]}.
* Resampling: {preprocess.interpolation}. {RESIZE[preprocess.resize_mode].format(pad=preprocess.pad_value)} \
(`{ST_ASPECT[preprocess.resize_mode]}`)
* A pixel value of 0..255 becomes ((pixel * {preprocess.scale:g} + {preprocess.offset:g}) - mean) / deviation, with mean \
{means} and deviation {deviations}; `stdet_model.c` has the result for each value as a table.

`stdet_preprocess` does all of it, as in training: bilinear bit for bit as OpenCV, the other kernels within a grey level
(`nearest` where two pixels are equally near: either). If the camera's hardware resizes, compare what it feeds with
`test_vector/input.bin`: another resampling costs accuracy.
"""


def _columns(firmware: Firmware, tensor: Tensor) -> list[tuple[str, str]]:
    count = firmware.spec.num_classes
    if firmware.coding.name == "yolox":
        return [
            ("0, 1", "tx, ty: centre, in cells from the cell's top left corner"),
            ("2, 3", "tw, th: logarithm of width and height in cells"),
            ("4", "objectness, 0..1 (sigmoid is in the graph)"),
            (f"5 .. {4 + count}", "classes, 0..1 (sigmoid is in the graph)"),
        ]
    if tensor is firmware.outputs[firmware.scores_output]:
        return [
            ("0", "logit of the background"),
            (f"1 .. {count}", "logits of the classes (softmax is not in the graph)"),
        ]
    return [("0, 1", "tx, ty: offset of the centre"), ("2, 3", "tw, th: logarithm of the size ratio")]


def _outputs(firmware: Firmware) -> str:
    parts = ["## Outputs\n"]
    for index, tensor in enumerate(firmware.outputs):
        rows = "".join(f"| {column} | {meaning} |\n" for column, meaning in _columns(firmware, tensor))
        parts.append(
            f"{index}. `{tensor.name}`: {_shape(tensor)}, batch x rows x columns, {C_TYPES[tensor.dtype.name]}; "
            f"{_format(tensor)}.\n\n| column | meaning |\n|---|---|\n{rows}"
        )
    parts.append(f"{_row_order(firmware)}\n")
    return "\n".join(parts)


def _row_order(firmware: Firmware) -> str:
    spec = firmware.spec
    height, width = spec.preprocess.size
    maps = [(math.ceil(height / s), math.ceil(width / s)) for s in spec.strides]
    sizes = ", ".join(f"{rows} x {columns} (stride {s})" for s, (rows, columns) in zip(spec.strides, maps, strict=True))
    if firmware.coding.name == "yolox":
        return f"Rows run over the maps, finest first, then over y, then over x: {sizes}."
    return (
        f"Rows run over the maps, finest first, then over y, x and the priors of a cell: {sizes}; {firmware.rows} in all. "
        "The priors (centre x, centre y, width, height) are in `stdet_model.c` in pixels, in `ssd_anchors.h` in parts of "
        f"the input. Variances: {firmware.coding.center_variance} for centres, {firmware.coding.size_variance} for sizes."
    )


def _boxes(firmware: Firmware) -> str:
    spec, coding, limits = firmware.spec, firmware.coding, firmware.thresholds
    pseudo = _DECODE[coding.name].format(
        strides=", ".join(map(str, spec.strides)),
        height=spec.preprocess.height,
        width=spec.preprocess.width,
        last=spec.num_classes - 1,
        classes=spec.num_classes,
        rows=firmware.rows,
        center=coding.center_variance,
        size=coding.size_variance,
    )
    return f"""\
## From outputs to boxes

```
{pseudo}
left, top, right, bottom = centre - size / 2, centre + size / 2
```

Then, best score first (among equal scores the first row, then the first class): a box is a detection if its score is at
least {limits.confidence:g}, its corners are finite, and no detection of the same class so far overlaps it by an IoU above
{limits.nms_iou:g}; at most {limits.max_detections} in all. The three limits are the last fields of `stdet_model`. Boxes are
in pixels of the network's input; `stdet_to_picture` brings them back and clips them.

`stdet_postprocess` needs a work area of {WORK_BYTES} bytes; a smaller `STDET_CANDIDATES` needs less of it and more passes
over the outputs, and finds the same boxes.
"""


def _vector(firmware: Firmware, vector: TestVector) -> str:
    height, width = vector.picture.shape[:2]
    rows = "".join(
        f"| {firmware.spec.class_names[label]} | {score:.4f} | {' '.join(f'{v:.2f}' for v in box)} | "
        f"{' '.join(f'{v:.2f}' for v in there)} |\n"
        for label, score, box, there in zip(
            vector.detections.labels,
            vector.detections.scores,
            vector.detections.boxes,
            vector.boxes_in_picture(),
            strict=True,
        )
    )
    found = (
        f"| class | score | box in the input | box in the picture |\n|---|---|---|---|\n{rows}" if rows else "No box.\n"
    )
    return f"""\
## Test vector

`test_vector/` holds one picture ({vector.source}, {height} x {width}) as `picture.ppm`, what the network is fed
(`input.bin`), what it answers (`output_0.bin`, …; by onnxruntime, node by node as the file is written), and the boxes
(`boxes.json`):

{found}
A port is right when its pre-processing gives `input.bin`, and its post-processing of `output_*.bin` these boxes. A network
that another tool compiled may answer a few steps of the output's scale beside `output_*.bin`: float sums in another order
round some values to the neighbouring step.
"""


def _files(firmware: Firmware) -> str:
    st = "\n| `ssd_anchors.h` | the priors for it |" if firmware.coding.priors is not None else ""
    return f"""\
## Files

| file | what |
|---|---|
| `model.onnx` | the int8 model |
| `stdet.h`, `stdet_preprocess.c`, `stdet_postprocess.c` | the code, the same for every model |
| `stdet_model.h`, `stdet_model.c` | this model: tables, formats, thresholds |
| `app_config.h` | the same for ST's object detection application |{st}
| `main.c`, `network.h`, `network_recorded.c` | an example from a picture to boxes |
| `test_vector/` | one picture with every intermediate result |
"""
