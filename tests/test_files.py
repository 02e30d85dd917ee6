"""Files appear whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medseg import Refused
from medseg.files import check_writable, replacing, sweep, write_text
from medseg.tensors import load_tensors, save_tensors


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def fail_half_way(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as beside:
        beside.write_text("half")
        raise error


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    path = write_text(tmp_path / "new" / "deeper" / "a.txt", "Käse\n細胞\n")
    assert path.read_bytes() == "Käse\n細胞\n".encode()
    assert names(path.parent) == ["a.txt"]
    assert write_text(str(path), "other").read_text() == "other"


def test_the_temporary_file_has_the_suffixes_of_the_real_one(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.nii.gz") as beside:
        assert beside.parent == tmp_path
        assert beside.name.endswith(".nii.gz")
        assert not (tmp_path / "a.nii.gz").exists()
        beside.write_text("x")
    assert names(tmp_path) == ["a.nii.gz"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError, GeneratorExit])
def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(error):
        fail_half_way(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_fails_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_half_way(tmp_path / "a.txt", ZeroDivisionError)
    assert names(tmp_path) == []


def test_a_full_disk_is_a_refusal(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(Refused, match="No space left") as caught, replacing(path):
        raise OSError(28, "No space left on device")
    assert caught.value.reason == "unwritable"
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])


@pytest.mark.parametrize("target", ["file/a.txt", "folder", ".", "x" * 300])
def test_unwritable_places_are_refused(tmp_path: Path, target: str) -> None:
    write_text(tmp_path / "file", "a file where a folder is needed")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    before = names(tmp_path)
    with pytest.raises(Refused) as caught:
        write_text(tmp_path / target, "x")
    assert caught.value.reason == "unwritable"
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(Refused, match="Permission") as caught:
            write_text(tmp_path / "a.txt", "x")
        assert caught.value.reason == "unwritable"
        with pytest.raises(Refused):
            check_writable(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    os.umask(mask)
    (tmp_path / "plain").touch()
    write_text(tmp_path / "text", "x")
    save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)})
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    for name in ("text", "a.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected == 0o666 & ~mask
    assert os.umask(mask) == mask  # left as it was


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    texts = [str(i) * 200_000 for i in range(8)]
    seen = set()
    threads = [threading.Thread(target=write_text, args=(path, text)) for text in texts for _ in range(5)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            seen.add(path.read_text())
    assert path.read_text() in texts
    assert seen <= set(texts)
    assert names(tmp_path) == ["a.txt"]


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    code = (
        "import sys\nfrom medseg.files import replacing\n"
        "with replacing(sys.argv[1]) as beside:\n"
        "    beside.write_text('half')\n    print('now', flush=True)\n    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "now\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert path.read_text() == "old"
    left = [name for name in names(tmp_path) if name != "a.txt"]
    assert len(left) == 1
    assert left[0].startswith(".")
    (tmp_path / ".0123456789ab~b.txt").touch()  # of another file
    (tmp_path / ".hidden").touch()
    sweep(path)
    assert names(tmp_path) == [".0123456789ab~b.txt", ".hidden", "a.txt"]


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert names(tmp_path) == []
    write_text(tmp_path / "file", "x")
    with pytest.raises(Refused) as caught:
        check_writable(tmp_path / "file" / "b")
    assert caught.value.reason == "unwritable"


def test_tensors_and_their_description(tmp_path: Path) -> None:
    torch_types = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.bool)
    tensors = {f"x/{t}".removeprefix("torch."): torch.arange(6).reshape(2, 3).to(t) for t in torch_types}
    tensors["scalar"] = torch.tensor(3.5)
    tensors["empty"] = torch.zeros(0, 4)
    tensors["turned"] = torch.arange(6.0).reshape(2, 3).T
    tensors["last"] = torch.rand(1, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors["shared"] = tensors["turned"]
    about = {"step": 3, "loss": [0.1 + 0.2, 1e-300], "name": "Käse", "none": None}
    found, told = load_tensors(save_tensors(tmp_path / "a.safetensors", tensors, about))
    assert told == about
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_a_broken_tensor_file_is_refused(tmp_path: Path) -> None:
    path = save_tensors(tmp_path / "a.safetensors", {"x": torch.rand(100)}, {"step": 1})
    whole = path.read_bytes()
    for broken in (b"", whole[:4], whole[:50], whole[:-1], whole + b"x", b"\xff" * 100, b"PK" + whole):
        path.write_bytes(broken)
        with pytest.raises(Refused, match=r"a\.safetensors") as caught:
            load_tensors(path)
        assert caught.value.reason == "unreadable"
        assert "\n" not in str(caught.value)
    with pytest.raises(Refused) as caught:
        load_tensors(tmp_path / "none.safetensors")
    assert caught.value.reason == "not-found"
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, path)  # by somebody else: no description
    assert load_tensors(path)[1] == {}
    save_file({"x": torch.ones(1)}, path, metadata={"about": "not JSON"})
    with pytest.raises(Refused):
        load_tensors(path)
