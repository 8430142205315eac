"""What the data tools show people: tables of the documents that they make for programs."""

from __future__ import annotations

from typing import Any

from stdet.structures import Table

EXAMPLES_SHOWN = 2
"""Places of a finding in the table of `data check`; the file has more."""
NOTHING_FOUND = ["none", "", "", "nothing is wrong with this data set as far as these checks see", ""]


def findings_table(document: dict[str, Any]) -> Table:
    """One row a finding of `check_dataset`, the worst first."""
    rows = []
    for finding in document["findings"]:
        shown = ", ".join(finding["examples"][:EXAMPLES_SHOWN])
        more = " …" if len(finding["examples"]) > EXAMPLES_SHOWN else ""
        rows.append([finding["severity"], finding["id"], finding["split"], finding["message"], shown + more])
    title = ", ".join(f"{count} {severity}" for severity, count in document["counts"].items())
    return Table(f"findings: {title}", ["severity", "id", "split", "finding", "for example"], rows or [NOTHING_FOUND])


def statistics_tables(splits: dict[str, Any]) -> list[Table]:
    """One row a split, then one row a class."""

    def spread(values: dict[str, float | None], form: str = "{:.0f}") -> str:
        return " / ".join("–" if (value := values[f"p{p}"]) is None else form.format(value) for p in (5, 50, 95))

    columns = ["split", "images", "without objects", "objects", "ignored", "per image", "box side px", "width / height"]
    whole = [
        [
            name,
            str(s["images"]),
            str(s["images_without_objects"]),
            str(s["objects"]),
            str(s["ignored"]),
            spread(s["objects_per_image"]),
            spread(s["side"]),
            spread(s["aspect_ratio"], "{:.2f}"),
        ]
        for name, s in splits.items()
    ]
    first = next(iter(splits.values()))["classes"]
    classes = [
        [
            name,
            " / ".join(str(s["classes"][name]["objects"]) for s in splits.values()),
            " / ".join(str(s["classes"][name]["images"]) for s in splits.values()),
            spread(first[name]["side"]),
            spread(first[name]["aspect_ratio"], "{:.2f}"),
        ]
        for name in first
    ]
    heads = [f"{what} in {' / '.join(splits)}" for what in ("objects", "images")]
    return [
        Table("splits (5th / 50th / 95th percentile)", columns, whole),
        Table(
            f"classes (percentiles of {next(iter(splits))})",
            ["class", *heads, "box side px", "width / height"],
            classes,
        ),
    ]


def written_table(splits: dict[str, Any]) -> Table:
    """One row a split of `write_dataset`."""
    rows = [
        [name, str(s["images"]), str(s["boxes"]), str(s["ignored"]), s["annotations_path"]]
        for name, s in splits.items()
    ]
    return Table("written", ["split", "images", "boxes", "ignored", "annotations"], rows)


def split_table(document: dict[str, Any]) -> Table:
    """One row a side of `split_dataset`, with the objects of each class."""
    names = document["class_names"]
    rows = [
        [side, str(s["images"]), str(s["wanted"]), *(str(s["objects"][name]) for name in names)]
        for side, s in document["splits"].items()
    ]
    return Table("split", ["side", "images", "asked for", *names], rows)
