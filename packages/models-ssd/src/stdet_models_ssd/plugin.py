"""What this package adds to stdet."""

from __future__ import annotations

from stdet.plugins import hookimpl
from stdet.plugins.hookspecs import RegisterModel

STDET_API_VERSION = 2


@hookimpl
def stdet_register_models(register: RegisterModel) -> None:
    for name, build, summary in (
        ("ssd_mobilenetv1_pt", "mobilenet_v1:build_ssd", "MobileNetV1, 3x3 heads; 6.6 M parameters"),
        ("ssdlite_mobilenetv1_pt", "mobilenet_v1:build_ssdlite", "MobileNetV1, separable heads; 4.0 M parameters"),
        ("ssd_mobilenetv2_pt", "mobilenet_v2:build_ssd", "MobileNetV2, 3x3 heads; 7.6 M parameters"),
        ("ssdlite_mobilenetv2_pt", "mobilenet_v2:build_ssdlite", "MobileNetV2, separable heads; 3.1 M parameters"),
        (
            "ssdlite_mobilenetv3small_pt",
            "mobilenet_v3:build_small",
            "MobileNetV3-small, separable heads; 1.1 M parameters",
        ),
        (
            "ssdlite_mobilenetv3large_pt",
            "mobilenet_v3:build_large",
            "MobileNetV3-large, separable heads; 2.1 M parameters",
        ),
    ):
        register(name, f"stdet_models_ssd.{build}", summary, family="stdet_models_ssd.family:SSD")
