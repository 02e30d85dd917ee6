"""A batch goes on whatever a case does, and says what became of each."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from medseg import BatchResult, Refused, map_cases
from medseg.batch import Failure


class OddError(Exception):
    """An exception whose text has several lines."""

    def __str__(self) -> str:
        return "first line\nsecond line"


class SilentError(Exception):
    pass


def act(item: Any) -> Any:
    if isinstance(item, BaseException):
        raise item
    return item * 2


def test_all_done() -> None:
    result = map_cases(act, [("b", 2), ("a", 1)])
    assert list(result.done.items()) == [("b", 4), ("a", 2)]
    assert (result.failed, result.exit_code) == ((), 0)
    assert map_cases(act, []).exit_code == 0


def test_each_failure_is_told_and_the_rest_is_done() -> None:
    cases = [
        ("good", 1),
        ("refused", Refused("bad-image", "no image 'x.png'", do="check it")),
        ("memory", MemoryError()),
        ("odd", OddError()),
        ("silent", SilentError()),
        ("key", KeyError("x")),
        ("unicode", UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")),
        ("recursion", RecursionError("too deep")),
        ("assertion", AssertionError()),
        ("last", 3),
    ]
    told: list[tuple[str, Failure | None]] = []
    result = map_cases(act, cases, on_case=lambda name, failure: told.append((name, failure)))
    assert result.done == {"good": 2, "last": 6}
    assert [f.case for f in result.failed] == [name for name, _ in cases[1:-1]]
    reasons = {f.case: f.reason for f in result.failed}
    assert (reasons.pop("refused"), reasons.pop("memory")) == ("bad-image", "out-of-memory")
    assert set(reasons.values()) == {"unexpected"}
    messages = {f.case: f.message for f in result.failed}
    assert messages["refused"] == "no image 'x.png'. Check it."
    assert "max_ram_gb" in messages["memory"]
    assert messages["odd"] == "unexpected OddError: first line"
    assert "SilentError" in messages["silent"]
    assert all(message and "\n" not in message for message in messages.values())
    assert [name for name, _ in told] == [name for name, _ in cases]
    assert tuple(f for _, f in told if f) == result.failed
    assert result.exit_code == 2


def test_nothing_done() -> None:
    assert map_cases(act, [("a", ValueError()), ("b", Refused("x", "y"))]).exit_code == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_the_user_may_stop_it(stop: type[BaseException]) -> None:
    seen: list[str] = []
    with pytest.raises(stop):
        map_cases(act, [("a", 1), ("b", stop()), ("c", 3)], on_case=lambda name, _: seen.append(name))
    assert seen == ["a"]


def test_cases_are_taken_one_by_one() -> None:
    seen: list[str] = []

    def source() -> Iterator[tuple[str, int]]:
        for name in "abc":
            seen.append(f"give {name}")
            yield name, 1

    map_cases(lambda item: seen.append("work"), source())
    assert seen == ["give a", "work", "give b", "work", "give c", "work"]


def test_the_log_has_the_traceback_of_the_unexpected(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        map_cases(act, [("a", Refused("x", "a refusal")), ("b", ValueError("a bug"))])
    [record] = caplog.records
    assert (record.name, record.levelname) == ("medseg.batch", "ERROR")
    assert "case b failed" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a bug"


def test_results_travel() -> None:
    result = map_cases(act, [("a", 1), ("b", ValueError("x"))])
    assert pickle.loads(pickle.dumps(result)) == result
    assert isinstance(result, BatchResult)
