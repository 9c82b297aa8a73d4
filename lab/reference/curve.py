"""Ask what a training run has learnt: ``python -m lab.reference.curve --work-dir DIR``.

Every snapshot of the run is asked the embedded task suites (unseen values; ``--limit`` items of
each task) and scored on WikiText-2's test split, where ``--data-dir`` has it. Lines of JSON are
added to ``curve.jsonl`` in the work folder; snapshots that are there already are left out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lab.reference.items import SUITES
from lab.reference.network import build_model, load_weights
from lab.reference.recipe import Recipe
from suites import texts
from suites.harness import TaskOptions, TaskSet, target_of
from suites.perplexity import cut_windows, window_nll
from suites.texts import Text

CURVE = "curve.jsonl"


def accuracies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_folder: Path,
    *,
    limit: int | None = None,
    suites: tuple[str, ...] = SUITES,
) -> dict[str, float]:
    """Return the share of right answers, by suite and part (``json/seen``), language and length."""
    context = model.config.max_position_embeddings
    options = TaskOptions(limit=limit, allow_code_execution=True)
    shares: dict[str, float] = {}
    for suite in suites:
        tasks = TaskSet(
            suite,
            target_of(suite, "embedded"),
            options,
            tokenizer_folder=tokenizer_folder,
            context=context,
        )
        columns = tasks.run(model, tokenizer, context=context, batch_tokens=8192).columns
        groups: dict[str, list[float]] = defaultdict(list)
        for place, (value, part) in enumerate(zip(columns["value"], columns["part"], strict=True)):
            groups[f"{suite}/{part}"].append(value)
            for facet in ("language", "length"):
                if columns.get(facet):
                    groups[f"{suite}/{part}/{columns[facet][place]}"].append(value)
        shares |= {name: sum(values) / len(values) for name, values in sorted(groups.items())}
    return shares


def nats_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: Text,
    *,
    seqlen: int = 1024,
    count: int | None = None,
) -> float:
    """Return the mean negative log-likelihood of a text's bytes, in windows of ``seqlen`` tokens.

    It is comparable between tokenizers, where the perplexity of a token is not.
    """
    windows = cut_windows(text.name, text.content, tokenizer, seqlen=seqlen, count=count)
    nll = window_nll(model, windows.tokens, batch_size=2)
    bytes_per_token = len(text.content.encode()) / windows.text_tokens
    return sum(nll) / len(nll) / bytes_per_token


def main() -> None:
    """Run ``python -m lab.reference.curve``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, required=True, help="of the training run")
    parser.add_argument("--data-dir", type=Path, help="folder with the texts")
    parser.add_argument("--limit", type=int, default=40, help="items of each task")
    parser.add_argument("--windows", type=int, default=32, help="of WikiText-2, 1,024 tokens each")
    parser.add_argument("--suites", default=",".join(SUITES), help="separated by commas")
    arguments = parser.parse_args()
    work_dir: Path = arguments.work_dir
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work_dir)
    curve = work_dir / CURVE
    lines = curve.read_text("utf-8").splitlines() if curve.is_file() else []
    done = {json.loads(line)["step"] for line in lines}
    for path in sorted((work_dir / "snapshots").glob("step-*.safetensors")):
        step = int(path.stem.removeprefix("step-"))
        if step in done:
            continue
        model = build_model(Recipe(), tokenizer).eval()
        load_weights(model, path)
        entry: dict[str, Any] = {"step": step}
        entry |= accuracies(
            model,
            tokenizer,
            work_dir,
            limit=arguments.limit,
            suites=tuple(arguments.suites.split(",")),
        )
        if arguments.data_dir is not None:
            text = texts.evaluation_text("wikitext2", data_dir=arguments.data_dir)
            nats = nats_per_byte(model, tokenizer, text, count=arguments.windows)
            entry["wikitext2_bits_per_byte"] = nats / math.log(2)
        with curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
