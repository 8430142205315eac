"""Files that stages hand to each other: written atomically, hashed, with a format version."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from stdet.errors import ArtifactError
from stdet.onnx_file import admit

ModelKind = Literal["checkpoint", "float", "int8"]
LFS_MARKER = b"version https://git-lfs"
"""What a Git LFS pointer begins with, which a clone without LFS has in place of a large file."""
PICKLED = (b"PK\x03\x04", b"\x80")
"""What files of `torch.save` begin with: a zip archive, in old ones a pickle."""
ONNX_START = b"\x08"
"""What ONNX files begin with: the tag of the number of their format."""


@dataclass(frozen=True)
class ModelFile:
    """A file that a stage works on. What it is was found out once, by what it holds and not by its name.

    Attributes:
        path: where it is.
        kind: `checkpoint` for weights that torch reads, `float` or `int8` for an ONNX without or with quantized operators.
    """

    path: Path
    kind: ModelKind

    @property
    def is_onnx(self) -> bool:
        return self.kind != "checkpoint"

    @property
    def form(self) -> Literal["float", "int8"]:
        """Which of the two forms of a model it holds."""
        return "int8" if self.kind == "int8" else "float"

    @classmethod
    def at(cls, path: Path) -> Self:
        """The model file at `path`.

        Raises:
            ArtifactError: missing, a Git LFS pointer, or neither weights nor an ONNX graph that `onnx_file.admit` takes.
        """
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path} is no regular file", "check model.model_path")
        try:
            with path.open("rb") as file:
                start = file.read(len(LFS_MARKER))
        except FileNotFoundError as error:
            raise ArtifactError(f"no model file at {path}", "check model.model_path") from error
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror or error}", "check model.model_path") from error
        if start == LFS_MARKER:
            raise ArtifactError(f"{path} is a Git LFS pointer, not the model itself", "fetch it with `git lfs pull`")
        if start.startswith(PICKLED):
            return cls(path, "checkpoint")
        return cls(path, "int8" if admit(path).quantized else "float")


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model: by how it begins, by its name where there is none or its beginning tells nothing."""
    start = _start(path)
    if start.startswith((*PICKLED, ONNX_START)):
        return start.startswith(ONNX_START)
    return path.suffix.lower() == ".onnx"


def check_new(target: Path) -> None:
    """Raises:
    ArtifactError: there is something at `target` already.
    """
    if target.exists() or target.is_symlink():
        raise ArtifactError(f"{target} exists already", "name another, or remove this one")


def is_model(path: Path) -> bool:
    """Whether a file is a model, ONNX or checkpoint, and no config: told as by `is_onnx`."""
    return is_onnx(path) or _start(path).startswith(PICKLED) or path.suffix.lower() in (".pth", ".pt")


def _start(path: Path) -> bytes:
    """The first bytes of a file; none where there is no file. A pipe isn't read: it would wait."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(4)
    return b""


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends without an error.

    Whatever happens inside, `target` is either the old file or the complete new one. Parent folders are made.

    Raises:
        ArtifactError: the file can't be written (disk full, no permission); the old file is untouched.
    """
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.{_writer()}", suffix=".part", dir=target.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with _writing(target):
            yield temporary
            with temporary.open("r+b") as written:  # Windows syncs no file that was opened for reading
                os.fsync(written.fileno())
            _give_usual_mode(temporary, 0o666)
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it when the block ends without an error, else is removed.

    Raises:
        ArtifactError: `target` exists, or the folder can't be written.
    """
    check_new(target)
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        prefix = f".{target.name}.{_writer()}"
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=target.parent))
    try:
        with _writing(target):
            yield temporary
            _give_usual_mode(temporary, 0o777)
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


LEFTOVER = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[a-z0-9_]{8}\.part")
"""A temporary file or folder, with who writes it."""


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _writer() -> str:
    return f"{_host()}-{os.getpid()}-"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes of this machine left in `folder`."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            found = LEFTOVER.fullmatch(entry.name)
            if found and found["host"] == _host() and not _alive(int(found["pid"])):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)


_sweep = functools.cache(remove_leftovers)
"""Once in a process and folder: listing a large one for each file that is written would cost more than the files."""


def _alive(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Tell what the system refuses as the failure to write `target`."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot write {target}: {error.strerror or error}", "free space or choose another folder"
        ) from error


def _give_usual_mode(path: Path, mode: int) -> None:
    """The permissions that a file or folder gets when it is made in the ordinary way; temporary ones are private."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)


def write_bytes(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Atomically create `target` with what `write(file)` writes."""
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        write(file)


def write_text(target: Path, text: str) -> None:
    """Atomically create `target` with UTF-8 `text`."""
    write_bytes(target, lambda file: file.write(text.encode()))


def write_json(target: Path, document: dict[str, Any]) -> None:
    """Atomically create `target` with `document`, indented, keys in the order given."""
    write_text(target, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def check_room(folder: Path, size: int) -> None:
    """Check that `size` bytes can be written into `folder`, which is made.

    Raises:
        ArtifactError: the disk is too full, or the folder can't be written.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size))


def flat(document: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a nested JSON document by their dotted keys; lists are values."""
    if not isinstance(document, dict):
        return {prefix: document}
    return {
        k: v for key, item in document.items() for k, v in flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def cache_folder() -> Path:
    """Where stdet keeps what it can make again: `STDET_CACHE`, else `stdet` in `XDG_CACHE_HOME`, else in `~/.cache`.

    Not made here; all that is in it may be deleted at any time.

    Raises:
        ArtifactError: neither is set, and there is no home.
    """
    if chosen := os.environ.get("STDET_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # XDG: relative paths are to be ignored
        return base / "stdet"
    try:
        return Path.home() / ".cache" / "stdet"
    except RuntimeError as error:
        raise ArtifactError("there is no home folder to keep a cache in", "set STDET_CACHE or HOME") from error


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes.

    Raises:
        ArtifactError: the file is missing or unreadable.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
