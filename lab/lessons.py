"""Small functions show why AWQ works: they compute the article's examples.

``docs/awq-article.md`` shows every one with its figures, in the article's order. What quantizes
models is elsewhere (`awq_impl.method`, `awq_impl.article`); these only look at it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.delegating import DelegatingMethod
from quantcore.gram import InputStats, output_error
from quantcore.grid import QuantizedWeight, round_to_nearest
from quantcore.method import GroupTask, Method
from quantcore.scheme import QuantScheme
from quantcore.structure import Fold


def made_up_layer(*, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make weights [64, 256] and inputs [4096, 256], 3 channels of which are 30 times as large.

    The weights know nothing of the inputs. In a trained model they do (where inputs are large,
    weights tend to be small), so this is the layer to understand AWQ with, not to measure it on.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(4096, 256, generator=generator)
    inputs[:, [40, 77, 200]] *= 30
    return 0.02 * torch.randn(64, 256, generator=generator), inputs


def stats_of(inputs: Tensor) -> InputStats:
    """Return the statistics that calibration would keep of inputs [tokens, K]."""
    return InputStats(
        gram=inputs.t() @ inputs, mean_abs=inputs.abs().mean(0), tokens=inputs.shape[0]
    )


def contributions(weights: Tensor, activations: Tensor) -> Tensor:
    """Return |w_j x_j|, what every weight adds to the output; any shape.

    A small weight that meets a large activation counts for more than a large one that meets a
    small: 0.20 x 20 = 4.0 against 1.20 x 0.5 = 0.6. Source: the article's opening example.
    """
    return (weights * activations).abs()


def rounding_costs(weights: Tensor, rounded: Tensor, activations: Tensor) -> Tensor:
    """Return |(w_j - w_hat_j) x_j|, what rounding each weight costs at the output; any shape.

    The same step of 0.1 costs 2.0 where 20 flows in and 0.05 where 0.5 does. Source: the article's
    opening example.
    """
    return ((weights - rounded) * activations).abs()


def expected_squared_error(error: Tensor, importance: Tensor) -> Tensor:
    """Return E[dy_i^2] = sum_j dW_ij^2 E[x_j^2] of every output, [N].

    It takes channels for independent and of mean zero. H = X^T X needs no such assumption:
    ``per_row_output_error(error, gram) / tokens`` is exact.

    Args:
        error: of the weights dW, [N, K].
        importance: E[x_j^2], [K], see `awq_impl.article.channel_importance`.

    Source: the article's derivation of the importance.
    """
    return error.square() @ importance


def top_channels(importance: Tensor, share: float = 0.01) -> Tensor:
    """Return the most important input channels, at least one; int64 [max(1, round(K * share))]."""
    return importance.topk(max(1, round(len(importance) * share))).indices


def error_share_of_top(error: Tensor, importance: Tensor, share: float = 0.01) -> float:
    """Return the share of the expected squared error that the top channels cause, 0 to 1.

    Args:
        error: of the weights, [N, K].
        importance: E[x_j^2], [K].
        share: of the channels that count as the top.
    """
    by_channel = error.square().sum(0) * importance
    return float(by_channel[top_channels(importance, share)].sum() / by_channel.sum())


def error_with_top_scaled(
    weight: Tensor,
    stats: InputStats,
    scheme: QuantScheme,
    *,
    factor: float,
    importance: Tensor,
    share: float = 0.01,
) -> float:
    """Return the output error with the top channels scaled, over that without scaling.

    Scaling helps because a weight scaled by s is rounded in steps of the same size, for the range
    of its group has hardly grown, and then divided by s. More does not help: at some factor the
    scaled channel sets the range, and all its neighbours get coarser steps.

    Args:
        weight: float32 [N, K].
        stats: of its input.
        scheme: the grid.
        factor: of the top channels, positive.
        importance: E[x_j^2], [K].
        share: of the channels that are scaled.

    Source: the article's section on scaling; table 2 of arXiv 2306.00978.
    """
    scales = torch.ones_like(stats.mean_abs)
    scales[top_channels(importance, share)] = factor
    served = round_to_nearest(weight * scales, scheme) / scales
    plain = round_to_nearest(weight, scheme)
    return float(output_error(weight - served, stats.gram)) / float(
        output_error(weight - plain, stats.gram)
    )


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors say what rounding lost, as shares of what there was."""

    weight: float
    """||W - W_hat||^2 / ||W||^2, blind to what flows through."""
    output: float
    """||X (W - W_hat)^T||^2 / ||X W^T||^2, what the next layer sees."""


def relative_errors(weight: Tensor, served: Tensor, stats: InputStats) -> Errors:
    """Compare the served weights with the original ones, both [N, K], by weight and by output."""
    error = weight - served
    return Errors(
        weight=float(error.square().sum() / weight.square().sum()),
        output=float(output_error(error, stats.gram) / output_error(weight, stats.gram)),
    )


def smooth_scales(largest: Tensor, weight: Tensor, *, strength: float = 0.5) -> Tensor:
    """Return SmoothQuant's s_j = max|x_j|^a / max|w_j|^(1 - a), float32 [K].

    It is the same transformation as AWQ's, Y = (X / s)(W s)^T, for another end: SmoothQuant rounds
    the activations too, and moves their outliers into the weights until both are equally hard. AWQ
    rounds weights only, and searches the scales on what that costs.

    Args:
        largest: max |x_j| over the calibration tokens, [K].
        weight: [N, K].
        strength: a, how much of the activations' range is moved.

    Source: equation 4 of arXiv 2211.10438.
    """
    tiny = torch.finfo(torch.float32).tiny
    weights = weight.abs().amax(0).clamp(min=tiny)
    return largest.clamp(min=tiny) ** strength / weights ** (1 - strength)


@dataclass(frozen=True, kw_only=True)
class ScaleSummary:
    """A summary sums up the scales of all layers of one type."""

    count: int
    smallest: float
    median: float
    largest: float
    geometric_mean: float


class WatchedMethod(DelegatingMethod):
    """A watched method also keeps the scales it chose, by layer type.

    Folded scales belong to a group (``q_proj+k_proj+v_proj``), scales kept beside the weights to
    one linear (``q_proj``).
    """

    def __init__(self, method: Method) -> None:
        """Watch ``method``."""
        super().__init__(method)
        self._scales: dict[str, list[Tensor]] = defaultdict(list)

    def fold(self, fold: Fold, tasks: Sequence[GroupTask]) -> Tensor | None:
        """Fold, and keep the scales."""
        scales = super().fold(fold, tasks)
        if scales is not None:
            self._scales[tasks[0].group.label].append(scales.float().cpu())
        return scales

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Round, and keep the scales that stay beside the weights."""
        rounded = super().round(task)
        for name, quantized in rounded.items():
            if quantized.input_scales is not None:
                label = name.rsplit(".", 1)[-1]
                self._scales[label].append(quantized.input_scales.float().cpu())
        return rounded

    def summaries(self) -> dict[str, ScaleSummary]:
        """Sum the scales of all blocks up, by layer type."""
        by_type = {}
        for label, parts in self._scales.items():
            scales = torch.cat(parts)
            by_type[label] = ScaleSummary(
                count=len(scales),
                smallest=float(scales.min()),
                median=float(scales.median()),
                largest=float(scales.max()),
                geometric_mean=float(scales.log().mean().exp()),
            )
        return by_type
