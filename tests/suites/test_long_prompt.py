from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

import suites
from bench.reference import MODEL_FOLDER
from quantcore.errors import InputError
from suites.items import CITIES, COLORS, FIRST_NAMES, LAST_NAMES, PRODUCTS, Item, Part, fingerprint
from suites.long_prompt.items import (
    ANSWER_TOKENS,
    DEPTHS,
    FILLER_FORMS,
    FILLER_WORDS,
    TEMPLATES,
    default_lengths,
    items,
)
from suites.long_prompt.scoring import OUTCOMES, metrics
from suites.long_prompt.tasks import COUNTS, counter, dataset

SUITES = Path(suites.__file__).parent
PARTS: tuple[Part, ...] = ("seen", "reserved")
FINGERPRINTS = {
    "seen": "c7b4b0514589d8d378e70a1c343732e93a688d24898cfa295841a4d6960b565e",
    "reserved": "29477e8afff9e0b84ee3102a06651b0ab0dd7849866f85db6dc36964d3c4f249",
}
REFERENCE_LENGTHS = [256, 512, 1024]


@cache
def evaluation(part: Part) -> list[Item]:
    return items(split="evaluation", part=part, count=COUNTS[part], lengths=default_lengths())


@cache
def in_tokens(part: Part) -> list[Item]:
    """As the harness asks for them, for the reference model with its context of 1,024."""
    made = dataset(part=part, tokenizer=str(MODEL_FOLDER), max_seq_lengths=REFERENCE_LENGTHS)
    return list(made["test"])


def both() -> list[Item]:
    return [*evaluation("seen"), *evaluation("reserved")]


def outcome(answer: str, item: Item) -> str:
    found = metrics(answer, item)
    flags = {key.removeprefix("is_"): value for key, value in found.items() if key[:3] == "is_"}
    assert tuple(flags) == OUTCOMES
    assert sorted(flags.values()) == [0.0] * (len(OUTCOMES) - 1) + [1.0]
    assert found["acc"] == flags["right"]
    assert 0 <= found["recall"] <= 1
    return max(flags, key=flags.__getitem__)


class Ended(str):
    """An answer of our own adapter, as far as the metrics see."""

    cut_off = False


class CutOff(str):
    cut_off = True


def facts_of(item: Item) -> str:
    text: str = re.search(r"### Text\n(.*?)\n", item["prompt"])[1]  # type: ignore[index]
    return text


def sentences(item: Item) -> list[str]:
    return re.split(r"(?<=\.) ", facts_of(item))


# Through lm-eval


