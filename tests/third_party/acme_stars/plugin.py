"""What this package adds to stdet."""

from __future__ import annotations

from stdet.plugins import hookimpl
from stdet.plugins.hookspecs import Register, RegisterDataset, RegisterModel, RegisterTarget

STDET_API_VERSION = 2
FACTS = "acme_stars.facts"


@hookimpl
def stdet_register_datasets(register: RegisterDataset) -> None:
    register("acme_stars", "acme_stars.stars:Stars", "bright squares in the dark", facts=f"{FACTS}:STARS")


@hookimpl
def stdet_register_transforms(register: Register) -> None:
    register("acme_plain", "acme_stars.plain:Plain", "the image, resized", options=f"{FACTS}:PlainOptions")


@hookimpl
def stdet_register_schedulers(register: Register) -> None:
    register("acme_flat", "acme_stars.flat:Flat", "one rate for all", options=f"{FACTS}:FlatOptions")


@hookimpl
def stdet_register_models(register: RegisterModel) -> None:
    register("acme_net", "acme_stars.net:AcmeNet", "one convolution", family=f"{FACTS}:ACME")


@hookimpl
def stdet_register_targets(register: RegisterTarget) -> None:
    register("acme_chip", "acme_stars.chip:Chip", "a chip that counts", facts=f"{FACTS}:CHIP")
