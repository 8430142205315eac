"""Image files to uint8 RGB arrays, with every way to fail named."""

from __future__ import annotations

import mmap
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from stdet.errors import DataError

MAX_PIXELS = 1 << 27
"""Largest declared size that is decoded, 134 million pixels: a tiny file may claim to be enormous."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
"""What is opened, whatever the file is called. Pillow knows forty more, of which one starts Ghostscript."""

DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, RuntimeError, AssertionError,
    struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's parsers raise on files that aren't what they claim to be."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what shows the image upright (EXIF 3.0, tag 0x0112). Every other value means upright."""
JPEG_REDUCTIONS = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,  # the flags without a colour; IMREAD_REDUCED_COLOR_2 would mean BGR
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
HINT = "replace the file, or set dataset.on_bad_data: skip"


class ImageHeader(NamedTuple):
    """What is known of an image without decoding it.

    Attributes:
        height, width: pixels, as the image is shown (EXIF orientation applied).
        orientation: the EXIF value, 1 (upright) where the file says nothing, or nothing that is 1..8.
    """

    height: int
    width: int
    orientation: int


def image_header(path: Path) -> ImageHeader:
    """Raises:
    DataError: missing, empty, none of `FORMATS`, or larger than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        return _header(path, image)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of `image_header`.

    Raises:
        DataError: as `image_header`.
    """
    return image_header(path)[:2]


def other_size(path: Path, found: ImageHeader, declared: tuple[int, int]) -> str:
    """How the size of an image contradicts its annotation, and what may be the cause."""
    text = f"{path} is {found.width} x {found.height}, annotated as {declared[1]} x {declared[0]}"
    if found.orientation >= 5 and (found.width, found.height) == declared:
        text += f": its EXIF orientation ({found.orientation}) turns it, and the annotation is of the unturned image"
    return text


def read_image(path: Path, keep_alpha: bool = False, reduce: int = 1) -> np.ndarray:
    """uint8 (H, W, 3) RGB, or (H, W, 4) RGBA with `keep_alpha`; EXIF orientation applied.

    8- and 16-bit, grey, palette and alpha images are converted; 16-bit values keep their upper 8 bits.

    Args:
        reduce: 2, 4 or 8 averages plain JPEGs down by that factor while decoding, to ceil(H / reduce) rows and so on,
            which is faster; other files come in full.

    Raises:
        DataError: as `image_size`, or the pixel data is damaged or cut off.
    """
    with _opened(path) as image:
        turn = TURNS.get(_header(path, image).orientation)
        if image.format == "JPEG" and image.mode == "RGB" and turn is None:
            pixels = _decode_jpeg(path, reduce)
            return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]) if keep_alpha else pixels
        try:
            image.load()
            if turn is not None and image.format != "TIFF":  # Pillow turns those itself
                return _convert(image.transpose(turn), keep_alpha)
            return _convert(image, keep_alpha)
        except DAMAGE as error:
            raise DataError(f"cannot decode {path}: {error}", HINT) from error


def verify_image(path: Path) -> tuple[int, int]:
    """Check that an image is whole, without decoding a JPEG: its header must parse, and its scan must end.

    Damage inside the data of a JPEG that leaves both ends alone isn't seen.

    Returns:
        (height, width), as `image_size`.

    Raises:
        DataError: as `read_image`.
    """
    with _opened(path) as image:
        if image.format in ("JPEG", "MPO"):
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_end(path, data)
        else:
            try:
                image.verify()
            except DAMAGE as error:
                raise DataError(f"cannot decode {path}: {error}", HINT) from error
    return image_size(path)


def _opened(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes)", HINT)
        image = Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:
        raise DataError(f"no image at {path}", "check the images path of the split") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a readable image ({', '.join(FORMATS)})", HINT) from error
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image: {error}", HINT) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DataError(f"{path} declares {width} x {height} pixels; the limit is {MAX_PIXELS}", "shrink the image")
    return image


def _header(path: Path, image: Image.Image) -> ImageHeader:
    """Of an image that isn't loaded yet: of a TIFF, loading changes the orientation."""
    try:
        plain = image.format == "PNG" and not _png_tells_orientation(path)
        value = 1 if plain else image.getexif().get(0x0112, 1)
    except DAMAGE:  # says nothing that anybody could follow
        value = 1
    orientation = int(value) if value in range(1, 9) else 1
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # `size` is of the image as it is shown, if Pillow thinks so
        width, height = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return ImageHeader(width, height, orientation) if orientation >= 5 else ImageHeader(height, width, orientation)


def _png_tells_orientation(path: Path) -> bool:
    """Whether a PNG has EXIF or XMP data. Only then is Pillow asked, which decodes the whole image to find it."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            start = file.read(min(length, 32))
            if kind == b"eXIf" or start.startswith((b"Raw profile type exif", b"XML:com.adobe.xmp")):
                return True
            file.seek(length - len(start) + 4, 1)
    return False


def _decode_jpeg(path: Path, reduce: int) -> np.ndarray:
    """OpenCV decodes JPEG faster than Pillow, but fills what is missing with grey, so the end is checked before."""
    data = path.read_bytes()
    _check_end(path, data)
    flags = JPEG_REDUCTIONS[reduce] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise DataError(f"cannot decode {path}", HINT)
    return pixels


def _check_end(path: Path, data: bytes | mmap.mmap) -> None:
    """The scan of a whole JPEG is followed by an end marker. Thumbnails in the segments before it have their own, so
    the search begins at the scan; cameras append data, so it isn't limited to the last bytes."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at : at + 2] != b"\xff\xda":
        filler = data[at + 1 : at + 2] == b"\xff"
        at += 1 if filler else 2 + int.from_bytes(data[at + 2 : at + 4])
    if data.rfind(b"\xff\xd9", at) < 0:
        raise DataError(f"cannot decode {path}: the JPEG data is cut off", HINT)


def _convert(image: Image.Image, keep_alpha: bool) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        high = np.asarray(image, np.float64)
        grey = (np.clip(high, 0, 65535) / 256).astype(np.uint8)
        image = Image.fromarray(grey)
    return np.asarray(image.convert("RGBA" if keep_alpha else "RGB"))
