"""The shipped model, its text and its calibration; and what must hold of a comparison on it."""

from __future__ import annotations

import json
import math
import os
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from awq_impl.method import AWQ
from baselines.rtn import RTN
from bench import calibration, compare
from bench.progress import quiet
from bench.records import Record
from bench.reference import CALIBRATION_FILE, MODEL_FOLDER
from bench.reference.corpus import ADDRESSES, TOKENIZED_TRAIN, UnknownWords, natural
from bench.reference.train import (
    Recipe,
    TokenStream,
    learning_rate,
    spread_norms,
    train,
    train_tokenizer,
)
from bench.request import Request, build_calibration
from bench.statistics import perplexity_ratio
from quantcore.calibration import StatsStore, calibrate
from quantcore.checkpoint import LoadedModel, load, sha256_of
from quantcore.discovery import discover
from quantcore.quantize import Snapshot, quantize_model
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure, fold
from suites import texts
from suites.perplexity import cut_windows, window_nll

DATA = os.environ.get("AWQ_BENCH_DATA")
CARD = (MODEL_FOLDER / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def reference() -> LoadedModel:
    return load("reference", folder=MODEL_FOLDER, dtype=torch.float32, device=torch.device("cpu"))


def test_it_is_small_enough_to_ship() -> None:
    total = sum(path.stat().st_size for path in MODEL_FOLDER.iterdir())
    assert total + CALIBRATION_FILE.stat().st_size <= 16 * 2**20


def test_the_card_names_the_shipped_files(reference: LoadedModel) -> None:
    assert reference.weights_sha256 in CARD
    assert reference.tokenizer_sha256 in CARD
    assert sha256_of([CALIBRATION_FILE]) in CARD
    assert f"{reference.model.num_parameters():,} parameters" in CARD


def test_its_sizes_are_multiples_of_128(reference: LoadedModel) -> None:
    discover(reference.model).check_scheme(QuantScheme.parse("int4-g128"))
    assert reference.context == 1024
    config = reference.model.config
    assert config.num_key_value_heads < config.num_attention_heads


def test_its_tokenizer_round_trips_any_unicode(reference: LoadedModel) -> None:
    chooser = random.Random(0)
    points = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    for _ in range(200):
        text = "".join(chr(chooser.choice(points)) for _ in range(40))
        text += "".join(chr(chooser.randrange(1, 0x500)) for _ in range(40)) + "  \n\t \r\n x"
        ids = reference.tokenizer(text).input_ids
        assert reference.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert ids[0] == reference.tokenizer.bos_token_id


def test_embedded_calibration_is_128_sequences_of_512() -> None:
    ids = load_file(CALIBRATION_FILE)["input_ids"]
    assert tuple(ids.shape) == (128, 512)
    assert int(ids.min()) >= 0
    assert int(ids.max()) < 8192
    assert len({tuple(row[1:33].tolist()) for row in ids}) == 128


def test_embedded_calibration_is_the_models_own_voice(reference: LoadedModel) -> None:
    """Text sampled at temperature 1 is, to its model, about as likely as the model is uncertain."""
    ids = load_file(CALIBRATION_FILE)["input_ids"].long()[:8]
    with torch.no_grad():
        log_p = reference.model(ids).logits[:, :-1].float().log_softmax(-1)
    surprise = -log_p.gather(-1, ids[:, 1:, None]).mean()
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    assert float(surprise) == pytest.approx(float(entropy), rel=0.03)


def test_embedded_calibration_shares_no_text_with_the_evaluation(reference: LoadedModel) -> None:
    request = Request(text="embedded")
    say = quiet()
    build_calibration(request, reference, texts.embedded(), say)  # refuses an overlap


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="AWQ_BENCH_DATA names no data folder")
def test_evaluation_text_was_never_trained_on() -> None:
    for path in Path(str(DATA)).rglob("*.txt"):
        shares = calibration.overlap(path.read_text("utf-8"), texts.embedded().content)
        assert shares == (0.0, 0.0), path.name


def plant(structure: Structure, *, seed: int) -> None:
    """Make channels salient without changing the function: each its own factor from 1 to 200.

    The operation before is multiplied by the factor and its readers divided by it, in the norms
    before q, k, v and gate, up; in v before o; in up before down.
    """
    generator = torch.Generator().manual_seed(seed)
    for block in structure.blocks:
        for group in block.groups:
            assert group.absorber is not None
            count = int(group.absorber.rows.max()) + 1
            factors = torch.logspace(0, math.log10(200), count)
            factors = factors[torch.randperm(count, generator=generator)]
            scales = 1 / factors[group.absorber.rows]
            fold(block, {}, group.absorber, group.consumers, scales)


@pytest.mark.slow
def test_where_planted_salience_breaks_rtn_awq_recovers(reference: LoadedModel) -> None:
    structure = discover(reference.model)
    windows = cut_windows("e", texts.embedded().content, reference.tokenizer, seqlen=256, count=16)
    untouched = Snapshot(structure)

    def mean_nll() -> float:
        nll = window_nll(reference.model, windows.tokens, batch_size=8)
        return sum(nll) / len(nll)

    base = mean_nll()
    plant(structure, seed=0)
    assert mean_nll() == pytest.approx(base, abs=1e-3)
    planted = Snapshot(structure)
    tokens = load_file(CALIBRATION_FILE)["input_ids"].long()[:16]
    stats = StatsStore()
    calibrate(reference.model, structure, tokens, stats, batch_size=8)
    scheme = QuantScheme.parse("int4-g128")
    lost = {}
    for method in (RTN(), AWQ(), AWQ(clip=True)):
        quantize_model(structure, method, scheme, stats=stats)
        lost[method.name] = mean_nll() - base
        planted.restore()
    untouched.restore()
    assert lost["rtn"] > 0.5  # nats a token: a collapse
    assert lost["awq"] < 0.1 * lost["rtn"]
    assert lost["awq+clip"] < 0.1 * lost["rtn"]


