"""COCO JSON to typed entries: strictly and fast, and where a file isn't strict, entry by entry.

What pycocotools reads is read: ids as `1.0` or `"1"` or any text, sizes as text, null or missing, `iscrowd` as a bool or
missing, numbers as text, names that are numbers, NaN. An entry that can't be used is a fault of its own.
"""

from __future__ import annotations

import codecs
import math
import mmap
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from stdet.data.files import check_file
from stdet.errors import DataError
from stdet.interfaces.dataset import Fault

Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

COMPRESSED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
"""First two bytes of files that JSON is often packed in."""
Key = int | str
T = TypeVar("T")
TRUE, FALSE = {"1", "true", "yes"}, {"", "0", "false", "no"}


class Image(msgspec.Struct, gc=False):
    """Sizes are in pixels; 0 where the file says none."""

    id: Id
    file_name: str
    height: Side
    width: Side


class Category(msgspec.Struct, gc=False):
    id: Id
    name: str


class Object(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Id = 0


class Instances(msgspec.Struct, gc=False):
    images: list[Image]
    categories: list[Category]
    annotations: list[Object] = []


class Reading(NamedTuple):
    """What a file says.

    Attributes:
        rows: int64, where in the file's list each annotation is.
        faults: entries that can't be used and are left out.
    """

    instances: Instances
    rows: np.ndarray
    faults: list[Fault]


def read_instances(path: Path) -> Reading:
    """Raises:
    DataError: not a file, not JSON (with the line), or no lists of images, categories and annotations.
    """
    check_file(path, None)
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b"")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check the annotations path of the split") from error
    start = bytes(data[:3])
    if start == codecs.BOM_UTF8:
        data = data[3:]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is encoded as UTF-16", "save it as UTF-8")
    if packed := COMPRESSED.get(start[:2]):
        raise DataError(f"{path} is compressed ({packed})", "unpack it first")
    try:
        instances = msgspec.json.decode(data, type=Instances)
        return Reading(instances, np.arange(len(instances.annotations)), [])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # a ValidationError is one
        return _mended(path, _loose(path, data))


class _LooseImage(msgspec.Struct, gc=False):
    id: Any = None
    file_name: Any = None
    height: Any = None
    width: Any = None


class _LooseCategory(msgspec.Struct, gc=False):
    id: Any = None
    name: Any = None


class _LooseObject(msgspec.Struct, gc=False):
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    area: Any = None
    iscrowd: Any = None


class _Loose(msgspec.Struct, gc=False):
    images: list[_LooseImage | list[Any] | str | int | float | bool | None]
    categories: list[_LooseCategory | list[Any] | str | int | float | bool | None]
    annotations: list[_LooseObject | list[Any] | str | int | float | bool | None] = []


NO_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|-?Infinity|NaN')
"""What Python's json writes for numbers that JSON hasn't, and strings, where the words mean nothing."""


def _loose(path: Path, data: memoryview) -> _Loose:
    try:
        try:
            return msgspec.json.decode(data, type=_Loose)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            quoted = NO_NUMBER.sub(lambda m: m[0] if m[0][:1] == b'"' else b'"' + m[0] + b'"', data)
            return msgspec.json.decode(quoted, type=_Loose)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path} is not a COCO instances file: {error}", "it needs images, annotations, categories"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(path, data) from error


