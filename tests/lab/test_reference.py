"""The shipped model, its text and its calibration; and what must hold of a comparison on it."""

from __future__ import annotations

import json
import math
import os
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from awq_impl.method import AWQ
from baselines.rtn import RTN
from bench.comparison import calibration, compare
from bench.comparison.calibration import build_calibration
from bench.comparison.progress import quiet
from bench.comparison.request import Request
from bench.records.record import Record
from bench.reference import CALIBRATION_FILE, MODEL_FOLDER
from bench.stats.windows import geometric_mean_ratio
from lab.reference.corpus import ADDRESSES, TOKENIZED_TRAIN, UnknownWords, natural
from lab.reference.items import (
    DOCUMENTS,
    PRACTICE,
    RECALL,
    SHORT,
    Documents,
    Vocabulary,
    WideDraw,
)
from lab.reference.network import attend_in_blocks, build_model, spread_norms
from lab.reference.recipe import CHECKPOINT, Recipe, learning_rate
from lab.reference.stream import CLASSES
from lab.reference.tokenizer import EOS, train_tokenizer
from lab.reference.train import prepare, train
from quantcore.calibration import StatsStore, calibrate
from quantcore.checkpoint import LoadedModel, load, sha256_of
from quantcore.discovery import discover
from quantcore.quantize import Snapshot, quantize_model
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure, fold
from suites import texts
from suites.items import Draw, Part, belongs
from suites.long_prompt.items import estimated_tokens
from suites.long_prompt.items import stream as long_stream
from suites.multilingual.items import TEMPLATES as MULTILINGUAL
from suites.multilingual.items import expand
from suites.multilingual.languages import FRAMES, LANGUAGES, WORDS
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
    # Items of one template begin alike; no two go on alike.
    assert len({tuple(row[1:65].tolist()) for row in ids}) == 128


def test_embedded_calibration_is_the_models_own_voice(reference: LoadedModel) -> None:
    """Text sampled at temperature 1 is, to its model, about as likely as the model is uncertain."""
    ids = load_file(CALIBRATION_FILE)["input_ids"].long()[:8]
    with torch.no_grad():
        log_p = reference.model(ids).logits[:, :-1].float().log_softmax(-1)
    surprise = -log_p.gather(-1, ids[:, 1:, None]).mean()
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    assert float(surprise) == pytest.approx(float(entropy), rel=0.03)


def test_embedded_calibration_shares_no_text_with_the_evaluation(reference: LoadedModel) -> None:
    request = Request.of(text="embedded")
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
    metric = records[0].cell.suites["perplexity"].metric
    nll = {r.cell.method: r.metrics[metric].window_nll for r in records}
    for method in ("awq+clip", "awq", "gptq"):
        assert geometric_mean_ratio(nll[method], nll[None], seed=0).low > 1, method
        assert geometric_mean_ratio(nll["rtn"], nll[method], seed=0).low > 1, method


@pytest.mark.slow
def test_three_bits_come_out_in_order_on_the_embedded_text(tmp_path: Path) -> None:
    request = Request.of(schemes=("int3-g128",), text="embedded")
    ordered_at_three_bits(compare.compare(request, out=tmp_path / "run").records)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="AWQ_BENCH_DATA names no data folder")
def test_three_bits_come_out_in_order_on_wikitext2(tmp_path: Path) -> None:
    request = Request.of(schemes=("int3-g128",), windows=64, data_dir=Path(str(DATA)))
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


def invented(words: int, *, seed: int) -> str:
    """Text of many different words, most of them rare."""
    chooser = random.Random(seed)
    syllables = [a + b for a in "bdfglmnprst" for b in "aeiou"]
    known = [chooser.choice(syllables) + chooser.choice(syllables) + "n" for _ in range(1500)]
    known += [word.capitalize() for word in known[:600]]
    return " ".join(chooser.choice(known) for _ in range(words))


