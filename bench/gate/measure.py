"""A baseline's declaration is measured: quantized on the spot, or in a quantized folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.comparison.calibration import build_calibration
from bench.comparison.cells import PlannedCell, cell_of
from bench.comparison.compare import Comparison, begin
from bench.comparison.progress import Reporter, quiet
from bench.comparison.request import Request
from bench.comparison.run_folder import OtherComparison
from bench.comparison.set_up import open_model
from bench.comparison.suites.build import build_suites, text_of
from bench.comparison.suites.suite import Suite
from bench.comparison.suites.windows import check_paired
from bench.comparison.workbench import Workbench
from bench.gate.baseline import Pair
from bench.gate.changes import SPEED
from bench.gate.kept_request import refuse_quantizing
from bench.gate.key import declared_of
from bench.gate.manifest import declared_in, packed_bytes
from bench.records.record import Record
from quantcore import files
from quantcore.checkpoint import LoadedModel, resolve
from quantcore.errors import InputError, refused, setting_name
from quantcore.structure import Structure


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measured model is a quantized one, with the unquantized one beside it."""

    unquantized: Record | None
    quantized: Record
    declared: dict[str, Any]
    """It says how the quantized one was declared; see `bench.gate.key.declared_of`."""
    request: Request
    """It measures this again: it names text and calibration where a default had chosen them."""

    @property
    def pair(self) -> Pair:
        """Give both records, as `bench.gate.changes.changes` takes them."""
        return self.unquantized, self.quantized


class Opened(Protocol):
    """An opened model is loaded and checked; nothing is measured yet."""

    def check_seeds(self) -> None:
        """Refuse calibration that is the same by every seed: reruns would say nothing of it."""

    def declared(self, method: str | None, scheme: str | None) -> dict[str, Any]:
        """Say what the quantized model is declared to be; see `bench.gate.key.declared_of`."""

    def measure(
        self, method: str | None, scheme: str | None, unquantized: Record | None = None
    ) -> Measured:
        """Measure the quantized model, and the unquantized one where its record is not given."""


def opened(
    request: Request,
    *,
    source: str | None = None,
    parts: Path | None = None,
    reporter: Reporter | None = None,
) -> AbstractContextManager[Opened]:
    """Load and check what is to be measured.

    With methods ``request.model`` is quantized on the spot. Without, it is a quantized folder:
    beside ``source`` where that is given, else alone.

    Args:
        request: what to measure.
        source: the unquantized model of a quantized folder.
        parts: where records of what is quantized on the spot are kept, and found again.
        reporter: who shows progress; default nobody.

    Raises:
        InputError: anything about the request or its inputs that cannot work.
    """
    if not request.methods:
        return nullcontext(_open_folder(request, source, reporter or quiet()))
    if source is not None:
        model, method = setting_name("model"), setting_name("methods")
        rule = f"{model} is the source already where {method} says how to quantize it"
        raise refused("source", source, f"{rule}; leave one of them out")
    return _open_source(request, parts, reporter)


@dataclass(kw_only=True)
class OnTheSpot:
    """A source model is quantized here."""

    request: Request
    comparison: Comparison

    def check_seeds(self) -> None:
        """See `Opened`."""
        drawn = self.comparison.plan[-1].cell.calibration
        if drawn is None or drawn.name == "self":  # text that is sampled is another each time
            return
        other = build_calibration(
            self.request.but(calibration_seed=self.request.seed + 1),
            self.comparison.bench.loaded,
            None,
            quiet(),
        )
        if other.describe().sha256 == drawn.sha256:
            count = drawn.samples
            raise InputError(
                f"{setting_name('calibration')} {drawn.name} gives the same {count} sequences "
                "by every seed, so that reruns would not tell how much calibration varies; ask for "
                f"fewer with {setting_name('calibration_samples')} {max(1, count // 2)}, or give "
                "more"
            )

    def declared(self, method: str | None, scheme: str | None) -> dict[str, Any]:
        """See `Opened`."""
        return declared_of(self._planned(method, scheme).cell)

    def measure(
        self, method: str | None, scheme: str | None, unquantized: Record | None = None
    ) -> Measured:
        """See `Opened`."""
        beside = unquantized or self.comparison.measure(self.comparison.plan[0])
        quantized = self.comparison.measure(self._planned(method, scheme))
        declared = declared_of(quantized.cell)
        request = _with_text(self.request, self.comparison.bench.suites)
        if request.calibration.name is None and declared["calibration"] is not None:
            request = request.but(calibration=declared["calibration"]["name"])
        return Measured(unquantized=beside, quantized=quantized, declared=declared, request=request)

    def _planned(self, method: str | None, scheme: str | None) -> PlannedCell:
        return next(
            planned
            for planned in self.comparison.plan
            if (planned.cell.method, planned.cell.scheme) == (method, scheme)
        )


