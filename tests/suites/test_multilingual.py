"""The multilingual suite: parallel items, its metrics, and its tasks as lm-eval runs them."""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from suites.items import Item, belongs, fingerprint
from suites.multilingual.items import TEMPLATES, expand
from suites.multilingual.languages import FRAMES, LANGUAGES, WORDS, stock
from suites.multilingual.scoring import OUTCOMES, metrics
from suites.multilingual.standard import Shared, source_of
from suites.multilingual.tasks import COUNTS, dataset, evaluation_items

SUITES = Path(__file__).parents[2] / "suites"
ITEMS = evaluation_items("seen") + evaluation_items("reserved")
FINGERPRINT = "65383f68ab6be40f96ddc06a094fcab04ee2360ddfb789aa95cc3c9c831f4073"
CLOSED_NUMBERS = ("sum_points", "count_animals")
OPEN_KINDS = ("name", "city", "colour", "object", "animal", "food")


def test_counts_and_names_of_the_embedded_set() -> None:
    assert len(ITEMS) == 936
    assert len({item["id"] for item in ITEMS}) == 936
    assert len(TEMPLATES.of("seen")) >= 14
    assert len(TEMPLATES.of("reserved")) >= 6
    for part, count in COUNTS.items():
        assert count == 4 * len(TEMPLATES.of(part))
    assert fingerprint(ITEMS) == FINGERPRINT


def test_every_language_has_every_template_and_every_word() -> None:
    assert set(FRAMES) == {template.name for template in TEMPLATES.all}
    for frames in FRAMES.values():
        assert set(frames["text"]) == set(frames["question"]) == set(LANGUAGES)
        assert set(frames.get("fact", {})) <= set(LANGUAGES)
    for row in WORDS.values():
        assert set(row) == {"kind", *LANGUAGES}
        assert all(row[code] == row[code].strip() != "" for code in LANGUAGES)


def test_no_word_begins_another_of_its_kind() -> None:
    for kind in {row["kind"] for row in WORDS.values()}:
        rows = [WORDS[english] for english in stock(kind)]
        for code in LANGUAGES:
            for one, other in itertools.permutations(rows, 2):
                assert not other[code].startswith(one[code]), (code, one[code], other[code])


def test_options_differ_and_none_begins_another() -> None:
    for item in ITEMS:
        assert len(item["options"]) == 4
        for one, other in itertools.permutations(item["options"], 2):
            assert not other.startswith(one), item["id"]


def test_languages_are_parallel() -> None:
    for item in TEMPLATES.items(split="evaluation", part="reserved", count=18):
        written = expand(item)
        assert [one["language"] for one in written] == list(LANGUAGES)
        assert {one["source"] for one in written} == {item["source"]}
        assert len({one["gold"] for one in written}) == 1
        english = written[0]
        assert (english["prompt"], english["target"]) == (item["prompt"], item["target"])
        for one in written:
            assert one["target"] == one["options"][one["gold"]]
            assert one["id"] == f"{item['source']}/{one['language']}"
            expected = [
                WORDS[option][one["language"]] if option in WORDS else option
                for option in english["options"]
            ]
            assert one["options"] == expected


def test_rows_of_all_languages_have_the_same_sources() -> None:
    rows = {code: dataset(language=code, part="seen", version=1)["test"] for code in LANGUAGES}
    assert {len(table) for table in rows.values()} == {COUNTS["seen"]}
    for code in LANGUAGES:
        assert rows[code]["source"] == rows["en"]["source"]
        assert rows[code]["gold"] == rows["en"]["gold"]
        assert set(rows[code]["language"]) == {code}


def test_texts_are_in_the_language_s_script() -> None:
    assert len({language.script for language in LANGUAGES.values()}) == 6
    for item in ITEMS:
        text = item["prompt"]
        if item["template"] == "code_of":  # codes are Latin in every language
            text = "".join(line for line in text.splitlines() if not line.startswith("- "))
        letters = [char for char in text if char.isalpha()]
        scripts = Counter(unicodedata.name(letter).split()[0] for letter in letters)
        assert set(scripts) <= set(LANGUAGES[item["language"]].script), item["id"]


def test_prompts_end_with_the_answer_s_label_and_are_short() -> None:
    for item in ITEMS:
        language = LANGUAGES[item["language"]]
        assert item["prompt"].endswith("\n" + language.answer)
        assert item["prompt"].splitlines()[0] in language.instructions
        assert "{" not in item["prompt"]
        assert len(item["prompt"]) < 300
        assert len(item["prompt"].encode()) < 580  # byte-level tokens at worst; a shot as many


def test_answers_but_sums_and_counts_stand_in_the_text() -> None:
    for item in ITEMS:
        stands = f" {item['target']}" in item["prompt"] or item["language"] in ("zh", "ja")
        if item["template"] not in ("sum_points", "count_animals"):
            assert stands, item["id"]
            assert item["target"] in item["prompt"], item["id"]


