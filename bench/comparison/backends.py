"""Backends that a request names are checked, and the CPU's ways timed, before any work."""

from __future__ import annotations

from collections.abc import Sequence

from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from kernels import backends, cpu
from kernels.place import Place
from quantcore import codes
from quantcore.checkpoint import LoadedModel
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure


def named_backends(request: Request) -> list[tuple[str, str]]:
    """List the options that name backends, each with the backend that it names."""
    asked = [("backend", request.backend)] if request.backend is not None else []
    return [*asked, *(("throughput_backends", name) for name in request.throughput.backends)]


def check_backends_run(
    request: Request, loaded: LoadedModel, schemes: Sequence[QuantScheme]
) -> None:
    """Refuse a backend that does not run here.

    Raises:
        InputError: the backend does not run there; or, without schemes, the model's folder holds
            no codes that it could run.
    """
    named = named_backends(request)
    if named and not schemes:
        codes.check(codes.of(loaded), loaded.model, loaded.folder)
    for scheme in schemes:
        width = scheme.group_size or 128
        place = _place(loaded, scheme, out_features=width, in_features=2 * width)
        for setting, name in named:
            backends.choose(name, place, setting=setting)


def time_ways(
    loaded: LoadedModel,
    structure: Structure,
    schemes: Sequence[QuantScheme],
    names: Sequence[str],
    say: Reporter,
) -> None:
    """Let `kernels.cpu` measure what it will ask for, once a machine, with a bar.

    Args:
        loaded: the model.
        structure: its matrices.
        schemes: in which these will be.
        names: of the backends that will run them.
        say: who shows progress.
    """
    if loaded.device.type != "cpu" or not {"auto", "cpu"} & set(names):
        return
    shapes = [block.weight(name).shape for block in structure.blocks for name in block.matrices]
    places = [
        _place(loaded, scheme, out_features=outputs, in_features=inputs)
        for scheme in schemes
        for outputs, inputs in shapes
    ]
    taken = {cpu.key(place): place for place in places if cpu.reason_against(place) is None}
    unknown = [place for place in taken.values() if not cpu.known(place)]
    if unknown:
        with say.stage("time INT4 on this processor, once", len(unknown)) as done:
            for place in unknown:
                cpu.table_for(place)
                done(1)


def _place(
    loaded: LoadedModel, scheme: QuantScheme, *, out_features: int, in_features: int
) -> Place:
    return Place(
        device=loaded.device,
        dtype=loaded.dtype,
        scheme=scheme,
        out_features=out_features,
        in_features=in_features,
    )
