"""The site: `make docs`. What can be taken from the code is, each time, by `reference.py`; warnings are errors."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402

project = "stdet"
author = "The authors of stdet"
extensions = ["myst_parser"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "stdet"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
}
templates_path: list[str] = []
suppress_warnings: list[str] = []

reference.write(HERE / "reference")
