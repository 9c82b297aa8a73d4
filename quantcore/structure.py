"""The structure of a transformer block, read off the block itself.

Nothing here knows a model's class. A block is run on random input in float64, and watched:

- linears that read the same tensor form a group;
- a norm that wrote that tensor can absorb the group's scales; so can a linear whose output rows,
  when scaled, come out as scaled channels of that tensor (v_proj before o_proj through the
  attention, with grouped-query repeats; up_proj before down_proj through a product; fc1 before
  fc2 through a ReLU, but not through a GELU);
- every fold found this way is tried out, and has to leave the block's output as it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quantcore.errors import InputError
from quantcore.scheme import QuantScheme

PROVEN_FAMILIES = {
    "llama": "Llama 1 to 3, and models of its shape (TinyLlama, SmolLM, Yi)",
    "mistral": "Mistral",
    "qwen2": "Qwen2 and Qwen2.5 (biases on q, k, v)",
    "qwen3": "Qwen3 (norms on q and k)",
    "opt": "OPT (LayerNorm with bias, ReLU, learned positions)",
}
"""Model types whose fold is proven by a test on a tiny random model of their own class. Others are
quantized too if `discover` can read and verify them."""


@dataclass(frozen=True, kw_only=True)
class Absorber:
    """The operation before, which is divided by the scales that its readers are multiplied by."""

    name: str
    """The module's name within the block."""
    kind: Literal["norm", "linear"]
    """A norm's weight (and bias), or the rows of a linear's weight (and bias)."""
    rows: Tensor
    """int64 [K]: which entry (of the norm) or row (of the linear) writes channel k."""

    def per_row(self, scales: Tensor, count: int) -> Tensor:
        """Scales [K] of the channels as factors [count] of the rows; rows not read keep 1."""
        factors = torch.ones(count, dtype=scales.dtype, device=scales.device)
        factors[self.rows.to(scales.device)] = scales
        return factors


@dataclass(frozen=True, kw_only=True)
class LinearGroup:
    """Linears that share one input of K channels."""

    index: int
    """Its number within the block."""
    linears: tuple[str, ...]
    """Those that are quantized, by their names within the block."""
    consumers: tuple[str, ...]
    """All that read the input, quantized or not: all are rescaled when scales are folded."""
    in_features: int
    """K."""
    absorber: Absorber | None
    """Who takes the scales; None: nobody can, and ``reason`` says why."""
    reason: str = ""

    @property
    def label(self) -> str:
        """Short name for people: ``q_proj+k_proj+v_proj``."""
        return "+".join(name.rsplit(".", 1)[-1] for name in self.consumers)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One transformer block in its model."""

    name: str
    """Its name within the model, such as ``model.layers.3``."""
    module: nn.Module
    groups: tuple[LinearGroup, ...]

    def linear(self, name: str) -> nn.Linear:
        """The linear of that name within the block."""
        module = self.module.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise TypeError(f"{self.name}.{name} is a {type(module).__name__}, not a linear")
        return module


@dataclass(frozen=True, kw_only=True)
class Structure:
    """All blocks of a model, and what stays outside."""

    blocks: tuple[Block, ...]
    exempt: tuple[str, ...]
    """Parameters of two or more dimensions that are not quantized, by their full names."""
    notices: tuple[str, ...]
    """What a user should know, such as groups that nothing can absorb."""

    def check_scheme(self, scheme: QuantScheme) -> None:
        """Refuse a group size that does not divide every input, before any work.

        Raises:
            InputError: names the sizes that fit.
        """
        size = scheme.group_size
        widths = sorted({g.in_features for b in self.blocks for g in b.groups if g.linears})
        misfits = [k for k in widths if size is not None and k % size]
        if misfits:
            common = math.gcd(*widths)
            fitting = [s for s in (16, 32, 64, 96, 128, 192, 256, 512, 1024) if common % s == 0]
            fitting = fitting or [d for d in range(common, 0, -1) if common % d == 0][:4]
            raise InputError(
                f"{scheme.name}: groups of {size} do not divide inputs of "
                f"{', '.join(map(str, misfits))}; group sizes that fit this model: "
                f"{', '.join(map(str, fitting))}, or 'channel'"
            )


@dataclass
class BlockCall:
    """How a model calls one of its blocks: what comes after the hidden states."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's output hidden states, [batch, tokens, features]."""
        output = block(hidden, *self.args, **self.kwargs)
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor):
            raise InputError(f"{type(block).__name__} returns a {type(hidden).__name__}")
        return hidden


