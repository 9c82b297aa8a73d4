"""An item is judged here: is the right answer the most probable one?

The headline is the sum of an answer's log-probabilities, as lm-eval's ``acc``: the probability that
the model writes just this answer. After a text that holds the answers most of the choice is made in
an answer's first token; the rest follows almost surely. To divide by the length, as ``acc_bytes``
does, would then make a long wrong answer look good; it is given for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

OUTCOMES = ("right", "wrong")
"""The right answer is the most probable one, or it is not."""


def is_best(scores: Sequence[float], gold: int) -> bool:
    """Say whether ``scores[gold]`` is above all others.

    A tie or a NaN is not: a model that cannot tell the answers apart has chosen none.
    """
    return all(scores[gold] > score for place, score in enumerate(scores) if place != gold)


def metrics(
    log_likelihoods: Sequence[float], options: Sequence[str], gold: int
) -> dict[str, float]:
    """Give ``acc`` (of sums), ``acc_bytes`` (of nats per UTF-8 byte) and one-hot outcomes.

    ``log_likelihoods`` are the options', in nats, in their order.
    """
    by_byte = [
        score / len(option.encode()) for score, option in zip(log_likelihoods, options, strict=True)
    ]
    right = is_best(log_likelihoods, gold)
    return {
        "acc": float(right),
        "acc_bytes": float(is_best(by_byte, gold)),
        "is_right": float(right),
        "is_wrong": float(not right),
    }
