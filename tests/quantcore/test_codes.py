"""Quantized weights as a file."""

from pathlib import Path

import torch

from quantcore import codes
from quantcore.grid import quantize
from quantcore.scheme import QuantScheme


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    """To the byte, so that the hashes of two folders can be compared."""
    weight = quantize(torch.randn(8, 64), QuantScheme.parse("int4-g32"))
    written = set()
    for number in range(12):
        keeper = codes.Keeper()
        keeper.keep("a.b", weight)
        folder = tmp_path / str(number)
        folder.mkdir()
        keeper.write(folder)
        written.add((folder / codes.FILE).read_bytes())
    assert len(written) == 1
