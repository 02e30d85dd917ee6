"""Plans: TOML and back, strictness, ranges, and overrides of a command line."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest

from medseg import Plan, Refused, load_plan
from medseg.strict import build_strict, comments, typed

TABLES = ("input", "network", "target", "augment", "train", "split", "predict")

# one value for every key that differs from its default
OTHER: dict[str, Any] = {
    "input.spatial_dims": 3,
    "input.channels": 3,
    "input.normalise": "window",
    "input.percentiles": (0.5, 99.0),
    "input.window": ((-100.0, 300.0), (0.0, 1.0), (-1.5, 1e-3)),
    "input.mean": (80.0, 0.5, 0.0),
    "input.deviation": (50.0, 0.25, 1.0),
    "input.orientation": "LPS",
    "input.resample": True,
    "input.crop": "nonzero",
    "input.spacing": (2.5, 0.7, 0.8),
    "input.spacing_unit": "mm",
    "input.downsample": (3, 2, 1),
    "network.name": "mine",
    "network.channels": (8, 16),
    "network.padding": "valid",
    "network.norm": "group",
    "network.dropout": 0.25,
    "network.members": 5,
    "network.strides": ((1, 2, 2),),
    "network.kernels": ((1, 3, 3), (3, 3, 3)),
    "network.residual": True,
    "network.deep_supervision": True,
    "target.kind": "instances",
    "target.name": "foreground",
    "target.classes": ("Grund", "Zelle ∅", 'a "quoted" one'),
    "target.values": (0, 7, 255),
    "target.border_weights": True,
    "target.ignore": (9,),
    "target.things": ("Zelle ∅",),
    "target.w0": 3.5,
    "target.sigma": 2.25,
    "augment.elastic_prob": 0.125,
    "augment.elastic_grid": 5,
    "target.codes": ("", "SCT:64033007:Kidney + SCT:7771000:Left", "99X:a.b-1:Größe in DCM:1:x"),
    "augment.elastic_sigma": 4.0,
    "augment.affine_prob": 0.0,
    "augment.rotate_degrees": 15.0,
    "augment.scale": (0.9, 1.1),
    "augment.flip_prob": 0.0,
    "augment.flip_axes": (0, 2),
    "augment.intensity_prob": 1.0,
    "augment.invert_prob": 0.75,
    "augment.grey_prob": 0.5,
    "augment.colour_prob": 0.5,
    "train.dice_weight": 0.5,
    "train.loss": "dice",
    "train.optimizer": "sgd",
    "train.lr": 0.1 + 0.2,
    "train.momentum": 0.99,
    "train.weight_decay": 1e-300,
    "train.schedule": "constant",
    "train.warmup_steps": 0,
    "train.steps": 10**9,
    "train.batch_size": 1,
    "train.patch": (16, 32, 48),
    "train.clip_norm": 0.0,
    "train.validate_every": 7,
    "train.validate_cases": 0,
    "train.foreground": 0.33,
    "train.balance": 0.5,
    "train.mixed_precision": False,
    "train.workers": 0,
    "train.seed": 2**62,
    "split.folds": 3,
    "split.test_fraction": 0.0,
    "split.seed": 11,
    "predict.method": "components",
    "predict.min_size": 5,
    "predict.flips": True,
    "predict.precision": "bfloat16",
    "predict.mirror": 8,
    "predict.largest": ("Zelle ∅",),
    "network.rates": (1, 3),
    "network.image_pooling": True,
    "network.output_stride": 8,
    "train.encoder_lr": 0.1,
    "train.frozen_steps": 3,
    "predict.crf_iterations": 5,
    "predict.crf_theta_alpha": 20.5,
    "predict.crf_theta_beta": 0.25,
    "predict.crf_theta_gamma": 1.5,
    "predict.crf_w_bilateral": 2.5,
    "predict.crf_w_spatial": 0.0,
    "predict.crf_compatibility": ((0.0, 1.0, 1.0), (2.0, 0.0, 1.0), (1.0, 1.0, 0.0)),
}


def keys() -> list[str]:
    plan = Plan()
    return [f"{table}.{f.name}" for table in TABLES for f in dataclasses.fields(getattr(plan, table))]


def test_every_key_goes_to_toml_and_back_with_its_reason() -> None:
    assert sorted(OTHER) == sorted(keys()), "name one other value for each key of a plan"
    plan = Plan(name='Größe "x" \\ 細胞 #1').with_values(OTHER, reason="because # of\nsome 'thing' §")
    for key in keys():
        assert plan.value(key) == OTHER[key] != Plan().value(key), key
    again = Plan.from_toml(plan.to_toml())
    assert again == plan
    assert again.name == plan.name
    assert dict(again.reasons) == dict.fromkeys(keys(), "because # of some 'thing' §")
    for key in keys():
        assert type(again.value(key)) is type(plan.value(key)), key
    assert again.to_toml() == plan.to_toml()


def test_toml_is_readable_by_anybody() -> None:
    plan = Plan().with_values({"train.lr": 0.25, "train.patch": (64, 96)}, reason="measured")
    document = tomllib.loads(plan.to_toml())
    assert set(document) == {"format", "name", *TABLES}
    assert (document["train"]["lr"], document["train"]["patch"]) == (0.25, [64, 96])
    assert "lr = 0.25 # measured" in plan.to_toml()
    assert dict(Plan().reasons) == {}


def test_a_plan_that_was_edited_by_hand() -> None:
    text = """