TINY = Recipe(
    vocab_size=1500, spaced_pieces=300, tokenizer_documents=20, hidden_size=32,
    intermediate_size=64, layers=1, heads=2, key_value_heads=1, context=512, short_context=256,
    short_steps=3, step_tokens=1024, steps=5, decay_steps=3, warmup_steps=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    for name in (TOKENIZED_TRAIN, ADDRESSES):
        (data / name).parent.mkdir(parents=True)
    rows = [invented(400, seed=seed) for seed in range(60)]
    (data / TOKENIZED_TRAIN).write_text(" = A = \n " + " <unk> \n".join(rows), "utf-8")
    (data / ADDRESSES).write_text("Fellow citizens! " * 300, "utf-8")
    return data


def test_batches_are_a_function_of_the_step(tiny_data: Path, tmp_path: Path) -> None:
    _, stream = prepare(tiny_data, tmp_path, TINY)
    whole = list(stream.batches(0))
    assert [tuple(b.tokens.shape) for b in whole] == (
        [(4, 257)] * 3 + [(4, 257) if step % 2 else (2, 513) for step in range(3, 8)]
    )
    for first in (2, 6):
        for a, b in zip(whole[first:], stream.batches(first), strict=True):
            assert torch.equal(a.tokens, b.tokens)
            assert torch.equal(a.marks, b.marks)


def test_windows_hold_whole_items_and_ask_for_their_answers(
    tiny_data: Path, tmp_path: Path
) -> None:
    tokenizer, stream = prepare(tiny_data, tmp_path, TINY)
    answer = CLASSES.index("code")
    answers = 0
    for row in range(120):
        tokens, marks = stream.item_window(f"test:{row}", 513, TINY.shares_of(0))
        assert len(tokens) == len(marks) == 513
        text, asked = "", ""
        for token, mark in zip(tokens, marks, strict=True):
            piece = tokenizer.decode([int(token)])
            if mark == answer:
                asked += piece
            text += piece
        for target in asked.split(EOS)[:-1]:
            assert target.startswith("def ")
            head = target.rsplit("def ", 1)[-1].split("\n")[0]
            assert text.count(f"def {head}\n") == 2  # as the prompt has it, and in the answer
            answers += 1
    assert answers > 5


def test_training_stopped_and_resumed_ends_with_the_same_weights(
    tiny_data: Path, tmp_path: Path
) -> None:
    for folder, stops in (("whole", [None]), ("stopped", [2, 5, 7, None])):
        for stop in stops:
            log = train(tiny_data, tmp_path / folder, TINY, stop_after=stop)
    assert log[-1]["step"] == 8
    whole = load_file(tmp_path / "whole" / CHECKPOINT)
    stopped = load_file(tmp_path / "stopped" / CHECKPOINT)
    assert whole.keys() == stopped.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, stopped[name]), name


class Drawn:
    """What `Draw` hands out while this is watching: the open values of items."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: set[str] = set()
        for kind in (Draw, WideDraw):
            for name in ("open", "opens", "integer", "decimal", "code"):
                if name in vars(kind):
                    monkeypatch.setattr(kind, name, self._watched(getattr(kind, name)))

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            value = method(*arguments)
            self.values.update(map(str, value if isinstance(value, list) else [value]))
            return value

        return watched

    def skeletons(self, texts: Iterable[str]) -> set[str]:
        """The texts' lines without their open values and numbers."""
        words = re.compile(r"[^\W\d_]+|\d+")

        def bare(match: re.Match[str]) -> str:
            known = match[0] in self.values or match[0].lower() in self.values
            return "@" if match[0].isdigit() or known else match[0]

        lines = {words.sub(bare, line) for text in texts for line in re.split(r"\n|(?<=\.) ", text)}
        return {line for line in lines if len(re.findall("[a-z]{2,}", line)) > 1}


def evaluation_texts(part: Part) -> dict[str, list[str]]:
    """Prompts and answers of the embedded suites, as many as are asked."""
    by_suite = {
        suite: [
            item["prompt"] + item["target"]
            for item in templates.stream(split="evaluation", part=part, count=200)
        ]
        for suite, templates in SHORT.items()
    }
    sources = MULTILINGUAL.stream(split="evaluation", part=part, count=68)
    by_suite["multilingual"] = [
        item["prompt"] + item["delimiter"] + item["target"]
        for source in sources
        for item in expand(source)
    ]
    long = long_stream(split="evaluation", part=part, count=150, lengths=(256, 512, 1024))
    return by_suite | {"long_prompt": [item["prompt"] + item["target"] for item in long]}


def sentences(texts: Iterable[str]) -> set[str]:
    """Facts and filler of long prompts."""
    bodies_by_text = (re.findall(r"### Text\n(.*)\n", text) for text in texts)
    return {
        fact for bodies in bodies_by_text for body in bodies for fact in re.split(r"(?<=\.) ", body)
    }


def test_training_items_share_nothing_with_the_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as watching:
        drawn = Drawn(watching)
        evaluation = {part: evaluation_texts(part) for part in ("seen", "reserved")}
        kept = set(drawn.values)
        reserved, seen = (
            {suite: drawn.skeletons(texts) for suite, texts in evaluation[part].items()}
            for part in ("reserved", "seen")
        )
    documents = Documents(
        vocabulary=Vocabulary.of(invented(60_000, seed=0)),
        wide_share=Recipe.wide_share,
        count_tokens=estimated_tokens,
    )
    with monkeypatch.context() as watching:
        drawn = Drawn(watching)
        training = {
            suite: [
                "".join(text for text, _ in documents.draw(suite, f"0:{n}:0:1", room=1024))
                for n in range(400)
            ]
            for suite in DOCUMENTS
        }
        shared = drawn.values & kept
        assert not shared, sorted(shared)[:9]
        of_seen = set().union(*seen.values())
        for suite, texts in training.items():
            trained = drawn.skeletons(texts)
            # Drills are held against all suites: their questions are those of several.
            lines = reserved.get(suite) or set().union(*reserved.values())
            assert not (lines - of_seen) & trained, suite
    asked = {text for part in evaluation.values() for texts in part.values() for text in texts}
    for suite, texts in training.items():
        assert not asked & set(texts), suite
    tools = re.compile(r'"name":"(\w+)"')
    offered = {name for text in training["tool_calls"] for name in tools.findall(text)}
    for part in evaluation.values():
        assert not offered & {name for text in part["tool_calls"] for name in tools.findall(text)}
    told = sentences(training["long_prompt"] + training[RECALL])
    for part in evaluation.values():
        assert not told & sentences(part["long_prompt"])


