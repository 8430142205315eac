"""All six models keep the contract."""

from __future__ import annotations

from stdet.testing import ModelContract


class TestSsdV1(ModelContract):
    name = "ssd_mobilenetv1_pt"


class TestSsdliteV1(ModelContract):
    name = "ssdlite_mobilenetv1_pt"


class TestSsdV2(ModelContract):
    name = "ssd_mobilenetv2_pt"


class TestSsdliteV2(ModelContract):
    name = "ssdlite_mobilenetv2_pt"


class TestSsdliteV3Small(ModelContract):
    name = "ssdlite_mobilenetv3small_pt"


class TestSsdliteV3Large(ModelContract):
    name = "ssdlite_mobilenetv3large_pt"