# my own
format = 1
name = "by hand"   # a name has no reason

[train]
# a comment of its own line
lr = 1   # an integer where a number is meant
patch = [
  64,  # rows
  32,
] # two lines
mixed_precision = false   #### no space
steps = 1_000
[network]
channels=[4,8]#tight
"""
    plan = Plan.from_toml(text)
    assert (plan.name, plan.train.lr, plan.train.patch) == ("by hand", 1.0, (64, 32))
    assert isinstance(plan.train.lr, float)
    assert plan.train.batch_size == Plan().train.batch_size  # what is left out has its default
    assert plan.reasons == {
        "train.lr": "an integer where a number is meant",
        "train.patch": "two lines",
        "train.mixed_precision": "no space",
        "network.channels": "tight",
    }
    assert Plan.from_toml(plan.to_toml()).reasons == plan.reasons


@pytest.mark.parametrize(
    "text",
    ["train.lr = 2.0", "train = {lr = 2.0} # inline", "[train]\r\nlr = 2.0 # win\r\n", "\n[train]\nlr=2"],
)
def test_every_way_to_write_a_table(text: str) -> None:
    assert Plan.from_toml(f"format = 1\n{text}").train.lr == 2.0


def test_windows_line_ends_do_not_get_into_reasons() -> None:
    plan = Plan.from_toml("format = 1\r\n[train]\r\nlr = 2.0 # win\r\n")
    assert plan.reasons == {"train.lr": "win"}


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("[train]\nlrr = 1", "unknown-plan-key", "Did you mean 'train.lr'?"),
        ("[trian]\nlr = 1", "unknown-plan-key", "Did you mean 'train'?"),
        ("nam = 'x'", "unknown-plan-key", "Did you mean 'name'?"),
        ("[train]\noptimizer = 'adam'", "bad-value", "Did you mean 'adamw'?"),
        ("[train]\noptimizer = 3", "bad-value", "train.optimizer"),
        ("[train]\nlr = true", "bad-value", "got True, expected float"),
        ("[train]\nlr = '1e-3'", "bad-value", "got '1e-3', expected float"),
        ("[train]\nlr = nan", "bad-value", "train.lr"),
        ("[train]\nlr = inf", "bad-value", "train.lr"),
        ("[train]\nlr = 2024-01-01", "bad-value", "train.lr"),
        ("[train]\nsteps = true", "bad-value", "got True, expected int"),
        ("[train]\nsteps = 10.0", "bad-value", "got 10.0, expected int"),
        ("[train]\nmixed_precision = 1", "bad-value", "got 1, expected bool"),
        ("[train]\npatch = 64", "bad-value", "got 64"),
        ("[train]\npatch = [64, 64.0]", "bad-value", "got 64.0, expected int"),
        ("[train]\npatch = [64]", "bad-plan", "expected 2 numbers"),
        ("[network]\nchannels = [8, true]", "bad-value", "got True"),
        ("[network]\nchannels = []", "bad-plan", "network.channels"),
        ("[network]\nchannels = [8, 0]", "bad-plan", "network.channels"),
        ("[network]\ndropout = 1.5", "bad-plan", "0 to 1"),
        ("[input]\nspatial_dims = 4", "bad-value", "got 4, expected 2 or 3"),
        ("[input]\nspatial_dims = 2.0", "bad-value", "got 2.0"),
        ("[input]\nspatial_dims = true", "bad-value", "got True"),
        ("[input]\npercentiles = [1, 2, 3]", "bad-value", "2 values"),
        ("[input]\npercentiles = [-1, 50]", "bad-plan", "0 to 100"),
        ("[input]\npercentiles = [99, 1]", "bad-plan", "low first"),
        ("[augment]\nscale = [0.0, 1.0]", "bad-plan", "augment.scale"),
        ("[augment]\nflip_prob = -0.1", "bad-plan", "augment.flip_prob"),
        ("[train]\nlr = -1", "bad-plan", "at least 0"),
        ("[train]\nmomentum = 1.0", "bad-plan", "train.momentum"),
        ("[train]\nweight_decay = -1", "bad-plan", "train.weight_decay"),
        ("[train]\nbatch_size = 0", "bad-plan", "at least 1"),
        ("[train]\nvalidate_every = 0", "bad-plan", "at least 1"),
        ("[split]\nfolds = 0", "bad-plan", "at least 1"),
        ("[target]\nclasses = ['a']", "bad-plan", "one more class"),
        ("[target]\nclasses = ['a', 'b', 'c']", "bad-plan", "one value a class"),
        ("[target]\nclasses = ['a', 'a']", "bad-plan", "names one twice"),
        ("[target]\nvalues = [1, 1]", "bad-plan", "names one twice"),
        ("[target]\nvalues = [0, -1]", "bad-plan", "target.values"),
        ("train = 3", "bad-plan", "[train]"),
        ("[[train]]\nlr = 1", "bad-plan", "[train]"),
        ("name = 7", "bad-value", "expected str"),
        ("[train]\nlr = 1\n[train]\nlr = 2", "bad-plan", "not TOML"),
        ("[train", "bad-plan", "not TOML"),
    ],
)
def test_refusals_name_the_key(text: str, reason: str, message: str) -> None:
    with pytest.raises(Refused) as caught:
        Plan.from_toml(f"format = 1\n{text}")
    assert caught.value.reason == reason
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["", "format = 2", "format = '1'", "format = true", "format = 1.5"])
def test_another_format_is_refused(line: str) -> None:
    with pytest.raises(Refused, match="format") as caught:
        Plan.from_toml(line + "\nname = 'x'")
    assert caught.value.reason == "bad-plan"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.lr=3e-4", "train.lr", 3e-4),
        ("train.lr = 1", "train.lr", 1.0),
        ("network.channels=[8,16]", "network.channels", (8, 16)),
        ("network.norm=none", "network.norm", "none"),
        ('network.norm="none"', "network.norm", "none"),
        ("network.padding='valid'", "network.padding", "valid"),
        ("target.classes=['background', 'Zellkern ☢']", "target.classes", ("background", "Zellkern ☢")),
        ("train.mixed_precision=false", "train.mixed_precision", False),
        ("train.patch=[64, 32]", "train.patch", (64, 32)),
        ("name=my cells = best", "name", "my cells = best"),
        ("name=007", "name", "007"),
        ("name=NO", "name", "NO"),
    ],
)
def test_overrides(text: str, key: str, value: Any) -> None:
    plan = Plan().with_overrides([text])
    assert plan.value(key) == value
    assert type(plan.value(key)) is type(value)
    assert plan.reasons[key] == "given on the command line"
    assert Plan.from_toml(plan.to_toml()) == plan


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train.lr", "bad-plan"),
        ("train.lr=", "bad-value"),
        ("=3", "unknown-plan-key"),
        ("lr=3", "unknown-plan-key"),
        ("train=3", "unknown-plan-key"),
        ("reasons=3", "unknown-plan-key"),
        ("train.lr.x=3", "unknown-plan-key"),
        ("train.lr=fast", "bad-value"),
        ("train.lr=1\ntrain.steps=2", "bad-value"),
        ("train.steps=1e3", "bad-value"),
        ("train.steps=True", "bad-value"),
        ("network.channels=8,16", "bad-value"),
        ("name=2024", "bad-value"),
        ("train.patch=[64]", "bad-plan"),
    ],
)
def test_overrides_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        Plan().with_overrides([text])
    assert caught.value.reason == reason


def test_values_that_need_each_other_change_together() -> None:
    with pytest.raises(Refused):
        Plan().with_values({"input.spatial_dims": 3})
    plan = Plan().with_overrides(["input.spatial_dims=3", "train.patch=[8,16,16]", "train.lr=1e-2"])
    assert (plan.input.spatial_dims, plan.train.patch, plan.train.lr) == (3, (8, 16, 16), 0.01)
    assert Plan().with_overrides([]) == Plan()


def test_a_plan_is_never_changed_in_place() -> None:
    plan = Plan()
    other = plan.with_values({"train.lr": 0.5})
    assert plan.train.lr == 1e-3
    assert not plan.reasons
    with pytest.raises(dataclasses.FrozenInstanceError):
        other.train.lr = 2.0  # type: ignore[misc]
    assert plan == plan.with_values({"train.lr": 1e-3}, reason="reasons do not make another plan")


def test_files(tmp_path: Path) -> None:
    plan = Plan(name="Käse").with_values({"train.lr": 0.5})
    assert load_plan(plan.save(tmp_path / "new" / "plan.toml")) == plan
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["plan.toml"]
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(Refused) as caught:
            load_plan(path)
        assert caught.value.reason == "not-found"
    latin = tmp_path / "latin.toml"
    latin.write_bytes("format = 1\nname = 'Käse'".encode("latin-1"))
    with pytest.raises(Refused, match=r"latin\.toml.*UTF-8") as caught:
        load_plan(latin)
    assert caught.value.reason == "bad-plan"
    (tmp_path / "broken.toml").write_text("format = [")
    with pytest.raises(Refused, match=r"broken\.toml"):
        load_plan(tmp_path / "broken.toml")


def test_nan_is_refused_in_plans_made_in_python() -> None:
    from medseg.plan import TrainPlan

    with pytest.raises(Refused):
        Plan(train=TrainPlan(lr=math.nan))


def test_strict_building() -> None:
    @dataclasses.dataclass(frozen=True)
    class Box:
        size: tuple[int, ...] = ()
        pair: tuple[float, float] = (0.0, 1.0)
        kind: typing.Literal["a", 1] = "a"

    hints = {"size": tuple[int, ...], "pair": tuple[float, float], "kind": typing.Literal["a", 1]}
    assert typed([1, 2], hints["size"], "k") == (1, 2)
    assert typed([1, 2], hints["pair"], "k") == (1.0, 2.0)
    assert typed(1, hints["kind"], "k") == 1
    for value, name in ((True, "kind"), (1.0, "kind"), ("1", "kind"), ("12", "size"), ([1], "pair")):
        with pytest.raises(Refused) as caught:
            typed(value, hints[name], "table.key")
        assert caught.value.reason == "bad-value"
        assert "table.key" in str(caught.value)
    with pytest.raises(TypeError, match="unions"):
        typed(1, int | None, "k")


def test_start_keeps_the_other_values() -> None:
    from medseg.plan import TrainPlan

    start = TrainPlan(steps=7)
    assert build_strict(TrainPlan, {"lr": 2}, "train", start=start) == TrainPlan(steps=7, lr=2.0)


def test_comments_of_any_toml() -> None:
    assert comments("") == {}
    assert comments("a = 1 # top\n[t]\nb = true # yes\nc = 'x'\nd = {e = 1} # inline\n") == {
        "t.b": "yes",
        "t.d": "inline",
    }


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"input.resample": True}, "needs the spacing"),
        ({"input.orientation": "RAS"}, "three axes"),
        ({"input.spatial_dims": 3, "train.patch": (8, 8, 8), "input.orientation": "RLS"}, "three axes"),
        ({"input.normalise": "window"}, r"input\.window"),
        (
            {
                "input.normalise": "window",
                "input.window": ((3.0, 3.0),),
                "input.mean": (0.0,),
                "input.deviation": (1.0,),
            },
            "low to high",
        ),
        ({"augment.flip_axes": (2,)}, "names axes"),
        ({"predict.largest": ("liver",)}, "names classes"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told) as caught:
        Plan().with_values(values)
    assert caught.value.reason == "bad-plan"
