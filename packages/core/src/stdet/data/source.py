"""From the `dataset` section to data sets. Without torch, so that the data tools start fast and stay small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stdet.config import Config, preprocess_of
from stdet.data.files import check_file
from stdet.data.folder import ImageFolder
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset, Fault
from stdet.registry import Catalogue
from stdet.structures import DetectorSpec


@dataclass(frozen=True)
class DataSource:
    """Opens the data sets that a validated config describes, with the readers of a catalogue."""

    config: Config
    catalogue: Catalogue

    def class_names(self) -> tuple[str, ...] | None:
        """The classes that the config names, or None when the annotations shall tell.

        Raises:
            DataError: `classes_file_path` can't be read, is empty or no file.
        """
        section = self.config.dataset
        if section.class_names:
            return tuple(section.class_names)
        if not section.classes_file_path:
            return None
        check_file(Path(section.classes_file_path))
        try:
            lines = Path(section.classes_file_path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read dataset.classes_file_path {section.classes_file_path}: {error}") from error
        names = tuple(line.strip() for line in lines if line.strip())
        if not names:
            raise DataError(f"dataset.classes_file_path {section.classes_file_path} names no class")
        return names

    def dataset(
        self,
        split: str,
        class_names: tuple[str, ...] | None,
        on_fault: Callable[[Fault], object] | None = None,
        spec: DetectorSpec | None = None,
    ) -> DetectionDataset:
        """The images and annotations of `train`, `val` or `test`; see `DatasetRequest` for the rest.

        Images have an alpha channel when the model of `spec`, else the one that the config describes, looks at it.
        """
        section = self.config.dataset
        request = DatasetRequest(
            split=split,
            images_path=getattr(section, f"{split}_images_path"),
            annotations_path=getattr(section, f"{split}_annotations_path"),
            split_path=getattr(section, f"{split}_split"),
            class_names=class_names,
            guard_names=class_names is not None and class_names == self.class_names(),
            keep_alpha=self._sees_alpha(spec),
            on_bad_data=section.on_bad_data,
            options=self.config.options.reader,
            on_fault=on_fault,
        )
        return self.catalogue.build("datasets", str(section.dataset_name), request)

    def _sees_alpha(self, spec: DetectorSpec | None) -> bool:
        if spec is None and self.config.family is None:
            return False
        return (spec.preprocess if spec else preprocess_of(self.config)).color_mode == "rgba"

    def evaluation_split(self) -> str:
        """`test` when the config has a test set, else `val`."""
        return self.config.evaluation_split()

    def image_folder(
        self,
        split: str,
        folder: Path,
        on_fault: Callable[[Fault], object] | None = None,
        spec: DetectorSpec | None = None,
    ) -> DetectionDataset:
        """All images of a folder, without annotations; alpha as in `dataset`."""
        request = DatasetRequest(
            split=split,
            images_path=folder,
            keep_alpha=self._sees_alpha(spec),
            on_bad_data=self.config.dataset.on_bad_data,
            on_fault=on_fault,
        )
        return ImageFolder(request)

    def calibration_indices(self, available: int) -> np.ndarray:
        """Which of `available` images are calibrated on: the share `quantization_split`, drawn with `dataset.seed`.

        Returns:
            int64 (K,), ascending, 0..available - 1.
        """
        section = self.config.dataset
        if section.quantization_split is None:
            return np.arange(available)
        count = max(1, round(available * section.quantization_split))
        return np.sort(np.random.default_rng(section.seed).permutation(available)[:count])
