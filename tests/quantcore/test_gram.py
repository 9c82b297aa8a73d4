from __future__ import annotations

import torch

from quantcore.gram import InputStats


def test_folding_statistics_is_folding_inputs() -> None:
    x = torch.randn(50, 12)
    scales = torch.rand(12) + 0.5
    stats = InputStats(gram=x.t() @ x, mean_abs=x.abs().mean(0), tokens=50).folded(scales)
    assert torch.allclose(stats.gram, (x / scales).t() @ (x / scales), atol=1e-4)
    assert torch.allclose(stats.mean_abs, (x / scales).abs().mean(0))


def test_diagonal_blocks() -> None:
    gram = torch.arange(36.0).view(6, 6)
    stats = InputStats(gram=gram, mean_abs=torch.ones(6), tokens=1)
    blocks = stats.diagonal_blocks(2)
    assert blocks.shape == (3, 2, 2)
    assert torch.equal(blocks[1], gram[2:4, 2:4])
