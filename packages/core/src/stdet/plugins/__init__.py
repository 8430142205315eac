"""Plugin API: `hookimpl` to mark hooks, `API_VERSION` to declare. Everything else is in `hookspecs` and `loader`."""

import pluggy

API_VERSION = 2
"""Raised when a hook or an interface changes in a way that breaks plugins. A plugin declares the one it was made for
as `STDET_API_VERSION` in its plugin module."""

hookimpl = pluggy.HookimplMarker("stdet")
