"""Both models keep the contract."""

from __future__ import annotations

from stdet.testing import ModelContract


class TestMilli(ModelContract):
    name = "st_yolodv2milli_actrelu_pt"


class TestTiny(ModelContract):
    name = "st_yolodv2tiny_actrelu_pt"
