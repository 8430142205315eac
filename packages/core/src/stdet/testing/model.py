"""What every registered model must do."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from stdet.boxes import pairwise_iou
from stdet.errors import StdetError
from stdet.export.onnx import export_onnx
from stdet.interfaces.detector import Candidates, Detector, Targets
from stdet.interfaces.family import ModelFamily, Options
from stdet.known import known
from stdet.nn.int8_training import Int8Simulation
from stdet.structures import ColorMode, Preprocess
from stdet.testing.contract import Contract, catalogue, demand, shown
from stdet.testing.simulated_cuda import simulated_cuda

INT8_ERROR = 0.5
"""Share of an output that rounding random weights and activations to 8 bits may move."""
STEPS = 150
RATE = 0.1
"""Of the search for outputs that the loss likes: steps, and the rate of Adam."""
FOUND_IOU = 0.5


class ModelContract(Contract):
    """What every registered model must do. Set `name`.

    Attributes:
        waits: how often a loss may make a GPU wait, at most.
    """

    kind: ClassVar[str] = "models"
    waits: ClassVar[int] = 3

    def family(self) -> ModelFamily:
        """What its family tells the config layer."""
        family = catalogue().family(self.name)
        assert isinstance(family, ModelFamily)
        return family

    def own_keys(self) -> dict[str, type[Options]]:
        family = self.family()
        return {"model": family.model_options, "training": family.training_options}

    def size(self) -> tuple[int, int]:
        """A small input size that the family allows, not square."""
        family = self.family()
        unit = max(family.size_multiple, 32)
        height = -(-family.min_size // unit) * unit
        return height, height + unit

    def build(self, num_classes: int = 3, preprocess: Preprocess | None = None) -> Detector:
        """The model with seeded random weights, at `size` when `preprocess` says nothing else."""
        family, classes = self.family(), tuple(f"class_{i}" for i in range(num_classes))
        spec = family.spec(self.name, classes, preprocess or family.preprocess.with_size(*self.size()))
        torch.manual_seed(0)
        detector = catalogue().build("models", self.name, spec)
        demand(isinstance(detector, Detector), "a Detector", type(detector).__name__)
        assert isinstance(detector, Detector)
        demand(detector.spec == spec, f"the spec it was built with, {spec}", detector.spec)
        return detector

    def images(self, detector: Detector, count: int = 2) -> Tensor:
        """float32 (count, C, H, W) of noise, -1..1; the same each time."""
        torch.manual_seed(1)
        return torch.rand(count, detector.spec.preprocess.channels, *self.size()) * 2 - 1

    def targets(self, boxes_in_first: int) -> Targets:
        """Two images; the second one is empty."""
        height, width = self.size()
        rows = max(1, boxes_in_first)
        boxes, labels = torch.zeros(2, rows, 4), torch.full((2, rows), -1)
        for row in range(boxes_in_first):
            boxes[0, row] = torch.tensor([0.1 * width, 0.2 * height, (0.5 + 0.1 * row) * width, 0.8 * height])
            labels[0, row] = row % 3
        return Targets(boxes, labels)

    def outputs(self, detector: Detector) -> tuple[Tensor, ...]:
        """The exported outputs for `images`."""
        with torch.no_grad():
            return detector.export_outputs(detector(self.images(detector)))

    # --- what the config layer is told -------------------------------------------------------------------------------

    def test_its_recipe_and_its_schedule_exist(self) -> None:
        """The family's `augmentation` and `scheduler` are registered names, or those of a package of ours: they are what a
        training uses when the config names none, which is the usual config."""
        family = self.family()
        for kind, name in (("transforms", family.augmentation), ("schedulers", family.scheduler)):
            there = sorted({*catalogue().names(kind), *known().names(kind)})
            demand(name in there, f"one of the {kind} {shown(there)}", f"`{name}`")

    def test_its_model_type_is_its_own(self) -> None:
        """No other installed package uses the family's `model_type`: configs and ONNX files name a family by it, and a name
        that two claim belongs to neither."""
        family = self.family()
        try:
            found = catalogue().family_of_type(family.model_type)
        except StdetError as error:
            found = error
        demand(found is family, f"`{family.model_type}` means this family", found)

    # --- training ----------------------------------------------------------------------------------------------------

    def test_the_state_dict_loads_back(self) -> None:
        """`load_state_dict` of a `state_dict` gives the same weights: a checkpoint is nothing else."""
        one, other = self.build(), self.build()
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.add_(0.01)
        other.load_state_dict(one.state_dict())
        lost = [k for k, value in other.state_dict().items() if not torch.equal(value, one.state_dict()[k])]
        demand(not lost, "every weight as it was saved", f"others in {shown(lost)}")

    def test_forward_is_the_same_graph_in_training_and_evaluation(self) -> None:
        """`forward` gives tensors of the same shapes in training and evaluation, and the same values each time in evaluation:
        what is exported is what was trained, and random parts belong to the recipe."""
        detector = self.build()
        images = self.images(detector)
        with torch.no_grad():
            training, evaluation = detector.train()(images), detector.eval()(images)
            shapes = [[tuple(t.shape) for t in found] for found in (training, evaluation)]
            demand(shapes[0] == shapes[1], f"shapes {shapes[0]}, as in training", shapes[1])
            same = all(map(torch.equal, evaluation, detector(images)))
            demand(same, "the same values twice in evaluation", "other values")

    def test_it_takes_images_of_every_colour_mode(self) -> None:
        """It can be built for `rgb`, `bgr`, `grayscale` (1 channel) and `rgba` (4), and its outputs are finite:
        `preprocessing.color_mode` may say any of them. The number is `spec.preprocess.channels`."""
        modes: tuple[tuple[ColorMode, int], ...] = (("rgb", 3), ("bgr", 3), ("grayscale", 1), ("rgba", 4))
        for mode, channels in modes:
            usual = self.family().preprocess.with_size(*self.size())
            mean, std = usual.mean[:1] * channels, usual.std[:1] * channels
            detector = self.build(preprocess=dataclasses.replace(usual, color_mode=mode, mean=mean, std=std)).eval()
            try:
                with torch.no_grad():
                    raw = detector(self.images(detector))
            except RuntimeError as error:
                raw = ()
                demand(False, f"outputs for images of {channels} channels ({mode})", error)
            demand(all(bool(t.isfinite().all()) for t in raw), f"finite outputs for {mode}", "NaN or infinite ones")

    def test_losses_are_finite_and_reach_the_weights_with_and_without_boxes(self) -> None:
        """`loss` gives finite scalars with a `total`, for images with boxes and a batch without any, with strong augmentation
        open and closed; their gradients are finite, and with boxes reach every weight: one that none reaches is never
        trained."""
        for boxes in (2, 0):
            for closed in (False, True):
                detector = self.build().train()
                losses = detector.loss(detector(self.images(detector)), self.targets(boxes), augmentation_closed=closed)
                case = f"with {boxes} boxes, augmentation {'closed' if closed else 'open'}"
                demand("total" in losses, f"a `total`, {case}", shown(losses))
                odd = [k for k, v in losses.items() if v.numel() != 1 or not math.isfinite(float(v.detach().sum()))]
                demand(not odd, f"finite scalars {case}", f"{shown(odd)}: {[losses[k].detach() for k in odd]}")
                losses["total"].backward()
                gradients = {key: p.grad for key, p in detector.named_parameters() if p.requires_grad}
                wild = [key for key, g in gradients.items() if g is not None and not torch.isfinite(g).all()]
                demand(not wild, f"finite gradients {case}", f"others in {shown(wild)}")
                unreached = [key for key, gradient in gradients.items() if gradient is None]
                demand(not (boxes and unreached), f"a gradient for every weight {case}", f"none for {shown(unreached)}")
                demand(len(unreached) < len(gradients), f"a gradient for some weight {case}", "none at all")

    def test_the_parameter_groups_cover_every_parameter_once(self) -> None:
        """`parameter_groups` hold every trainable parameter once, each group with `params`, `lr` and `weight_decay`: one left
        out is never trained, one given twice is refused by the optimizer."""
        detector = self.build()
        groups = detector.parameter_groups(0.1, 0.01, self.family().training_options())
        ids = [id(p) for group in groups for p in group["params"]]
        names = {id(p): key for key, p in detector.named_parameters() if p.requires_grad}
        wrong = [key for i, key in names.items() if ids.count(i) != 1]
        demand(sorted(ids) == sorted(names), "every parameter once", f"missing or repeated: {shown(wrong)}")
        lacking = [sorted({"params", "lr", "weight_decay"} - group.keys()) for group in groups]
        demand(not any(lacking), "params, lr and weight_decay in every group", f"missing: {lacking}")

    def test_only_the_declared_keys_depend_on_the_number_of_classes(self) -> None:
        """`class_dependent_keys` are exactly the weights whose shapes change with the number of classes: starting from
        weights of other classes skips these and no others."""
        one, other = self.build(1).state_dict(), self.build(3).state_dict()
        change = {key for key in one if one[key].shape != other[key].shape}
        declared = set(self.build().class_dependent_keys())
        demand(change == declared, f"{sorted(change)}", sorted(declared))

    # --- devices -----------------------------------------------------------------------------------------------------

    def test_a_gpu_computes_what_the_cpu_does_and_seldom_waits(self) -> None:
        """On a CUDA device (a simulated one, see `simulated_cuda`) losses and scores are those of the CPU, in float32 and,
        roughly, under float16 autocast, and no more than `waits` operations of a step make the program wait for the device:
        it stands still while the next ones are sent."""
        detector, targets = self.build(), self.targets(3)
        images = self.images(detector)
        expected, found = self.losses_and_candidates(detector, images, targets, [])
        for half, near in ((False, 1e-4), (True, 0.1)):
            detector, case = self.build(), "float16" if half else "float32"
            with simulated_cuda() as waits, torch.autocast("cuda", torch.float16, enabled=half):
                there = detector.to("cuda"), images.to("cuda"), targets.to("cuda")
                waits.clear()
                try:
                    losses, candidates = self.losses_and_candidates(*there, waits)
                except RuntimeError as error:
                    demand(False, f"a step on a CUDA device, {case}", error)
                    return
                demand(len(waits) <= self.waits, f"at most {self.waits} waits", shown(waits))
                values, scores = {name: loss.item() for name, loss in losses.items()}, candidates.scores.float().cpu()
            same = all(math.isclose(values[k], float(loss), rel_tol=near, abs_tol=near) for k, loss in expected.items())
            demand(
                same, f"the losses of the CPU, { ({k: float(v) for k, v in expected.items()}) }", f"{case}: {values}"
            )
            apart = float((scores - found.scores).abs().max())
            demand(apart <= near, f"scores of the CPU within {near}", f"{case}: {apart:.3g} off")

    @torch.no_grad()
    def losses_and_candidates(
        self, detector: Detector, images: Tensor, targets: Targets, waits: list[str]
    ) -> tuple[dict[str, Tensor], Candidates]:
        """What a step of training and one of evaluation compute.

        Args:
            images: float32 (B, C, H, W).
            waits: those of a first step alone are taken out: it makes what is kept for others.
        """
        raw = detector.train()(images)
        so_far = list(waits)
        detector.loss(raw, targets, augmentation_closed=True)
        waits[:] = so_far
        losses = detector.loss(raw, targets, augmentation_closed=True)
        return losses, detector.decode(detector.eval().export_outputs(detector(images)))

    # --- outputs -----------------------------------------------------------------------------------------------------

    def test_decoded_boxes_and_scores_have_their_shapes_and_ranges(self) -> None:
        """`export_outputs` gives one tensor a name of `output_names`; `decode` gives boxes (B, N, 4) with x1 <= x2 and
        y1 <= y2, and scores (B, N, classes) from 0 to 1, without background: everything behind it counts on that."""
        for num_classes in (1, 3):
            detector = self.build(num_classes).eval()
            outputs = self.outputs(detector)
            names = detector.output_names
            one_each = len(outputs) == len(set(names)) == len(names)
            demand(one_each, f"{len(outputs)} different output_names", names)
            found = detector.decode(outputs)
            count = found.boxes.shape[1]
            demand(found.boxes.shape == (2, count, 4), f"boxes of {(2, count, 4)}", tuple(found.boxes.shape))
            wanted = (2, count, num_classes)
            demand(found.scores.shape == wanted, f"scores of {wanted}", tuple(found.scores.shape))
            low, high = float(found.scores.min()), float(found.scores.max())
            demand(low >= 0 and high <= 1, "scores from 0 to 1", f"{low:.3g} to {high:.3g}")
            turned = int((found.boxes[..., 2:] < found.boxes[..., :2]).any(-1).sum())
            demand(turned == 0, "x1 <= x2 and y1 <= y2", f"{turned} boxes are turned over")

    def test_loss_and_decode_mean_the_same_boxes(self) -> None:
        """Outputs that the loss likes decode to the boxes and classes that it was given. Adam moves the outputs of `forward`
        themselves, no weights, towards a lower loss; the best-scored box of each class must then lie on its target (IoU of
        at least 0.5). Catches boxes that one side takes for xywh, for shares of the image, or in another order."""
        detector = self.build().eval()
        with torch.no_grad():
            raw = [t[:1].repeat(2, *[1] * (t.ndim - 1)).clone() for t in detector(self.images(detector))]
        raw = [t.requires_grad_() for t in raw]
        height, width = self.size()
        boxes = torch.tensor([[0.1, 0.15, 0.45, 0.6], [0.5, 0.3, 0.9, 0.95]]) * torch.tensor([width, height] * 2)
        labels = torch.tensor([0, 2])
        targets = Targets(boxes.repeat(2, 1, 1), labels.repeat(2, 1))
        optimizer = torch.optim.Adam(raw, RATE)
        for _ in range(STEPS):
            optimizer.zero_grad()
            detector.loss(raw, targets)["total"].backward()
            optimizer.step()
        with torch.no_grad():
            found: Candidates = detector.decode(detector.export_outputs([t.detach() for t in raw]))
        for box, label in zip(boxes, labels.tolist(), strict=True):
            best = int(found.scores[0, :, label].argmax())
            answer, score = found.boxes[0, best], float(found.scores[0, best, label])
            iou = float(pairwise_iou(box[None], answer[None]))
            said = f"{[round(v, 1) for v in answer.tolist()]}, IoU {iou:.2f}, score {score:.2f}"
            demand(iou >= FOUND_IOU, f"class {label} at {[round(v, 1) for v in box.tolist()]} (xyxy, pixels)", said)
            demand(
                int(found.scores[0, best].argmax()) == label, f"class {label} scored best there", found.scores[0, best]
            )

    def test_each_column_of_the_outputs_belongs_to_one_part(self) -> None:
        """`parts()` cover every column of every output once, under different names: reports of int8 tell by them what
        lost."""
        detector = self.build().eval()
        covered = [torch.zeros(output.shape[-1]) for output in self.outputs(detector)]
        for part in detector.parts():
            covered[part.output][part.columns] += 1
        counts = [columns.tolist() for columns in covered]
        demand(all(bool((c == 1).all()) for c in covered), "every column in one part", f"parts a column: {counts}")
        names = [part.name for part in detector.parts()]
        demand(len(set(names)) == len(names), "a name of its own for every part", names)

    def test_decoding_needs_no_weights(self) -> None:
        """`decode` of a detector without memory (built on torch's `meta` device) gives the same boxes: it reads the outputs
        of ONNX files, whose weights are not at hand."""
        detector = self.build().eval()
        outputs = self.outputs(detector)
        with torch.device("meta"):
            decoder = self.build()
        expected = detector.decode(outputs)
        try:
            found = decoder.decode(outputs)
        except (RuntimeError, NotImplementedError) as error:
            found = expected
            demand(False, "boxes from a detector without weights", error)
        same = torch.allclose(found.boxes, expected.boxes) and torch.allclose(found.scores, expected.scores)
        demand(same, "the same boxes and scores", "others")

    def test_it_exports_to_onnx_and_answers_the_same(self, tmp_path: Path) -> None:
        """`export_onnx` writes it with static shapes and onnxruntime gives torch's outputs within 1e-4 of their range: int8,
        benches and devices get this file and nothing else."""
        try:
            export_onnx(self.build().eval(), tmp_path / "model.onnx")
        except Exception as error:  # whatever torch's exporter raises
            demand(False, "an ONNX file", f"{type(error).__name__}: {error}")

    def test_its_int8_form_can_be_simulated_and_trained(self) -> None:
        """`torch.fx` traces `forward` (no branch on values), the network rounded to 8 bits answers within half of the
        outputs' norm, and its loss reaches every weight: `training.quantization_aware` rests on it. A family
        that can't says `quantization_aware=False`, and the config key is refused."""
        if not self.family().quantization_aware:
            return
        detector = self.build()
        images = self.images(detector)
        try:
            simulated = Int8Simulation(detector, "Int8").of(detector)
        except StdetError as error:
            demand(False, "a graph that can be traced", error.message)
            return
        with torch.no_grad():
            simulated.train()(images)  # sees the ranges
            expected = detector.eval().export_outputs(detector(images))
            rounded = simulated.eval().export_outputs(simulated(images))
        for one, other in zip(expected, rounded, strict=True):
            share = float((one - other).norm() / one.norm())
            demand(
                0 < share < INT8_ERROR,
                f"more than 0 and less than {INT8_ERROR:.0%} of an output's norm",
                f"{share:.2%}",
            )
        simulated.train().loss(simulated(images), self.targets(2))["total"].backward()
        lost = [k for k, p in detector.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
        demand(not lost, "a finite gradient for every weight", f"none for {shown(lost)}")
