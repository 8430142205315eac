"""Published weights: where they are looked for, and what never gets into the cache."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from stdet.errors import ArtifactError, ModelError
from stdet.interfaces.family import ModelFamily
from stdet.interfaces.published import PublishedWeights, choose_weights, published_weights
from stdet.nn.fetch import fetch_weights
from stdet.nn.weights import read_state_dict
from stdet.structures import Preprocess


def tensor_file(value: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    torch.save({"body.weight": torch.full((4,), value)}, buffer)
    return buffer.getvalue()


GOOD = tensor_file()


class Server(BaseHTTPRequestHandler):
    """Answers by the last part of the path."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        content = {
            "lfs.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "evil.pth": pickle.dumps(print),
            "other.pth": tensor_file(2.0),
        }.get(name, GOOD)
        if name == "gone.pth" or self.path.startswith("/empty"):
            self.send_error(404)
        elif name == "forbidden.pth":
            self.send_error(403)
        elif name == "slow.pth":
            threading.Event().wait(3)
        else:
            self.send_response(200)
            if name != "nolength.pth":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if name == "half.pth" else content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as one:
        one.daemon_threads = True
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STDET_WEIGHTS", raising=False)
    return tmp_path / "cache" / "weights"


def published(server: str, file: str = "good.pth", sha256: str | None = None) -> PublishedWeights:
    return PublishedWeights("m", "coco", 300, file, f"{server}/published/{file}", sha256)


@pytest.mark.parametrize("digits", [0, 8, 64])
def test_a_download_is_kept_and_not_repeated(server: str, cache: Path, digits: int) -> None:
    seen: list[tuple[int, int | None]] = []
    weights = published(server, sha256=hashlib.sha256(GOOD).hexdigest()[:digits] or None)
    path = fetch_weights(weights, progress=lambda done, total: seen.append((done, total)))
    assert path == cache / "good.pth"
    assert path.read_bytes() == GOOD
    assert seen[-1] == (len(GOOD), len(GOOD))
    assert fetch_weights(weights) == path
    assert len(Server.asked) == 1
    assert read_state_dict(path)["body.weight"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("file", "sha256", "message"),
    [
        ("half.pth", None, r"broke off after \d+ of \d+ bytes"),
        ("other.pth", hashlib.sha256(GOOD).hexdigest(), "has the SHA-256"),
        ("gone.pth", None, "answers 404"),
        ("forbidden.pth", None, "answers 403"),
        ("lfs.pth", None, "Git LFS pointer"),
        ("evil.pth", None, "cannot read weights"),
        ("slow.pth", None, "failed: timed out"),
    ],
)
def test_what_is_not_whole_or_not_the_file_is_never_kept(
    server: str, cache: Path, file: str, sha256: str | None, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        fetch_weights(published(server, file, sha256), timeout_s=0.5)
    assert caught.value.hint
    assert str(cache) not in caught.value.message  # the address is what the user can do something about
    assert not cache.exists() or not list(cache.iterdir())


def test_a_server_that_is_not_there_is_an_error(cache: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ArtifactError, match="refused"):
        fetch_weights(published(f"http://127.0.0.1:{port}"))


def test_a_damaged_file_in_the_cache_is_named_and_left_alone(server: str, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "good.pth").write_bytes(GOOD[:100])
    for sha256 in (None, hashlib.sha256(GOOD).hexdigest()):
        with pytest.raises(ArtifactError, match=str(cache / "good.pth")):
            fetch_weights(published(server, sha256=sha256))
    assert (cache / "good.pth").read_bytes() == GOOD[:100]
    assert not Server.asked


def test_a_folder_comes_before_the_network_and_its_file_is_used_where_it_lies(
    server: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "good.pth").write_bytes(GOOD)
    assert fetch_weights(published(server), str(folder)) == folder / "good.pth"
    monkeypatch.setenv("STDET_WEIGHTS", str(folder))
    assert fetch_weights(published(server)) == folder / "good.pth"
    assert not Server.asked
    assert fetch_weights(published(server, "more.pth")) == cache / "more.pth"  # not in the folder: downloaded
    with pytest.raises(ArtifactError, match="isn't there"):
        fetch_weights(published(server, "third.pth"), str(tmp_path / "nowhere"))


def test_a_mirror_comes_first_and_only_its_lack_of_the_file_leads_on(server: str, cache: Path) -> None:
    fetch_weights(published(server), f"{server}/mirror/")
    assert Server.asked == ["/mirror/good.pth"]
    fetch_weights(published(server, "a.pth"), f"{server}/empty")
    assert Server.asked[1:] == ["/empty/a.pth", "/published/a.pth"]
    with pytest.raises(ArtifactError, match="broke off"):
        fetch_weights(published(server, "half.pth"), f"{server}/mirror")
    with pytest.raises(ArtifactError, match=r"empty/gone.pth answers 404.*published/gone.pth answers 404"):
        fetch_weights(published(server, "gone.pth"), f"{server}/empty")


def test_a_file_of_unknown_length_is_judged_by_its_content(server: str, cache: Path) -> None:
    assert fetch_weights(published(server, "nolength.pth")) == cache / "nolength.pth"


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFamily:
    """A family in a package that lists three files."""
    package = tmp_path / "weights_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    row = {"model": "m", "location": "here", "sha256": None}
    rows = [row | {"dataset": "coco", "resolution": r, "file": f"m_coco_{r}.pth"} for r in (192, 320)]
    rows.append(row | {"dataset": "imagenet", "resolution": 224, "file": "m.pth", "backbone": True})
    document = {"format": "stdet.weights/1", "locations": {"here": "https://x/"}, "weights": rows}
    (package / "weights.json").write_text(json.dumps(document))
    (package / "old.json").write_text(json.dumps(document | {"format": "stdet.weights/0"}))
    monkeypatch.syspath_prepend(tmp_path)
    return ModelFamily(
        "t", "t", Preprocess(64, 64), "t", "t", False, 32, 32, "t", (8,), weights="weights_of_a_test:weights.json"
    )


def test_the_file_is_chosen_by_data_set_and_size(family: ModelFamily) -> None:
    assert published_weights(family)[0].url == "https://x/m_coco_192.pth"
    assert choose_weights(family, "m", "coco", 192, 640).file == "m_coco_192.pth"
    assert choose_weights(family, "m", None, None, 320).file == "m_coco_320.pth"
    assert choose_weights(family, "m", "imagenet", None, 320).backbone


def test_a_missing_entry_is_an_error_that_lists_what_exists(family: ModelFamily) -> None:
    for asked in (("voc", None), ("coco", 640)):
        with pytest.raises(ModelError, match="no weights of m are published for") as caught:
            choose_weights(family, "m", *asked, 320)
        assert "coco at 192, 320 px; imagenet at 224 px" in caught.value.hint
    with pytest.raises(ModelError, match="several weights"):
        choose_weights(family, "m", "coco", None, 640)
    with pytest.raises(ModelError) as caught:
        choose_weights(family, "other", None, None, 320)
    assert "no weights of other are published" in caught.value.hint


def test_a_catalogue_that_cannot_be_read_is_the_packages_fault(family: ModelFamily) -> None:
    import dataclasses

    for name in ("weights_of_a_test:old.json", "weights_of_a_test:none.json", "not_there:weights.json"):
        with pytest.raises(ModelError, match="can't be read"):
            published_weights(dataclasses.replace(family, weights=name))
    assert published_weights(dataclasses.replace(family, weights="")) == ()