def _open_values(item: Item) -> set[str]:
    content = json.loads(item["content_json"])
    found: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, list):
            for part in value:
                collect(part)
        elif value not in WORDS or WORDS[value]["kind"] in OPEN_KINDS:
            found.add(value)

    collect([*content["slots"].values(), content["options"]])
    closed_numbers = {str(number) for number in range(1, 22)}
    return found - (closed_numbers if item["template"] in CLOSED_NUMBERS else set())


def test_training_holds_no_open_value_of_evaluation_in_any_language() -> None:
    trained = TEMPLATES.items(split="train", part="seen", count=2000)
    kept = [
        item
        for part, count in COUNTS.items()
        for item in TEMPLATES.items(split="evaluation", part=part, count=count)
    ]
    values = set().union(*map(_open_values, kept))
    assert len(values) > 100
    assert not values & set().union(*map(_open_values, trained))
    # words first met in evaluation are also new in every other language
    for kind in OPEN_KINDS:
        new = [word for word in stock(kind) if belongs(word, "evaluation")]
        old = [word for word in stock(kind) if belongs(word, "train")]
        assert len(new) >= 5
        for code in LANGUAGES:
            assert not {WORDS[word][code] for word in new} & {WORDS[word][code] for word in old}
    with pytest.raises(ValueError, match="reserved"):
        TEMPLATES.items(split="train", part="reserved", count=1)


def test_right_answers_stand_at_every_place_alike() -> None:
    counts = Counter(item["gold"] for item in ITEMS)
    assert set(counts) == {0, 1, 2, 3}
    assert all(0.18 < count / len(ITEMS) < 0.32 for count in counts.values())


def test_the_metrics_compare_sums_and_bytes() -> None:
    options = ["x", "yyyy", "zz", "ww"]
    assert metrics([-2.0, -4.0, -9.0, -9.0], options, 0) == {
        "acc": 1.0,
        "acc_bytes": 0.0,
        "is_right": 1.0,
        "is_wrong": 0.0,
    }
    assert metrics([-2.0, -4.0, -9.0, -9.0], options, 1)["acc_bytes"] == 1.0
    # bytes, not characters: two for each of these
    assert metrics([-2.0, -3.0, -9.0, -9.0], ["a", "éé", "zz", "ww"], 1)["acc_bytes"] == 1.0


@pytest.mark.parametrize("scores", [[-1.0, -1.0, -2.0, -2.0], [float("nan")] * 4])
def test_who_cannot_tell_apart_is_wrong(scores: list[float]) -> None:
    for gold in range(4):
        flags = metrics(scores, ["a", "b", "c", "d"], gold)
        assert (flags["acc"], flags["is_right"], flags["is_wrong"]) == (0.0, 0.0, 1.0)


class Scripted(LM):  # type: ignore[misc]
    """Finds most probable what a rule says."""

    def __init__(self, likes: Callable[[Item, str], bool]) -> None:
        super().__init__()
        self.likes = likes
        self.contexts: list[tuple[Item, str, str]] = []

    def loglikelihood(self, requests: list[Instance], **_: Any) -> list[tuple[float, bool]]:
        self.contexts += [(request.doc, *request.args) for request in requests]
        return [
            (-1.0, True) if self.likes(request.doc, request.args[1].lstrip()) else (-20.0, False)
            for request in requests
        ]

    def loglikelihood_rolling(self, requests: list[Instance], **_: Any) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(SUITES), include_defaults=False)


def _evaluate(model: LM, manager: TaskManager) -> dict[str, Any]:
    done = lm_eval.simple_evaluate(
        model=model,
        tasks=["awqbench_multilingual"],
        task_manager=manager,
        log_samples=True,
        bootstrap_iters=0,
    )
    assert done is not None
    return dict(done)


def test_right_answers_score_1_in_every_language(manager: TaskManager) -> None:
    model = Scripted(lambda doc, text: text == doc["target"])
    done = _evaluate(model, manager)
    for code in LANGUAGES:
        for part, count in COUNTS.items():
            name = f"awqbench_multilingual_{code}_{part}"
            figures = done["results"][name]
            assert figures["acc,none"] == figures["acc_bytes,none"] == 1.0
            assert (figures["is_right,none"], figures["is_wrong,none"]) == (1.0, 0.0)
            assert done["n-shot"][name] == 1
            samples = done["samples"][name]
            assert [s["doc"]["source"] for s in samples] == [
                item["source"]
                for item in ITEMS
                if item["part"] == part and item["language"] == code
            ]
            assert len(samples) == count
    assert done["results"]["awqbench_multilingual_ja"]["acc,none"] == 1.0
    assert done["results"]["awqbench_multilingual"]["acc,none"] == 1.0
    for doc, context, continuation in model.contexts:
        # one example in the same language, answered, before the item itself
        shot, own = context.split("\n\n")
        assert own == doc["prompt"]
        label = LANGUAGES[doc["language"]].answer
        assert shot.splitlines()[-1].startswith(label + doc["delimiter"])
        assert continuation[len(doc["delimiter"]) :] in doc["options"]
        assert continuation.startswith(doc["delimiter"])


