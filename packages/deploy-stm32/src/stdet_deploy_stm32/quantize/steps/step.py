"""What a step is, and the model that the steps work on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.libraries import Library
from stdet_deploy_stm32.quantize.settings import Override, Settings

if TYPE_CHECKING:
    from onnx import ModelProto

    from stdet.interfaces.deploy import CalibrationData, Progress
    from stdet.structures import DetectorSpec

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass
class Work:
    """A model on its way from float to int8. Each step changes it.

    Attributes:
        settings: how to quantize; steps add overrides for tensors that they choose.
        calibration: images, preprocessed.
        progress: for the steps that take long.
        original: the float model, prepared.
        spec: of the detector, when the model's metadata hold it.
        floating: the same function as `original`, perhaps with other weights; its names are those of `quantized`.
        ranges: (low, high) by activation of `floating`.
        errors: predicted loss of the outputs by activation; empty when nothing predicts it.
        rounded: `floating` with weights that lie on their integers' values already, if a step rounds them itself.
        rounded_scales: what its weights are to be stored with.
        quantized: the QDQ form, with float inputs and outputs; None until it is placed.
    """

    settings: Settings
    calibration: CalibrationData
    progress: Progress | None
    original: ModelProto
    spec: DetectorSpec | None
    floating: ModelProto
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    rounded: ModelProto | None = None
    rounded_scales: tuple[Override, ...] = ()
    quantized: ModelProto | None = None

    def placed(self) -> ModelProto:
        """`quantized`, for steps that come after the placement."""
        assert self.quantized is not None
        return self.quantized


@dataclass(frozen=True)
class Try:
    """What the search of `full_auto` tries on the best method.

    Attributes:
        extra: `onnx_extra_options`.
        seconds: of CPU time that it adds on YOLOX-nano of 416 px with 50 images; the cheapest is tried first.
    """

    extra: Mapping[str, Any]
    seconds: float


class Step(ABC, Generic[OptionsT]):
    """A method of quantization, whole: its keys, what they mean, what it does, its record, its place in the search.

    One file of this room holds it, and one line of `STEPS` puts it in its place. Configs are checked by these files, so a
    step imports ONNX, onnxruntime and torch in `run` and not before.

    Attributes:
        options: its keys, with defaults and descriptions.
        section: of `quantization` that holds them.
        methods: values of `calibrate_method` that it serves.
        library: that it uses; its name is a value of `quantizer`.
        tries: what the search tries of it.
    """

    options: type[OptionsT]
    section: str = "onnx_extra_options"
    methods: tuple[str, ...] = ()
    library: Library | None = None
    tries: tuple[Try, ...] = ()

    def of(self, settings: Settings) -> OptionsT:
        """Its keys as they are set."""
        section = settings.sections[self.section]
        assert isinstance(section, self.options)
        return section

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        """Combinations with other keys in which its own have no meaning."""
        yield from ()

    def recorded(self, settings: Settings) -> dict[str, Any]:
        """What the record's `options` say of it."""
        return {}

    def needs_opset_21(self, settings: Settings) -> tuple[str, ...]:
        """Those of its options that bring types of 4 or 16 bits into the file."""
        return ()

    def changes_trained(self, settings: Settings) -> str:
        """The option by which weights or biases leave what quantization-aware training simulated; empty when they stay."""
        return ""

    def int16_tries(self, most: float) -> tuple[Mapping[str, Any], ...]:
        """Options that spend int16 activation bytes, the least first; the search tries them when int8 isn't enough.

        Args:
            most: share of the activation bytes that may be int16, 0..1.
        """
        return ()

    @abstractmethod
    def run(self, work: Work) -> dict[str, Any]:
        """Do it to `work` if its keys ask for it.

        Returns:
            What it adds to the record.

        Raises:
            QuantizationError: images or model don't allow it.
        """


def meaningless(key: str, needed: str) -> QuantizationError:
    """For `Step.mistakes`: an option without effect beside the others.

    Args:
        key: below `quantization`.
        needed: what would give it a meaning.
    """
    return QuantizationError(f"quantization.{key} has no meaning here", f"it needs {needed}")