@contextmanager
def _open_source(
    request: Request, parts: Path | None, reporter: Reporter | None
) -> Iterator[OnTheSpot]:
    with ExitStack() as held:
        out = parts or held.enter_context(files.scratch()) / "run"
        try:
            comparison = held.enter_context(begin(request, out=out, reporter=reporter))
        except OtherComparison:  # of weights or texts that have changed since
            shutil.rmtree(out)
            comparison = held.enter_context(begin(request, out=out, reporter=reporter))
        yield OnTheSpot(request=request, comparison=comparison)


@dataclass(kw_only=True)
class QuantizedFolder:
    """A folder holds a quantized model: what was declared is written in it."""

    request: Request
    source: str | None
    loaded: LoadedModel
    """It is the unquantized model where there is a source, and makes way for the quantized one."""
    declaration: dict[str, Any]
    say: Reporter

    def check_seeds(self) -> None:
        """See `Opened`; a folder was calibrated already."""

    def declared(self, method: str | None, scheme: str | None) -> dict[str, Any]:
        """See `Opened`; method and scheme are the folder's own."""
        return self.declaration

    def measure(
        self, method: str | None, scheme: str | None, unquantized: Record | None = None
    ) -> Measured:
        """See `Opened`."""
        suites = build_suites(self.request, self.loaded, self.say)
        with files.scratch() as folder:
            bench = Workbench(
                name=self.source or self.request.model,
                loaded=self.loaded,
                structure=Structure(blocks=(), exempt=(), notices=()),
                suites=suites,
                calibrator=None,
                unfinished=folder,
                say=self.say,
            )
            beside = None
            if self.source is not None:
                bench.prepare(suites, "unquantized")
                cell = cell_of(self.request, self.loaded, suites)
                beside = unquantized or bench.measure(PlannedCell(cell=cell))
                bench.forget(cell)  # the same weights quantized are measured by themselves
                self.loaded = bench.loaded = open_model(self.request)
                bench.name, bench.is_unquantized = self.request.model, False
            cell = cell_of(self.request, self.loaded, suites)
            quantized = bench.measure(PlannedCell(cell=cell))
        stored = packed_bytes(self.loaded.folder)
        if stored is not None:  # the folder holds it dequantized
            quantized = quantized.model_copy(update={"stored_bytes": stored})
        return Measured(
            unquantized=beside,
            quantized=quantized,
            declared=self.declaration,
            request=_with_text(self.request, suites),
        )


def _open_folder(request: Request, source: str | None, say: Reporter) -> QuantizedFolder:
    if source is None and "divergence" in request.suites:
        raise InputError(
            "suite divergence compares with the unquantized model: give it with "
            f"{setting_name('source')}, or leave divergence out of {setting_name('suites')}"
        )
    refuse_quantizing(request)
    if SPEED in request.suites:
        raise InputError(
            "suite throughput times a model beside its unquantized form, from codes; gate a folder "
            f"on other suites, and speed with {setting_name('methods')} and "
            f"{setting_name('schemes')}"
        )
    check_paired(request, paired=source is not None)
    loaded = open_model(request.but(model=source or request.model))
    declaration = declared_in(loaded.folder if source is None else resolve(request.model))
    if source is not None:
        declaration["source"] = loaded.weights_sha256
        declaration["configuration"] = loaded.configuration_sha256
    return QuantizedFolder(
        request=request, source=source, loaded=loaded, declaration=declaration, say=say
    )


def _with_text(request: Request, suites: Sequence[Suite]) -> Request:
    """Name the evaluation text: what a default chooses depends on what can be had."""
    text = text_of(suites)
    return request if text is None or request.text.name else request.but(text=text.name)
