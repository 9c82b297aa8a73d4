"""One Triton kernel computes Y = X W^T (+ bias) on a GPU, W stored in 4 bits (W4A16).

The kernel computes Y^T = W X^T. W is the left operand so that the tensor cores take it from
registers, where it is made of codes; as the right one it would have to go through shared memory.
Tensor cores are used at every M: a tile of 8 tokens costs no more than one.

A tile of 128 inputs is four *planes* of 32: a 16-bit word holds the codes of inputs k, k + 32,
k + 64, k + 96 (see `kernels.layout`), so four products of 32 inputs use each word once, and every
copy is of 16 contiguous bytes. A code becomes a number without any conversion: its four bits are
the last of the mantissa of 1024 (fp16), 64 (fp16, shifted by four) or 128 (bf16), and 1024 + n less
1024 + z is n - z exactly.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _steps(w, z0, z1, z2, z3, BF16: tl.constexpr, ASM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Give four planes of ``code - zero`` of words [rows, 32], exactly; z: zeros' subtrahends.

    Two words at a time take 9 (fp16) or 11 (bf16) operations for 8 weights. The second branch is
    the same in plain Triton, for the interpreter, bit by bit.
    """
    if ASM and BF16:
        return tl.inline_asm_elementwise(
            """
            {
            .reg .b32 t, one;
            mov.b32 one, 0x3f803f80;
            lop3.b32 $0, $4, 0x000f000f, 0x43004300, 0xea;
            shr.u32 t, $4, 4;
            lop3.b32 $1, t, 0x000f000f, 0x43004300, 0xea;
            shr.u32 t, $4, 8;
            lop3.b32 $2, t, 0x000f000f, 0x43004300, 0xea;
            shr.u32 t, $4, 12;
            lop3.b32 $3, t, 0x000f000f, 0x43004300, 0xea;
            fma.rn.bf16x2 $0, $0, one, $5;
            fma.rn.bf16x2 $1, $1, one, $6;
            fma.rn.bf16x2 $2, $2, one, $7;
            fma.rn.bf16x2 $3, $3, one, $8;
            }
            """,
            "=&r,=&r,=&r,=&r,r,r,r,r,r",
            [w, z0, z1, z2, z3],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=2,
        )
    elif ASM:
        return tl.inline_asm_elementwise(
            """
            {
            .reg .b32 t;
            lop3.b32 $0, $4, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 $1, $4, 0x00f000f0, 0x54005400, 0xea;
            shr.u32 t, $4, 8;
            lop3.b32 $2, t, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 $3, t, 0x00f000f0, 0x54005400, 0xea;
            add.rn.f16x2 $0, $0, $5;
            add.rn.f16x2 $1, $1, $6;
            add.rn.f16x2 $2, $2, $7;
            add.rn.f16x2 $3, $3, $8;
            }
            """,
            "=&r,=&r,=&r,=&r,r,r,r,r,r",
            [w, z0, z1, z2, z3],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True,
            pack=2,
        )
    else:
        u = w.to(tl.uint16, bitcast=True)
        if BF16:
            n0 = ((u & 0xF) | 0x4300).to(tl.uint16).to(tl.bfloat16, bitcast=True)
            n1 = (((u >> 4) & 0xF) | 0x4300).to(tl.uint16).to(tl.bfloat16, bitcast=True)
            n2 = (((u >> 8) & 0xF) | 0x4300).to(tl.uint16).to(tl.bfloat16, bitcast=True)
            n3 = ((u >> 12) | 0x4300).to(tl.uint16).to(tl.bfloat16, bitcast=True)
        else:
            n0 = ((u & 0xF) | 0x6400).to(tl.uint16).to(tl.float16, bitcast=True)
            n1 = ((u & 0xF0) | 0x5400).to(tl.uint16).to(tl.float16, bitcast=True)
            n2 = (((u >> 8) & 0xF) | 0x6400).to(tl.uint16).to(tl.float16, bitcast=True)
            n3 = (((u >> 8) & 0xF0) | 0x5400).to(tl.uint16).to(tl.float16, bitcast=True)
        # The interpreter holds bf16 as integers and adds those; float32 sums are exact here.
        X: tl.constexpr = n0.dtype
        n0 = (n0.to(tl.float32) + z0.to(tl.float32)).to(X)
        n1 = (n1.to(tl.float32) + z1.to(tl.float32)).to(X)
        n2 = (n2.to(tl.float32) + z2.to(tl.float32)).to(X)
        n3 = (n3.to(tl.float32) + z3.to(tl.float32)).to(X)
        return n0, n1, n2, n3


