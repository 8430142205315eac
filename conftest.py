"""No test leaves anything in the user's cache folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("STDET_CACHE")
    os.environ["STDET_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["STDET_CACHE"]
    if before is not None:
        os.environ["STDET_CACHE"] = before