def ordered_at_three_bits(records: tuple[Record, ...]) -> None:
    """FP below AWQ + clip, AWQ and GPTQ, and these below RTN, beyond the paired intervals."""
    metric = records[0].cell.suites["perplexity"]["metric"]
    nll = {r.cell.method: r.metrics[metric]["window_nll"] for r in records}
    for method in ("awq+clip", "awq", "gptq"):
        assert perplexity_ratio(nll[method], nll[None], seed=0).low > 1, method
        assert perplexity_ratio(nll["rtn"], nll[method], seed=0).low > 1, method


@pytest.mark.slow
def test_three_bits_come_out_in_order_on_the_embedded_text(tmp_path: Path) -> None:
    request = Request(schemes=("int3-g128",), text="embedded")
    ordered_at_three_bits(compare.compare(request, out=tmp_path / "run").records)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="AWQ_BENCH_DATA names no data folder")
def test_three_bits_come_out_in_order_on_wikitext2(tmp_path: Path) -> None:
    request = Request(schemes=("int3-g128",), windows=64, data_dir=Path(str(DATA)))
    records = compare.compare(request, out=tmp_path / "run").records
    assert list(records[0].metrics) == ["wikitext2_ppl_1024@64"]
    ordered_at_three_bits(records)


def test_unknown_words_leave_no_mask() -> None:
    text = "one rare <unk> here and <unk> there , " + " ".join(f"w{c}" * 2 for c in "abcdefgh")
    filled = UnknownWords("Anna Berta Carla Dora " * 2, seed=0).fill(text)
    assert "<unk>" not in filled
    assert filled.startswith("one rare ")


def test_ordinary_typography() -> None:
    raw = ' = A head = \n\n\n He ran 3 @.@ 5 km , then " slept " ( well ) : it \'s 10 @-@ fold . \n'
    assert natural(raw) == 'A head\n\nHe ran 3.5 km, then "slept" (well): it\'s 10-fold.'


def test_batches_are_a_function_of_the_step() -> None:
    words = [(" ".join(f"{a}{b}" for b in range(300)), "x y z " * 200) for a in "abcd"]
    recipe = Recipe(
        vocab_size=300, context=64, first_context=16, step_tokens=128, steps=15, spread_steps=5
    )
    stream = TokenStream(words, train_tokenizer([w for pair in words for w in pair], 300), recipe)
    whole = list(stream.batches(0))
    assert [tuple(b.shape) for b in whole] == [(8, 17)] * 12 + [(2, 65)] * 8
    for first in (7, 17):
        for a, b in zip(whole[first:], stream.batches(first), strict=True):
            assert torch.equal(a, b)


def test_training_stopped_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in (TOKENIZED_TRAIN, ADDRESSES):
        (data / name).parent.mkdir(parents=True)
    chooser = random.Random(0)
    rows = [" ".join(chooser.choice("abcdefg") * 3 for _ in range(60)) for _ in range(30)]
    (data / TOKENIZED_TRAIN).write_text(" = A = \n Anna Berta " + " <unk> \n".join(rows), "utf-8")
    (data / ADDRESSES).write_text("Fellow citizens! " * 300, "utf-8")
    recipe = Recipe(
        vocab_size=300, hidden_size=32, intermediate_size=64, layers=1, heads=2, key_value_heads=1,
        context=32, first_context=16, step_tokens=64, steps=4, spread_steps=3, warmup_steps=2,
    )  # fmt: skip
    for folder, stops in (("whole", [None]), ("stopped", [2, 4, 6, None])):
        for stop in stops:
            (tmp_path / folder).mkdir(exist_ok=True)
            log = train(data, tmp_path / folder, recipe, stop_after=stop)
    assert log[-1]["step"] == 7
    whole = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    stopped = load_file(tmp_path / "stopped" / "checkpoint.safetensors")
    assert whole.keys() == stopped.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, stopped[name]), name


def test_spreading_the_norms_keeps_the_function(reference: LoadedModel) -> None:
    structure = discover(reference.model)
    snapshot = Snapshot(structure)
    ids = torch.arange(200)[None]
    with torch.no_grad():
        before = reference.model(ids).logits
        spread_norms(reference.model, Recipe(spread_sigma=1.0))
        after = reference.model(ids).logits
    snapshot.restore()
    assert float((after - before).norm() / before.norm()) < 1e-5


def test_learning_rate_warms_up_and_comes_down() -> None:
    recipe = Recipe()
    rates = [learning_rate(step, recipe) for step in range(recipe.all_steps)]
    assert max(rates) == recipe.learning_rate
    assert rates.index(max(rates)) == pytest.approx(recipe.warmup_steps, abs=1)
    for last in (recipe.steps - 1, recipe.all_steps - 1):
        assert rates[last] == pytest.approx(recipe.final_learning_rate, rel=0.01)
    assert max(rates[recipe.steps :]) == recipe.spread_learning_rate


def test_the_card_tells_the_recipe() -> None:
    stated = re.search(r"```json\n(.*?)\n```", CARD, re.DOTALL)
    assert stated is not None
    assert json.loads(stated[1]) == json.loads(json.dumps(Recipe().__dict__))
