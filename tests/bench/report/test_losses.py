"""What a model loses, told in a line."""

from __future__ import annotations

import pytest

from bench.report import losses
from bench.stats.items import Difference, adjust, compare


def flips(lost: int, gained: int, *, items: int) -> Difference:
    """Every item that does not flip is right in both models."""
    candidate, reference = [1.0] * items, [1.0] * items
    candidate[:lost] = [0.0] * lost
    reference[lost : lost + gained] = [0.0] * gained
    return compare(candidate, reference, range(items), seed=0)


def test_the_verdict_on_nothing_found() -> None:
    same = flips(2, 1, items=600)
    smaller = flips(1, 1, items=300)
    assert losses.told(adjust({"json": same})) == (
        "no loss found; losses above 1.4 points would have been seen"
    )
    assert losses.told(adjust({"json": same, "code": smaller})) == (
        "no loss found; losses above 1.6 points on json, 3.1 on code would have been seen"
    )


def test_the_verdict_names_losses_gains_and_the_unseen() -> None:
    found = adjust(
        {
            "json": flips(30, 5, items=500),
            "tools": flips(22, 2, items=400),
            "code": flips(1, 20, items=400),
            "words": flips(3, 3, items=400),
            "mmlu": flips(1, 0, items=25),
            "smoke": flips(1, 0, items=5),
        }
    )
    assert losses.told(found) == (
        "loses 5.0 points [3.0, 7.4] on json, 5.0 points [2.8, 7.8] on tools; "
        "gains 4.8 points [2.8, 7.2] on code; "
        "nothing found on words (losses above 3.0 points would have been seen); "
        "too few items on mmlu to see losses below 39 points; "
        "too few items on smoke to see any loss"
    )


def test_the_verdict_is_honest_about_few_items() -> None:
    found = adjust({"json": flips(1, 0, items=25)})
    assert losses.told(found) == "too few items to see losses below 30 points"
    with pytest.raises(ValueError, match="no comparisons"):
        losses.told({})
    with pytest.raises(ValueError, match="adjust"):
        losses.told({"json": compare([1.0], [1.0], [0], seed=0)})
