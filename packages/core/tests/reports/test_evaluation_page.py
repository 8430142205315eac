"""The page of an evaluation: whole, self-contained, bounded, and of the numbers it is given."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from stdet.evaluation.chance import Interval
from stdet.evaluation.coco import METRICS, EvaluationReport
from stdet.evaluation.findings import ERROR_KINDS, ClassFindings, Findings
from stdet.reports.evaluation_page import Compared, Picture, comparison_table, evaluation_page
from stdet.structures import Thresholds


def report(classes: int = 2, ap: float = 0.5) -> EvaluationReport:
    per_class: dict[str, dict[str, float | None]] = {f"<{k}>": {"AP": ap, "AP50": None} for k in range(classes)}
    metrics: dict[str, float | None] = dict.fromkeys(METRICS, ap) | {"AP_small": None}
    return EvaluationReport(metrics, per_class, 3, 4, 5, Thresholds(0.001, 0.5, 100), "sha", 1.0)


def findings(classes: int = 2) -> Findings:
    one = ClassFindings(4, 0.61, 0.62, 0.63, 0.64, 0.65, np.linspace(1, 0, 101))
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    confusion[0, 1], confusion[0, 0] = 7, 9
    return Findings(0.25, [one] * classes, confusion, dict.fromkeys(ERROR_KINDS, 8), [])


class Loads(HTMLParser):
    """What a browser would fetch; every element is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_has_each_part_needs_nothing_else_and_escapes_names() -> None:
    chance = {"AP": Interval(41.0, 59.0, 4.0)}
    page = evaluation_page("<m>", report(), findings(), chance, (), [Picture("<1>.jpg: 2 errors", b"jpeg")])
    assert Loads(page).found == ["data:image/jpeg;base64,anBlZw=="]
    assert "<m>" not in page
    assert "&lt;1&gt;.jpg: 2 errors" in page
    for part in ("0.410 to 0.590", "0.610", "0.620", "0.630", "0.640", "0.650", ">7</td>", *ERROR_KINDS):
        assert part in page
    assert page.count("<polyline") == 2


def test_many_classes_keep_the_page_small() -> None:
    page = evaluation_page("m", report(1203), findings(1203), {})
    assert "the most frequent ones" in page
    assert page.count(">7</td>") == 1
    assert len(page) < 2**21


@pytest.mark.parametrize(
    ("reach", "verdict"),
    [(Interval(1.0, 9.0, 2.0), "beyond chance"), (Interval(-1.0, 9.0, 2.0), "within chance"), (None, "–")],
)
def test_a_difference_is_beyond_chance_when_its_interval_lacks_zero(reach: Interval | None, verdict: str) -> None:
    other = Compared("old", report(ap=0.45), {"AP": reach} if reach else {})
    row = comparison_table(report(), other).rows[0]
    assert row == ["AP", "0.500", "0.450", "+5.00", str(reach) if reach else "–", verdict]
    assert verdict in evaluation_page("m", report(), findings(), {}, [other])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_phone_scrolls_the_page_in_one_direction_only(tmp_path: Path) -> None:
    done, jpeg = cv2.imencode(".jpg", np.zeros((320, 640, 3), np.uint8))
    assert done
    other = Compared("float", report(12), {"AP": Interval(-1.0, 9.0, 2.0)})
    shown = [Picture("wide", jpeg.tobytes())]
    page = evaluation_page("m", report(12), findings(12), {"AP": Interval(41.0, 59.0, 4.0)}, [other], shown)
    look = "this.title=this.contentDocument.documentElement.scrollWidth+' '+this.contentDocument.images[0].naturalWidth"
    frame = f'<iframe style="width:400px;height:800px;border:0" srcdoc="{escape(page)}" onload="{look}"></iframe>'
    (tmp_path / "frame.html").write_text(frame)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = ["chromium", *options, (tmp_path / "frame.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    measured = re.search(r'title="(\d+) (\d+)"', dom)
    assert measured
    assert int(measured[1]) <= 400
    assert int(measured[2]) == 640
