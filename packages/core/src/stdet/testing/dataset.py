"""What every data set reader must do."""

from __future__ import annotations

import dataclasses
import pickle
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np

from stdet.interfaces.dataset import DatasetRequest, DetectionDataset, ReaderFacts, WriteRequest
from stdet.interfaces.family import Options
from stdet.testing.contract import Contract, catalogue, demand

LOOKED_AT = 8


class DatasetContract(Contract):
    """What every reader must do. Set `name` and return a request for some images in `request`."""

    kind: ClassVar[str] = "datasets"

    def request(self, tmp_path: Path) -> DatasetRequest:
        """Where a small data set is; make it in `tmp_path` if need be. It has at least two images.

        Raises:
            NotImplementedError: the contract's user gives none.
        """
        raise NotImplementedError(f"{type(self).__name__}.request must say where a small data set is")

    def own_keys(self) -> dict[str, type[Options]]:
        facts: ReaderFacts = catalogue().reader(self.name)
        return {"dataset": facts.options}

    def open(self, request: DatasetRequest) -> DetectionDataset:
        """The data set of a request."""
        dataset = catalogue().build("datasets", self.name, request)
        demand(isinstance(dataset, DetectionDataset), "a DetectionDataset", type(dataset).__name__)
        assert isinstance(dataset, DetectionDataset)
        return dataset

    def test_annotations_fit_their_images(self, tmp_path: Path) -> None:
        """Images are uint8 (height, width, 3) of the size that their annotation says; boxes are float32 (N, 4), xyxy in
        pixels, inside the image and not empty, with one class of `class_names`, one area and one `ignore` each; image ids are
        unique and `sample` leaves out what is ignored: nothing after the reader checks it again."""
        dataset = self.open(self.request(tmp_path))
        demand(len(dataset) > 0, "at least one image", "none")
        ids = set()
        for index in range(min(len(dataset), LOOKED_AT)):
            a, image = dataset.annotation(index), dataset.read_image(index)
            ids.add(a.image_id)
            demand(image.dtype == np.uint8, "pixels of uint8", image.dtype)
            demand(image.shape == (a.height, a.width, 3), f"an image of {(a.height, a.width, 3)}", image.shape)
            count = len(a.labels)
            demand(a.boxes.shape == (count, 4), f"boxes of {(count, 4)}, one a label", a.boxes.shape)
            demand(a.boxes.dtype == np.float32, "boxes of float32", a.boxes.dtype)
            beside = (len(a.ignore), len(a.areas))
            demand(beside == (count, count), f"{count} `ignore` and areas, one a label", beside)
            known = all(0 <= label < len(dataset.class_names) for label in a.labels)
            demand(known, f"labels below {len(dataset.class_names)}, the number of classes", a.labels.tolist())
            demand(bool(np.all(a.boxes[:, 2:] > a.boxes[:, :2])), "x1 < x2 and y1 < y2", a.boxes.tolist())
            inside = np.all(a.boxes >= 0) and np.all(a.boxes <= [a.width, a.height] * 2)
            demand(bool(inside), f"boxes inside {a.width} x {a.height} pixels", a.boxes.tolist())
            trained = len(dataset.sample(index).labels)
            demand(trained == int((~a.ignore).sum()), "a sample of the boxes that aren't ignored", f"{trained} boxes")
        demand(len(ids) == min(len(dataset), LOOKED_AT), "an image_id of its own for every image", sorted(ids))

    def test_it_labels_by_the_classes_it_is_given(self, tmp_path: Path) -> None:
        """`class_names` of the request are the order of the labels: a network was trained in that order, and a reader that
        takes its own scores it on the wrong classes. (Where `request` gives `class_names`, the format has numbers alone,
        which they name: then they need only be taken over.)"""
        request = self.request(tmp_path)
        usual = self.open(request)
        turned = tuple(reversed(usual.class_names))
        other = self.open(dataclasses.replace(request, class_names=turned))
        demand(other.class_names == turned, f"class_names {turned}, as requested", other.class_names)
        for index in range(min(len(usual), LOOKED_AT) if request.class_names is None else 0):
            expected, found = (
                Counter(dataset.class_names[label] for label in dataset.annotation(index).labels)
                for dataset in (usual, other)
            )
            demand(expected == found, f"the same objects under other labels, {dict(expected)}", dict(found))

    def test_it_can_be_copied_into_worker_processes(self, tmp_path: Path) -> None:
        """It can be pickled, and the copy gives the same images: workers that are spawned get one each, so it holds no open
        file, lock or lambda."""
        dataset = self.open(self.request(tmp_path))
        try:
            copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 (made here)
        except Exception as error:
            copy = None
            demand(False, "a copy by pickle", f"{type(error).__name__}: {error}")
        for index in range(min(len(dataset), 2)):
            same = np.array_equal(dataset.read_image(index), copy.read_image(index))
            demand(same, f"image {index} from the copy as from the original", "other pixels")

    def test_alpha_is_kept_only_when_it_is_asked_for(self, tmp_path: Path) -> None:
        """With `keep_alpha` images are (height, width, 4), opaque where a file has no alpha: networks of four channels are
        fed with them."""
        dataset = self.open(dataclasses.replace(self.request(tmp_path), keep_alpha=True))
        image = dataset.read_image(0)
        demand(image.ndim == 3 and image.shape[2] == 4, "an image of four channels", image.shape)

    def test_the_formats_writer_if_it_has_one_gives_back_boxes_and_classes(self, tmp_path: Path) -> None:
        """What the registered writer writes is read back with the same boxes and classes: `stdet data convert`, `subset` and
        `split` write data sets with it."""
        if self.entry().writer is None:
            return
        dataset = self.open(self.request(tmp_path))
        folder = tmp_path / "written"
        folder.mkdir()
        writer = catalogue().writer(self.name)(WriteRequest(folder, "train", dataset.class_names))
        writer.images_folder.mkdir(parents=True, exist_ok=True)
        for index in range(len(dataset)):
            path = dataset.annotation(index).path
            if path is not None:
                (writer.images_folder / path.name).write_bytes(path.read_bytes())
            writer.add(path.name if path else f"{index}.png", dataset.annotation(index))
        done = writer.finish()
        demand(done.annotations_path.is_relative_to(folder), f"annotations inside {folder}", done.annotations_path)
        again = self.open(
            DatasetRequest("train", writer.images_folder, done.annotations_path, done.split_path, dataset.class_names)
        )
        demand(len(again) == len(dataset), f"{len(dataset)} images", len(again))
        for index in range(len(dataset)):
            one, other = dataset.annotation(index), again.annotation(index)
            same = one.boxes.shape == other.boxes.shape and np.allclose(one.boxes, other.boxes, atol=1e-4)
            demand(same, f"boxes {one.boxes.tolist()}", other.boxes.tolist())
            demand(one.labels.tolist() == other.labels.tolist(), f"labels {one.labels.tolist()}", other.labels.tolist())
