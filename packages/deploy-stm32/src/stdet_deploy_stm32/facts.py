"""What STM32 targets tell the config layer: their keys, their backends, and what goes together. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from stdet.artifacts import is_onnx
from stdet.errors import QuantizationError
from stdet.interfaces import target
from stdet.interfaces.target import Mistake, QuantizationNeeds, TargetFacts, TargetRequest, TargetSections
from stdet_deploy_stm32 import sections
from stdet_deploy_stm32.bench.section import Benchmarking
from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.quantize import steps
from stdet_deploy_stm32.quantize.options import mistakes, read
from stdet_deploy_stm32.quantize.section import GeneralQuantization, Quantization
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.sections import Deployment, HardwareSetup, Stedgeai, Tools

NORMALISING_MODES = ("quantization", "chain_qb", "chain_qd")
"""Operation modes that make sense for somebody else's int8 file: nothing is trained or compared with a float form."""


def _needs(quantization: target.Quantization) -> QuantizationNeeds:
    assert isinstance(quantization, GeneralQuantization)
    mode = quantization.operating_mode
    return QuantizationNeeds(
        calibration=mode != "normalise",
        scorer=mode in ("inspection", "full_auto"),
        evaluation_images=quantization.iterative_quant_parameters.inspection_map > 0,
    )


def _check(request: TargetRequest) -> Iterator[Mistake]:
    if request.mode.benches:
        yield from _check_place_of_tool(request.sections)
    if request.mode.deploys:
        yield from _check_series(request.sections)
    if not request.mode.quantizes:
        return
    section = request.sections.quantization
    assert isinstance(section, GeneralQuantization)
    if section.operating_mode == "full_auto" and section.max_drop is None:
        yield Mistake("quantization.max_drop", "missing; full_auto searches under this budget")
    if section.operating_mode == "normalise":
        yield from _check_normalising(request, section)
    try:
        settings = read(section)
    except QuantizationError as error:
        yield _mistake(error)
        return
    if request.trained_for is not None:
        yield from _check_simulated(request.trained_for, settings)
    yield from map(_mistake, mistakes(settings))


def _check_series(sections: TargetSections) -> Iterator[Mistake]:
    setup = _hardware(sections)
    if setup is None or setup.serie is None:
        return
    key, name = "deployment.hardware_setup.serie", setup.board or sections.benchmarking.board
    if setup.serie.startswith("STM32MP"):
        yield Mistake(key, f"{setup.serie} runs Linux, and the C code is for microcontrollers")
    elif (board := boards().get(name or "")) and board.series and not board.series.startswith(setup.serie):
        yield Mistake(key, f"is {setup.serie}, but {board.title} has an {board.series}", board.series)


def _hardware(sections: TargetSections) -> HardwareSetup | None:
    setup = sections.deployment.hardware_setup
    return setup if isinstance(setup, HardwareSetup) else None


def _check_normalising(request: TargetRequest, section: GeneralQuantization) -> Iterator[Mistake]:
    allowed = ", ".join(NORMALISING_MODES)
    if request.mode.name not in NORMALISING_MODES:
        yield Mistake("quantization.operating_mode", f"normalise has no place in {request.mode.name}", allowed)
    if section.max_drop is not None:
        yield Mistake("quantization.max_drop", "normalise has no float model to compare with")
    if request.model_path is None or not is_onnx(request.model_path):
        yield Mistake("model.model_path", "normalise needs the ONNX file of another tool")


def _check_simulated(weights: str, settings: Settings) -> Iterator[Mistake]:
    """Training simulates int8 for a file with these very weights; what is made must be that file."""
    key, granularity = "training.quantization_aware", "per_channel" if settings.per_channel else "per_tensor"
    if (settings.weight_type, settings.per_channel) != (weights, True):
        made = f"{settings.weight_type} {granularity}"
        yield Mistake(key, f"simulates weights {weights} per_channel, but quantization makes them {made}")
    if others := ", ".join(filter(None, (step.changes_trained(settings) for step in steps.STEPS))):
        yield Mistake(
            key, f"trains for a file with these very weights and biases; quantization changes them by {others}"
        )


def _mistake(error: QuantizationError) -> Mistake:
    key = error.message.split()[0].rstrip(":")
    return Mistake(key if key.startswith("quantization.") else "quantization", error.message, error.hint)


def asked_backends(sections: TargetSections) -> tuple[str, ...]:
    """ST's tool, where the config says which: in the cloud when it says so, else the local one that it names."""
    tool = _stedgeai(sections)
    if tool is None:
        return ()
    return ("cloud",) if tool.on_cloud else ("stedgeai",) if tool.path_to_stedgeai is not None else ()


def _stedgeai(sections: TargetSections) -> Stedgeai | None:
    return sections.tools.stedgeai if isinstance(sections.tools, Tools) else None


