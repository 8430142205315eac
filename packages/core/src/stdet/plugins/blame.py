"""Whose fault an unforeseen error is: the plugin's whose code raised it, or ours."""

from __future__ import annotations

import traceback

from stdet.known import known
from stdet.plugins.choice import owner
from stdet.plugins.loader import installed


def blamed(error: BaseException) -> str:
    """The distribution, with its version, of the stranger's plugin whose code runs deepest in the traceback; else empty.

    A plugin's code is what lies in the package of its plugin module.
    """
    strangers = {
        point.value.partition(".")[0]: " ".join(owner(point)).strip()
        for point in installed([])
        if owner(point)[0] not in known().distributions
    }
    running = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((strangers[top] for name in reversed(running) if (top := name.partition(".")[0]) in strangers), "")
