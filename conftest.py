"""No test leaves anything in the user's cache folder, and a Ctrl-C means what it means on a terminal."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("STDET_CACHE")
    os.environ["STDET_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["STDET_CACHE"]
    if before is not None:
        os.environ["STDET_CACHE"] = before
