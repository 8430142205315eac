"""What core itself brings, registered through the same hooks as any plugin."""

from __future__ import annotations

from stdet.plugins import hookimpl
from stdet.plugins.hookspecs import Register, RegisterDataset

STDET_API_VERSION = 2


@hookimpl
def stdet_register_datasets(register: RegisterDataset) -> None:
    register(
        "folder",
        "stdet.data.folder:ImageFolder",
        "all images of a folder, without annotations",
        facts="stdet.interfaces.dataset:IMAGES_ALONE",
    )


@hookimpl
def stdet_register_schedulers(register: Register) -> None:
    options = "stdet.engine.schedule_options"
    register(
        "yoloxwarmcos",
        "stdet.engine.schedules:YoloxWarmCos",
        "quadratic warm-up, cosine, constant floor without augmentation",
        options=f"{options}:YoloxWarmCosOptions",
    )
    register(
        "cosine",
        "stdet.engine.schedules:Cosine",
        "cosine to zero over t_max epochs",
        options=f"{options}:CosineOptions",
    )
    register(
        "multi-step",
        "stdet.engine.schedules:MultiStep",
        "times gamma at each milestone",
        options=f"{options}:MultiStepOptions",
    )
