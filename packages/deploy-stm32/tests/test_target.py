from __future__ import annotations

import pytest

from stdet_deploy_stm32 import plugin, target
from stdet_deploy_stm32.boards import boards


def test_every_board_is_registered_under_its_lower_case_name() -> None:
    found: dict[str, tuple[str, str]] = {}
    plugin.stdet_register_targets(lambda name, path, summary, facts=None: found.update({name: (path, summary)}))
    assert found.keys() == boards().keys()
    for name, (path, summary) in found.items():
        assert name == name.lower()
        module, _, attribute = path.partition(":")
        assert module == target.__name__
        assert getattr(target, attribute)().name == name
        assert summary


def test_an_unknown_board_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="stm32z1"):
        target.stm32z1  # noqa: B018