def test_the_first_or_a_wrong_option_scores_what_it_should(manager: TaskManager) -> None:
    first = _evaluate(Scripted(lambda doc, text: text == doc["options"][0]), manager)
    assert 0.18 < first["results"]["awqbench_multilingual"]["acc,none"] < 0.32
    flags = [
        sample
        for name, samples in first["samples"].items()
        for sample in samples
        if name.startswith("awqbench")
    ]
    assert len(flags) == len(ITEMS)
    for sample in flags:
        assert [sample[f"is_{name}"] for name in OUTCOMES].count(1.0) == 1
        assert sample["is_right"] == float(sample["doc"]["gold"] == 0)

    wrong = Scripted(lambda doc, text: text == doc["options"][(doc["gold"] + 1) % 4])
    done = _evaluate(wrong, manager)
    assert done["results"]["awqbench_multilingual"]["acc,none"] == 0.0


BELEBELE_ROW = {
    "link": "https://example.org/a",
    "question_number": 1,
    "flores_passage": "Kim has a red hat.",
    "question": "What has Kim?",
    "mc_answer1": "a hat",
    "mc_answer2": "a car",
    "mc_answer3": "a cat",
    "mc_answer4": "a cup",
    "correct_answer_num": "1",
}
MGSM_ROW = {
    "question": "Kim has 2 and 3. How many?",
    "answer": None,
    "answer_number": 5,
    "equation_solution": None,
}
MMLU_CATEGORIES = ["Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences"]
MMLU_ROWS = [
    {
        "sample_id": f"made_up/test/{number}",
        "subject_category": category,
        "question": "Which is a fruit?",
        "option_a": "plum",
        "option_b": "car",
        "option_c": "cat",
        "option_d": "cup",
        "answer": "A",
    }
    for number, category in enumerate(MMLU_CATEGORIES)
]


def _rows(path: str) -> datasets.DatasetDict:
    rows = {
        "belebele": {"test": [BELEBELE_ROW]},
        "mgsm": {"train": [MGSM_ROW], "test": [MGSM_ROW]},
        "Global-MMLU-Lite": {"dev": MMLU_ROWS, "test": MMLU_ROWS},
    }[path.split("/")[1]]
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(table) for split, table in rows.items()}
    )


def test_the_standard_sets_load_and_their_sources_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **_: _rows(path))
    own = Path(lm_eval.__file__).parent / "tasks"  # three of its folders: all take long to index
    folders = [SUITES, *(own / name for name in ("belebele", "mgsm", "global_mmlu"))]
    manager = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)
    tasks = manager.load(["awqbench_multilingual_standard"])["tasks"]
    by_language: dict[str, set[str]] = {}
    for name, task in tasks.items():
        for index, doc in enumerate(task.test_docs()):
            shared = source_of(name, doc, index)
            assert shared is not None
            by_language.setdefault(shared.language, set()).add(shared.source)
    assert set(by_language) == set(LANGUAGES)
    assert all("belebele/https://example.org/a" in sources for sources in by_language.values())
    assert {code for code, found in by_language.items() if "mgsm/0" in found} == {
        *("en", "de", "fr", "es", "ru", "zh", "ja")
    }
    mmlu = {f"global_mmlu/{row['sample_id']}" for row in MMLU_ROWS}
    assert {code for code, found in by_language.items() if mmlu <= found} == {
        *("en", "de", "fr", "es", "ar", "hi", "zh", "ja")
    }


def test_sources_join_translations_and_questions_on_one_passage() -> None:
    second = BELEBELE_ROW | {"question_number": 2}
    elsewhere = BELEBELE_ROW | {"link": "https://example.org/b"}
    passage = "belebele/https://example.org/a"
    english = source_of("belebele_eng_Latn", BELEBELE_ROW, 0)
    assert english == Shared(source=passage, parallel=f"{passage}/1", language="en")
    assert source_of("belebele_hin_Deva", second, 7) == Shared(
        source=passage, parallel=f"{passage}/2", language="hi"
    )
    other = source_of("belebele_eng_Latn", elsewhere, 1)
    assert other is not None
    assert other.source != passage
    assert source_of("mgsm_direct_ru", MGSM_ROW, 4) == Shared(
        source="mgsm/4", parallel="mgsm/4", language="ru"
    )
    for name in ("global_mmlu_de_business", "global_mmlu_full_de_anatomy"):
        item = "global_mmlu/made_up/test/2"
        assert source_of(name, MMLU_ROWS[2], 0) == Shared(source=item, parallel=item, language="de")


@pytest.mark.parametrize("name", ["hellaswag", "belebele_fin_Latn", "mgsm_en_cot_de"])
def test_items_of_another_task_share_nothing(name: str) -> None:
    assert source_of(name, {}, 0) is None