def _malformed(path: Path, data: memoryview) -> DataError:
    """Of the file as it is: positions in one with quotes added would be other ones."""
    message = ""
    try:
        msgspec.json.decode(NO_NUMBER.sub(lambda m: m[0] if m[0][:1] == b'"' else b"1" * len(m[0]), data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = str(error)
    return DataError(f"{path}:{_line_of(message, bytes(data))}: malformed JSON: {message}", "mend or replace the file")


def _line_of(message: str, data: bytes) -> int:
    """The line that msgspec's byte position is on; the last line when it names none (truncated data)."""
    _, _, tail = message.rpartition("(byte ")
    position = int(tail.rstrip(")")) if tail.rstrip(")").isdigit() else len(data)
    return data.count(b"\n", 0, position) + 1


def _mended(path: Path, loose: _Loose) -> Reading:
    """The entries that can be used, each judged by itself, with ids as numbers."""
    faults: list[Fault] = []

    def usable(name: str, entries: Sequence[Any], read: Callable[[Any], T]) -> dict[int, T]:
        found, bad = {}, []
        for row, entry in enumerate(entries):
            try:
                found[row] = read(entry)
            except ValueError as error:
                bad.append(f"{name}[{row}] of {path}: {error}")
        if bad:
            faults.append(Fault("unusable entries", bad[0], len(bad)))
        return found

    def known(
        objects: dict[int, _LooseObject], key: str, numbers: dict[Key, int], kind: str
    ) -> dict[int, _LooseObject]:
        strange = [row for row, o in objects.items() if getattr(o, key) not in numbers]
        if strange:
            value = getattr(objects[strange[0]], key)
            faults.append(Fault(kind, f"annotations[{strange[0]}] of {path}: {key} {value}", len(strange)))
        return {row: o for row, o in objects.items() if getattr(o, key) in numbers}

    images = usable("images", loose.images, _image).values()
    categories = usable("categories", loose.categories, _category).values()
    image_numbers = _numbers([i.id for i in images], f"{path}: two images")
    category_numbers = _numbers([c.id for c in categories], f"{path}: two categories")
    objects = usable("annotations", loose.annotations, _object)
    objects = known(objects, "image_id", image_numbers, "annotations of no image")
    objects = known(objects, "category_id", category_numbers, "annotations of no category")
    instances = Instances(
        [Image(image_numbers[i.id], i.file_name, i.height, i.width) for i in images],
        [Category(category_numbers[c.id], c.name) for c in categories],
        [
            Object(image_numbers[o.image_id], category_numbers[o.category_id], o.bbox, o.area, o.iscrowd)
            for o in objects.values()
        ],
    )
    return Reading(instances, np.array(list(objects), np.int64), faults)


def _numbers(keys: list[Key], what: str) -> dict[Key, int]:
    """Each id's number: itself, or where some are text, its place in their order, numbers first.

    Raises:
        DataError: an id is there twice.
    """
    numbers: dict[Key, int] = {key: key for key in keys if isinstance(key, int)}
    if len(numbers) < len(keys):
        ordered = sorted(keys, key=lambda key: (isinstance(key, str), key))
        twice = next((one for one, other in pairwise(ordered) if one == other), None)
        if twice is not None:
            raise DataError(f"{what} have the id {twice}", "ids must be unique")
        return {key: place for place, key in enumerate(ordered)}
    return numbers


def _image(entry: Any) -> _LooseImage:
    if not isinstance(entry, _LooseImage):
        raise ValueError(f"{_shown(entry)} is no image")
    return _LooseImage(
        _key("id", entry.id), _text("file_name", entry.file_name), _side(entry.height), _side(entry.width)
    )


def _category(entry: Any) -> _LooseCategory:
    if not isinstance(entry, _LooseCategory):
        raise ValueError(f"{_shown(entry)} is no category")
    return _LooseCategory(_key("id", entry.id), _text("name", entry.name))


def _object(entry: Any) -> _LooseObject:
    if not isinstance(entry, _LooseObject):
        raise ValueError(f"{_shown(entry)} is no annotation")
    bbox = entry.bbox.strip("[]() ").replace(",", " ").split() if isinstance(entry.bbox, str) else entry.bbox
    box = tuple(map(_real, bbox)) if isinstance(bbox, list) else ()
    if len(box) != 4 or None in box:
        raise ValueError(f"bbox {_shown(entry.bbox)}")
    area = None if entry.area is None else _real(entry.area)
    return _LooseObject(
        _key("image_id", entry.image_id),
        _key("category_id", entry.category_id),
        box,
        math.nan if area is None and entry.area is not None else area,
        _flag("iscrowd", entry.iscrowd),
    )


def _key(name: str, value: Any) -> Key:
    """Raises:
    ValueError: no id.
    """
    number = _whole(value)
    if number is not None:
        return number
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError(f"{name} {_shown(value)}")


def _text(name: str, value: Any) -> str:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{name} {_shown(value)}")


def _side(value: Any) -> int:
    """Pixels, 0 for what can't be a size."""
    number = _whole(value) or 0
    return number if 1 <= number < 2**31 else 0


def _whole(value: Any) -> int | None:
    number = _real(value)
    if number is None or not number.is_integer() or not -(2.0**63) <= number < 2.0**63:
        return None
    if isinstance(value, str) and not value.strip().lstrip("+-").isdigit():
        return int(number)
    return int(value)  # exactly, where a float would round


def _real(value: Any) -> float | None:
    """What a number says, written as text or not; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _flag(name: str, value: Any) -> int:
    word = str(value).strip().lower()
    if value is None or word in FALSE:
        return 0
    if word in TRUE:
        return 1
    number = _real(value)
    if number is None or math.isnan(number):
        raise ValueError(f"{name} {_shown(value)}")
    return int(number != 0)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
