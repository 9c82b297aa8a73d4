"""A model's forward pass is run block by block here, and every product in it is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quantcore.errors import InputError
from quantcore.structure import Matrix, block_list


class Watch(TorchFunctionMode):
    """A watch sees every product of a tensor with one of a module's matrices, whoever computes it.

    ``with Watch(block, seen): run(block)`` calls ``seen(matrix, x, y)`` for each y = x W^T, be it
    of an nn.Linear, a Conv1D, a router's bare weight or one expert's slice of a three-dimensional
    parameter. What ``seen`` returns, if not None, takes the place of y.
    """

    def __init__(
        self, module: nn.Module, seen: Callable[[Matrix, Tensor, Tensor], Tensor | None]
    ) -> None:
        """Look up the addresses of the module's matrices."""
        super().__init__()
        self._seen = seen
        self._at: dict[int, tuple[Tensor, str, int | None]] = {}
        for name, parameter in module.named_parameters():
            if parameter.dim() == 2:
                self._at[parameter.data_ptr()] = (parameter, name, None)
            elif parameter.dim() == 3:
                for expert, weight in enumerate(parameter.detach()):
                    self._at[weight.data_ptr()] = (weight, name, expert)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function, and tell if it was such a product."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is nn.functional.linear:
            operands = [*args, *(kwargs[key] for key in ("input", "weight") if key in kwargs)]
        elif func in _PRODUCTS:
            operands = [*args, *kwargs.values()][-2:]
        else:
            return output
        x, weight = operands[:2]
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            return output
        stored, name, expert = self._at.get(weight.data_ptr(), (None, "", None))
        if stored is None:
            return output
        straight = weight.shape == stored.shape and weight.stride() == stored.stride()
        flipped = weight.shape == stored.t().shape and weight.stride() == stored.t().stride()
        if not (straight or flipped):
            return output  # a part of it: such a structure is unknown, and refused as such
        matrix = Matrix(
            name=name.removesuffix(".weight") if expert is None else f"{name}.{expert}",
            parameter=name,
            expert=expert,
            transposed=straight != (func is nn.functional.linear),
        )
        replaced = self._seen(matrix, x, output)
        return output if replaced is None else replaced


_PRODUCTS = frozenset(
    {torch.addmm, torch.mm, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.mm}
)
"""Functions whose last two arguments are x [..., K] and a matrix [K, N]."""


@contextmanager
def experts_one_by_one(model: nn.Module) -> Iterator[None]:
    """Let mixture-of-experts layers run as a loop over their experts, each with its own tokens.

    Transformers may compute all experts in one fused call, in which no single product is seen.
    """
    change: Any = getattr(model, "set_experts_implementation", None)
    current: Any = getattr(model, "get_experts_implementation", None)
    if change is None or current is None:
        yield
        return
    before = current()
    change("eager")
    try:
        yield
    finally:
        change(before)


@dataclass
class BlockCall:
    """A call says how a model calls one of its blocks: what comes after the hidden states."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Give the block's output hidden states, [batch, tokens, features]."""
        output = block(hidden, *self.args, **self.kwargs)
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor):
            raise InputError(f"{type(block).__name__} returns a {type(hidden).__name__}")
        return hidden


class _Captured(Exception):
    """A forward pass ends here once every block's call is known."""


@torch.no_grad()
def embed(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Give the hidden states that the first block gets, [batch, tokens, features]."""
    first = block_list(model)[1][0]
    hidden: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden.append(args[0] if args else kwargs["hidden_states"])
        raise _Captured

    handle = first.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        model(input_ids=input_ids, use_cache=False)
    except _Captured:
        return hidden[0]
    finally:
        handle.remove()
    raise RuntimeError("the model ran without its first block")


@torch.no_grad()
def capture_calls(model: nn.Module, input_ids: Tensor) -> list[BlockCall]:
    """Record how every block is called, besides hidden states; only the first block really runs.

    Args:
        model: a causal language model.
        input_ids: int64 [batch, tokens]; calls serve batches of this shape.
    """
    _, blocks = block_list(model)
    calls: list[BlockCall] = []
    form: list[Any] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            args = args[1:]
        else:
            kwargs = {key: value for key, value in kwargs.items() if key != "hidden_states"}
        calls.append(BlockCall(args, kwargs))
        if len(calls) == len(blocks):
            raise _Captured

    with ExitStack() as stack:
        for block in blocks:
            handle = block.register_forward_pre_hook(record, with_kwargs=True)
            stack.callback(handle.remove)
        stack.callback(blocks[0].register_forward_hook(lambda m, a, out: form.append(out)).remove)
        for block in blocks[1:]:
            # What the first block gave will do for the others: it has the right shape and form.
            stack.callback(block.__dict__.pop, "forward", None)
            block.__dict__["forward"] = lambda *args, **kwargs: form[0]
        with suppress(_Captured):
            model(input_ids=input_ids, use_cache=False)
    return calls
