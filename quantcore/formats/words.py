"""Codes of 2 to 8 bits lie in int32 words as one dense stream, the first in the lowest bits.

Code i of a row begins at bit ``i b`` of the row's stream, and may lie across two words. Eight codes
are b whole bytes, whatever b is (two of 4 bits are one byte, four of 2 or 6 bits one and three). So
as many codes, a byte each, are one number, whose empty bits are squeezed out of pairs of
neighbours, then of pairs of these, and let in again the other way. That is arithmetic on contiguous
memory, in chunks that stay in the second cache. Words are little-endian, as on every processor that
PyTorch runs on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quantcore.errors import InputError

_BLOCK = 32  # codes that fill whole words, whatever their width
_AT_ONCE = {2: 4, 3: 8, 4: 2, 5: 8, 6: 4, 7: 8}  # codes that fill whole bytes, by their width
_NUMBERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # with a byte for each of as many
_CHUNK = 2**18  # bytes of codes that are worked on at a time: as many again are their copy


def words_of(count: int, bits: int) -> int:
    """Count the int32 words that so many codes take."""
    return -(-count * bits // 32)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack uint8 codes [..., n], each below ``2**bits``, into int32 [..., ceil(n b / 32)].

    The bits of the last word that no code takes are 0.

    Raises:
        InputError: a code needs more bits.
    """
    if codes.numel() and int(codes.max()) >> bits:
        raise InputError(f"code {int(codes.max())} needs more than {bits} bits")
    *rows, values = codes.shape
    stream = functional.pad(codes, (0, -values % _BLOCK)).contiguous().view(-1)
    if bits < 8:
        stream = _squeeze(stream, bits)
    words = stream.view(torch.int32).view(*rows, -1)
    return words[..., : words_of(values, bits)].contiguous()


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """Unpack the first ``count`` codes of int32 [..., w] as uint8 [..., count]; see `pack`.

    Raises:
        InputError: the words hold fewer codes.
    """
    if words.dtype is not torch.int32 or words.shape[-1] < words_of(count, bits):
        raise InputError(
            f"{words.dtype} {list(words.shape)} holds no {count} codes of {bits} bits a row; that "
            f"takes {words_of(count, bits)} int32 words"
        )
    *rows, held = words.shape
    stream = functional.pad(words, (0, -held % bits)).contiguous().view(-1).view(torch.uint8)
    if bits < 8:
        stream = _spread(stream, bits)
    return stream.view(*rows, -1)[..., :count].contiguous()


def _steps(bits: int) -> list[tuple[int, int, int]]:
    """Say which bits stay in each step of squeezing, how far the others move, and where to."""
    at_once, steps = _AT_ONCE[bits], []
    lane, width = 16, bits  # of two neighbours, and of one without its gap
    while lane <= 8 * at_once:
        stays = ((1 << width) - 1) * sum(1 << at for at in range(0, 8 * at_once, lane))
        steps.append((stays, lane // 2 - width, stays << width))
        lane, width = 2 * lane, 2 * width
    return steps


def _squeeze(codes: Tensor, bits: int) -> Tensor:
    """Turn codes, uint8 [n], into their dense bytes, uint8 [n bits / 8]."""
    at_once = _AT_ONCE[bits]
    numbers = codes.view(_NUMBERS[at_once])
    stream = torch.empty(len(numbers), at_once * bits // 8, dtype=torch.uint8)
    for there, chunk in zip(
        stream.split(_CHUNK // at_once), numbers.split(_CHUNK // at_once), strict=True
    ):
        number = chunk.clone()
        for stays, shift, moved in _steps(bits):
            low = number & stays
            number.bitwise_right_shift_(shift).bitwise_and_(moved).bitwise_or_(low)
        there.copy_(number.view(torch.uint8).view(-1, at_once)[:, : there.shape[1]])
    return stream.view(-1)


def _spread(stream: Tensor, bits: int) -> Tensor:
    """Turn dense bytes, uint8 [n bits / 8], into codes, uint8 [n]."""
    at_once = _AT_ONCE[bits]
    width = at_once * bits // 8
    codes = torch.empty(len(stream) // width, dtype=_NUMBERS[at_once])
    for here, number in zip(
        stream.split(_CHUNK // at_once * width), codes.split(_CHUNK // at_once), strict=True
    ):
        number.copy_(here if width == 1 else _numbers(here, width, number.dtype))
        for stays, shift, moved in reversed(_steps(bits)):
            low = number & stays
            number.bitwise_left_shift_(shift).bitwise_and_(moved << shift).bitwise_or_(low)
    return codes.view(torch.uint8)


def _numbers(stream: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Read a number at every ``width`` bytes: its upper bytes are whatever comes next."""
    read = np.pad(stream.numpy(), (0, dtype.itemsize))
    kind = np.dtype(f"<i{dtype.itemsize}")
    # They are not aligned, which PyTorch has no view for.
    return torch.from_numpy(
        np.ndarray((len(stream) // width,), kind, read, strides=(width,)).copy()
    )
