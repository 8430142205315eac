"""Text files that say which images a split holds: a name a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from stdet.data.files import check_file
from stdet.errors import DataError
from stdet_datasets.packed import is_inside


def listed_names(path: Path, name_of: Callable[[str], str] = str) -> list[str]:
    """The names in a list, in its order.

    Args:
        name_of: makes the name of a line without the spaces around it.

    Raises:
        DataError: the list can't be read, is empty, names an image twice, or one outside of the images' folder.
    """
    check_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the split list {path}: {error}", "check the split paths of dataset") from error
    names = [name_of(line.strip()) for line in lines if line.strip()]
    if not names:
        raise DataError(f"the split list {path} is empty")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"the split list {path} names {name} twice")
    outside = next((name for name in names if not is_inside(name)), None)
    if outside is not None:
        raise DataError(f"the split list {path} has {outside!r}, which leaves the folder", "mend the list")
    return names