@triton.jit  # type: ignore[untyped-decorator]
def _product(w, x, y, ASM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute float32 y + w x; the interpreter has no products of bf16, float32's are exact."""
    if ASM:
        return tl.dot(w, x, y)
    else:
        return tl.dot(w.to(tl.float32), x.to(tl.float32), y, input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator]
def _scaled(w, s, ASM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Multiply w by a scale of each row, rounded to w's dtype once."""
    if ASM:
        return w * s.to(w.dtype)[:, None]
    else:
        return (w.to(tl.float32) * s.to(w.dtype).to(tl.float32)[:, None]).to(w.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _grid(words, BF16: tl.constexpr):  # type: ignore[no-untyped-def]
    """Split words [rows] (zero above scale) into float32 scale, -(1024 + z) and -(64 + z).

    For bf16 both subtrahends are -(128 + z).
    """
    scale = (words & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    if BF16:
        high = ((words >> 16) | 0xC300).to(tl.int16).to(tl.bfloat16, bitcast=True)
        return scale, high[:, None], high[:, None]
    else:
        high = ((words >> 16) | 0xE400).to(tl.int16).to(tl.float16, bitcast=True)
        low = (((words >> 12) & 0xF0) | 0xD400).to(tl.int16).to(tl.float16, bitcast=True)
        return scale, high[:, None], low[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def _planes(  # type: ignore[no-untyped-def]
    w,
    grid,
    t,
    PER_TILE: tl.constexpr,
    TILES_PER_GROUP: tl.constexpr,
    BF16: tl.constexpr,
    ASM: tl.constexpr,
):
    """Give four planes of ``code - zero`` of words w of tile t, and each one's scale by row."""
    if PER_TILE == 1:
        group = t // TILES_PER_GROUP if TILES_PER_GROUP > 0 else 0
        s0, high, low = _grid(tl.load(grid + group * 128), BF16)
        w0, w1, w2, w3 = _steps(w, high, low, high, low, BF16, ASM)
        s1, s2, s3 = s0, s0, s0
    elif PER_TILE == 2:
        s0, h0, l0 = _grid(tl.load(grid + t * 256), BF16)
        s2, h2, l2 = _grid(tl.load(grid + t * 256 + 128), BF16)
        w0, w1, w2, w3 = _steps(w, h0, l0, h2, l2, BF16, ASM)
        s1, s3 = s0, s2
    else:
        s0, h0, l0 = _grid(tl.load(grid + t * 512), BF16)
        s1, _, l1 = _grid(tl.load(grid + t * 512 + 128), BF16)
        s2, h2, l2 = _grid(tl.load(grid + t * 512 + 256), BF16)
        s3, _, l3 = _grid(tl.load(grid + t * 512 + 384), BF16)
        w0, w1, w2, w3 = _steps(w, h0, l1, h2, l3, BF16, ASM)
    return w0, w1, w2, w3, s0, s1, s2, s3


@triton.jit  # type: ignore[untyped-decorator]
def w4a16(  # type: ignore[no-untyped-def]
    x_ptr,  # fp16 or bf16 [M, K], row stride stride_x
    codes_ptr,  # int16 [N/128, tiles_k, 128, 32]
    grid_ptr,  # int32 [N/128, groups, 128]
    bias_ptr,  # of x's dtype [N]
    y_ptr,  # of x's dtype [M, N]
    partial_ptr,  # float32 [tiles, SPLIT, BN, BM]
    count_ptr,  # int32 [at least tiles], zero before and after
    M,
    N,
    K,
    stride_x,
    tiles_k,
    groups,
    BN: tl.constexpr,
    BM: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    PER_TILE: tl.constexpr,  # grid words of a row in a tile: 1, 2 or 4
    TILES_PER_GROUP: tl.constexpr,  # where PER_TILE is 1; 0: one group
    EVEN_K: tl.constexpr,
    BIAS: tl.constexpr,
    PRESCALE: tl.constexpr,  # scales before the product, rounded to x's dtype
    BF16: tl.constexpr,
    ASM: tl.constexpr,
):
    """Compute one tile of Y^T = W X^T (+ bias), or a part of its sum over inputs."""
    X: tl.constexpr = tl.bfloat16 if BF16 else tl.float16
    pn, ps, pm = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    k, n = tl.arange(0, 32), pn * BN + tl.arange(0, BN)
    m = pm * BM + tl.arange(0, BM)
    first, last = ps * tiles_k // SPLIT, (ps + 1) * tiles_k // SPLIT
    # A tile of 256 outputs may reach beyond the last of 128: it reads that one again.
    tile_n = tl.minimum(n // 128, (N - 1) // 128).to(tl.int64)
    codes = codes_ptr + (tile_n * tiles_k + first)[:, None] * 4096
    codes += (n % 128)[:, None] * 32 + k[None, :]
    grid = grid_ptr + tile_n * groups * 128 + n % 128
    x = x_ptr + m[None, :].to(tl.int64) * stride_x + k[:, None] + first * 128
    alive = m[None, :] < M
    none = tl.zeros((BN, BM), tl.float32)
    y = none
    for t in tl.range(first, last, num_stages=STAGES):
        w = tl.load(codes)
        if EVEN_K:
            x0 = tl.load(x, mask=alive, other=0.0)
            x1 = tl.load(x + 32, mask=alive, other=0.0)
            x2 = tl.load(x + 64, mask=alive, other=0.0)
            x3 = tl.load(x + 96, mask=alive, other=0.0)
        else:
            left = K - t * 128 - k[:, None]
            x0 = tl.load(x, mask=alive & (left > 0), other=0.0)
            x1 = tl.load(x + 32, mask=alive & (left > 32), other=0.0)
            x2 = tl.load(x + 64, mask=alive & (left > 64), other=0.0)
            x3 = tl.load(x + 96, mask=alive & (left > 96), other=0.0)
        w0, w1, w2, w3, s0, s1, s2, s3 = _planes(w, grid, t, PER_TILE, TILES_PER_GROUP, BF16, ASM)
        if PRESCALE:
            y = _product(_scaled(w0, s0, ASM), x0, y, ASM)
            y = _product(_scaled(w1, s1, ASM), x1, y, ASM)
            y = _product(_scaled(w2, s2, ASM), x2, y, ASM)
            y = _product(_scaled(w3, s3, ASM), x3, y, ASM)
        else:
            part = _product(w0, x0, none, ASM)
            if PER_TILE == 4:
                y += part * s0[:, None]
                part = _product(w1, x1, none, ASM)
                y += part * s1[:, None]
                part = _product(w2, x2, none, ASM)
                y += part * s2[:, None]
                part = _product(w3, x3, none, ASM)
            else:
                part = _product(w1, x1, part, ASM)
                if PER_TILE == 2:
                    y += part * s0[:, None]
                    part = _product(w2, x2, none, ASM)
                else:
                    part = _product(w2, x2, part, ASM)
                part = _product(w3, x3, part, ASM)
            y += part * s3[:, None]
        codes += 4096
        x += 128
    if SPLIT > 1:
        # Whoever comes last adds up all parts, in their order: the same bits whatever the timing.
        tile = pm * tl.num_programs(0) + pn
        here = partial_ptr + tile.to(tl.int64) * SPLIT * BN * BM
        here += tl.arange(0, BN)[:, None] * BM + tl.arange(0, BM)[None, :]
        tl.store(here + ps * BN * BM, y)
        tl.debug_barrier()
        if tl.atomic_add(count_ptr + tile, 1, sem="acq_rel") != SPLIT - 1:
            return
        tl.store(count_ptr + tile, 0)
        y = tl.zeros((BN, BM), tl.float32)
        for part_number in range(SPLIT):
            y += tl.load(here + part_number * BN * BM, cache_modifier=".cg")
    if BIAS:
        y += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    out = y_ptr + m[None, :].to(tl.int64) * N + n[:, None]
    tl.store(out, y.to(X), mask=alive & (n[:, None] < N))


@triton.jit  # type: ignore[untyped-decorator]
def decode(  # type: ignore[no-untyped-def]
    codes_ptr,  # int16 [N/128, tiles_k, 128, 32]
    grid_ptr,  # int32 [N/128, groups, 128]
    out_ptr,  # fp16 or bf16 [rows, K]: the weights of outputs first_tile * 128 and on
    first_tile,
    rows,
    K,
    tiles_k,
    groups,
    PER_TILE: tl.constexpr,
    TILES_PER_GROUP: tl.constexpr,
    BF16: tl.constexpr,
    ASM: tl.constexpr,
):
    """Decode one tile of 128 x 128 weights, each rounded to the output's dtype once."""
    tile_n, t = tl.program_id(0) + first_tile, tl.program_id(1)
    row, k = tl.arange(0, 128), tl.arange(0, 32)
    codes = codes_ptr + (tile_n.to(tl.int64) * tiles_k + t) * 4096
    w = tl.load(codes + row[:, None] * 32 + k[None, :])
    grid = grid_ptr + tile_n.to(tl.int64) * groups * 128 + row
    w0, w1, w2, w3, s0, s1, s2, s3 = _planes(w, grid, t, PER_TILE, TILES_PER_GROUP, BF16, ASM)
    here = tl.program_id(0) * 128 + row
    out = out_ptr + here[:, None].to(tl.int64) * K + t * 128 + k[None, :]
    alive, left = (here < rows)[:, None], K - t * 128 - k[None, :]
    tl.store(out, _exactly_scaled(w0, s0), mask=alive & (left > 0))
    tl.store(out + 32, _exactly_scaled(w1, s1), mask=alive & (left > 32))
    tl.store(out + 64, _exactly_scaled(w2, s2), mask=alive & (left > 64))
    tl.store(out + 96, _exactly_scaled(w3, s3), mask=alive & (left > 96))


@triton.jit
def _exactly_scaled(w, s):  # type: ignore[no-untyped-def]
    """Multiply w by a float32 scale of each row, rounded to w's dtype once."""
    return (w.to(tl.float32) * s[:, None]).to(w.dtype)
