"""Preprocessing against Pillow, OpenCV and arithmetic done by hand."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stdet.data.image_io import image_size, read_image, verify_image
from stdet.data.preprocess import normalize, prepare, resample, resize, to_tensor_layout
from stdet.errors import DataError
from stdet.structures import Preprocess


def photo(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """Smooth noise: like a photograph, neighbours resemble each other."""
    small = np.random.default_rng(seed).uniform(0, 255, (8, 10, 3)).astype(np.float32)
    return np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("ours", "pillow"),
    [
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
        ("lanczos3", Image.Resampling.LANCZOS),
    ],
)
def test_enlarging_agrees_with_pillow(ours: str, pillow: Image.Resampling) -> None:
    image = photo()
    expected = np.asarray(Image.fromarray(image).resize((200, 150), pillow)).astype(int)
    # Pillow's bicubic has a = -0.5 and OpenCV's -0.75, so that kernel may differ by more.
    assert np.abs(resample(image, 150, 200, ours).astype(int) - expected).max() <= (12 if ours == "bicubic" else 2)


def test_area_agrees_with_pillows_box_filter_at_whole_factors() -> None:
    image = photo(60, 80)
    expected = np.asarray(Image.fromarray(image).resize((20, 15), Image.Resampling.BOX)).astype(int)
    assert np.abs(resample(image, 15, 20, "area").astype(int) - expected).max() <= 1


def test_nearest_takes_existing_pixels() -> None:
    image = photo()
    out = resample(image, 33, 47, "nearest")
    expected = np.asarray(Image.fromarray(image).resize((47, 33), Image.Resampling.NEAREST))
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("kernel", ["lanczos3", "lanczos5", "gaussian", "mitchellcubic"])
def test_each_kernel_is_separable_keeps_constants_and_equals_its_formula(kernel: str) -> None:
    assert np.all(resample(np.full((9, 7, 3), 77, np.uint8), 20, 31, kernel) == 77)
    row = np.random.default_rng(1).integers(60, 190, (1, 12, 1)).astype(np.uint8)
    out = resample(row, 1, 24, kernel)[0, :, 0]
    formula = {
        "lanczos3": lambda x: np.sinc(x) * np.sinc(x / 3) * (abs(x) < 3),
        "lanczos5": lambda x: np.sinc(x) * np.sinc(x / 5) * (abs(x) < 5),
        "gaussian": lambda x: np.exp(-2 * x * x) * (abs(x) < 1.5),
        "mitchellcubic": lambda x: (
            (7 * abs(x) ** 3 - 12 * x * x + 16 / 3) / 6
            if abs(x) < 1
            else (-7 / 3 * abs(x) ** 3 + 12 * x * x - 20 * abs(x) + 32 / 3) / 6
            if abs(x) < 2
            else 0.0
        ),
    }[kernel]
    for target in range(24):
        centre = (target + 0.5) / 2 - 0.5
        weights = [float(formula(source - centre)) for source in range(12)]
        expected = sum(w * float(v) for w, v in zip(weights, row[0, :, 0], strict=True)) / sum(weights)
        assert abs(out[target] - np.clip(expected, 0, 255)) <= 0.51


def test_letterbox_puts_the_image_top_left_and_truncates_like_yolox() -> None:
    image = photo(50, 70)
    out, geometry = resize(image, Preprocess(96, 96, "letterbox", pad_value=114))
    ratio = min(96 / 50, 96 / 70)
    height, width = int(50 * ratio), int(70 * ratio)
    assert np.array_equal(out[:height, :width], cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    assert np.all(out[height:] == 114)
    assert np.all(out[:, width:] == 114)
    assert (geometry.scale_x, geometry.scale_y, geometry.offset_x) == (ratio, ratio, 0)


@given(
    size=st.tuples(st.integers(5, 90), st.integers(5, 90)),
    target=st.tuples(st.integers(16, 96), st.integers(16, 96)),
    mode=st.sampled_from(["fit", "letterbox", "crop"]),
    seed=st.integers(0, 99),
)
def test_boxes_follow_the_pixels_and_come_back(
    size: tuple[int, int], target: tuple[int, int], mode: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    y1, x1 = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 2)
    y2, x2 = rng.integers(y1 + 2, size[0] + 1), rng.integers(x1 + 2, size[1] + 1)
    image = np.zeros((*size, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    out, geometry = resize(image, Preprocess(*target, mode, pad_value=0))  # type: ignore[arg-type]
    box = np.array([[x1, y1, x2, y2]], np.float32)
    moved = geometry.to_input(box)
    np.testing.assert_allclose(geometry.to_image(moved), box, atol=1e-3)
    rows, columns = np.flatnonzero((out[..., 0] > 127).any(1)), np.flatnonzero((out[..., 0] > 127).any(0))
    if len(rows) and len(columns):
        seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
        inside = np.clip(moved[0], 0, [target[1], target[0]] * 2)
        if (inside[2:] - inside[:2]).min() < max(geometry.scale_x, geometry.scale_y):
            return  # crop leaves a sliver of less than one enlarged pixel, which isn't bright to its ends
        # half-bright pixels at the edge, plus what truncating the letterbox to whole pixels moves
        assert np.abs(seen - inside).max() <= 1 + max(1.0, geometry.scale_x, geometry.scale_y)


def test_every_colour_mode_is_obeyed() -> None:
    image = photo(4, 5)
    modes = {}
    for mode, n in (("rgb", 3), ("bgr", 3), ("grayscale", 1), ("rgba", 4)):
        preprocess = Preprocess(4, 5, color_mode=mode, mean=(0.0,) * n, std=(1.0,) * n)  # type: ignore[arg-type]
        modes[mode] = to_tensor_layout(image, preprocess)
    assert np.array_equal(modes["rgb"], image.transpose(2, 0, 1))
    assert np.array_equal(modes["bgr"], image.transpose(2, 0, 1)[::-1])
    luma = np.asarray(Image.fromarray(image).convert("L")).astype(int)
    assert np.abs(modes["grayscale"][0].astype(int) - luma).max() <= 1
    assert np.array_equal(modes["rgba"][:3], modes["rgb"])
    assert np.all(modes["rgba"][3] == 255)


def test_normalizing_is_the_formula_for_arrays_and_tensors() -> None:
    preprocess = Preprocess(4, 5, scale=1 / 127.5, offset=-1, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels, _ = prepare(photo(4, 5), preprocess)
    expected = np.stack([((pixels[c] / 127.5 - 1) - preprocess.mean[c]) / preprocess.std[c] for c in range(3)])
    np.testing.assert_allclose(normalize(pixels[None], preprocess)[0], expected, atol=1e-5)
    np.testing.assert_allclose(normalize(torch.from_numpy(pixels[None]), preprocess)[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["jpg", "png", "grey", "palette", "rgba", "sixteen"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, kind: str) -> None:
    image = photo()
    path = tmp_path / f"a.{'jpg' if kind == 'jpg' else 'png'}"
    source = Image.fromarray(image)
    grey = np.asarray(source.convert("L"))
    {
        "jpg": lambda: source.save(path, quality=98, subsampling=0),
        "png": lambda: source.save(path),
        "grey": lambda: source.convert("L").save(path),
        "palette": lambda: source.convert("P").save(path),
        "rgba": lambda: source.convert("RGBA").save(path),
        "sixteen": lambda: cv2.imwrite(str(path), grey.astype(np.uint16) * 256),
    }[kind]()
    out = read_image(path)
    verify_image(path)
    assert out.dtype == np.uint8
    assert out.shape == image.shape
    assert image_size(path) == image.shape[:2]
    expected = np.dstack([grey] * 3) if kind in ("grey", "sixteen") else image
    tolerance = {"jpg": 12, "palette": 60, "sixteen": 1}.get(kind, 0)
    assert np.abs(out.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(96, 128), (99, 131)])
def test_a_jpeg_is_averaged_down_while_decoding(tmp_path: Path, factor: int, size: tuple[int, int]) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(*size)).save(path, quality=98, subsampling=0)
    full, small = read_image(path), read_image(path, reduce=factor)
    height, width = (-(-side // factor) for side in size)
    assert small.shape == (height, width, 3)
    whole = full[: size[0] // factor * factor, : size[1] // factor * factor].astype(float)
    expected = whole.reshape(size[0] // factor, factor, size[1] // factor, factor, 3).mean((1, 3))
    assert np.abs(small[: len(expected), : expected.shape[1]] - expected).max() <= 3
    Image.fromarray(photo(*size)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", reduce=factor).shape == (*size, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    stored = Image.fromarray(photo(24, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=98, subsampling=0)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF value to Pillow's transpose, from the EXIF standard
    expected = stored if orientation == 1 else stored.transpose(Image.Transpose(turn[orientation]))
    out = read_image(tmp_path / "a.jpg")
    assert image_size(tmp_path / "a.jpg") == out.shape[:2] == (expected.height, expected.width)
    assert np.abs(out.astype(int) - np.asarray(expected)).max() <= 12


def test_alpha_is_kept_when_asked_for(tmp_path: Path) -> None:
    image = np.dstack([photo(), np.full((60, 80), 128, np.uint8)])
    Image.fromarray(image).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", keep_alpha=True), image)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(photo(200, 300)).save(whole)
    cases = {
        "missing.jpg": None,
        "empty.jpg": b"",
        "text.jpg": b"this is not an image",
        "cut.jpg": whole.read_bytes()[:-4000],
    }
    for name, data in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        for function in (read_image, verify_image):
            with pytest.raises(DataError, match=name):
                function(tmp_path / name)


def test_an_enormous_declared_size_is_refused_without_decoding(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    with pytest.raises(DataError, match=r"bomb\.png"):
        read_image(bomb)


def test_a_cut_jpeg_is_found_even_if_its_thumbnail_is_whole_and_appended_data_is_no_damage(tmp_path: Path) -> None:
    thumbnail = io.BytesIO()
    Image.fromarray(photo(20, 20)).save(thumbnail, "JPEG")
    plain = io.BytesIO()
    Image.fromarray(photo(200, 300)).save(plain, "JPEG")
    segment = b"\xff\xe2" + (len(thumbnail.getvalue()) + 2).to_bytes(2) + thumbnail.getvalue()
    whole = plain.getvalue()[:2] + segment + plain.getvalue()[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(whole + b"appended by a camera" * 1000)
    assert read_image(path).shape == (200, 300, 3)
    assert verify_image(path) == (200, 300)
    path.write_bytes(whole[: len(segment) + 1500])
    for function in (read_image, verify_image):
        with pytest.raises(DataError, match="cut off"):
            function(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"]),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=5),
    keep=st.floats(0, 1),
)
def test_no_damage_makes_reading_fail_with_anything_but_a_data_error(
    tmp_path: Path, kind: str, changes: list[tuple[int, int]], keep: float
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "fuzz.img"
    Image.fromarray(photo(24, 32)).save(path, kind, exif=exif)
    data = bytearray(path.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    path.write_bytes(data if keep > 0.5 else data[: int(len(data) * keep * 2)])
    for function in (read_image, image_size, verify_image):
        try:
            function(path)
        except DataError:
            pass
