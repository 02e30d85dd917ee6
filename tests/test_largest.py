"""The largest part of a class: the map, the choice by validation, and the prediction that obeys it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg import Plan, Refused, load_bundle, predict
from medseg.bundle import join_bundles, save_bundle
from medseg.inference import predict_to
from medseg.instances import keep_largest
from medseg.io import write
from medseg.networks import Ensemble, build_network, fast_network
from medseg.tiling import Geometry
from medseg.training.largest import with_largest


class Threshold(nn.Module):
    """Calls what is over 0.5 the first class, and over 1.5 the second."""

    geometry = Geometry(halo=(0, 0), stride=(1, 1), shrink=(0, 0), minimum=(1, 1))

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return -self.scale * torch.cat([(image - c).abs() for c in (0, 1, 2)], dim=1)


def maps() -> tuple[np.ndarray, np.ndarray]:
    """A reference of two classes; the second in two parts that belong there."""
    reference = np.zeros((20, 31), np.int64)
    reference[2:9, 3:12] = 1
    reference[12:15, 4:9] = 2
    reference[12:18, 20:29] = 2
    found = reference.copy()
    found[2:4, 25:28] = 1  # a part of the first class that is wrong
    return found, reference


def test_only_the_largest_part_is_left() -> None:
    found, _ = maps()
    out = keep_largest(found, [1, 2, 7])
    assert np.array_equal(np.unique(out), [0, 1, 2])
    assert (out == 1).sum() == 63
    assert (out == 2).sum() == 54
    assert np.array_equal(keep_largest(found, []), found)
    assert np.array_equal(keep_largest(np.zeros((3, 4), int), [1]), np.zeros((3, 4)))


def test_it_is_chosen_where_validation_gains_by_it() -> None:
    plan = Plan().with_values({"target.classes": ("background", "one", "two"), "target.values": (0, 5, 9)})
    found, reference = maps()
    sample: dict[str, Any] = {"image": torch.from_numpy(found[None]).float(), "label": reference[None]}
    chosen = with_largest(plan, Threshold().eval(), [sample])
    assert chosen.predict.largest == ("one",)
    assert "one +0.04" in chosen.reasons["predict.largest"]
    assert "two -" in chosen.reasons["predict.largest"]
    by_hand = plan.with_values({"predict.largest": ("two",)})
    assert with_largest(by_hand, Threshold().eval(), [sample]) == by_hand


def test_a_prediction_obeys_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = {
        "network.channels": (2, 4),
        "target.classes": ("background", "a", "b"),
        "target.values": (0, 5, 9),
    }
    plan = Plan().with_values(values)
    network = build_network(plan)
    image = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    every = predict(load_bundle(save_bundle(tmp_path / "every", plan, network, card="")), image).labels
    plan = plan.with_values({"predict.largest": ("b", "a")})
    bundle = load_bundle(save_bundle(tmp_path / "largest", plan, network, card=""))
    one = predict(bundle, image).labels
    assert np.array_equal(one, keep_largest(every, [9, 5]))
    assert (one != every).any()
    path = write(image, tmp_path / "image.tif")
    with pytest.raises(Refused, match="whole label map"):
        predict_to(bundle, path, tmp_path / "out.tif")


def test_joined_bundles_give_the_mean_of_their_probabilities(tmp_path: Path) -> None:
    values = {
        "network.channels": (4, 8),
        "target.classes": ("background", "a", "b"),
        "target.values": (0, 1, 2),
    }
    plan = Plan().with_values(values)
    bundles = []
    for seed in range(3):
        torch.manual_seed(seed)
        path = save_bundle(tmp_path / str(seed), plan, build_network(plan), card=f"member {seed}")
        bundles.append(load_bundle(path, device="cpu"))
    joined = load_bundle(join_bundles(bundles, tmp_path / "joined"), device="cpu")
    image = np.random.default_rng(0).random((37, 50)).astype(np.float32)
    each = [predict(bundle, image, probabilities=True).probabilities for bundle in bundles]
    found = predict(joined, image, probabilities=True)
    assert np.abs(np.mean(each, axis=0) - found.probabilities).max() < 1e-5
    assert "member 2" in joined.card
    again = join_bundles([joined, joined], tmp_path / "more")
    assert load_bundle(again).plan.network.members == 6
    fast = fast_network(joined.network, 1, 2, bfloat16=True)
    assert isinstance(fast, Ensemble)
    tensor = torch.rand(1, 1, 32, 32)
    assert torch.allclose(fast(tensor).exp(), joined.network(tensor).exp(), atol=0.05)


def test_models_that_do_not_belong_together_are_not_joined(tmp_path: Path) -> None:
    plan = Plan().with_values({"network.channels": (2, 4)})
    others = {
        "two": plan.with_values({"input.normalise": "zscore"}),
        "three": plan.with_values({"predict.min_size": 9}),
        "four": plan.with_values({"predict.precision": "bfloat16"}),  # measured, not asked for
    }
    one, two, three, four = (
        load_bundle(save_bundle(tmp_path / name, p, build_network(p), card=""))
        for name, p in {"one": plan, **others}.items()
    )
    for other in (two, three):
        with pytest.raises(Refused, match="different plans"):
            join_bundles([one, other], tmp_path / "joined")
    assert load_bundle(join_bundles([one, four], tmp_path / "joined")).plan.predict.precision == "float32"
    with pytest.raises(Refused, match="two or more"):
        join_bundles([one], tmp_path / "joined")
