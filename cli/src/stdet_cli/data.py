"""`stdet data …`: the tools around a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stdet_cli.session import session

if TYPE_CHECKING:
    from stdet.api import DataPaths

app = typer.Typer(
    help="Check, describe, split, convert, show and make data sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ConfigFile = Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="YAML config file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="values on top of it, such as dataset.seed=3")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout and nothing else there")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="show log messages on stderr")]
Format = Annotated[str | None, typer.Option("--format", help="dataset.dataset_name; `stdet list datasets`")]
Images = Annotated[Path | None, typer.Option("--images", help="folder of the images of the split")]
Annotations = Annotated[Path | None, typer.Option("--annotations", help="annotation file or folder of the split")]
Names = Annotated[Path | None, typer.Option("--list", help="text file with the image names of the split")]
Split = Annotated[
    Literal["train", "val", "test"] | None, typer.Option("--split", help="only this split; what --images … is called")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="folder to write; must not exist yet")]
ImageFiles = Annotated[
    Literal["reference", "link", "copy"],
    typer.Option("--image-files", help="leave the images where they are, hard-link or copy them"),
]


def _paths(
    format_name: str | None, images: Path | None, annotations: Path | None, names: Path | None, split: str | None
) -> DataPaths:
    from stdet import api

    return api.DataPaths(format_name, images, annotations, names, split)


@app.command()
def check(
    config: ConfigFile = None,
    overrides: Overrides = None,
    format_name: Format = None,
    images: Images = None,
    annotations: Annotations = None,
    names: Names = None,
    split: Split = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="look at the annotations only: faster, but sees no damage and no leaks")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Look for what is wrong with a data set. Ends with 2 when a finding is an error, else with 0."""
    with session(as_json, verbose) as ui:
        from stdet import api

        checked = api.load_data_config(config, overrides or (), _paths(format_name, images, annotations, names, split))
        ui.result(api.check_data(checked, ui.reporter, split=split, read_images=not no_images))


@app.command()
def stats(
    config: ConfigFile = None,
    overrides: Overrides = None,
    format_name: Format = None,
    images: Images = None,
    annotations: Annotations = None,
    names: Names = None,
    split: Split = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Count images and boxes, in a table and a picture. By class, size, shape and image."""
    with session(as_json, verbose) as ui:
        from stdet import api

        checked = api.load_data_config(config, overrides or (), _paths(format_name, images, annotations, names, split))
        ui.result(api.describe_data(checked, ui.reporter, split=split))


@app.command()
def preview(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config file with a model")],
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(help="training samples on the sheet")] = 12,
    epoch: Annotated[int, typer.Option(help="of which epoch; the last no_aug_epochs have no strong augmentation")] = 0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draw training samples with their boxes as the trainer gets them. So after augmentation."""
    with session(as_json, verbose) as ui:
        from stdet import api

        ui.result(
            api.preview_data(api.load_data_config(config, overrides or ()), ui.reporter, count=count, epoch=epoch)
        )


@app.command()
def convert(
    to: Annotated[str, typer.Option("--to", help="format to write: coco, voc, …")],
    output: Output,
    config: ConfigFile = None,
    overrides: Overrides = None,
    format_name: Format = None,
    images: Images = None,
    annotations: Annotations = None,
    names: Names = None,
    split: Split = None,
    image_files: ImageFiles = "reference",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write a data set in another format; the original is left alone."""
    with session(as_json, verbose) as ui:
        from stdet import api

        checked = api.load_data_config(config, overrides or (), _paths(format_name, images, annotations, names, split))
        ui.result(api.write_data(checked, ui.reporter, output, to=to, image_files=image_files, split=split))


@app.command()
def subset(
    output: Output,
    config: ConfigFile = None,
    overrides: Overrides = None,
    classes: Annotated[str | None, typer.Option(help="only these, comma-separated, labels in this order")] = None,
    count: Annotated[int | None, typer.Option(help="images of each split")] = None,
    fraction: Annotated[float | None, typer.Option(help="share of the images of each split, above 0, up to 1")] = None,
    seed: Annotated[int, typer.Option(help="of the draw")] = 0,
    keep_empty: Annotated[
        bool, typer.Option("--keep-empty", help="keep images without an object of --classes")
    ] = False,
    to: Annotated[str | None, typer.Option("--to", help="format to write; default: the one that is read")] = None,
    format_name: Format = None,
    images: Images = None,
    annotations: Annotations = None,
    names: Names = None,
    split: Split = None,
    image_files: ImageFiles = "reference",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write some classes or images of a data set, with ids from 0."""
    with session(as_json, verbose) as ui:
        from stdet import api

        checked = api.load_data_config(config, overrides or (), _paths(format_name, images, annotations, names, split))
        ui.result(
            api.write_data(
                checked,
                ui.reporter,
                output,
                to=to,
                image_files=image_files,
                split=split,
                classes=tuple(name.strip() for name in classes.split(",")) if classes else None,
                count=count,
                fraction=fraction,
                seed=seed,
                keep_empty=keep_empty,
            )
        )


@app.command("split")
def split_(
    output: Output,
    config: ConfigFile = None,
    overrides: Overrides = None,
    val: Annotated[float, typer.Option(help="validation: a share below 1, or a number of images; 0 for none")] = 0.2,
    test: Annotated[float, typer.Option(help="test: likewise")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="of the draw")] = 0,
    format_name: Format = None,
    images: Images = None,
    annotations: Annotations = None,
    names: Names = None,
    split: Split = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Divide a data set into train, val and test. Classes alike, look-alikes together; the images stay where they are."""
    with session(as_json, verbose) as ui:
        from stdet import api

        checked = api.load_data_config(config, overrides or (), _paths(format_name, images, annotations, names, split))
        ui.result(api.split_data(checked, ui.reporter, output, val=val, test=test, seed=seed, split=split))


@app.command()
def synth(
    output: Output,
    overrides: Overrides = None,
    to: Annotated[str, typer.Option("--to", help="format to write: coco, voc, …")] = "coco",
    split: Split = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the generated set as files. Keys: dataset.num_images, image_size, max_objects, class_names."""
    with session(as_json, verbose) as ui:
        from stdet import api

        checked = api.load_data_config(None, ["dataset.dataset_name=synthetic", *(overrides or ())])
        ui.result(api.write_data(checked, ui.reporter, output, to=to, split=split))
