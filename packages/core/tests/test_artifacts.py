"""Files between stages: the old one or the complete new one, never something between."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import onnx
import pytest
import torch
from onnx import helper

from stdet.artifacts import (
    ModelFile,
    atomic_folder,
    atomic_path,
    cache_folder,
    check_room,
    is_onnx,
    remove_leftovers,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from stdet.errors import ArtifactError


@pytest.mark.parametrize(
    ("name", "content", "onnx_file"),
    [
        ("model.ONNX", "onnx", True),
        ("model.bin", "onnx", True),
        ("best.pth", "onnx", True),
        ("best.onnx", "checkpoint", False),
        ("best.onnx", "old checkpoint", False),
        ("empty.onnx", "empty", True),
        ("missing.onnx", None, True),
        ("missing.pth", None, False),
        ("config.yaml", "text", False),
    ],
)
def test_a_model_is_told_by_what_it_holds(tmp_path: Path, name: str, content: str | None, onnx_file: bool) -> None:
    path = tmp_path / name
    if content == "onnx":
        graph = helper.make_graph([], "g", [], [])
        onnx.save(helper.make_model(graph), path)
    elif content is not None and "checkpoint" in content:
        torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=content == "checkpoint")
    elif content is not None:
        path.write_text("" if content == "empty" else "operation_mode: training\n", encoding="utf-8")
    assert is_onnx(path) == onnx_file


def test_a_pipe_is_not_read_to_tell_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    assert is_onnx(tmp_path / "model.onnx")


def test_what_is_written_is_there_with_its_folders_and_ordinary_permissions(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "x.txt"
    write_text(target, "größe")
    assert target.read_bytes() == "größe".encode()
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
    write_text(target, "new")
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_while_writing_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")

    def fails(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bytes(target, fails)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_a_users_error_that_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")

    def full(file: BinaryIO) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match=r"x\.bin: No space left on device"):
        write_bytes(target, full)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_made_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ArtifactError, match="cannot write"),
        atomic_path(tmp_path / "file" / "x"),
    ):
        pytest.fail("the block ran")


def test_json_keeps_its_order_and_its_letters(tmp_path: Path) -> None:
    document = {"z": 1, "a": ["ä", None, 0.5]}
    write_json(tmp_path / "x.json", document)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert list(json.loads(text).items()) == list(document.items())
    assert "ä" in text
    assert text.endswith("}\n")


def test_the_hash_is_that_of_the_bytes_and_a_missing_file_is_named(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()
    with pytest.raises(ArtifactError, match="missing"):
        sha256_file(tmp_path / "missing")


def test_the_cache_folder_is_the_users_choice_else_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("STDET_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/somebody/.cache/stdet")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("/home/somebody/.cache/stdet")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
    assert cache_folder() == Path("/var/caches/stdet")
    monkeypatch.setenv("STDET_CACHE", "~/elsewhere")
    assert cache_folder() == Path("/home/somebody/elsewhere")


def test_a_folder_is_there_when_it_is_complete_and_never_replaces_one(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with atomic_folder(target) as folder:
        (folder / "x.txt").write_text("x")
        assert not target.exists()
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~umask
    assert [p.name for p in target.iterdir()] == ["x.txt"]
    with pytest.raises(ArtifactError, match="exists already"), atomic_folder(target):
        pass

    def is_stopped() -> None:
        with atomic_folder(tmp_path / "deep" / "half") as folder:
            (folder / "x.txt").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        is_stopped()
    assert list((tmp_path / "deep").iterdir()) == [target]


def graph(*operators: str) -> onnx.ModelProto:
    values = ["a", *(f"v{i}" for i in range(len(operators)))]
    nodes = [
        helper.make_node(op, [x, *(("s",) if "Linear" in op else ())], [y])
        for op, x, y in zip(operators, values, values[1:], strict=False)
    ]
    border = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in (values[0], values[-1])]
    return helper.make_model(helper.make_graph(nodes, "g", border[:1], border[1:]))


@pytest.mark.parametrize("name", ["model.onnx", "model.pth", "model"])
@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("checkpoint", lambda path: torch.save({"model": {"w": torch.zeros(2)}}, path)),
        (
            "checkpoint",
            lambda path: torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False),
        ),
        ("float", lambda path: onnx.save(graph("Relu", "Sigmoid"), path)),
        ("int8", lambda path: onnx.save(graph("Relu", "QuantizeLinear", "DequantizeLinear"), path)),
    ],
)
def test_what_a_model_file_is_follows_from_what_it_holds_whatever_it_is_called(
    tmp_path: Path, name: str, kind: str, write: Callable[[Path], object]
) -> None:
    write(tmp_path / name)
    found = ModelFile.at(tmp_path / name)
    assert found == ModelFile(tmp_path / name, kind)  # type: ignore[arg-type]
    assert found.is_onnx == (kind != "checkpoint")
    assert found.form == ("int8" if kind == "int8" else "float")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable ONNX file, nor weights"),
        (b"no model at all", "not a readable ONNX file, nor weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (None, "no model file at"),
    ],
)
def test_what_is_no_model_file_is_said_with_its_name(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        ModelFile.at(tmp_path / "x.onnx")
    assert str(tmp_path / "x.onnx") in caught.value.message
    with pytest.raises(ArtifactError, match="no regular file"):
        ModelFile.at(tmp_path)


KILLED = """
import os, pathlib, sys
from stdet.artifacts import atomic_folder, write_bytes
folder = pathlib.Path(sys.argv[1])
with atomic_folder(folder / "set") as temporary:
    (temporary / "a").write_text("half")
    write_bytes(folder / "x.bin", lambda file: (file.write(b"half"), file.flush(), os._exit(9)))
"""


@pytest.mark.parametrize("sweep", [remove_leftovers, lambda folder: write_text(folder / "other.txt", "new")])
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path, sweep: Callable[[Path], object]
) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".somebody.else.part").touch()
    with atomic_path(tmp_path / "mine.bin") as mine:
        if sweep is remove_leftovers:
            sweep(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([mine.name, ".somebody.else.part"])
    sweep(tmp_path)
    assert not (tmp_path / "set").exists()
    assert (tmp_path / "mine.bin").exists()


def test_what_is_synced_was_opened_for_writing_as_windows_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    synced: list[int] = []

    def fsync(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert len(synced) == 1


def test_room_is_looked_for_before_it_is_needed(tmp_path: Path) -> None:
    check_room(tmp_path / "models", 1000)
    with pytest.raises(ArtifactError, match="cannot write"):
        check_room(tmp_path / "models", 1 << 60)
    with pytest.raises(ArtifactError, match="cannot write"):
        check_room(Path("/dev/null/models"), 1)
    assert list((tmp_path / "models").iterdir()) == []
