"""A quantization library that is installed as an extra of this package, and how it is found."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stdet.errors import QuantizationError


@dataclass(frozen=True)
class Library:
    """A library that serves as `quantization.quantizer`.

    Attributes:
        name: of the extra, and value of the config key.
        title: as its makers write it.
        does: what is taken of it, for the config key's description.
        distribution, module: what pip installs and Python imports.
        oldest: (major, minor) that works.
        environment: variables that are set while it is imported.
    """

    name: str
    title: str
    does: str
    distribution: str
    module: str
    oldest: tuple[int, int]
    environment: Mapping[str, str] = field(default_factory=dict)

    def version(self) -> str:
        return version(self.distribution)

    def load(self) -> Any:
        """The module; importing it prints nothing where the JSON goes.

        Raises:
            QuantizationError: it is missing, broken or older than `oldest`; the hint is the command that installs it.
        """
        install = f"pip install 'stdet-deploy-stm32[{self.name}]'"
        try:
            with _environment(self.environment), contextlib.redirect_stdout(io.StringIO()):
                module, found = importlib.import_module(self.module), self.version()
        except (ImportError, PackageNotFoundError) as error:
            raise QuantizationError(f"quantization.quantizer: {self.name} can't be used: {error}", install) from error
        if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < self.oldest:
            raise QuantizationError(
                f"quantization.quantizer: {self.name} needs {self.title} {'.'.join(map(str, self.oldest))} or later, "
                f"but {found} is installed",
                install.replace("install", "install --upgrade", 1),
            )
        return module

    def failure(self, error: Exception) -> QuantizationError:
        """What to raise when the library fails on a model: these libraries raise whatever happens in them."""
        return QuantizationError(
            f"{self.title} {self.version()} fails on this model: {type(error).__name__}: {error}",
            "use quantization.quantizer: onnx_quantizer",
        )


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
