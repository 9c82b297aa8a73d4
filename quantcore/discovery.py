"""The structure of a model is read off the model itself.

Nothing here knows a model's class. A block is copied to float64, run on random input, and watched:

- matrices that multiply the same tensor form a group; each expert of a mixture is its own;
- a *writer* (a norm with a weight, or a matrix) can absorb a group's scales if some of its rows
  pass straight through: scaling row r by f scales the channels that r writes by f, at every token.
  With y the group's input and f the rows' factors, that is  dy/df_r = y  on r's channels, so the
  gradient by f_r of any sum over tokens that is orthogonal to y vanishes. One backward pass tells
  this of every row of every writer: v passes through attention, q and k do not, however they are
  fused; up passes through a gated product, gate does not; fc1 passes a ReLU and not a GELU;
- every fold found this way is tried out, and has to leave the block's output as it was;
- rows that write queries and keys are those that the scores of attention depend on, by gradient
  too (`quantcore.scores`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.errors import InputError
from quantcore.exclusion import without
from quantcore.forward import BlockCall, Watch, capture_calls, embed, experts_one_by_one
from quantcore.scores import ScoreRows, ScoreWatch, score_rows
from quantcore.structure import (
    Absorber,
    Block,
    LinearGroup,
    Matrix,
    Structure,
    block_list,
    fold,
)

PROVEN_FAMILIES = {
    "llama": "Llama 1 to 3, and models of its shape (TinyLlama, SmolLM, Yi)",
    "mistral": "Mistral",
    "qwen2": "Qwen2 and Qwen2.5 (biases on q, k, v)",
    "qwen3": "Qwen3 (norms on q and k)",
    "gemma": "Gemma (norms that multiply by 1 + w, multi-query heads, tied embeddings)",
    "gemma2": "Gemma 2 (norms before and after, sliding windows)",
    "gemma3_text": "Gemma 3 (norms on q and k); of a model that also sees, its text part",
    "phi": "Phi 1 and 2 (attention and MLP in parallel after one LayerNorm, biases)",
    "phi3": "Phi-3 and Phi-4 (fused qkv and gate_up)",
    "gpt_neox": "GPT-NeoX and Pythia (q, k and v fused head by head, parallel attention)",
    "gpt2": "GPT-2 (Conv1D: weights stored the other way round)",
    "bloom": "BLOOM (ALiBi, q, k and v fused head by head)",
    "cohere": "Command R (attention and MLP in parallel, a gated MLP)",
    "falcon": "Falcon (multi-query attention, fused qkv)",
    "gpt_bigcode": "StarCoder (multi-query attention, fused qkv)",
    "gptj": "GPT-J (attention and MLP in parallel)",
    "granite": "Granite",
    "olmo2": "OLMo 2 (no norm before the projections, so AWQ scales only o and down)",
    "smollm3": "SmolLM3",
    "starcoder2": "StarCoder2 (LayerNorm, biases, GELU)",
    "opt": "OPT (LayerNorm with bias, ReLU, learned positions)",
    "mixtral": "Mixtral (experts with statistics of their own; the router is left as it is)",
    "qwen2_moe": "Qwen2 mixtures of experts (with a shared expert)",
    "qwen3_moe": "Qwen3 mixtures of experts",
}
"""Model types whose fold is proven by a test on a tiny random model of their own class. Others are
quantized too if `discover` can read and verify them."""

_TOKENS, _TOKENS_WITH_EXPERTS = 48, 256


@torch.no_grad()
def discover(model: nn.Module, *, exclude: Sequence[str] = ()) -> Structure:
    """Read every block's groups, who absorbs their scales, and what is left alone.

    Args:
        model: a causal language model of transformers, on any device.
        exclude: patterns of linears to leave unquantized, see `quantcore.exclusion`.

    Raises:
        InputError: a parameter of two or more dimensions that is neither quantized nor excluded, a
            norm of an unknown form, a pattern that matches nothing, or patterns that match all.
    """
    list_name, modules = block_list(model)
    mixture = any(p.dim() == 3 for p in modules.parameters())
    count = min(
        _TOKENS_WITH_EXPERTS if mixture else _TOKENS,
        int(getattr(model.config, "max_position_embeddings", None) or _TOKENS),
    )
    device = next(model.parameters()).device
    tokens = torch.arange(count, device=device)[None] % int(getattr(model.config, "vocab_size", 48))
    known: dict[object, _Reading] = {}
    blocks: list[Block] = []
    exempt: list[str] = []
    notices: list[str] = []
    with experts_one_by_one(model):
        calls = capture_calls(model, tokens)
        shape = embed(model, tokens).shape
        for index, (module, call) in enumerate(zip(modules, calls, strict=True)):
            name = f"{list_name}.{index}"
            signature = (
                type(module),
                tuple((n, tuple(p.shape)) for n, p in module.named_parameters()),
            )
            if signature not in known:
                known[signature] = _Probe(module, call, shape).read()
                notices += [f"{name} and blocks like it: {t}" for t in known[signature].notices]
            reading = known[signature]
            exempt += [f"{name}.{parameter}" for parameter in reading.exempt]
            blocks.append(
                Block(name=name, module=module, matrices=reading.matrices, groups=reading.groups)
            )
    blocks, left_out = without(blocks, exclude)
    exempt += left_out
    inside = f"{list_name}."
    exempt += [n for n, p in model.named_parameters() if p.dim() >= 2 and not n.startswith(inside)]
    return Structure(blocks=tuple(blocks), exempt=tuple(exempt), notices=tuple(notices))


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A reading is what a probe read off a block: the same for all blocks of its shape."""

    matrices: Mapping[str, Matrix]
    groups: tuple[LinearGroup, ...]
    exempt: tuple[str, ...]
    notices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run is what a probe saw when it ran its block once."""

    output: Tensor
    inputs: dict[str, Tensor]
    """What every matrix read, in the order of reading."""
    writers: list[str]
    """Norms and matrices, in the order of writing."""
    written_before: dict[str, int]
    """How many of the writers had written when a matrix read."""


class _Probe:
    """A probe is a float64 copy of a block, on the CPU, with random hidden states to run it on."""

    def __init__(self, module: nn.Module, call: BlockCall, shape: torch.Size) -> None:
        def to_double(value: Any) -> Any:
            if isinstance(value, Tensor):
                value = value.cpu()
                return value.double() if value.is_floating_point() else value
            if isinstance(value, tuple | list):
                return type(value)(to_double(v) for v in value)
            return value

        self.module = copy.deepcopy(module).cpu().double().eval().requires_grad_(False)
        self.call = BlockCall(
            to_double(call.args), {key: to_double(value) for key, value in call.kwargs.items()}
        )
        self.random = torch.Generator().manual_seed(0)
        # Random norms too: a norm of ones would make a wrong fold look right.
        for parameter in self.module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * self._normal(*parameter.shape))
        self.norms = {
            name: child
            for name, child in self.module.named_modules()
            if next(child.children(), None) is None
            and isinstance(getattr(child, "weight", None), nn.Parameter)
            and child.get_parameter("weight").dim() == 1
        }
        self.hidden = self._normal(*shape)
        self.matrices: dict[str, Matrix] = {}
        self.expert_count = max(
            (len(p) for p in self.module.parameters() if p.dim() == 3), default=0
        )
        self.base = self._run()

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def _scales(self, count: int) -> Tensor:
        """Draw distinct factors in [0.5, 2], in random order."""
        ladder = torch.logspace(-1, 1, count, base=2.0, dtype=torch.float64)
        return ladder[torch.randperm(count, generator=self.random)]

    def _run(
        self,
        factors: Mapping[str, Tensor] | None = None,
        written: dict[str, list[Tensor]] | None = None,
    ) -> _Run:
        """Run the block.

        ``factors`` multiply the outputs of the writers of that name. ``written`` is filled with the
        outputs of matrices, and what follows them depends on these as on leaves of its graph.
        """
        factors = factors or {}
        run = _Run(output=torch.empty(0), inputs={}, writers=[], written_before={})

        def write(name: str, output: Any) -> Tensor | None:
            run.writers.append(name)
            factor = factors.get(name)
            return None if factor is None else output * factor

        def seen(matrix: Matrix, x: Tensor, output: Tensor) -> Tensor | None:
            self.matrices.setdefault(matrix.name, matrix)
            run.inputs.setdefault(matrix.name, x)
            run.written_before.setdefault(matrix.name, len(run.writers))
            if written is None:
                return write(matrix.name, output)
            leaf = output.detach().requires_grad_()
            written.setdefault(matrix.name, []).append(leaf)
            return leaf.clone()  # a leaf could not be changed in place

        with ExitStack() as stack:
            for name, norm in self.norms.items():
                hook = norm.register_forward_hook(lambda m, args, out, name=name: write(name, out))
                stack.callback(hook.remove)
            stack.enter_context(Watch(self.module, seen))
            return replace(run, output=self.call.run(self.module, self.hidden))

    def read(self) -> _Reading:
        """Group the matrices by what they read, and find and try every absorber."""
        self._account_for_all()
        readers = self._readers()
        found = self._absorbers(readers)
        scores = self._scores(readers)
        groups: list[LinearGroup] = []
        notices = [
            f"{reader} reads several tokens, but no attention scores were seen: awq+clip leaves "
            f"{', '.join(writers)} unclipped"
            for reader, writers in scores.guessed.items()
        ]
        for names in readers:
            absorber, reason = found[names]
            for expert in self._experts_of(names[0]):
                consumers = tuple(self._of_expert(name, expert) for name in names)
                if absorber is not None and absorber.name in self.matrices:
                    absorber = replace(absorber, name=self._of_expert(absorber.name, expert))
                groups.append(
                    LinearGroup(
                        index=len(groups),
                        linears=tuple(n for n in consumers if not self._is_router(n)),
                        consumers=consumers,
                        in_features=self.matrices[names[0]].of(self.module).shape[1],
                        absorber=absorber,
                        reason=reason,
                        score_rows={
                            consumer: scores.rows[name]
                            for name, consumer in zip(names, consumers, strict=True)
                            if name in scores.rows
                        },
                    )
                )
            if absorber is None and groups[-1].linears:
                many = len(self._experts_of(names[0]))
                label = f"{groups[-1].label} and its kind" if many > 1 else groups[-1].label
                notices.append(f"{label}: awq and awq+clip leave its input unscaled ({reason})")
        return _Reading(
            matrices=self.matrices,
            groups=tuple(groups),
            exempt=tuple(m.parameter for n, m in self.matrices.items() if self._is_router(n)),
            notices=tuple(notices),
        )

    def _account_for_all(self) -> None:
        """Add the experts that no token reached; refuse a matrix that nothing multiplies with."""
        for matrix in list(self.matrices.values()):
            for expert in self._experts_of(matrix.name):
                name = self._of_expert(matrix.name, expert)
                self.matrices.setdefault(name, replace(matrix, name=name, expert=expert))
        used = {matrix.parameter for matrix in self.matrices.values()}
        used |= {f"{name}_bias" for name in used}  # one for each expert, so it has two dimensions
        for name, parameter in self.module.named_parameters():
            if parameter.dim() >= 2 and name not in used:
                owner = self.module.get_submodule(name.rpartition(".")[0])
                raise InputError(
                    f"{type(self.module).__name__}: parameter {name} {list(parameter.shape)} of a "
                    f"{type(owner).__name__} is not a matrix that an input was multiplied with, so "
                    "it would silently stay unquantized; this structure is unknown, "
                    "quantcore.discovery has to learn it (`awq-bench list` names the known "
                    "families)"
                )

    def _experts_of(self, name: str) -> Sequence[int | None]:
        """List the slices of the parameter that holds this matrix."""
        matrix = self.matrices[name]
        if matrix.expert is None:
            return (None,)
        return range(self.module.get_parameter(matrix.parameter).shape[0])

    def _of_expert(self, name: str, expert: int | None) -> str:
        """Name the same matrix of another expert; a matrix that all share is its own."""
        matrix = self.matrices[name]
        return name if matrix.expert is None else f"{matrix.parameter}.{expert}"

    def _is_router(self, name: str) -> bool:
        """Say whether a matrix only weighs experts: no more outputs than there are of them."""
        matrix = self.matrices[name]
        return matrix.expert is None and len(matrix.of(self.module)) <= self.expert_count

    def _readers(self) -> list[tuple[str, ...]]:
        """Group matrices that read one tensor; of the experts, only the one with most tokens."""
        inputs = self.base.inputs
        busiest = max(
            (n for n in inputs if self.matrices[n].expert is not None),
            key=lambda n: inputs[n].numel() // inputs[n].shape[-1],
            default=None,
        )
        shown = None if busiest is None else self.matrices[busiest].expert
        by_tensor: dict[tuple[int, int], list[str]] = {}
        for name, tensor in inputs.items():
            if self.matrices[name].expert in (None, shown):
                by_tensor.setdefault((tensor.data_ptr(), tensor.numel()), []).append(name)
        return [tuple(names) for names in by_tensor.values()]

    def _absorbers(
        self, readers: Sequence[tuple[str, ...]]
    ) -> dict[tuple[str, ...], tuple[Absorber | None, str]]:
        """Tell who can take the scales of each group, or why nobody can."""
        found: dict[tuple[str, ...], tuple[Absorber | None, str]] = {}
        passing = self._passing_rows([names[0] for names in readers])
        for names in readers:
            found[names] = (None, "no operation before it lets scales through")
            for writer in reversed(self.base.writers[: self.base.written_before[names[0]]]):
                straight = passing[names[0]].get(writer)
                rows = None if straight is None else self._rows(writer, straight, names[0])
                if rows is not None:
                    kind: Any = "norm" if writer in self.norms else "linear"
                    offset = self._norm_offset(writer) if kind == "norm" else 0.0
                    absorber = Absorber(name=writer, kind=kind, rows=rows, offset=offset)
                    found[names] = (absorber, "")
                    break
        for writer in dict.fromkeys(absorber.name for absorber, _ in found.values() if absorber):
            sharing = [names for names in readers if getattr(found[names][0], "name", "") == writer]
            shared = writer in self.norms or self.matrices[writer].expert is None
            consumers = [
                self._of_expert(name, expert)
                for names in sharing
                for name in names
                for expert in (self._experts_of(name) if shared else [self.matrices[name].expert])
            ]
            absorbers = [a for a, _ in (found[names] for names in sharing) if a is not None]
            same = all(torch.equal(a.rows, absorbers[0].rows) for a in absorbers)
            if not same or not self._fold_preserves(absorbers[0], consumers):
                label = "+".join(name for names in sharing for name in names)
                reason = f"something besides {label} reads what {writer} writes"
                found |= dict.fromkeys(sharing, (None, reason))
        return found

    @torch.enable_grad()
    def _scores(self, readers: Sequence[tuple[str, ...]]) -> ScoreRows:
        """Tell which rows write queries and keys."""
        written: dict[str, list[Tensor]] = {}
        with ScoreWatch() as watch:
            inputs = self._run(written=written).inputs
        return score_rows(watch, written, {names[0]: inputs[names[0]] for names in readers})

    @torch.enable_grad()
    def _passing_rows(self, readers: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Tell by reader and writer which rows pass straight to the reader, bool [rows]."""
        factors: dict[str, Tensor] = {}
        shown = {self.matrices[name].expert for name in readers}
        for writer in self.base.writers:
            if writer in self.norms:
                count = self.norms[writer].get_parameter("weight").numel()
            elif self.matrices[writer].expert in shown:
                count = len(self.matrices[writer].of(self.module))
            else:
                continue
            factors[writer] = torch.ones(count, dtype=torch.float64, requires_grad=True)
        inputs = self._run(factors).inputs
        passing: dict[str, dict[str, Tensor]] = {}
        for reader in readers:
            y = inputs[reader].reshape(-1, inputs[reader].shape[-1])
            seen = y.detach()
            vanishing = {name: torch.zeros_like(factor) for name, factor in factors.items()}
            influence = {name: torch.zeros_like(factor) for name, factor in factors.items()}
            for _ in range(2):  # twice, so that nothing vanishes by chance
                cotangent = self._normal(*y.shape)
                along = (cotangent * seen).sum(0) / seen.square().sum(0).clamp(min=1e-300)
                for total, direction in (
                    (influence, cotangent),
                    (vanishing, cotangent - along * seen),
                ):
                    if not y.requires_grad:  # the block's own input: nothing wrote it
                        continue
                    gradients = torch.autograd.grad(
                        y, list(factors.values()), direction, retain_graph=True, allow_unused=True
                    )
                    for name, gradient in zip(factors, gradients, strict=True):
                        if gradient is not None:
                            total[name] += gradient.square()
            straight = {n: vanishing[n] <= 1e-14 * influence[n] for n in factors}
            passing[reader] = {
                name: rows
                for name, rows in straight.items()
                if bool((rows & (influence[name] > 0)).any())
            }
        return passing

    def _rows(self, writer: str, straight: Tensor, reader: str) -> Tensor | None:
        """Find the row of ``writer`` for each channel of ``reader``'s input, if one row writes it.

        Every row that passes is scaled by a factor of its own, close to 1 so that no router changes
        its mind; what each channel changes by tells its row.
        """
        candidates = straight.nonzero()[:, 0]
        ladder = torch.linspace(0.5, 1, len(candidates), dtype=torch.float64)
        step = 2.0**-20
        factors = torch.ones(len(straight), dtype=torch.float64)
        factors[candidates] += step * ladder
        before = self.base.inputs[reader]
        after = self._run({writer: factors}).inputs[reader]
        if after.shape != before.shape:
            return None
        before, after = before.flatten(0, -2), after.flatten(0, -2)
        loudest = before.abs().argmax(0, keepdim=True)  # of each channel, its surest token
        at = before.gather(0, loudest)[0]
        silent = at == 0  # a ReLU that never opened: nothing to see in these channels
        moved = ((after.gather(0, loudest)[0] / at - 1) / step).nan_to_num(0.75)
        found = torch.searchsorted((ladder[1:] + ladder[:-1]) / 2, moved)
        # Neighbours on the ladder are 0.5 / rows apart.
        if not bool((((ladder[found] - moved).abs() < 0.1 / len(ladder)) | silent).all()):
            return None
        rows = candidates[found]
        if bool(silent.any()):
            in_order = torch.arange(len(rows))
            if len(rows) != len(straight) or bool((rows != in_order)[~silent].any()):
                return None
            return in_order
        return rows

    def _norm_offset(self, name: str) -> float:
        """Give what the norm adds to its weight before it multiplies: 0, or 1 in Gemma's.

        Raises:
            InputError: its output is no multiple of weight + constant.
        """
        norm = copy.deepcopy(self.norms[name])
        weight = norm.get_parameter("weight")
        bias = getattr(norm, "bias", None)
        if isinstance(bias, Tensor):
            bias.zero_()
        x = self._normal(64, weight.numel())
        first = 0.5 + torch.rand(weight.shape, generator=self.random, dtype=torch.float64)
        weight.copy_(first)
        low = norm(x)
        weight.copy_(first + 1)
        high = norm(x)
        # low = k (c + w) and high = k (c + w + 1)
        slope = high - low
        sure = slope.abs() > 1e-3
        offsets = (low / slope - first)[sure]
        offset = float(offsets.median().round()) if len(offsets) else float("nan")
        if not len(offsets) or float((offsets - offset).abs().max()) > 1e-2:
            raise InputError(
                f"{type(norm).__name__} ({name}): its output is not a multiple of its weight, nor "
                "of its weight plus a whole number; this form of norm is unknown, "
                "quantcore.discovery has to learn it (`awq-bench list` names the known families)"
            )
        return offset

    def _fold_preserves(self, absorber: Absorber, consumers: Sequence[str]) -> bool:
        """Fold random scales in, say whether the block's output stays what it was, and undo it."""
        if absorber.kind == "norm":
            module = self.norms[absorber.name]
            touched = list(module.parameters())
        else:
            writer = self.matrices[absorber.name]
            bias = writer.bias_of(self.module)
            touched = [writer.of(self.module), *([] if bias is None else [bias])]
        touched += [self.matrices[name].of(self.module) for name in consumers]
        saved = [tensor.clone() for tensor in touched]
        block = Block(name="", module=self.module, matrices=self.matrices, groups=())
        scales = self._scales(int(absorber.rows.max()) + 1)[absorber.rows]
        fold(block, {}, absorber, consumers, scales)
        after = self._run().output
        for tensor, value in zip(touched, saved, strict=True):
            tensor.copy_(value)
        # Against what the block adds to its input, which may be small beside it; norms compute in
        # float32 whatever the dtype.
        added = self.base.output - self.hidden
        return float((after - self.base.output).norm()) <= 1e-5 * float(added.norm())
