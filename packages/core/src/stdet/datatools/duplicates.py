"""Images that are there twice, within a split and across splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from stdet.datatools.findings import Finding, found
from stdet.datatools.fingerprints import Fingerprints, equal_groups, look_alikes, path_of
from stdet.datatools.splits import MAX_EXAMPLES, OpenedSplit

Prints = Sequence[tuple[OpenedSplit, Fingerprints]]


def check_duplicates(prints: Prints) -> Iterator[Finding]:
    """D201 to D205: equal bytes, then equal looks of images with other bytes."""
    if not prints:
        return
    digests = np.concatenate([p.digests for _, p in prints])
    owner = np.repeat(np.arange(len(prints)), [len(p.index) for _, p in prints])
    index = np.concatenate([p.index for _, p in prints])

    def place(row: int) -> str:
        split = prints[owner[row]][0]
        return f"{path_of(split.dataset, int(index[row]))} ({split.name})"

    within: dict[tuple[str, ...], list[np.ndarray]] = defaultdict(list)
    across: dict[tuple[str, ...], list[np.ndarray]] = defaultdict(list)
    for group in equal_groups(digests):
        splits = np.unique(owner[group])
        for number in splits:
            own = group[owner[group] == number]
            if len(own) > 1:
                within[(prints[number][0].name,)].append(own)
        if len(splits) > 1:
            across[tuple(prints[n][0].name for n in splits)].append(group)
    for names, groups in [*within.items(), *across.items()]:
        check = "D201" if len(names) == 1 else "D202" if "train" in names else "D203"
        what = "are in this split more than once" if len(names) == 1 else "are in these splits alike"
        examples = [" = ".join(place(int(row)) for row in group) for group in groups[:MAX_EXAMPLES]]
        yield found(check, "+".join(names), f"{len(groups)} images {what}", len(groups), examples)

    looks, plain = (np.concatenate([getattr(p, name) for _, p in prints]) for name in ("looks", "plain"))
    pairs, left_out = look_alikes(looks, plain)
    pairs = pairs[(digests[pairs[:, 0]] != digests[pairs[:, 1]]).any(1)]
    sides = owner[pairs]
    for one, other in np.unique(sides, axis=0).tolist():
        rows = pairs[(sides == [one, other]).all(1)]
        names = (prints[one][0].name,) if one == other else (prints[one][0].name, prints[other][0].name)
        examples = [f"{place(int(a))} ~ {place(int(b))}" for a, b in rows[:MAX_EXAMPLES]]
        yield found(
            "D204" if one == other else "D205",
            "+".join(names),
            f"{len(rows)} pairs of images look alike",
            len(rows),
            examples,
            comparisons_left_out=left_out,
        )
