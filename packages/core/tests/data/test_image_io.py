"""Image files of every kind that people have, and of the kinds they'd rather not have."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stdet.data.image_io import image_size, read_image, verify_image
from stdet.errors import DataError

COLOURS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def test_modes_become_eight_bit_rgb(tmp_path: Path) -> None:
    grey = COLOURS[..., 0]
    threefold = np.repeat(grey[..., None], 3, 2)
    deep = (grey.astype(np.uint16) << 8) + 77
    palette = Image.fromarray(COLOURS).quantize(24)
    alpha = np.dstack([COLOURS, np.full((4, 6), 128, np.uint8)])
    for name, image, expected in (
        ("rgb.png", Image.fromarray(COLOURS), COLOURS),
        ("grey.png", Image.fromarray(grey), threefold),
        ("grey16.png", Image.fromarray(deep), threefold),
        ("grey16.tif", Image.fromarray(deep), threefold),
        ("bits.png", Image.fromarray(grey > 127), np.repeat(np.where(grey > 127, 255, 0)[..., None], 3, 2)),
        ("palette.png", palette, np.asarray(palette.convert("RGB"))),
        ("rgba.png", Image.fromarray(alpha), COLOURS),
        ("la.png", Image.fromarray(np.dstack([grey, grey])), threefold),
        ("rgb.bmp", Image.fromarray(COLOURS), COLOURS),
        ("rgb.webp", Image.fromarray(COLOURS), COLOURS),
    ):
        image.save(tmp_path / name, lossless=True)
        found = read_image(tmp_path / name)
        assert (found.dtype, found.shape) == (np.uint8, (4, 6, 3)), name
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert image_size(tmp_path / name) == verify_image(tmp_path / name) == (4, 6), name
    assert np.array_equal(read_image(tmp_path / "rgba.png", keep_alpha=True), alpha)
    assert (read_image(tmp_path / "grey.png", keep_alpha=True)[..., 3] == 255).all()


def test_sixteen_bit_colour_keeps_its_upper_bits(tmp_path: Path) -> None:
    """Pillow can't write it, so the PNG is put together here."""
    samples = (COLOURS.astype(np.uint16) * 256 + 99).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(data)
    assert np.array_equal(read_image(tmp_path / "deep.png"), COLOURS)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_are_read(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (16, 8), (200, 200, 200)).convert(mode).save(tmp_path / "a.jpg", quality=95)
    found = read_image(tmp_path / "a.jpg")
    assert found.shape == (8, 16, 3)
    assert np.abs(found.astype(int) - 200).max() < 6


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.98])
def test_files_that_are_cut_off_are_data_errors_that_name_them(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"cut\.img"):
        read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_off_photograph_is_found_without_decoding_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cut.img"
    path.write_bytes(encoded(kind)[:-40])
    with pytest.raises(DataError, match=r"cut\.img"):
        verify_image(path)


def test_missing_and_odd_files_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name in ("folder.png", "text.png", "empty.png", "gone.png"):
        for look in (image_size, read_image, verify_image):
            with pytest.raises(DataError, match=name):
                look(tmp_path / name)
