"""A 4-bit linear on a CPU runs in the fastest of four ways, measured once on a machine and kept.

A way (see `WAYS`) is fastest for some numbers of tokens: products with the codes where the weights'
bytes decide, decoding and the vendor's product where arithmetic does. The crossover depends on the
processor, its threads, the dtype and the size of the layer, so it is measured: `table_for` times
every way that runs here on random weights of about the layer's size, copies of which exceed the
caches, and keeps the seconds in a file in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels import dequant, native
from kernels.cache import cache_folder
from kernels.place import Place
from quantcore import files
from quantcore.grid import QuantizedWeight, quantize
from quantcore.scheme import QuantScheme

WAYS = {
    "native": "our native kernel: products with the codes",
    "native-decode": "our native decoder, then the vendor's product, in chunks",
    "aten": "PyTorch's _weight_int4pack_mm_for_cpu; scales are rounded to the activations' dtype",
    "chunks": "dequantized by PyTorch, then the vendor's product, in chunks",
}
TOKENS = tuple(1 << power for power in range(11))
"""1 to 1,024: where the ways are timed."""

_LAYOUT = {"native": "native", "native-decode": "native", "aten": "aten", "chunks": "columns"}
_ATEN_GROUPS = (32, 64, 128, 256)
_ATEN_ROWS = 64  # outputs are made up to a multiple
_DECODED_BYTES = 2**23  # of a chunk's weights
_CHUNK_NUMBERS, _ALIGNED = 2**20, 64  # of a chunk's weights; its outputs are a multiple
_MOST_TOGETHER = 8
_LARGE_TOKENS = 512
_WORTH_HOLDING = 1.5
"""How many times faster a second layout must be somewhere to be held beside the first."""
_ROTATED_BYTES = 2**26  # of 4-bit weights, more than caches hold
_VERSION = 1  # of the file

Table = Mapping[int, Mapping[str, float]]
"""Seconds of each way, by tokens."""


def reason_against(place: Place) -> str | None:
    """Say why no way but plain dequantization runs there; None: one does."""
    if place.device.type != "cpu":
        return f"it runs on CPUs, and this is {place.device.type}"
    if place.scheme.bits != 4:
        return f"it takes 4 bits, not {place.scheme.bits} ({place.scheme.name})"
    if place.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it takes float32, bfloat16 and float16, not {place.dtype}"
    return None


def ways(place: Place) -> list[str]:
    """Name the ways that run there."""
    found = ["chunks"]
    group = place.scheme.group_of(place.in_features)
    if group in _ATEN_GROUPS and place.scheme.scale_dtype is torch.float16:
        found.append("aten")
    against = native.reason_against(place.dtype, place.scheme, place.in_features)
    if against is None and isinstance(native.load(), native.Native):
        found += ["native", "native-decode"]
    return found


def pack(weight: QuantizedWeight, place: Place) -> dict[str, Tensor]:
    """Pack the layout that is best over all numbers of tokens, and others where worth it."""
    return {
        f"{layout}_{name}": tensor
        for layout in layouts_worth_holding(ways(place), table_for(place))
        for name, tensor in _pack(layout, weight, place).items()
    }


def layouts_worth_holding(running: Sequence[str], table: Table) -> list[str]:
    """Take one layout, unless another is so much faster somewhere that it is worth the memory.

    Args:
        running: ways that run there.
        table: seconds of each way, by tokens.
    """
    layouts = dict.fromkeys(_LAYOUT[way] for way in running)

    def seconds(layout: str, tokens: int) -> float:
        row = table[tokens]
        return min(row.get(way, math.inf) for way in running if _LAYOUT[way] == layout)

    def overall(layout: str) -> float:
        fastest = {m: min(seconds(one, m) for one in layouts) for m in table}
        return sum(math.log(min(100.0, seconds(layout, m) / fastest[m])) for m in table)

    first, *others = sorted(layouts, key=overall)
    held = [first]
    for layout in others:
        if any(
            seconds(layout, m) * _WORTH_HOLDING < min(seconds(one, m) for one in held)
            for m in table
        ):
            held.append(layout)
    # PyTorch's layout depends on the processor, and rounds scales: saving and moving need another.
    if held == ["aten"]:
        held.append("columns")
    return held


def _pack(layout: str, weight: QuantizedWeight, place: Place) -> dict[str, Tensor]:
    if layout == "native":
        return native.pack(weight)
    if layout == "aten":
        return _pack_aten(weight, place)
    return _pack_columns(weight)


def _pack_aten(weight: QuantizedWeight, place: Place) -> dict[str, Tensor]:
    """Pack PyTorch's own layout, with a scale and (8 - zero) * scale of every group and output."""
    above = -len(weight.codes) % _ATEN_ROWS
    codes = functional.pad(weight.codes.to(torch.int32), (0, 0, 0, above))
    scales = functional.pad(weight.scales.float(), (0, 0, 0, above))
    zeros = functional.pad(weight.zeros.float(), (0, 0, 0, above))
    grid = torch.stack([scales, (8 - zeros) * scales], dim=-1).transpose(0, 1).to(place.dtype)
    return {
        "codes": torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1),
        "grid": dequant.as_bits(grid),
    }


