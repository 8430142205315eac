"""Where the numbers of a run go. A tracker is one file here and one line in `TRACKERS`."""

from __future__ import annotations

from stdet.tracking.together import TRACKERS, TrackedRun, Trackers, open_trackers

__all__ = ["TRACKERS", "TrackedRun", "Trackers", "open_trackers"]
