"""Tables, charts and report of a comparison's folder are drawn again from its records."""

from __future__ import annotations

from pathlib import Path

from bench.comparison.compare import Outcome
from bench.comparison.progress import Reporter
from bench.comparison.request import check_price
from bench.comparison.run_folder import locked, read_manifest
from bench.records.record import Record, read_cell
from bench.report import draw
from quantcore.errors import InputError


def redraw(folder: Path, *, price_per_hour: float | None, say: Reporter) -> tuple[Outcome, int]:
    """Draw everything that `compare` draws at its end, from the records that are there.

    Args:
        folder: that `compare` wrote, finished or not.
        price_per_hour: for the modelled cost; None: as the comparison was asked.
        say: told of every record that is left out, and why.

    Returns:
        What a comparison gives, and how many of its records are not there or damaged.

    Raises:
        InputError: a price that is none, no comparison, none of the unquantized model, or a
            folder that cannot be written or that another process is writing.
    """
    check_price(price_per_hour)
    manifest = read_manifest(folder)
    request = manifest.get("request")
    if price_per_hour is None and isinstance(request, dict):
        price_per_hour = request.get("price_per_hour")
    planned = manifest.get("cells")
    cells = planned if isinstance(planned, dict) else {}
    with locked(folder, say):
        records: list[Record] = []
        for file_name, cell_id in cells.items():
            if not (folder / file_name).exists():
                say.warn(f"left out: {file_name} is not there; its cell was not measured yet")
                continue
            try:
                record = read_cell(folder, file_name)
                if record.cell.id != cell_id:
                    raise InputError(
                        f"{folder / file_name} is of another comparison; remove it, and run this "
                        "one again"
                    )
                records.append(record)
            except InputError as error:
                say.warn(f"left out: {error}")
        if not any(record.cell.method is None for record in records):
            raise InputError(
                f"{folder} has no record of the unquantized model that can be read, and all others "
                "are shown against it; run its comparison again"
            )
        layouts = draw.write(records, folder, price_per_hour=price_per_hour)
    outcome = Outcome(folder=folder, records=tuple(records), tables=tuple(layouts))
    return outcome, len(cells) - len(records)