def test_no_word_of_evaluation_is_trained_in_any_language() -> None:
    split = {
        name: {
            word
            for english, row in WORDS.items()
            if row["kind"] not in ("day", "group") and belongs(english, name)
            for word in row.values()
        }
        for name in ("train", "evaluation")
    }
    documents = Documents(
        vocabulary=Vocabulary.of(invented(60_000, seed=0)),
        wide_share=Recipe.wide_share,
        count_tokens=estimated_tokens,
    )
    labels = [language.text for language in LANGUAGES.values()]
    constant = {
        word
        for frames in FRAMES.values()
        for frame in frames.values()
        for text in frame.values()
        for word in re.split(r"[^\w\u0900-\u097f]+", text)
    }
    for number in range(4500):
        suite = ("multilingual", RECALL, PRACTICE)[number % 3]
        text = "".join(piece for piece, _ in documents.draw(suite, f"0:{number}", room=400))
        if not text.startswith(tuple(labels)) and suite == RECALL:
            continue  # mostly English, which is compared above
        words = set(re.split(r"[^\w\u0900-\u097f]+", text)) - constant
        assert not words & (split["evaluation"] - split["train"]), text
        assert not any("\ue000" <= char <= "\uf8ff" for char in text), text


def test_a_words_pieces_do_not_depend_on_the_space_before(tiny_data: Path, tmp_path: Path) -> None:
    tokenizer, _ = prepare(tiny_data, tmp_path, TINY)
    chooser = random.Random(0)
    for word in invented(300, seed=5).split():
        mark = chooser.choice('"(/_')
        bare, spaced = tokenizer.tokenize(f"{mark}{word}"), tokenizer.tokenize(f" {word}")
        assert "".join(bare[1:]) == "".join(spaced).removeprefix("Ġ")
        assert bare[2:] == spaced[-len(bare[2:]) :] or len(bare) == 2
    assert tokenizer.tokenize("5078.25")[-2:] == ["2", "5"]


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


def test_learning_rate_warms_up_stays_and_comes_down() -> None:
    recipe = Recipe()
    rates = [learning_rate(step, recipe) for step in range(recipe.all_steps)]
    assert rates.index(max(rates)) == recipe.warmup_steps - 1
    assert set(rates[recipe.warmup_steps : recipe.steps]) == {recipe.learning_rate}
    assert rates[-1] == pytest.approx(recipe.final_learning_rate)
    assert max(rates[recipe.steps :]) < recipe.learning_rate
    fewer = replace(recipe, steps=recipe.steps // 2)
    assert rates[: fewer.steps] == [learning_rate(step, fewer) for step in range(fewer.steps)]


def stated(pattern: str) -> Any:
    """JSON in the card."""
    match = re.search(pattern, CARD, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


SHIPPED = stated(r"```json\n(.*?)\n```")


def test_the_card_tells_the_recipe() -> None:
    assert json.loads(json.dumps(asdict(Recipe()))) == SHIPPED


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="AWQ_BENCH_DATA names no data folder")
def test_the_first_steps_of_the_recipe_repeat(reference: LoadedModel, tmp_path: Path) -> None:
    log = train(Path(str(DATA)), tmp_path, Recipe(), stop_after=2)
    shipped, learnt = (
        json.loads((folder / "tokenizer.json").read_text("utf-8"))
        for folder in (MODEL_FOLDER, tmp_path)
    )
    assert learnt == shipped
    expected = stated(r"First steps.*?```\n(.*?)\n```")
    for step, other in zip(log, expected, strict=True):
        assert step == pytest.approx(other, rel=1e-2)


def test_attending_in_blocks_is_attending() -> None:
    recipe = Recipe(vocab_size=300, hidden_size=64, intermediate_size=128, layers=2, heads=4)
    tokenizer = train_tokenizer([invented(2000, seed=0)], recipe.vocab_size)
    model = build_model(recipe, tokenizer).eval()
    ids = torch.randint(300, (2, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        usual = model(ids).logits
        attend_in_blocks(model)
        assert torch.allclose(model(ids).logits, usual, atol=1e-5)