def _check_place_of_tool(sections: TargetSections) -> Iterator[Mistake]:
    tool, backends = _stedgeai(sections), sections.benchmarking.backends or ()
    for backend, on_cloud in (("stedgeai", False), ("cloud", True)):
        if tool is not None and tool.on_cloud is (not on_cloud) and backend in backends:
            yield Mistake(
                "tools.stedgeai.on_cloud", f"is {tool.on_cloud}, but benchmarking.backends has {backend}", str(on_cloud)
            )


def _idle(request: TargetRequest) -> Iterator[str]:
    sections, driven = request.sections, _driven(request)
    for name in ("evaluation", "prediction"):
        section = getattr(sections, name)
        own = type(section).model_fields.keys() - target.NEUTRAL[name].model_fields.keys()
        idle = {"stedgeai_n6": frozenset[str](), "stedgeai_host": frozenset({"profile"})}.get(section.target, own)
        given = [key for key in type(section).model_fields if key in idle and getattr(section, key) is not None]
        if given:
            yield f"{name}.{', '.join(given)}: for a model on a board; nothing follows with target {section.target}"
    if request.mode.deploys:
        yield from _idle_for_firmware(sections)
    if isinstance(sections.tools, Tools) and sections.tools.path_to_cubeIDE is not None:
        yield "tools.path_to_cubeIDE: nothing in this version builds with it"
    tool = _stedgeai(sections)
    if tool is None:
        return
    if not driven:
        yield "tools.stedgeai: nothing in this run drives ST's tools"
    else:
        idle = [key for key in Stedgeai.model_fields if key in tool.model_fields_set - _used(tool, request)]
        if idle:
            yield f"tools.stedgeai.{', '.join(idle)}: nothing in this run asks for that"


def _used(tool: Stedgeai, request: TargetRequest) -> set[str]:
    """The keys of `tools.stedgeai` that what a run drives looks at."""
    sections, mode, driven = request.sections, request.mode, _driven(request)
    places = {sections.evaluation.target} if mode.evaluates else set()
    places |= {sections.prediction.target} if mode.predicts else set()
    backends = driven & {*(sections.benchmarking.backends or asked_backends(sections))} if mode.benches else set()
    used = {"version", "timeout_s"} | ({"path_to_stedgeai"} if "stedgeai" in driven else set())
    used |= {"optimization", "profile"} if backends else set()
    used |= {"validate_on"} if "stedgeai" in backends else set()
    used |= {"on_cloud"} if "cloud" in backends or not tool.on_cloud else set()
    used |= {"serial"} if "stedgeai_n6" in places or ("stedgeai" in backends and tool.validate_on == "board") else set()
    return used | ({"optimization"} if "stedgeai_host" in places else set())


def _driven(request: TargetRequest) -> set[str]:
    """Which of ST's tools a run drives: `stedgeai`, `cloud`."""
    sections, mode = request.sections, request.mode
    found = {*(sections.benchmarking.backends or asked_backends(sections))} if mode.benches else set()
    found |= {sections.evaluation.target.partition("_")[0]} if mode.evaluates else set()
    found |= {sections.prediction.target.partition("_")[0]} if mode.predicts else set()
    return found & {"stedgeai", "cloud"}


def _idle_for_firmware(sections: TargetSections) -> Iterator[str]:
    section, setup = sections.deployment, _hardware(sections)
    if not isinstance(section, Deployment):
        return
    idle = [key for key in ("IDE", "verbosity") if getattr(section, key) is not None]
    wired = ("input", "log_level", "stlink_serial_number") if setup else ()
    idle += [f"hardware_setup.{key}" for key in wired if getattr(setup, key) is not None]
    if idle:
        yield f"deployment.{', '.join(idle)}: nothing is built or flashed here; the folder's README has the commands"
    if section.c_project_path is not None and not section.c_project_path.is_dir():
        yield f"deployment.c_project_path: there is no folder {section.c_project_path} here; the README names it all the same"


_TENSORFLOW = "it belongs to the TensorFlow flow, and this one is PyTorch only"
_LINUX = "it is for boards that run Linux (STM32MP), and the C code here is for microcontrollers"

STM32 = TargetFacts(
    sections={
        "quantization": Quantization,
        "evaluation": sections.Evaluation,
        "prediction": sections.Prediction,
        "tools": Tools,
        "benchmarking": Benchmarking,
        "deployment": Deployment,
    },
    backends=("host", "estimate", "emulator", "stedgeai", "cloud"),
    default_backends=("host", "estimate"),
    runs_on=("host", "reference", "c_host", "stedgeai_host", "stedgeai_n6"),
    needs=_needs,
    check=_check,
    idle=_idle,
    refused={
        "quantization.optimize": _TENSORFLOW,
        "quantization.iterative_quant_parameters.inspection_split": "use inspection_images, a number",
        "quantization.iterative_quant_parameters.accuracy_tolerance": "use quantization.max_drop, in points",
        "deployment.board_deploy_path": _LINUX,
        "deployment.ip_address": _LINUX,
    },
    over_budget="operating_mode: full_auto searches a recipe within the budget, inspection ranks the tensors",
    asked_backends=asked_backends,
)
