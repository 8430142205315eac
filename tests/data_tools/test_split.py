"""`data split`: what each side holds, in each format, and that nothing is touched or left behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from stdet import api
from stdet.errors import ArtifactError, DataError
from stdet.interfaces.reporter import SilentReporter
from stdet_cli.main import app

QUIET = SilentReporter()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The same 40 generated images in each format, as the config keys of one unsplit set; images 0 to 2 are alike."""
    root = tmp_path_factory.mktemp("sources")
    keys = ["dataset.dataset_name=synthetic", "dataset.num_images=40", "dataset.image_size=64"]
    written: dict[str, list[str]] = {}
    for name in ("coco", "voc", "yolo"):
        config = api.load_data_config(None, keys)
        api.write_data(config, QUIET, root / name, to=name, split="train")
        section = yaml.safe_load((root / name / "dataset.yaml").read_text())["dataset"]
        images = Path(section["train_images_path"])
        first, second, third = sorted(images.iterdir())[:3]
        shutil.copyfile(first, second)
        with Image.open(first) as picture:
            picture.point(lambda v: min(255, v + 2)).save(third)
        section = {key: value for key, value in section.items() if "split" not in key and key != "class_names"}
        written[name] = [f"dataset.{key}={value}" for key, value in section.items()]
    return written


def split(keys: list[str], folder: Path, **options: Any) -> dict[str, Any]:
    return api.split_data(api.load_data_config(None, keys), QUIET, folder, **options).document


def images_of(folder: Path) -> dict[str, list[str]]:
    """The image names of each side, as the readers see them."""
    from stdet.build import Builder
    from stdet.plugins.loader import load_plugins

    config = api.load_data_config(folder / "dataset.yaml")
    builder = Builder(config, load_plugins()[0])
    found = {}
    for side in ("train", "val", "test"):
        if config.names_split(side):
            dataset = builder.dataset(side, builder.class_names())
            paths = [dataset.annotation(i).path for i in range(len(dataset))]
            found[side] = [path.name for path in paths if path is not None]
    return found


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_sides_are_read_back_apart_with_the_look_alikes_together(
    name: str, sources: dict[str, list[str]], tmp_path: Path
) -> None:
    images = Path(next(key for key in sources[name] if "images_path" in key).partition("=")[2])
    root = next(folder for folder in images.parents if folder.name == name)
    before = state_of(root)
    document = split(sources[name], tmp_path / "out", val=0.2, test=5, seed=3)
    assert state_of(root) == before
    sides = images_of(tmp_path / "out")
    assert sorted(name for names in sides.values() for name in names) == sorted(path.name for path in images.iterdir())
    assert {side: len(names) for side, names in sides.items()} == {"train": 27, "val": 8, "test": 5}
    assert {side: s["images"] for side, s in document["splits"].items()} == {"train": 27, "val": 8, "test": 5}
    alike = [
        side for side, names in sides.items() for n in sorted(path.name for path in images.iterdir())[:3] if n in names
    ]
    assert len(set(alike)) == 1
    assert document["largest_group"] == 3
    assert all(count for s in document["splits"].values() for count in s["objects"].values()), "every class everywhere"
    assert api.check_data(
        api.load_data_config(tmp_path / "out/dataset.yaml", [f"hydra.run.dir={tmp_path / 'c'}"]), QUIET
    )


def test_the_seed_makes_the_split(sources: dict[str, list[str]], tmp_path: Path) -> None:
    lists = []
    for number, seed in enumerate((1, 1, 2)):
        split(sources["voc"], tmp_path / str(number), val=0.3, seed=seed)
        lists.append((tmp_path / str(number) / "val.txt").read_text())
    assert lists[0] == lists[1] != lists[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 0.7, "test": 0.4}, "leave none for training"),
        ({"val": 40}, "leave none for training"),
        ({"val": 2.5}, "neither a share nor a number"),
        ({"val": -0.1}, "neither a share nor a number"),
        ({"val": float("nan")}, "neither a share nor a number"),
        ({"val": 0}, "neither validation nor test"),
    ],
)
def test_numbers_that_make_no_split_are_refused(
    options: dict[str, Any], message: str, sources: dict[str, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        split(sources["yolo"], tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_what_is_split_already_is_divided_again_only_when_asked(sources: dict[str, list[str]], tmp_path: Path) -> None:
    split(sources["voc"], tmp_path / "one", val=0.5)
    config = api.load_data_config(tmp_path / "one/dataset.yaml")
    with pytest.raises(DataError, match="split already, in train, val"):
        api.split_data(config, QUIET, tmp_path / "two")
    api.split_data(config, QUIET, tmp_path / "two", split="val", val=0, test=0.5)
    first, second = images_of(tmp_path / "one"), images_of(tmp_path / "two")
    assert sorted(second["train"] + second["test"]) == sorted(first["val"])
    with pytest.raises(ArtifactError, match="exists already"):
        api.split_data(config, QUIET, tmp_path / "two", split="val")
    with pytest.raises(DataError, match="has every split"):
        split(["dataset.dataset_name=synthetic"], tmp_path / "three")


def test_one_scene_in_all_images_is_no_set_to_divide(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((64, 64))
    (tmp_path / "set").mkdir()
    for number in range(6):
        picture.save(tmp_path / f"set/{number}.png")
        (tmp_path / f"set/{number}.txt").write_text("0 .5 .5 .5 .5")
    keys = ["dataset.dataset_name=yolo", f"dataset.train_images_path={tmp_path / 'set'}", "dataset.class_names=[x]"]
    with pytest.raises(DataError, match="no image is left for val"):
        split(keys, tmp_path / "out")


def test_a_damaged_image_stops_or_is_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "set").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"set/{number}.png")
    whole = (tmp_path / "set/5.png").read_bytes()
    (tmp_path / "set/5.png").write_bytes(whole[: len(whole) // 2])
    keys = ["dataset.dataset_name=yolo", f"dataset.train_images_path={tmp_path / 'set'}", "dataset.class_names=[x]"]
    with pytest.raises(DataError, match=r"unreadable images.*5\.png"):
        split(keys, tmp_path / "out")
    document = split([*keys, "dataset.on_bad_data=skip"], tmp_path / "out", val=2)
    assert {side: s["images"] for side, s in document["splits"].items()} == {"train": 3, "val": 2}


def test_data_check_names_the_command_that_splits(sources: dict[str, list[str]], tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["data", "check", *sources["voc"], f"hydra.run.dir={tmp_path / 'run'}", "--json"])
    assert run.exit_code == 0, run.output
    checked = api.check_data(
        api.load_data_config(None, [*sources["voc"], f"hydra.run.dir={tmp_path / 'again'}"]), QUIET, read_images=False
    )
    (finding,) = [f for f in checked.document["findings"] if f["id"] == "D106"]
    command = finding["examples"][0].replace("-o split", f"-o {tmp_path / 'split'}").split()
    made = CliRunner().invoke(app, command[1:])
    assert made.exit_code == 0, made.output
    assert sorted(images_of(tmp_path / "split")) == ["test", "train", "val"]