def block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's blocks: its one list of ``num_hidden_layers`` modules.

    Raises:
        InputError: there is no such list, or more than one.
    """
    count = getattr(model.config, "num_hidden_layers", None)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if len(found) != 1:
        raise InputError(
            f"{type(model).__name__}: expected one list of {count} blocks (num_hidden_layers), "
            f"found {len(found)}: {[name for name, _ in found]}; this structure is unknown, "
            "quantcore.structure.block_list has to learn it"
        )
    return found[0]


class _Captured(Exception):
    """Ends a forward pass once every block's call is known."""


@torch.no_grad()
def embed(model: nn.Module, input_ids: Tensor) -> Tensor:
    """The hidden states that the first block gets, [batch, tokens, features]."""
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
    """How every block is called, besides the hidden states.

    Calls are captured for one sequence and serve any batch: masks, positions and rotary tables
    broadcast, for calibration sequences are not padded.

    Args:
        model: a causal language model.
        input_ids: int64 [1, tokens].
    """
    _, blocks = block_list(model)
    calls = [BlockCall() for _ in blocks]

    def record(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = dict(kwargs)
            if not args:
                kwargs.pop("hidden_states")
            calls[index] = BlockCall(args[1:], kwargs)
            if index == len(blocks) - 1:
                raise _Captured

        return hook

    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            handle = block.register_forward_pre_hook(record(index), with_kwargs=True)
            stack.callback(handle.remove)
        with suppress(_Captured):
            model(input_ids=input_ids, use_cache=False)
    return calls


def discover(model: nn.Module, *, exclude: Sequence[str] = ()) -> Structure:
    """Read every block's groups, who absorbs their scales, and what is left alone.

    Args:
        model: a causal language model of transformers, on any device.
        exclude: patterns (``*.down_proj``, ``model.layers.0.*``) of linears to leave unquantized.

    Raises:
        InputError: a parameter of two or more dimensions that is neither quantized nor excluded, a
            norm of an unknown form, or a pattern that matches nothing.
    """
    list_name, modules = block_list(model)
    device = next(model.parameters()).device
    tokens = torch.arange(48, device=device) % int(getattr(model.config, "vocab_size", 48))
    calls = capture_calls(model, tokens[None])
    known: dict[object, tuple[tuple[LinearGroup, ...], list[str]]] = {}
    blocks: list[Block] = []
    exempt: list[str] = []
    notices: list[str] = []
    unused = set(exclude)
    for index, (module, call) in enumerate(zip(modules, calls, strict=True)):
        name = f"{list_name}.{index}"
        signature = (
            type(module),
            tuple((n, tuple(p.shape)) for n, p in module.named_parameters()),
        )
        if signature not in known:
            known[signature] = _read_block(module, call)
            notices += [f"{name} and blocks like it: {text}" for text in known[signature][1]]
        groups = []
        for group in known[signature][0]:
            kept = []
            for linear in group.linears:
                full = f"{name}.{linear}"
                hits = {p for p in exclude if fnmatchcase(full, p) or fnmatchcase(full, f"*{p}*")}
                unused -= hits
                if hits:
                    exempt.append(f"{full}.weight")
                else:
                    kept.append(linear)
            groups.append(
                LinearGroup(
                    index=group.index,
                    linears=tuple(kept),
                    consumers=group.consumers,
                    in_features=group.in_features,
                    absorber=group.absorber,
                    reason=group.reason,
                )
            )
        blocks.append(Block(name=name, module=module, groups=tuple(groups)))
    if unused:
        linears = sorted({f"{list_name}.*.{n}" for g in blocks[0].groups for n in g.linears})
        raise InputError(
            f"--exclude {', '.join(sorted(unused))}: matches no linear; this model has "
            f"{', '.join(linears)}"
        )
    if not any(group.linears for block in blocks for group in block.groups):
        raise InputError(
            f"--exclude {', '.join(exclude)}: leaves no linear to quantize; exclude fewer"
        )
    inside = f"{list_name}."
    exempt += [n for n, p in model.named_parameters() if p.dim() >= 2 and not n.startswith(inside)]
    return Structure(blocks=tuple(blocks), exempt=tuple(exempt), notices=tuple(notices))


def _read_block(module: nn.Module, call: BlockCall) -> tuple[tuple[LinearGroup, ...], list[str]]:
    """Groups and notices of one block."""
    linears = {f"{n}.weight" for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    _account_for_all(module, linears)
    groups = _Probe(module, call).groups()
    _account_for_all(module, {f"{name}.weight" for group in groups for name in group.consumers})
    notices = [
        f"{group.label}: AWQ cannot scale its input ({group.reason})"
        for group in groups
        if group.absorber is None
    ]
    return groups, notices


def _account_for_all(module: nn.Module, weights: set[str]) -> None:
    """Refuse a block with a matrix that is not among ``weights``."""
    for name, parameter in module.named_parameters():
        if parameter.dim() >= 2 and name not in weights:
            owner = module.get_submodule(name.rpartition(".")[0])
            raise InputError(
                f"{type(module).__name__}: parameter {name} {list(parameter.shape)} of a "
                f"{type(owner).__name__} is not the weight of a linear that ran, so it would "
                "silently stay unquantized; this structure is unknown, quantcore.structure has "
                "to learn it"
            )


class _Probe:
    """A float64 copy of a block, on the CPU, with random hidden states to run it on."""

    def __init__(self, module: nn.Module, call: BlockCall) -> None:
        def to_double(value: Any) -> Any:
            if isinstance(value, Tensor):
                value = value.cpu()
                return value.double() if value.is_floating_point() else value
            if isinstance(value, tuple | list):
                return type(value)(to_double(v) for v in value)
            return value

        self.module = copy.deepcopy(module).cpu().double().eval()
        self.call = BlockCall(
            to_double(call.args), {key: to_double(value) for key, value in call.kwargs.items()}
        )
        self.random = torch.Generator().manual_seed(0)
        # Random norms too: a norm of ones would make a wrong fold look right.
        with torch.no_grad():
            for parameter in self.module.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.2 * self._normal(*parameter.shape))
        self.linears = {n: m for n, m in self.module.named_modules() if isinstance(m, nn.Linear)}
        width = next(iter(self.linears.values())).in_features
        self.hidden = self._normal(1, 48, width)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def _scales(self, count: int) -> Tensor:
        """Distinct factors in [0.5, 2], in random order."""
        ladder = torch.logspace(-1, 1, count, base=2.0, dtype=torch.float64)
        return ladder[torch.randperm(count, generator=self.random)]

    @torch.no_grad()
    def _run(
        self,
        *,
        scaled_output: tuple[nn.Module, Tensor] | None = None,
        module: nn.Module | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Output of the block, the input of every linear, the output of every leaf module."""
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        with ExitStack() as stack:
            if scaled_output is not None:
                target, factors = scaled_output
                handle = target.register_forward_hook(lambda m, a, out: out * factors)
                stack.callback(handle.remove)

            def watch(name: str, child: nn.Module) -> None:
                def after(m: nn.Module, args: tuple[Any, ...], out: Any) -> None:
                    if isinstance(m, nn.Linear):
                        inputs.setdefault(name, args[0])
                    if isinstance(out, Tensor):
                        outputs[name] = out

                stack.callback(child.register_forward_hook(after).remove)

            used = self.module if module is None else module
            for name, child in used.named_modules():
                if name and next(child.children(), None) is None:
                    watch(name, child)
            result = self.call.run(used, self.hidden)
        return result, inputs, outputs

    def groups(self) -> tuple[LinearGroup, ...]:
        """Group the linears by the tensor that they read, and find and try every absorber."""
        _, inputs, outputs = self._run()
        by_tensor: dict[tuple[int, int], list[str]] = {}
        for name, tensor in inputs.items():
            by_tensor.setdefault((tensor.data_ptr(), tensor.numel()), []).append(name)
        writers = {(t.data_ptr(), t.numel()): n for n, t in outputs.items()}
        groups: list[LinearGroup] = []
        for index, (tensor_key, names) in enumerate(by_tensor.items()):
            width = self.linears[names[0]].in_features
            absorber, reason = self._absorber(writers.get(tensor_key), names, width, inputs)
            groups.append(
                LinearGroup(
                    index=index,
                    linears=tuple(names),
                    consumers=tuple(names),
                    in_features=width,
                    absorber=absorber,
                    reason=reason,
                )
            )
        return tuple(groups)

    def _absorber(
        self, writer: str | None, names: Sequence[str], width: int, inputs: Mapping[str, Tensor]
    ) -> tuple[Absorber | None, str]:
        """Who can take the scales of one group, or why nobody can."""
        if (
            writer is not None
            and writer not in self.linears
            and hasattr(self.module.get_submodule(writer), "weight")
        ):
            return self._norm_absorber(writer, names, width)
        order = list(inputs)
        earlier = [n for n in order[: order.index(names[0])] if n not in names]
        for candidate in reversed(earlier):
            rows = self._rows_through(candidate, names[0], inputs[names[0]])
            if rows is None:
                continue
            absorber = Absorber(name=candidate, kind="linear", rows=rows)
            if self._fold_preserves(absorber, names, width):
                return absorber, ""
            return None, f"something besides {'+'.join(names)} reads what {candidate} writes"
        return None, "no operation before it lets scales through"

    def _norm_absorber(
        self, writer: str, names: Sequence[str], width: int
    ) -> tuple[Absorber | None, str]:
        norm = self.module.get_submodule(writer)
        if norm.get_parameter("weight").shape != (width,):
            return None, f"it is written by {writer}, a {type(norm).__name__}, not a norm"
        absorber = Absorber(name=writer, kind="norm", rows=torch.arange(width))
        if self._fold_preserves(absorber, names, width):
            return absorber, ""
        # Would scaling the norm's output do? Then only the form of its weight is unknown.
        scales = self._scales(width)
        consumers = copy.deepcopy(self.module)
        with torch.no_grad():
            for name in names:
                consumers.get_submodule(name).get_parameter("weight").mul_(scales)
        scaled = (consumers.get_submodule(writer), 1 / scales)
        if _same(self._run()[0], self._run(scaled_output=scaled, module=consumers)[0]):
            raise InputError(
                f"{type(norm).__name__} ({writer}): its output is not proportional to its weight; "
                "this form of norm is unknown, quantcore.structure has to learn it"
            )
        return None, f"something besides {'+'.join(names)} reads what {writer} writes"

    def _rows_through(self, candidate: str, reader: str, before: Tensor) -> Tensor | None:
        """Which output row of ``candidate`` scales which channel of ``reader``'s input, if so.

        Every row is scaled by a factor of its own. If each channel then changes by one factor over
        all tokens, the factor tells the row.
        """
        linear = self.linears[candidate]
        factors = self._scales(linear.out_features)
        after = self._run(scaled_output=(linear, factors))[1][reader]
        before, after = before.reshape(-1, before.shape[-1]), after.reshape(-1, before.shape[-1])
        alive = before.abs() > 1e-9 * before.abs().max()
        ratio = torch.where(alive, after / before, torch.nan)
        factor = ratio.nanmedian(0).values
        silent = ~alive.any(0)  # a ReLU that never opened: nothing to see in these channels
        if not _close(ratio, factor.expand_as(ratio), where=alive) or bool(silent.all()):
            return None
        ladder, rank = factors.sort()
        nearest = torch.searchsorted(ladder, factor.nan_to_num(1.0))
        choices = torch.stack([(nearest - 1).clamp(min=0), nearest.clamp(max=len(ladder) - 1)])
        best = (ladder[choices] - factor).abs().argmin(0)
        found = choices.gather(0, best[None])[0]
        if not _close(ladder[found], factor, where=~silent):
            return None
        rows = rank[found]
        if bool(silent.any()):
            straight = torch.arange(len(rows))
            if len(rows) != len(factors) or bool((rows != straight)[~silent].any()):
                return None
            rows = straight
        return rows

    def _fold_preserves(self, absorber: Absorber, names: Sequence[str], width: int) -> bool:
        """Fold random scales into a copy of the block: its output must be what it was."""
        folded = copy.deepcopy(self.module)
        weights: dict[str, Tensor] = {}
        scales = self._scales(int(absorber.rows.max()) + 1)[absorber.rows]
        fold(folded, weights, absorber, names, scales)
        return _same(self._run()[0], self._run(module=folded)[0])


def _close(a: Tensor, b: Tensor, *, where: Tensor) -> bool:
    return bool((((a - b).abs() <= 1e-6 * b.abs()) | ~where).all())


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal up to the float32 that norms compute in, whatever the dtype."""
    return float((a - b).norm()) <= 1e-5 * float(a.norm())


@torch.no_grad()
def fold(
    module: nn.Module,
    weights: dict[str, Tensor],
    absorber: Absorber,
    consumers: Sequence[str],
    scales: Tensor,
) -> Tensor:
    """Divide the absorber by ``scales`` and multiply its readers' columns: the function stays.

    A norm's weight is stored in the model's dtype, and its rounding there is a scale too: readers
    are multiplied by what the stored norm really carries.

    Args:
        module: the block, changed in place.
        weights: float32 copies of the weights about to be quantized, by name; changed in place of
            the module's own.
        absorber: who takes the scales.
        consumers: everyone who reads the tensor.
        scales: positive, [K]; equal for channels that the same row writes.

    Returns:
        the scales that were folded, float32 or better [K].
    """
    target = module.get_submodule(absorber.name)
    stored = target.get_parameter("weight")
    bias: Tensor | None = getattr(target, "bias", None)
    wide = torch.promote_types(stored.dtype, torch.float32)
    scales = scales.to(stored.device, wide)
    if absorber.kind == "norm":
        old = stored.to(wide)
        new = (old / scales).to(stored.dtype)
        carried = torch.where(new == 0, torch.ones_like(old), old / new.to(wide))
        # Where the weight was zero only the bias speaks, and it takes the scale as it is.
        scales = torch.where(old == 0, scales, carried)
        stored.copy_(torch.where((new == 0) & (old != 0), stored.data, new))
        if bias is not None:
            bias.copy_((bias.to(wide) / scales).to(bias.dtype))
    else:
        per_row = absorber.per_row(scales, stored.shape[0])
        if absorber.name in weights:
            weights[absorber.name] /= per_row[:, None].to(weights[absorber.name].dtype)
        else:
            stored.copy_((stored.to(wide) / per_row[:, None]).to(stored.dtype))
        if bias is not None:
            bias.copy_((bias.to(wide) / per_row).to(bias.dtype))
    for name in consumers:
        if name in weights:
            weights[name] *= scales.to(weights[name].dtype)
        else:
            weight = module.get_submodule(name).get_parameter("weight")
            weight.copy_((weight.to(wide) * scales).to(weight.dtype))
    return scales