def _pack_columns(weight: QuantizedWeight) -> dict[str, Tensor]:
    """Lay outputs along rows: PyTorch's loops then run over neighbours, whatever the group size.

    Returns:
        ``codes`` uint8 [chunks, ceil(K/2), width]: of input k in the low four bits, of
        k + ceil(K/2) above; ``scales`` and ``offsets`` (-zero * scale, which is exact), the bits of
        float32 [chunks, groups, width]; ``zeros`` uint8 of that shape, for `unpack`.
    """
    outputs, inputs = weight.codes.shape
    width = min(max(1, _CHUNK_NUMBERS // inputs // _ALIGNED) * _ALIGNED, outputs)
    beyond = -outputs % width

    def columns(values: Tensor) -> Tensor:
        padded = functional.pad(values, (0, 0, 0, beyond))
        return padded.view(-1, width, values.shape[1]).transpose(1, 2)

    low, high = columns(functional.pad(weight.codes, (0, inputs % 2))).chunk(2, dim=1)
    scales, zeros = columns(weight.scales.float()), columns(weight.zeros)
    return {
        "codes": (low | (high << 4)).contiguous(),
        "scales": dequant.as_bits(scales),
        "offsets": dequant.as_bits(-(zeros.float() * scales)),
        "zeros": zeros.contiguous(),
    }


def _unpack_columns(packed: Mapping[str, Tensor], place: Place) -> QuantizedWeight:
    def rows(values: Tensor, count: int) -> Tensor:
        return values.transpose(1, 2).flatten(0, 1)[: place.out_features, :count].contiguous()

    codes = torch.cat([packed["codes"] & 15, packed["codes"] >> 4], dim=1)
    groups = packed["scales"].shape[1]
    scales = packed["scales"].view(torch.float32)
    return QuantizedWeight(
        codes=rows(codes, place.in_features),
        scales=rows(scales, groups).to(place.scheme.scale_dtype),
        zeros=rows(packed["zeros"], groups),
        scheme=place.scheme,
    )


def unpack(packed: Mapping[str, Tensor], place: Place) -> QuantizedWeight:
    """Give back the weight that was packed."""
    if "native_codes" in packed:
        shape = (place.out_features, place.in_features)
        return native.unpack(_part("native", packed), place.scheme, shape)
    return _unpack_columns(_part("columns", packed), place)


def _part(layout: str, packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{layout}_"
    return {n.removeprefix(prefix): one for n, one in packed.items() if n.startswith(prefix)}


def linear(x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, place: Place) -> Tensor:
    """Give x [M, K] times the weight, plus the bias: [M, N] of x's dtype."""
    found: Tensor = torch.ops.awq_bench.int4_cpu(
        x, list(packed.values()), bias, ",".join(packed), place.scheme.name, place.out_features
    )
    return found


@torch.library.custom_op(
    "awq_bench::int4_cpu",
    mutates_args=(),
    # Spelled out: before 2.7 torch does not read it off the annotation of a list.
    schema="(Tensor x, Tensor[] packed, Tensor? bias, str names, str scheme, int outputs)"
    " -> Tensor",
)
def _int4_cpu(
    x: Tensor, packed: list[Tensor], bias: Tensor | None, names: str, scheme: str, outputs: int
) -> Tensor:
    """Run the fastest way for this many tokens, opaque to torch.compile."""
    way, place = _way(x.dtype, scheme, outputs, x.shape[1], names, _nearest(x.shape[0]))
    tensors = dict(zip(names.split(","), packed, strict=True))
    return run(way, x, _part(_LAYOUT[way], tensors), bias, place)


@_int4_cpu.register_fake
def _(
    x: Tensor, packed: list[Tensor], bias: Tensor | None, names: str, scheme: str, outputs: int
) -> Tensor:
    return x.new_empty((x.shape[0], outputs))


def _way(
    dtype: torch.dtype, scheme: str, outputs: int, inputs: int, names: str, tokens: int
) -> tuple[str, Place]:
    """Choose the fastest way of those whose layouts are held."""
    place = _place(dtype, scheme, outputs, inputs)
    row = table_for(place)[tokens]
    held = {name.partition("_")[0] for name in names.split(",")}
    running = [one for one in ways(place) if _LAYOUT[one] in held]
    return min(running, key=lambda one: row.get(one, math.inf)), place


@cache
def _place(dtype: torch.dtype, scheme: str, outputs: int, inputs: int) -> Place:
    return Place(
        device=torch.device("cpu"),
        dtype=dtype,
        scheme=QuantScheme.parse(scheme),
        out_features=outputs,
        in_features=inputs,
    )


def _nearest(tokens: int) -> int:
    """Choose the nearest of `TOKENS`, by ratio."""
    power = round(math.log2(max(1, tokens)))
    return TOKENS[min(power, len(TOKENS) - 1)]


def run(
    way: str, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, place: Place
) -> Tensor:
    """Run one way.

    Args:
        way: of `WAYS`; it must run there.
        x: [M, K].
        packed: in its layout.
        bias: [N] of x's dtype, or None.
        place: what it is.
    """
    outputs = place.out_features
    if way == "native":
        return native.linear(_library(), x, packed, bias, outputs)
    if way == "native-decode":
        return _decoded(x, packed, bias, outputs)
    if way == "aten":
        group = place.scheme.group_of(place.in_features)
        grid = packed["grid"].view(x.dtype)
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.contiguous(), packed["codes"], group, grid
        )
        y = y[:, :outputs]
        return y.contiguous() if bias is None else y + bias
    return _chunked(x, packed, bias, place)


def _library() -> native.Native:
    found = native.load()
    if isinstance(found, native.Missing):
        raise RuntimeError(f"the native kernel went away: {found.reason}")
    return found


_buffers = threading.local()


def _scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Keep memory of this thread for one chunk of weights, from call to call.

    Fresh memory comes page by page, and a call's pages took longer than its arithmetic.
    """
    size = math.prod(shape) * dtype.itemsize
    held: Tensor | None = getattr(_buffers, name, None)
    if held is None or len(held) < size:
        with torch.inference_mode(False):  # so that it can be written to in any mode
            held = torch.empty(size, dtype=torch.uint8)
        setattr(_buffers, name, held)
    return held[:size].view(dtype).view(shape)


def _decoded(x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, outputs: int) -> Tensor:
    """Decode a chunk of outputs, multiply, and go on."""
    inputs = x.shape[1]
    beside = -inputs % native.BLOCK
    x = functional.pad(x, (0, beside)) if beside else x
    panel = native.PANEL
    rows = max(panel, _DECODED_BYTES // (x.shape[1] * x.element_size()) // panel * panel)
    chunk = _scratch("decoded", (min(rows, outputs), x.shape[1]), x.dtype)
    y = x.new_empty((len(x), outputs))
    for first in range(0, outputs, rows):
        part = chunk[: min(rows, outputs - first)]
        native.decode(_library(), packed, first, part, inputs)
        torch.mm(x, part.t(), out=y[:, first : first + len(part)])
    return y if bias is None else y.add_(bias)


def _chunked(x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, place: Place) -> Tensor:
    """Dequantize some outputs with PyTorch's own loops, multiply, and go on.

    A code becomes a float32, and code * s - z * s is exact: 4 bits times the scale's 11 fit. Then
    it is rounded to x's dtype.

    As many chunks as there are threads go together, as a batch: loops and batched products give
    each thread its own, so that what one core wrote no other has to fetch.
    """
    codes = packed["codes"]
    scales, offsets = (
        packed[name].view(torch.float32)[:, :, None] for name in ("scales", "offsets")
    )
    chunks, half, width = codes.shape
    together = min(torch.get_num_threads(), _MOST_TOGETHER, chunks)
    beside = 2 * half - x.shape[1]
    x = functional.pad(x, (0, beside)) if beside else x
    nibbles = _scratch("nibbles", (together, 2, half, width), torch.uint8)
    exact = _scratch("exact", (together, 2 * half, width), torch.float32)
    by_group = exact[:, : place.in_features].unflatten(1, (scales.shape[1], -1))
    same = x.dtype is torch.float32
    rounded = exact if same else _scratch("rounded", (together, 2 * half, width), x.dtype)
    y = x.new_empty((len(x), chunks, width))
    many = x.expand(together, *x.shape)
    for first in range(0, chunks, together):
        last = min(first + together, chunks)
        if last - first < together:
            nibbles, exact, by_group, rounded, many = (
                one[: last - first] for one in (nibbles, exact, by_group, rounded, many)
            )
        torch.bitwise_and(codes[first:last], 15, out=nibbles[:, 0])
        torch.bitwise_right_shift(codes[first:last], 4, out=nibbles[:, 1])
        exact.copy_(nibbles.view(exact.shape))
        torch.addcmul(offsets[first:last], by_group, scales[first:last], out=by_group)
        if rounded is not exact:
            rounded.copy_(exact)
        if len(x) < _LARGE_TOKENS:
            y[:, first:last] = torch.bmm(many, rounded).transpose(0, 1)
        else:  # arithmetic decides: every product by all threads
            for chunk in range(first, last):
                torch.mm(x, rounded[chunk - first], out=y[:, chunk])
    y = y.flatten(1)[:, : place.out_features]
    return y.contiguous() if bias is None else y + bias


_measured: dict[str, Table] = {}


def known(place: Place) -> bool:
    """Say whether `table_for` answers without measuring."""
    name = key(place)
    if name not in _measured and (found := _read(name)):
        _measured[name] = found
    return name in _measured


def table_for(place: Place) -> Table:
    """Give seconds of every way that runs there, by tokens: remembered, read, or measured now."""
    name = key(place)
    if name not in _measured:
        _measured[name] = _read(name) or _measure(name, place)
    return _measured[name]


def _size_class(place: Place) -> int:
    """Round the layer's weights to a power of 4: crossovers move slowly with size."""
    return min(12, max(6, round(math.log(place.out_features * place.in_features, 4))))


def key(place: Place) -> str:
    """Name what layers share a table: dtype, group size, class of size, threads."""
    group = place.scheme.group_of(place.in_features)
    size = "channel" if group == place.in_features else f"g{group}"
    dtype = str(place.dtype).removeprefix("torch.")
    threads = torch.get_num_threads()
    return f"{dtype} {size} 4^{_size_class(place)} weights, {threads} threads"


def table_file() -> Path:
    """Give the file of this machine's tables: by processor, PyTorch and native kernel."""
    found = native.load()
    identity = found.identity if isinstance(found, native.Native) else "none"
    about = "\0".join((native.processor(), torch.__version__, identity))
    return cache_folder() / f"cpu-{hashlib.sha256(about.encode()).hexdigest()[:16]}.json"


def _read(key: str) -> Table | None:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        document = json.loads(table_file().read_text("utf-8"))
        if document["version"] == _VERSION:
            table = {int(tokens): dict(row) for tokens, row in document["tables"][key].items()}
            return table if set(table) == set(TOKENS) else None
    return None


def _keep(key: str, table: Table) -> None:
    """Add one table; a cache that cannot be written is measured again next time."""
    path = table_file()
    document: dict[str, Any] = {
        "version": _VERSION,
        "torch": torch.__version__,
        "tables": {},
    }
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text("utf-8"))
        if found["version"] == _VERSION and isinstance(found["tables"], dict):
            document = found
    document["tables"][key] = table
    with suppress(OSError):
        files.write_text(path, json.dumps(document, indent=1))


def _measure(key: str, place: Place) -> Table:
    """Time every way on copies of one random weight of the size class."""
    group = place.scheme.group_of(place.in_features)
    outputs = side = 2 ** _size_class(place)
    inputs = side
    if group == place.in_features:
        scheme = QuantScheme(bits=4, group_size=None)
    else:
        scheme = QuantScheme(bits=4, group_size=group)
        inputs = max(1, round(side / group)) * group
    generator = torch.Generator().manual_seed(0)
    weight = quantize(torch.randn(outputs, inputs, generator=generator), scheme)
    trial = Place(
        device=place.device,
        dtype=place.dtype,
        scheme=scheme,
        out_features=outputs,
        in_features=inputs,
    )
    running = ways(trial)
    copies = min(64, max(2, _ROTATED_BYTES // (outputs * inputs // 2)))
    packed = {
        layout: [
            {name: one.clone() for name, one in _pack(layout, weight, trial).items()}
            for _ in range(copies)
        ]
        for layout in {_LAYOUT[way] for way in running}
    }
    table: dict[int, dict[str, float]] = {}
    out_of_race: set[str] = set()
    for tokens in TOKENS:
        x = torch.randn(tokens, inputs, generator=generator).to(place.dtype)
        seconds: dict[str, float] = {}
        for turn in range(4):  # the first warms up
            for way in running:
                if way in out_of_race:
                    continue
                one = packed[_LAYOUT[way]][turn % copies]
                started = time.perf_counter()
                run(way, x, one, None, trial)
                took = time.perf_counter() - started
                if turn:
                    seconds[way] = min(took, seconds.get(way, took))
        table[tokens] = seconds
        # What the codes' bytes made fast does not come back once arithmetic decides.
        best = min(seconds.values())
        slow = {w for w in ("native", "aten") if seconds.get(w, 0.0) > 4 * best}
        out_of_race |= slow
    _keep(key, table)
    return table
