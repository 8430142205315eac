"""Getting published weights: from the cache, a folder or mirror of the user's, or where they are published."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from stdet.artifacts import atomic_path, cache_folder, sha256_file
from stdet.errors import ArtifactError, ModelError
from stdet.interfaces.published import PublishedWeights
from stdet.nn.weights import read_state_dict

log = logging.getLogger(__name__)

MIRROR_VARIABLE = "STDET_WEIGHTS"
"""Environment variable: a folder or an http(s) address with the published files, asked when the config names none."""
TIMEOUT_S = 30.0
"""A server that sends nothing for so long is given up."""
CHUNK_BYTES = 1 << 18
MOST_BYTES = 1 << 30
"""No detector of ours comes near it: whatever goes on longer isn't one."""

Progress = Callable[[int, int | None], None]
"""Bytes that are here, and how many there will be, when the server says."""


class _Absent(ArtifactError):
    """The place answers, but doesn't have the file."""


def fetch_weights(
    weights: PublishedWeights, mirror: str | None = None, progress: Progress | None = None, timeout_s: float = TIMEOUT_S
) -> Path:
    """A checked local file of `weights`.

    Looks in `weights/` of stdet's cache folder, then in the mirror, then where the file is published. A download gets a
    temporary name; only after its length, its hash where known, and its content (tensors, nothing that runs) were
    checked it is moved into the cache. A folder's file is used where it lies.

    Args:
        mirror: folder or http(s) address that holds the file under its name; `STDET_WEIGHTS` when None.

    Raises:
        ArtifactError: no place has the file, it can't be reached in time, or what came is damaged; nothing is kept.
    """
    cached = cache_folder() / "weights" / weights.file
    if cached.is_file():
        _check(cached, weights, str(cached))
        return cached
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    urls = [weights.url]
    if mirror and mirror.startswith(("http://", "https://")):
        urls.insert(0, f"{mirror.rstrip('/')}/{weights.file}")
    elif mirror:
        own = _in_folder(Path(mirror).expanduser(), weights)
        if own:
            return own
    absent = []
    for url in urls:
        try:
            _download(url, cached, weights, progress, timeout_s)
            return cached
        except _Absent as error:
            absent.append(error.message)
    raise ArtifactError("; ".join(absent), _manual_hint(weights))


def _in_folder(folder: Path, weights: PublishedWeights) -> Path | None:
    if not folder.is_dir():
        raise ArtifactError(
            f"the folder of weights {folder} isn't there", f"check model.weights_from or {MIRROR_VARIABLE}"
        )
    own = folder / weights.file
    if not own.is_file():
        log.info("%s has no %s", folder, weights.file)
        return None
    _check(own, weights, str(own))
    return own


def _download(url: str, target: Path, weights: PublishedWeights, progress: Progress | None, timeout_s: float) -> None:
    with atomic_path(target) as temporary:
        try:
            with (
                urlopen(Request(url, headers={"User-Agent": "stdet"}), timeout=timeout_s) as answer,
                temporary.open("wb") as file,
            ):
                length = int(answer.headers["Content-Length"]) if answer.headers.get("Content-Length") else None
                here = 0
                while chunk := answer.read(CHUNK_BYTES):
                    here += len(chunk)
                    if here > MOST_BYTES:
                        raise ArtifactError(f"{url} sends more than {MOST_BYTES >> 20} MiB", _manual_hint(weights))
                    file.write(chunk)
                    if progress:
                        progress(here, length)
        except HTTPError as error:
            kind = _Absent if error.code in (404, 410) else ArtifactError
            raise kind(f"{url} answers {error.code} {error.reason}", _manual_hint(weights)) from error
        except (OSError, HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise ArtifactError(f"the download of {url} failed: {reason}", _manual_hint(weights)) from error
        if length is not None and here != length:
            raise ArtifactError(f"the download of {url} broke off after {here} of {length} bytes", "try again")
        _check(temporary, weights, url)


def _check(path: Path, weights: PublishedWeights, source: str) -> None:
    """Hash and content of a file that `source` gave."""
    if weights.sha256:
        found = sha256_file(path)
        if not found.startswith(weights.sha256.lower()):
            raise ArtifactError(
                f"{source} has the SHA-256 {found}; {weights.file} is known to have {weights.sha256}",
                "the file is damaged or another one: delete it if it is yours, and get it again",
            )
    try:
        read_state_dict(path)
    except ModelError as error:
        raise ArtifactError(error.message.replace(str(path), source), error.hint) from error


def _manual_hint(weights: PublishedWeights) -> str:
    return (
        f"get {weights.file} by other means and name it in model.model_path, or its folder in model.weights_from "
        f"or {MIRROR_VARIABLE}"
    )
