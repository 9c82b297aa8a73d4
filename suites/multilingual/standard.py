"""Some items of the standard sets say the same in several languages.

Questions on one passage, and translations of one question, are not independent: whoever compares
models over them draws whole sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BELEBELE = {
    "eng_Latn": "en",
    "deu_Latn": "de",
    "fra_Latn": "fr",
    "spa_Latn": "es",
    "rus_Cyrl": "ru",
    "arb_Arab": "ar",
    "hin_Deva": "hi",
    "zho_Hans": "zh",
    "jpn_Jpan": "ja",
}
"""Belebele's names of the suite's languages."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A `Shared` is what an item has in common with others."""

    source: str
    """Items that share it are not independent: questions on one passage, translations."""
    parallel: str
    """The item it is a translation of."""
    language: str


def source_of(task_name: str, doc: Mapping[str, Any], index: int) -> Shared | None:
    """Say what an item of Belebele, MGSM or Global-MMLU shares; None for any other task.

    The source is Belebele's passage (``link``: its questions belong together), the place in MGSM
    (whose rows have no other name) or Global-MMLU's ``sample_id``.

    Args:
        task_name: lm-eval's, such as ``belebele_deu_Latn`` or ``global_mmlu_de_business``.
        doc: the data set's row.
        index: its place in the task's test split (lm-eval's ``doc_id``, without a selection).
    """
    if (found := re.fullmatch(r"belebele_(\w{3}_\w{4})", task_name)) and found[1] in BELEBELE:
        source = f"belebele/{doc['link']}"
        item = f"{source}/{doc['question_number']}"
        return Shared(source=source, parallel=item, language=BELEBELE[found[1]])
    if found := re.fullmatch(r"mgsm_direct_(\w\w)", task_name):
        item = f"mgsm/{index}"
        return Shared(source=item, parallel=item, language=found[1])
    if found := re.fullmatch(r"global_mmlu_(?:full_)?([a-z]{2})_\w+", task_name):
        item = f"global_mmlu/{doc['sample_id']}"
        return Shared(source=item, parallel=item, language=found[1])
    return None
