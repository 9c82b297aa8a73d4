"""What `evaluate` refuses: models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.bench.cli.conftest import Refused, write

WEIGHT = "model.layers.1.mlp.down_proj.weight"  # [64, 128]
FETCH_AGAIN = r"\bagain\b|complete|another|from the hub|`save_pretrained`"
TOKENIZER = r"tokenizer\.json|\bagain\b"


class Case(NamedTuple):
    breaks: Callable[[Path], None]
    value: str
    rule: str
    fix: str


def edit_config(**changes: object) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        write(folder / "config.json", {**config, **changes})

    return breaks


def edit_weight(change: Callable[[Tensor], Tensor | None]) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        changed = change(weights.pop(WEIGHT).clone())
        if changed is not None:
            weights[WEIGHT] = changed
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return breaks


def put(name: str, *lines: object) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        write(folder / name, *lines)

    return breaks


def remove(*names: str) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return breaks


def index(document: object) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        shutil.move(folder / "model.safetensors", folder / "model-1-of-2.safetensors")
        write(folder / "model.safetensors.index.json", document)

    return breaks


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def not_utf8(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"model_type": "\xe9"}')


def other_tokens(folder: Path) -> None:
    """A tokenizer with tokens that the model has no row for: 600 and more."""
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    ids = document["model"]["vocab"]
    document["model"]["vocab"] = {t: i if i < 300 else i + 300 for t, i in ids.items()}
    write(folder / "tokenizer.json", document)


def index_not_utf8(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(b'{"weight_map": "\xe9"}')


REMOTE = {"AutoModelForCausalLM": "modeling_mine.Mine"}
SHARDS = {
    WEIGHT: "model-2-of-2.safetensors",
    "lm_head.weight": "model-1-of-2.safetensors",
}


MODELS = {
    "no-config": Case(
        remove("config.json"), "broken has no", "config.json", "folder (that|with)|give|check"
    ),
    "config-not-json": Case(
        put("config.json", '{"model_type":'), "config.json", "not valid JSON", FETCH_AGAIN
    ),
    "config-not-utf8": Case(not_utf8, "config.json", "not valid JSON", FETCH_AGAIN),
    "config-a-list": Case(put("config.json", [1]), "config.json", "object", "object"),
    "config-wrong-type": Case(
        edit_config(hidden_size="wide"), "hidden_size", "does not load", "int"
    ),
    "config-heads-do-not-divide": Case(
        edit_config(num_attention_heads=7), "(7)", "does not load", "not a multiple"
    ),
    "unknown-architecture": Case(
        edit_config(model_type="mine", architectures=["Mine"]),
        *("`mine`", "does not load as a causal language model", "Transformers"),
    ),
    "not-a-language-model": Case(
        edit_config(model_type="vit", architectures=["ViTModel"]),
        *("ViTConfig", "does not load as a causal language model", "check config.json"),
    ),
    "remote-code": Case(
        edit_config(model_type="mine", auto_map=REMOTE),
        "remote code (AutoModelForCausalLM)",
        "never run",
        "model type 'mine' must be one that Transformers itself knows",
    ),
    "remote-code-oddly": Case(
        edit_config(model_type="mine", auto_map=5),
        *("remote code (5)", "never run", "model type 'mine' must be one"),
    ),
    "blocks-without-end": Case(
        edit_config(num_hidden_layers=10**6),
        *("num_hidden_layers is 1000000", "no language model has more than", "mend it"),
    ),
    "labels-without-end": Case(
        edit_config(num_labels=10**9), "num_labels is 1000000000", "no language model", "mend it"
    ),
    "wider-than-the-weights": Case(
        edit_config(intermediate_size=10**7),
        *("describes a llama of", "parameters, and the weights hold", "mend config.json"),
    ),
    "no-dtype": Case(
        edit_config(dtype="float7"), "dtype is 'float7'", "no dtype of PyTorch", "bfloat16"
    ),
    "quantized": Case(
        edit_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        *("group_size None", "must be a whole number", "download it again, or mend it"),
    ),
    "quantized-oddly": Case(
        edit_config(quantization_config="gptq"),
        *("gptq", "already quantized", "give the unquantized model"),
    ),
    "no-weights": Case(
        remove("model.safetensors"),
        *("has no weights", "expected", "model.safetensors or model.safetensors.index.json"),
    ),
    "missing-shard": Case(
        index({"metadata": {}, "weight_map": SHARDS}),
        *("model-2-of-2.safetensors", "named in model.safetensors.index.json", FETCH_AGAIN),
    ),
    "index-and-single-file": Case(
        put("model.safetensors.index.json", {"metadata": {}, "weight_map": SHARDS}),
        *("both model.safetensors and", "may be two models", "remove the one"),
    ),
    **{
        f"index-names-{kind}": Case(
            index({"metadata": {}, "weight_map": {WEIGHT: name}}),
            *(f"names '{name}'", "files in the folder itself", "convert|download"),
        )
        for kind, name in (
            ("above", "../model.safetensors"),
            ("absolute", "/etc/model.safetensors"),
            ("pickle", "pytorch_model.bin"),
        )
    },
    "index-without-map": Case(index({"metadata": {}}), "index.json", "is ", FETCH_AGAIN),
    "index-a-list": Case(index([1]), "index.json", "is ", FETCH_AGAIN),
    "index-map-a-list": Case(index({"weight_map": [1]}), "index.json", "is ", FETCH_AGAIN),
    "index-names-no-strings": Case(
        index({"weight_map": {WEIGHT: 3}}), "index.json", "is ", FETCH_AGAIN
    ),
    "index-not-utf8": Case(index_not_utf8, "index.json", "is ", FETCH_AGAIN),
    "index-without-metadata": Case(
        index({"weight_map": {WEIGHT: "model-1-of-2.safetensors"}}),
        *("metadata", "index.json", FETCH_AGAIN),
    ),
    "index-empty": Case(
        index({"metadata": {}, "weight_map": {}}), "index.json", "weight", FETCH_AGAIN
    ),
    "truncated": Case(
        truncate, "model.safetensors", "truncated or not a safetensors", "download it again"
    ),
    "no-safetensors": Case(
        put("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        *("model.safetensors", "truncated or not a safetensors", "download it again"),
    ),
    "misshapen": Case(
        edit_weight(lambda w: w[:, :-1].clone()),
        f"{WEIGHT} has shape [64, 127]",
        "config.json asks for [64, 128]",
        FETCH_AGAIN,
    ),
    "missing-weight": Case(
        edit_weight(lambda w: None), f"first {WEIGHT}", "1 weights are missing", FETCH_AGAIN
    ),
    "nan": Case(
        edit_weight(lambda w: w.index_fill(0, torch.tensor(3), torch.nan)),
        f"{WEIGHT} holds 128 NaN or infinite values of 8192",
        "NaN or infinite",
        "the checkpoint is damaged",
    ),
    "infinite": Case(
        edit_weight(lambda w: w.index_fill(1, torch.tensor(3), -torch.inf)),
        f"{WEIGHT} holds 64 NaN or infinite values of 8192",
        "NaN or infinite",
        "the checkpoint is damaged",
    ),
    "pickled": Case(
        pickle,
        "pytorch_model.bin",
        "can run code when loaded and are refused",
        "convert them to safetensors",
    ),
    "no-tokenizer": Case(
        remove("tokenizer.json", "tokenizer_config.json"), "broken", "no tokenizer", TOKENIZER
    ),
    "broken-tokenizer": Case(
        put("tokenizer.json", '{"version":'), "broken", "no tokenizer", TOKENIZER
    ),
    "another-tokenizer": Case(
        other_tokens, "763", "vocabulary", "511|tokenizer.*(match|belong|another)"
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_folder(evaluate: Refused, broken: Path, name: str) -> None:
    case = MODELS[name]
    case.breaks(broken)
    printed = evaluate(broken, value=case.value, rule=case.rule, fix=case.fix)
    assert "broken" in printed


def test_weights_beyond_float16(evaluate: Refused, broken: Path) -> None:
    edit_weight(lambda w: w.index_fill(0, torch.tensor(3), 1e6))(broken)
    evaluate(
        *(broken, "--dtype", "float16"),
        value=f"{WEIGHT} holds 128",
        rule="NaN or infinite",
        fix="try --dtype bfloat16",
    )


@pytest.mark.parametrize("command", ["compare", "quantize"])
def test_model_folder_to_other_commands(refused: Refused, broken: Path, command: str) -> None:
    pickle(broken)
    more = [] if command == "compare" else ["--method", "rtn", "--scheme", "int4-g32"]
    refused(
        *(command, broken, *more, "--device", "cpu", "--out", "out"),
        value="pytorch_model.bin",
        rule="refused",
        fix="convert them to safetensors",
    )


def test_model_is_a_file(evaluate: Refused, broken: Path) -> None:
    evaluate(
        broken / "model.safetensors",
        value="model.safetensors is a file",
        rule="MODEL is a folder (with config.json)",
        fix="or a hub name",
    )


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "models/of/mine", "~/no-such", "~nobody-here/mine"]
)
def test_model_that_is_not_there(evaluate: Refused, name: str) -> None:
    evaluate(name, value=name, rule="no such model folder", fix="check|give|hub name|spelling")


def test_model_that_is_no_name(evaluate: Refused) -> None:
    evaluate("my model", value="'my model'", rule="neither a folder nor a hub name", fix="alphanum")


@pytest.mark.parametrize("name", ["referense", "someone/nothing"])
def test_model_that_cannot_be_looked_up(evaluate: Refused, name: str) -> None:
    evaluate(name, value=repr(name), rule="is no local folder", fix="check the spelling")
