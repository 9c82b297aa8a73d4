"""Codes of 2 to 8 bits lie in int32 words as one dense stream, the first in the lowest bits.

The stream is handled by the byte, in uint8 arithmetic: a period of ``8 / gcd(b, 8)`` codes fills
``b / gcd(b, 8)`` bytes, and each code of the period has a place of its own. Words are
little-endian, as on every processor that PyTorch runs on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantcore.errors import InputError


def plain(tensor: Tensor) -> Tensor:
    """Lay a tensor out row by row, so that it can be viewed in another dtype.

    PyTorch takes a single row or column for contiguous whatever its strides are; views do not.
    """
    wanted = torch.empty(tensor.shape, device="meta").stride()
    if tensor.stride() == wanted:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


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
    period, size = _period(bits)
    words = words_of(codes.shape[-1], bits)
    periods = max(-(-codes.shape[-1] // period), -(-4 * words // size))
    padded = torch.nn.functional.pad(codes, (0, periods * period - codes.shape[-1]))
    lanes = padded.unflatten(-1, (periods, period))
    stream = codes.new_zeros(*codes.shape[:-1], periods, size)
    for lane in range(period):
        byte, shift = divmod(lane * bits, 8)
        stream[..., byte] |= lanes[..., lane] << shift
        if shift + bits > 8:
            stream[..., byte + 1] |= lanes[..., lane] >> (8 - shift)
    return plain(stream.flatten(-2)[..., : 4 * words]).view(torch.int32)


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
    stream = plain(words).view(torch.uint8)
    if bits == 8:
        return stream[..., :count].contiguous()
    if bits == 4:  # both halves of a byte at once: its low one first, as int16 is little-endian
        pairs = stream.to(torch.int16)
        pairs |= pairs << 4
        pairs &= 0x0F0F
        return pairs.view(torch.uint8)[..., :count].contiguous()
    period, size = _period(bits)
    periods = -(-stream.shape[-1] // size)
    stream = torch.nn.functional.pad(stream, (0, periods * size - stream.shape[-1]))
    stream = stream.unflatten(-1, (periods, size))
    codes = stream.new_empty(*stream.shape[:-1], period)
    for lane in range(period):
        byte, shift = divmod(lane * bits, 8)
        code = stream[..., byte] >> shift
        if shift + bits > 8:
            code |= stream[..., byte + 1] << (8 - shift)
        torch.bitwise_and(code, 2**bits - 1, out=codes[..., lane])
    whole: Tensor = codes.flatten(-2)
    return whole[..., :count].contiguous()


def _period(bits: int) -> tuple[int, int]:
    """Give after how many codes, and bytes, the stream is at the beginning of a byte again."""
    return 8 // math.gcd(bits, 8), bits // math.gcd(bits, 8)