class Scripted(LM):
    """Answers from the item, as told."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.prompts: list[str] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.prompts += [request.args[0] for request in requests]
        assert all(request.args[1]["max_gen_toks"] == ANSWER_TOKENS for request in requests)
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError


def run(answer: Any, metadata: dict[str, Any] | None = None, **options: Any) -> tuple[Any, LM]:
    model = Scripted(answer)
    manager = TaskManager(include_path=str(SUITES), include_defaults=False, metadata=metadata)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=["awqbench_long_prompt"],
        task_manager=manager,
        log_samples=True,
        bootstrap_iters=0,
        **options,
    )
    return found, model


def test_right_answers_score_everything() -> None:
    found, model = run(lambda doc: doc["target"])
    for part in PARTS:
        results = found["results"][f"awqbench_long_prompt_{part}"]
        assert (results["acc,none"], results["recall,none"]) == (1.0, 1.0)
        assert results["is_right,none"] == 1.0
        assert results["is_wrong,none"] == 0.0
        samples = found["samples"][f"awqbench_long_prompt_{part}"]
        assert [one["doc"] for one in samples] == evaluation(part)
    assert found["results"]["awqbench_long_prompt"]["acc,none"] == 1.0
    assert len(model.prompts) == 250


def test_lengths_come_from_the_model_and_examples_count() -> None:
    metadata = {"pretrained": str(MODEL_FOLDER), "max_seq_lengths": [512], "num_fewshot": 1}
    found, model = run(lambda doc: "no idea", metadata, num_fewshot=1)
    assert found["results"]["awqbench_long_prompt"]["acc,none"] == 0.0
    count = counter(str(MODEL_FOLDER))
    for prompt in model.prompts:
        assert prompt.count("### Answer\n") == 2
        assert 440 < count(prompt) <= 512 - ANSWER_TOKENS


def test_the_standard_set_is_the_one_of_lm_eval() -> None:
    theirs = Path(lm_eval.__file__).parent / "tasks" / "ruler"  # one folder of the defaults: quick
    manager = TaskManager(include_path=[str(SUITES), str(theirs)], include_defaults=False)
    assert "awqbench_long_prompt_standard" in manager.all_groups
    assert manager.task_index["awqbench_long_prompt_standard"].cfg["task"] == ["ruler"]
    assert "ruler" in manager.all_groups


# The items


def test_there_are_enough_and_always_the_same() -> None:
    assert [len(TEMPLATES.of(part)) for part in PARTS] == [15, 10]
    assert len({item["id"] for item in both()}) == 250
    for part in PARTS:
        assert fingerprint(evaluation(part)) == FINGERPRINTS[part]
    kinds = Counter(item["kind"] for item in both())
    assert min(kinds[kind] for kind in ("needle", "needles", "track")) >= 80


@pytest.mark.parametrize("part", PARTS)
def test_lengths_and_depths_are_spread_evenly(part: Part) -> None:
    for drawn, lengths in (
        (evaluation(part), default_lengths()),
        (in_tokens(part), [256, 512, 1024]),
    ):
        for field, values in (("length", lengths), ("depth", DEPTHS)):
            counts = Counter(item[field] for item in drawn)
            assert set(counts) == set(values)
            assert max(counts.values()) - min(counts.values()) <= 2
        pairs = Counter((one["template"], one["length"], one["depth"]) for one in drawn)
        assert max(pairs.values()) == 1


@pytest.mark.parametrize("part", PARTS)
def test_prompts_fill_their_length_and_leave_room_for_the_answer(part: Part) -> None:
    count = counter(str(MODEL_FOLDER))
    for item in in_tokens(part):
        assert item["length_unit"] == "tokens"
        assert item["prompt_tokens"] == count(item["prompt"])
        assert 0 <= item["length"] - ANSWER_TOKENS - item["prompt_tokens"] < 20
        assert count(item["target"]) < ANSWER_TOKENS * 0.6
    for item in evaluation(part):
        assert item["length_unit"] == "estimated tokens"
        assert len(item["prompt"]) <= 4 * (item["length"] - ANSWER_TOKENS)


def test_prompts_say_all_that_an_answer_needs() -> None:
    for item in both():
        assert item["prompt"].startswith("### Task\n")
        assert (
            item["prompt"].endswith("?\n\n### Answer\n") or "order of the text.\n" in item["prompt"]
        )
        assert " only" in item["prompt"].split("### Text")[0]
        for value in json.loads(item["answers_json"]) + json.loads(item["others_json"]):
            assert re.search(rf"(?<![\w.-]){re.escape(value)}(?![\w-])", facts_of(item))


def test_depth_is_where_the_last_fact_stands() -> None:
    known = set(FILLER_FORMS)

    def is_filler(sentence: str) -> bool:
        return any(
            re.fullmatch(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(form)), sentence) for form in known
        )

    for item in both():
        if item["kind"] != "needle":
            continue
        (answer,) = json.loads(item["answers_json"])
        parts = sentences(item)
        filler = [is_filler(sentence) for sentence in parts]
        at = next(n for n, sentence in enumerate(parts) if not filler[n] and answer in sentence)
        assert sum(filler[:at]) == round(item["depth"] * sum(filler))
        assert len(filler) - sum(filler) == 3  # its own fact, and two of others


def test_an_independent_reading_of_the_text_gives_the_answers() -> None:
    """Replay the facts of some templates, one sentence after the other."""
    replayed = Counter[str]()
    for item in both():
        question = item["prompt"].split("### Question\n")[1]
        state: dict[str, str] = {}
        for sentence in sentences(item):
            if moved := re.match(r"(?:The|Move the) (\w+) .*from (\w+) to (\w+)\.", sentence):
                assert state.get(moved[1], moved[2]) == moved[2]
                state[moved[1]] = moved[3]
            elif assigned := re.match(r"Let (\w+) = (\w+)\.", sentence):
                state[assigned[1]] = state.get(assigned[2], assigned[2])
            elif was_set := re.match(r"(?:The|Set the) (\w+) counter .*to (\d+)\.", sentence):
                state[was_set[1]] = was_set[2]
            elif linked := re.match(r"(?:File|For) (\S+) .*file (\S+)\.", sentence):
                state[linked[1]] = linked[2]
        if item["template"] in ("moved_product", "variables", "counter_set"):
            asked = [thing for thing in state if re.search(rf"\b{thing}\b", question)]
            assert [state[thing] for thing in asked] == [item["target"]]
        elif item["template"] == "file_links":
            start = re.search(r"start at (\S+)", question)[1]  # type: ignore[index]
            while start in state:
                start = state[start]
            assert start == item["target"]
        else:
            continue
        replayed[item["template"]] += 1
    assert dict(replayed) == {
        "moved_product": 10, "variables": 10, "counter_set": 10, "file_links": 10
    }  # fmt: skip


def test_lists_are_asked_for_in_an_order_that_can_be_known() -> None:
    """That of the text, or that of the names in the question."""
    by_text = by_question = 0
    for item in both():
        if item["kind"] != "needles":
            continue
        answers = json.loads(item["answers_json"])
        question = item["prompt"].split("### Question\n")[1]
        if "order of the text" in question:
            places = [facts_of(item).index(answer) for answer in answers]
            by_text += 1
        else:
            facts = [next(one for one in sentences(item) if answer in one) for answer in answers]
            words = [set(re.findall(r"\w+", fact)) for fact in facts]
            keys = [
                one - set.union(*(other for other in words if other is not one)) for one in words
            ]
            asked = re.findall(r"\w+", question)
            places = [next(n for n, word in enumerate(asked) if word in key) for key in keys]
            by_question += 1
        assert places == sorted(places)
    assert min(by_text, by_question) >= 40


def test_training_sees_no_value_and_no_sentence_of_evaluation() -> None:
    training = items(split="train", part="seen", count=2000, lengths=[256])

    def values(some: list[Item]) -> set[str]:
        return {
            value.lower()
            for item in some
            for field in ("answers_json", "others_json")
            for value in json.loads(item[field])
        }

    assert not values(training) & values(both())
    assert not {one for item in training for one in sentences(item)} & {
        one for item in both() for one in sentences(item)
    }
    reserved = {template.name for template in TEMPLATES.of("reserved")}
    assert not reserved & {item["template"] for item in training}
    with pytest.raises(ValueError, match="for evaluation only"):
        items(split="train", part="reserved", count=1, lengths=[256])


def test_filler_cannot_be_taken_for_an_answer() -> None:
    stocks = {word.lower() for stock in (CITIES, COLORS, FIRST_NAMES, PRODUCTS) for word in stock}
    people = {name.lower() for name in LAST_NAMES}
    for stock in FILLER_WORDS.values():
        assert len(set(stock)) == len(stock) >= 60
        assert not set(stock) & (stocks | people)
    assert len(set(FILLER_FORMS)) >= 30
    assert not {word for form in FILLER_FORMS for word in re.findall(r"\w+", form.lower())} & stocks
    for form in FILLER_FORMS:
        assert "{" in form  # a word of the split's stock


# Answers judged


def test_damaged_answers_land_in_their_class() -> None:
    applied = Counter[str]()

    def expect(name: str, answer: str, item: Item) -> None:
        assert outcome(answer, item) == name, (answer, item["target"])
        applied[name] += 1

    for item in both():
        answers, others = (json.loads(item[key]) for key in ("answers_json", "others_json"))
        target = item["target"]
        expect("right", f' "{target}".\n\nThat is what the text says about {others[0]}.', item)
        expect("right", target.replace(", ", " and ").upper(), item)
        expect("right", Ended(f"\n{target}"), item)
        expect("empty", Ended(" \n"), item)
        expect("empty", CutOff(""), item)
        expect("wrong", Ended("I do not know"), item)
        expect("wrong", Ended(", ".join(f"{answer}x" for answer in answers)), item)
        expect("distractor", Ended(", ".join([*answers[:-1], others[0]])), item)
        expect("distractor", f"{target}, {others[-1]}", item)
        expect("partly_right", Ended(f"It is {target}, I think"), item)
        expect("cut_off", CutOff("Let me read the text again, slowly and"), item)
        expect("cut_off", CutOff(target[:-1]), item)
        expect("cut_off", target[:-1], item)  # told by nobody, seen from its form
        assert outcome(CutOff(f"Nothing\n{target[:-1]}"), item) == "wrong"  # the line was complete
        assert outcome(Ended(target[:-1]), item) in ("wrong", "partly_right")
        if len(answers) > 1:
            expect("cut_off", f"{answers[0]},", item)
            expect("partly_right", Ended(", ".join(answers[1:])), item)
            expect("partly_right", Ended(", ".join(answers[::-1])), item)
            expect("partly_right", Ended(", ".join([*answers, answers[0]])), item)
    assert min(applied[name] for name in OUTCOMES) >= 250


def test_recall_is_the_share_of_values_found() -> None:
    item = {"answers_json": '["417", "3.5", "AB-12"]', "others_json": '["99"]'}
    for answer, recall in (
        ("417, 3.5, AB-12", 1.0),
        ("AB-12 and 417", 2 / 3),
        ("4175, 13.5, AB-123", 0.0),
        ("417.2, 3.55, XAB-12, 0-417", 0.0),
        ("99", 0.0),
        ("the values are 417 and ab-12.", 2 / 3),
    ):
        assert metrics(answer, item)["recall"] == pytest.approx(recall), answer


# What is refused


def test_lengths_up_to_a_context() -> None:
    assert default_lengths() == (256, 512, 1024, 2048, 4096)
    assert default_lengths(1500) == (256, 512, 1024)
    assert default_lengths(256) == (256,)
    with pytest.raises(InputError, match="context of 255 tokens is too short"):
        default_lengths(255)


def test_a_length_without_room_for_the_facts() -> None:
    with pytest.raises(InputError, match="its length leaves 52 beside the answer"):
        dataset(part="seen", max_seq_lengths=100)
    with pytest.raises(InputError, match="must be whole numbers"):
        dataset(part="seen", max_seq_lengths=["1k"])  # type: ignore[list-item]


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a tokenizer"):
        dataset(part="seen", tokenizer=str(tmp_path))
