"""Config files: YAML in, a checked `Config` out, with every mistake reported at once."""

from stdet.config.json_schema import schema
from stdet.config.load import DATA_MODE, Catalogue, Config, Contributed, load, load_text, preprocess_of, to_yaml
from stdet.config.problems import ConfigProblems, Problem

__all__ = [
    "DATA_MODE",
    "Catalogue",
    "Config",
    "ConfigProblems",
    "Contributed",
    "Problem",
    "load",
    "load_text",
    "preprocess_of",
    "schema",
    "to_yaml",
]
