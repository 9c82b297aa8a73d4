"""One calibration pass serves many quantizations: it leaves H, mean |x| and a token count.

The pass walks the model block by block, so that only one block's activations and statistics are
alive at a time. Statistics depend on no bits, group size or method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quantcore import files
from quantcore.forward import Watch, capture_calls, embed, experts_one_by_one
from quantcore.gram import InputStats, add_products, mirror, tensor_cores
from quantcore.structure import Matrix, Structure

BlockStats = Mapping[int, InputStats]
"""Statistics of one block's inputs, by the number of the group that reads them; a group that no
token reached (an expert that no router chose) is not among them."""


class _Accumulator:
    """An accumulator sums over the tokens of one input, in float32."""

    def __init__(self, features: int, device: torch.device) -> None:
        self.gram = torch.zeros(features, features, device=device)
        self.sum_abs = torch.zeros(features, dtype=torch.float64, device=device)
        self.tokens = 0

    def add(self, x: Tensor) -> None:
        exact_in_tf32 = x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)
        x = x.detach().reshape(-1, x.shape[-1]).float()
        with tensor_cores(exact_in_tf32):
            add_products(self.gram, x)
        self.sum_abs += x.abs().sum(0, dtype=torch.float32)
        self.tokens += x.shape[0]

    def result(self) -> InputStats:
        return InputStats(
            gram=mirror(self.gram),
            mean_abs=(self.sum_abs / self.tokens).float(),
            tokens=self.tokens,
        )


class BlockWalk:
    """A block walk takes the calibration sequences through the model, block by block."""

    def __init__(
        self, model: nn.Module, structure: Structure, tokens: Tensor, *, batch_size: int
    ) -> None:
        """Embed the sequences.

        Args:
            model: a causal language model.
            structure: what `quantcore.discovery.discover` read.
            tokens: int64 [sequences, tokens], on any device.
            batch_size: sequences per forward pass.
        """
        device = next(model.parameters()).device
        self._model = model
        self._structure = structure
        batches = [batch.to(device) for batch in tokens.split(batch_size)]
        # The last batch may be smaller, and some models (ALiBi) build a bias for every sequence.
        sizes = {len(batch): batch for batch in batches}
        self._calls = {size: capture_calls(model, batch) for size, batch in sizes.items()}
        self._hidden = [embed(model, batch) for batch in batches]

    @torch.no_grad()
    def observe(self, index: int, *, advance: bool) -> dict[int, InputStats]:
        """Run block ``index`` and sum up what its groups of linears read.

        Args:
            index: the block; the blocks before it must have been advanced over.
            advance: keep the outputs as the next block's inputs.
        """
        block = self._structure.blocks[index]
        readers = {group.consumers[0]: group for group in block.groups if group.linears}
        sums: dict[int, _Accumulator] = {}

        def seen(matrix: Matrix, x: Tensor, _: Tensor) -> None:
            group = readers.get(matrix.name)
            if group is not None:
                if group.index not in sums:
                    sums[group.index] = _Accumulator(group.in_features, x.device)
                sums[group.index].add(x)

        with experts_one_by_one(self._model), Watch(block.module, seen):
            self._run(index, keep=advance)
        return {number: total.result() for number, total in sums.items() if total.tokens}

    @torch.no_grad()
    def advance(self, index: int) -> None:
        """Run block ``index`` as it now is, and keep its outputs."""
        self._run(index, keep=True)

    def _run(self, index: int, *, keep: bool) -> None:
        for number, hidden in enumerate(self._hidden):
            call = self._calls[len(hidden)][index]
            output = call.run(self._structure.blocks[index].module, hidden)
            if keep:
                self._hidden[number] = output


class StatsStore:
    """A store keeps the statistics of all blocks: in memory, or in a folder if they would not fit.

    In the folder a block is one safetensors file that holds the upper triangle of each H. It is
    written whole or not at all, so a killed pass goes on where it stopped.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Keep statistics in ``folder``, or in memory if None."""
        self._folder = folder
        self._memory: dict[int, BlockStats] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, index: int) -> bool:
        """Say whether block ``index`` has been calibrated."""
        return index in self._memory or (
            self._folder is not None and self._path(self._folder, index).is_file()
        )

    def __getitem__(self, index: int) -> BlockStats:
        """Give the statistics of block ``index``, by group."""
        if self._folder is None:
            return self._memory[index]
        tensors = load_file(self._path(self._folder, index))
        stats: dict[int, InputStats] = {}
        for name in tensors:
            number, _, kind = name.partition(".")
            if kind == "mean_abs":
                mean_abs = tensors[name]
                size = mean_abs.shape[0]
                gram = mean_abs.new_empty(size, size)
                rows, columns = torch.triu_indices(size, size).unbind()
                gram[rows, columns] = gram[columns, rows] = tensors[f"{number}.gram"]
                stats[int(number)] = InputStats(
                    gram=gram, mean_abs=mean_abs, tokens=int(tensors[f"{number}.tokens"])
                )
        return stats

    def put(self, index: int, stats: BlockStats) -> None:
        """Keep the statistics of block ``index``."""
        if self._folder is None:
            self._memory[index] = stats
            return
        tensors: dict[str, Tensor] = {}
        for number, one in stats.items():
            rows, columns = torch.triu_indices(*one.gram.shape).unbind()
            tensors[f"{number}.gram"] = one.gram.cpu()[rows, columns]
            tensors[f"{number}.mean_abs"] = one.mean_abs.cpu()
            tensors[f"{number}.tokens"] = torch.tensor(one.tokens)
        with files.whole(self._path(self._folder, index)) as temporary:
            save_file(tensors, temporary)

    @staticmethod
    def _path(folder: Path, index: int) -> Path:
        return folder / f"block-{index:03d}.safetensors"


def stats_bytes(structure: Structure, *, on_disk: bool) -> int:
    """Count the bytes of all blocks' statistics: full matrices, or triangles on disk."""
    widths = [g.in_features for block in structure.blocks for g in block.groups if g.linears]
    return sum(4 * (k * (k + 1) // 2 if on_disk else k * k) for k in widths)


def calibrate(
    model: nn.Module,
    structure: Structure,
    tokens: Tensor,
    store: StatsStore,
    *,
    batch_size: int,
    done: Callable[[int], None] = lambda index: None,
) -> None:
    """Fill ``store``, in one pass, with the statistics of every block that it does not have yet.

    Args:
        model: the unquantized model, on its device.
        structure: its blocks and groups.
        tokens: int64 [sequences, tokens].
        store: where statistics go.
        batch_size: sequences per forward pass.
        done: told the number of every finished block.
    """
    walk = BlockWalk(model, structure, tokens, batch_size=batch_size)
    for index in range(len(structure.blocks)):
        if index in store:
            walk.advance(index)
        else:
            store.put(index, walk.observe(index, advance=True))
        done(index)
