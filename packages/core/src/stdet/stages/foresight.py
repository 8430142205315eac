"""What a later stage of a chain would refuse, told before the first epoch is spent."""

from __future__ import annotations

from stdet.interfaces.dataset import DetectionDataset
from stdet.nn.distributed import is_main
from stdet.quantizing import doctor, judge
from stdet.quantizing.choice import choose
from stdet.stages.judged import read_baseline
from stdet.stages.run import Run
from stdet.structures import DetectorSpec


def foresee(run: Run, spec: DetectorSpec, training: DetectionDataset) -> None:
    """Whether the images that int8 will be calibrated on are those that it will be judged by, and whether the baseline can
    be compared with.

    Args:
        spec: of the model that will be trained.
        training: its images, which are calibrated on where no others are named.

    Raises:
        DataError: they are, and `quantization.allow_overlap` is off; or there are none.
        ArtifactError: `evaluation.baseline` can't be compared with.
    """
    config = run.builder.config
    baseline = config.evaluation.baseline
    if is_main() and config.mode.evaluates and baseline is not None:
        read_baseline(baseline, run.builder.dataset(run.builder.evaluation_split(), spec.class_names, spec=spec))
    section = config.quantization
    if not is_main() or not config.mode.quantizes or config.target is None or section.random_calibration:
        return
    if not config.target.needs(section).calibration:
        return
    chosen = choose(run.builder, spec.class_names, spec, training=training)
    evaluation = judge.evaluation_set(run.builder, spec)
    if evaluation is not None:
        doctor.approved([doctor.overlap_of_files(run.builder, chosen, evaluation, run.reporter)])
