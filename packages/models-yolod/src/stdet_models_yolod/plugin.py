"""What this package adds to stdet."""

from __future__ import annotations

from stdet.plugins import hookimpl
from stdet.plugins.hookspecs import RegisterModel

STDET_API_VERSION = 2


@hookimpl
def stdet_register_models(register: RegisterModel) -> None:
    family = "stdet_models_yolod.family:ST_YOLOD"
    register(
        "st_yolodv2milli_actrelu_pt",
        "stdet_models_yolod.st_yolodv2milli:build",
        "STResNet-milli backbone, PAFPN neck, decoupled anchor-free head; 3.2 M parameters",
        family=family,
    )
    register(
        "st_yolodv2tiny_actrelu_pt",
        "stdet_models_yolod.st_yolodv2tiny:build",
        "STResNet-tiny backbone, wider neck and head; 4.9 M parameters",
        family=family,
    )
