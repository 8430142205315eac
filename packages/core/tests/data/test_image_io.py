"""Image files of every kind that people have, and of the kinds they'd rather not have."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from stdet.data import image_io
from stdet.data.image_io import image_header, image_size, read_image, verify_image
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


def exif_with(kind: int, value: bytes) -> bytes:
    """An EXIF block with the orientation tag alone: of any type, with any value of 4 bytes."""
    tag = struct.pack("<HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 1) + tag + bytes(4)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("value", [*range(10), 300])
def test_every_look_at_an_image_knows_the_size_at_which_it_is_shown(tmp_path: Path, suffix: str, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path, exif=exif)
    turned = value in (5, 6, 7, 8)
    assert read_image(path).shape == ((6, 4, 3) if turned else (4, 6, 3))
    assert image_size(path) == verify_image(path) == ((6, 4) if turned else (4, 6))
    assert image_header(path).orientation == (value if value in range(1, 9) else 1)


@pytest.mark.parametrize("late", [False, True])
def test_a_png_may_tell_its_orientation_anywhere(tmp_path: Path, late: bool) -> None:
    path = tmp_path / "a.png"
    info = PngImagePlugin.PngInfo()
    xmp = '<x xmlns:tiff="t" tiff:Orientation="6"/>'
    info.add_itxt("XML:com.adobe.xmp", xmp)
    Image.fromarray(COLOURS).save(path, pnginfo=info)
    if late:
        Image.fromarray(COLOURS).save(path)
        block = struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHII", 0x0112, 3, 1, 6) + bytes(4)
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        data = path.read_bytes()
        path.write_bytes(data[:-12] + chunk + data[-12:])
    assert image_size(path) == verify_image(path) == read_image(path).shape[:2] == (6, 4)


@pytest.mark.parametrize(
    "exif", [exif_with(9, struct.pack("<i", 65537)), exif_with(3, b"\x09\0\0\0"), b"Exif\0\0rubbish"]
)
def test_an_orientation_tag_that_means_nothing_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOURS).save(path, exif=exif)
    assert image_size(path) == verify_image(path) == read_image(path).shape[:2] == (4, 6)


FOREIGN = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
    "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B" + bytes(64),
    "DDS": b"DDS |\0\0\0" + bytes(120),
    "GIF": encoded("GIF"),
    "ICO": encoded("ICO"),
    "PPM": encoded("PPM"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_only_the_documented_formats_are_opened_whatever_a_file_is_called(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "photo.jpg"
    path.write_bytes(FOREIGN[kind])
    for look in (image_size, read_image, verify_image):
        with pytest.raises(DataError, match=r"photo\.jpg .*\(JPEG, PNG, BMP, WEBP, TIFF\)"):
            look(path)
    assert set(image_io.FORMATS) <= set(Image.OPEN) | set(Image.ID)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_a_wrong_suffix_does_not_matter(tmp_path: Path, kind: str) -> None:
    (tmp_path / "photo.gif").write_bytes(encoded(kind))
    assert read_image(tmp_path / "photo.gif").shape == (64, 64, 3)


def test_a_camera_s_multi_picture_file_is_its_first_photograph(tmp_path: Path) -> None:
    one, other = (Image.new("RGB", (40, 20), colour) for colour in ((200, 0, 0), (0, 200, 0)))
    one.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[other])
    assert verify_image(tmp_path / "a.jpg") == (20, 40)
    assert abs(int(read_image(tmp_path / "a.jpg")[5, 5, 0]) - 200) < 6
