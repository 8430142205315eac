"""Config files: YAML in, a checked `Config` out, with every mistake reported at once."""

from stdet.config.checked import (
    Config,
    Contributed,
    absent_files,
    given_preprocess,
    merge_preprocess,
    preprocess_of,
    to_yaml,
    unlike_published,
)
from stdet.config.conversion import Change, Converted, convert_text
from stdet.config.json_schema import to_json_schema, words
from stdet.config.load import load, load_text, read_text
from stdet.config.problems import ConfigProblems, Problem
from stdet.config.rules import Catalogue

__all__ = [
    "Catalogue",
    "Change",
    "Config",
    "ConfigProblems",
    "Contributed",
    "Converted",
    "Problem",
    "absent_files",
    "convert_text",
    "given_preprocess",
    "load",
    "load_text",
    "read_text",
    "merge_preprocess",
    "preprocess_of",
    "to_json_schema",
    "to_yaml",
    "unlike_published",
    "words",
]
