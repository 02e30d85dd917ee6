"""Weights of others: read without running anything, and given to a network by name."""

from __future__ import annotations

import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medseg import Plan, Refused
from medseg.bundle import save_bundle
from medseg.networks import UNet, build_network
from medseg.networks.weights import load_weights, read_weights
from medseg.tensors import save_tensors

STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "a.count": torch.tensor(7),
    "half": torch.ones(2).half(),
}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one
    )


# what is read


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".PTH", ".pth.tar"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_pytorch(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    assert same(read_weights(path), STATE)


def test_safetensors_of_others_and_own(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert same(read_weights(tmp_path / "theirs.safetensors"), STATE)
    own = {f"network/{k}": t for k, t in STATE.items()} | {"optimizer/0/exp_avg": torch.zeros(2)}
    save_tensors(tmp_path / "last.safetensors", own, {"step": 3})
    assert same(read_weights(tmp_path / "last.safetensors"), STATE)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        lambda s: {"model": OrderedDict(s), "lr": 0.1},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {f"module.{k}": t for k, t in s.items()},
        lambda s: {"state_dict": {f"module._orig_mod.{k}": nn.Parameter(t, False) for k, t in s.items()}},
        lambda s: s | {"name": "a network", "step": 4},
    ],
    ids=["lightning", "model", "twice", "parallel", "compiled", "flat"],
)
def test_weights_are_found_in_a_checkpoint(tmp_path: Path, wrapped: Callable[[Any], Any]) -> None:
    torch.save(wrapped(STATE), tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth")
    assert same(read, STATE)
    assert not any(isinstance(t, nn.Parameter) for t in read.values())


def test_a_prefix_of_some_names_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pth")
    assert list(read_weights(tmp_path / "w.pth")) == ["module.a", "b"]


def test_bundles_runs_and_zip_files(tmp_path: Path) -> None:
    plan = Plan().with_values({"network.channels": (2, 4)})
    network = build_network(plan)
    bundle = save_bundle(tmp_path / "run" / "bundle", plan, network, card="")
    with zipfile.ZipFile(tmp_path / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in bundle.iterdir():
            archive.write(file, f"model/{file.name}")
    for path in (bundle, tmp_path / "run", tmp_path / "model.zip"):
        assert same(read_weights(path), dict(network.state_dict()))
    assert "head.weight" in read_weights("nuclei")
    whole = (bundle / "weights.safetensors").read_bytes()
    (bundle / "weights.safetensors").write_bytes(whole[:-1] + b"x")
    with pytest.raises(Refused, match="checksum") as caught:
        read_weights(bundle)
    assert caught.value.reason == "bad-bundle"


# what is refused


class Code:
    """A pickle that runs a command when it is opened."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("was-run",)


def write_zip(path: Path, names: dict[str, str], **how: Any) -> None:
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, text in names.items():
            archive.writestr(name, text)


def truncated(path: Path, share: float, **how: Any) -> None:
    torch.save({"a": torch.ones(1000)}, path, **how)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flipped(path: Path) -> None:
    """One bit of one number is another one than was written."""
    torch.save({"a": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(500.0, 503.0).numpy().tobytes()) + 3] ^= 1
    path.write_bytes(content)


def endless(path: Path) -> None:
    content: dict[str, Any] = {"a": torch.ones(2)}
    content["model"] = content
    torch.save(content, path)


def compressed(path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, path.with_suffix(".tmp"))
    with zipfile.ZipFile(path.with_suffix(".tmp")) as plain, zipfile.ZipFile(path, "w", 8) as small:
        for name in plain.namelist():
            small.writestr(name, plain.read(name))


BAD: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "missing.pth": ("not-found", lambda p: None),
    "missing.safetensors": ("not-found", lambda p: None),
    "missing": ("not-found", lambda p: None),
    "folder": ("unknown-bundle", lambda p: p.mkdir()),
    "code.pth": ("unsafe-file", lambda p: torch.save({"a": Code()}, p)),
    "code-old.pth": ("unsafe-file", lambda p: torch.save(Code(), p, _use_new_zipfile_serialization=False)),
    "code-2.pth": ("unreadable", lambda p: p.write_bytes(pickle.dumps(Code()))),
    "module.pth": ("unsafe-file", lambda p: torch.save(nn.Linear(2, 2), p)),
    "numpy.pth": ("unsafe-file", lambda p: torch.save({"a": np.ones(3)}, p)),
    "arguments.pth": ("unsafe-file", lambda p: torch.save(STATE | {"args": Namespace(lr=1)}, p)),
    "text.pth": ("unreadable", lambda p: p.write_text("this is text")),
    "text.safetensors": ("unreadable", lambda p: p.write_text("this is text")),
    "picture.pth": ("unreadable", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))),
    "zero.pth": ("unreadable", lambda p: p.write_bytes(b"")),
    "zero.safetensors": ("unreadable", lambda p: p.write_bytes(b"")),
    "cut-90.pth": ("unreadable", lambda p: truncated(p, 0.9)),
    "cut-50.pth": ("unreadable", lambda p: truncated(p, 0.5)),
    "cut-1.pth": ("unreadable", lambda p: truncated(p, 0.01)),
    "old-cut.pth": ("unreadable", lambda p: truncated(p, 0.7, _use_new_zipfile_serialization=False)),
    "compressed.pth": ("unreadable", compressed),
    "zip.pth": ("unreadable", lambda p: write_zip(p, {"a.txt": "text"})),
    "some.zip": ("unknown-suffix", lambda p: write_zip(p, {"a.txt": "text"})),
    "weights.h5": ("unknown-suffix", lambda p: p.write_bytes(b"\x89HDF")),
    "nothing.pth": ("no-weights", lambda p: torch.save({}, p)),
    "nothing.safetensors": ("no-weights", lambda p: save_file({}, p)),
    "list.pth": ("no-weights", lambda p: torch.save([torch.ones(2)], p)),
    "tensor.pth": ("no-weights", lambda p: torch.save(torch.ones(2), p)),
    "numbers.pth": ("no-weights", lambda p: torch.save({"epoch": 3}, p)),
    "flipped.pth": ("unreadable", flipped),
    "endless.pth": ("no-weights", endless),
    "float8.pth": (
        "non-finite",
        lambda p: torch.save({"a": torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)}, p),
    ),
    "cut.pth.tar": ("unreadable", lambda p: truncated(p, 0.9)),
    "nan.pth": ("non-finite", lambda p: torch.save({"a": torch.tensor([1.0, float("nan")])}, p)),
    "inf.safetensors": ("non-finite", lambda p: save_file({"a": torch.tensor([float("inf")])}, p)),
    "sparse.pth": ("bad-weights", lambda p: torch.save({"a": torch.eye(3).to_sparse()}, p)),
    "complex.pth": ("bad-weights", lambda p: torch.save({"a": torch.ones(2, dtype=torch.complex64)}, p)),
    "blown-up.pth": ("bad-weights", lambda p: torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, p)),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    reason, write = BAD[name]
    write(tmp_path / name)
    with pytest.raises(Refused) as caught:
        read_weights(name)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert not (tmp_path / "was-run").exists()


def test_what_the_code_of_a_file_would_have_called_is_told(tmp_path: Path) -> None:
    torch.save({"a": Code()}, tmp_path / "w.pth")
    with pytest.raises(Refused, match=r"got a call of posix\.mkdir, expected tensors by name"):
        read_weights(tmp_path / "w.pth")


def test_the_name_of_a_bundle_that_is_nearly_right() -> None:
    with pytest.raises(Refused, match="Did you mean 'nuclei'") as caught:
        read_weights("nucle")
    assert caught.value.reason == "not-found"


# giving them to a network


def test_names_that_fit_are_loaded_and_the_rest_is_told() -> None:
    network = UNet(2, 1, 3, channels=(2, 4), padding="same", norm="batch")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = {
        name: torch.rand_like(t) for name, t in network.down.state_dict(prefix="down.").items() if t.ndim
    }
    state |= {"head.weight": torch.ones(5, 2, 1, 1), "fc.weight": torch.ones(3)}
    loaded = load_weights(network, state, optional=["head."])
    down = tuple(name for name in state if name.startswith("down."))
    assert loaded.loaded == down
    assert loaded.left_out == ("head.weight", "fc.weight")
    assert set(loaded.untouched) == set(before) - set(down)
    after = network.state_dict()
    assert all(torch.equal(after[name], state[name]) for name in loaded.loaded)
    assert all(torch.equal(after[name], before[name]) for name in loaded.untouched)
    assert str(loaded).startswith(f"{len(down)} tensors taken, 2 left out (head.weight, fc.weight), ")


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"0.weight": torch.ones(4, 1, 5, 5)}, r"'0\.weight' .*got \(4, 1, 5, 5\) .*expected \(4, 1, 3, 3\)"),
        ({"0.weight": torch.ones(4, 1, 3, 3, dtype=torch.int64)}, r"int64, expected .*float32"),
        ({"1.weight": torch.ones(4), "0.bias": torch.ones(5)}, r"'0\.bias'"),
        ({"conv1.weight": torch.ones(4, 1, 3, 3)}, r"got conv1\.weight, expected 0\.weight, 0\.bias"),
        ({}, "no weights have a name"),
    ],
    ids=["shape", "type", "second", "names", "nothing"],
)
def test_another_network_is_refused_and_nothing_is_changed(state: dict[str, Tensor], told: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(Refused, match=told) as caught:
        load_weights(network, state)
    assert caught.value.reason == "another-network"
    assert same(dict(network.state_dict()), before)


def test_weights_of_other_precision_are_rounded() -> None:
    network = nn.Linear(2, 1, bias=False)
    load_weights(network, {"weight": torch.tensor([[0.5, 0.25]], dtype=torch.float64)})
    assert network.weight.dtype == torch.float32
    assert network.weight.tolist() == [[0.5, 0.25]]


def test_weights_of_a_byte_each(tmp_path: Path) -> None:
    torch.save({"weight": torch.tensor([[0.5, 0.25]]).to(torch.float8_e4m3fn)}, tmp_path / "w.pth")
    network = nn.Linear(2, 1, bias=False)
    load_weights(network, read_weights(tmp_path / "w.pth"))
    assert network.weight.tolist() == [[0.5, 0.25]]


def test_a_network_that_adapts_foreign_weights() -> None:
    class Adapting(nn.Linear):
        def adapt_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name.replace("kernel", "weight"): tensor for name, tensor in state.items()}

    network, given = Adapting(2, 1), {"kernel": torch.ones(1, 2)}
    assert load_weights(network, given).loaded == ("weight",)
    assert network.weight.tolist() == [[1, 1]]
    assert list(given) == ["kernel"]
