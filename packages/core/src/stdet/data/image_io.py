"""Image files to uint8 RGB arrays, with every way to fail named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stdet.errors import DataError

MAX_PIXELS = 1 << 27
"""Largest declared size that is decoded, 134 million pixels: a tiny file may claim to be enormous."""


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels as the image is shown (EXIF orientation applied), without decoding it.

    Raises:
        DataError: missing, empty, not an image, or larger than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5..8 exchange the sides
    return (width, height) if turned else (height, width)


def read_image(path: Path, keep_alpha: bool = False) -> np.ndarray:
    """uint8 (H, W, 3) RGB, or (H, W, 4) RGBA with `keep_alpha`; EXIF orientation applied.

    8- and 16-bit, grey, palette and alpha images are converted; 16-bit values keep their upper 8 bits.

    Raises:
        DataError: as `image_size`, or the pixel data is damaged or cut off.
    """
    with _opened(path) as image:
        simple_jpeg = image.format == "JPEG" and image.mode == "RGB"
        oriented = image.getexif().get(0x0112, 1) == 1
        if simple_jpeg and oriented:
            pixels = _decode_jpeg(path)
            return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]) if keep_alpha else pixels
        try:
            return _convert(ImageOps.exif_transpose(image), keep_alpha)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"cannot decode {path}: {error}", "replace the file, or set dataset.on_bad_data: skip"
            ) from error


def verify_image(path: Path) -> None:
    """Check that an image is whole, without decoding a JPEG: it must open, and reach its end marker.

    Raises:
        DataError: as `read_image`.
    """
    with _opened(path) as image:
        if image.format == "JPEG":
            _whole_jpeg(path, path.read_bytes())
            return
        try:
            image.verify()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"cannot decode {path}: {error}", "replace the file") from error


def _opened(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes)", "replace the file, or set dataset.on_bad_data: skip")
        image = Image.open(path)
    except FileNotFoundError as error:
        raise DataError(f"no image at {path}", "check the images path of the split") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} is not a readable image: {error}", "replace it, or set dataset.on_bad_data: skip"
        ) from error
    if image.size[0] * image.size[1] > MAX_PIXELS:
        width, height = image.size
        raise DataError(f"{path} declares {width} x {height} pixels; the limit is {MAX_PIXELS}", "shrink the image")
    return image


def _decode_jpeg(path: Path) -> np.ndarray:
    """OpenCV decodes JPEG faster than Pillow, but fills what is missing with grey: the end marker tells."""
    data = path.read_bytes()
    _whole_jpeg(path, data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise DataError(f"cannot decode {path}", "replace the file, or set dataset.on_bad_data: skip")
    return pixels


def _whole_jpeg(path: Path, data: bytes) -> None:
    if b"\xff\xd9" not in data[-4096:]:
        raise DataError(
            f"cannot decode {path}: the JPEG data is cut off", "replace the file, or set dataset.on_bad_data: skip"
        )


def _convert(image: Image.Image, keep_alpha: bool) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        high = np.asarray(image, np.float64)
        grey = (np.clip(high, 0, 65535) / 256).astype(np.uint8)
        image = Image.fromarray(grey)
    return np.asarray(image.convert("RGBA" if keep_alpha else "RGB"))
