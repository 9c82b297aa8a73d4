"""A loaded model is made to look as lm-eval sees one: text in, text or log-likelihoods out.

lm-eval's own adapter, ``HFLM``, needs accelerate, runs batches of a fixed number of rows to the end
of their longest answer, and holds the whole vocabulary's logits of whole prompts. This one answers
the same three verbs in batches of a budget of tokens; see `suites.decoding` for how, and for how
near its results are to those of one request at a time. What differs from ``HFLM`` on purpose:

- a prompt to continue that does not fit the context is not cut, but left unanswered and counted;
- nothing of the model's generation config but its end-of-text tokens is used: decoding is greedy,
  with no repetition penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from quantcore.errors import InputError, setting_name
from suites.decoding import Work, arrange, fitting, generate, score

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1
"""Changes whenever the same model could come out with other answers."""

NEW_TOKENS = 256
"""Limit of an answer where the request names none, as in lm-eval."""
ROLLING = 2048
"""Window of `BatchedLM.loglikelihood_rolling` for a model without a context, as in lm-eval."""
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the limit of new tokens that lm-eval takes; the first given counts."""
_HARMLESS = {"temperature": None, "top_p": None, "top_k": None, "min_p": None, "num_beams": 1}
"""Settings that change nothing in greedy decoding, with the one value that is so, if only one."""

W = TypeVar("W", bound=Work)
R = TypeVar("R")


class Completion(str):
    """A `Completion` is what the model wrote, less the stop string, and how it ended."""

    __slots__ = ("cut_off", "too_long")
    cut_off: bool
    """Ended by the limit of tokens or the end of the context, not by the model or a stop string."""
    too_long: bool
    """The prompt and one new token do not fit the context: nothing was run, the text is empty."""

    def __new__(cls, text: str, *, cut_off: bool = False, too_long: bool = False) -> Completion:
        """Take the text to have ended by itself, unless said otherwise."""
        completion = super().__new__(cls, text)
        completion.cut_off, completion.too_long = cut_off, too_long
        return completion


@dataclass(frozen=True, kw_only=True)
class _Prompt(Work):
    until: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Question(Work):
    options: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class _Stops:
    """`_Stops` has stop strings prepared for looking at few tokens at a time."""

    strings: tuple[str, ...]
    tokens: frozenset[int]
    """The end-of-text tokens, and stop strings that are tokens of their own."""
    tail: int
    """The last so many tokens hold a stop string that the last one ended, as each adds a byte.

    One with special tokens inside is found when the answer is cut; only time is lost.
    """


class BatchedLM(TemplateLM):  # type: ignore[misc]
    """A `BatchedLM` has lm-eval's three verbs on a Transformers model and tokenizer, in batches.

    Attributes:
        too_long: requests so far that did not fit the context: prompts left unanswered, and options
            whose context was cut on the left, as lm-eval does.
        batch_tokens: the budget now; halved whenever a CUDA GPU ran out of memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int | None,
        batch_tokens: int,
        done: Callable[[int], None] = lambda count: None,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Wrap a model in evaluation mode, on the device where it is.

        Args:
            model: any causal language model; CPU or CUDA.
            tokenizer: its tokenizer.
            context: tokens that the model was made for; None: no limit.
            batch_tokens: padded tokens of a batch at most, those to be generated included.
            done: told how many requests were finished.
            say: told, once each, what the user should know: memory, a slow path, a template.

        Raises:
            InputError: a budget below 1.
        """
        super().__init__()
        if batch_tokens < 1:
            raise InputError(f"{batch_tokens} tokens a batch: must be at least 1")
        self.model, self.tokenizer = model, tokenizer
        self.context, self.batch_tokens = context, batch_tokens
        self.too_long = 0
        self._done, self._say = done, say
        self._said: set[str] = set()
        self._device = next(model.parameters()).device
        self._eos = self._end_tokens()
        self._stops = lru_cache(maxsize=None)(self._prepare_stops)

    @property
    def eot_token_id(self) -> int:
        """Give the tokenizer's end of text, else the model's.

        Raises:
            InputError: neither has one.
        """
        if self.tokenizer.eos_token_id is not None:
            return int(self.tokenizer.eos_token_id)
        if self._eos:
            return min(self._eos)
        raise InputError(
            f"{self._name} has no end-of-text token, which lm-eval's tasks need; set eos_token in "
            "its tokenizer_config.json"
        )

    @property
    def prefix_token_id(self) -> int:
        """Give what stands before a text without a context: begin of text, else end of text."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """Give the context; without one, the window of rolling log-likelihoods."""
        return self.context or ROLLING

    @property
    def tokenizer_name(self) -> str:
        """Give the tokenizer's name, fit for a file's."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Give the tokens of a text.

        Args:
            string: the text.
            add_special_tokens: None: as the tokenizer does by itself, but none before a text that
                begins with begin-of-text, as those of a chat template do.
        """
        begin = self.tokenizer.bos_token
        if add_special_tokens is None and begin and string.startswith(begin):
            add_special_tokens = False
        extra = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer(string, verbose=False, **extra).input_ids)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Give the template that `apply_chat_template` applies; None if none is asked for.

        Raises:
            InputError: one is asked for and the tokenizer has none, or none of that name.
        """
        if chat_template is False or chat_template is None:
            return None
        name = chat_template if isinstance(chat_template, str) else None
        self._check_template()
        try:
            return str(self.tokenizer.get_chat_template(name))
        except ValueError as error:
            asked = f"{setting_name('chat_template')} of {self._name}"
            raise InputError(f"{asked}: {error}", setting="chat_template") from error

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write messages in the model's own format, with its answer opened or to go on from.

        A template that refuses the messages gets them without the system message, as in lm-eval.

        Raises:
            InputError: the tokenizer has no template.
        """
        self._check_template()

        def apply(messages: list[dict[str, str]]) -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        others = [message for message in chat_history if message["role"] != "system"]
        try:
            return apply(chat_history)
        except TemplateError as error:
            if len(others) == len(chat_history):
                raise
            self._tell(
                f"the chat template of {self._name} takes no system message ({error}); left out, "
                "as lm-eval does"
            )
            return apply(others)

    def generate_until(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[Completion]:
        """Continue greedily, and cut before the first stop string.

        Args:
            requests: ``(prompt, settings)``; settings may be ``until``, a limit of new tokens,
                and what does nothing in greedy decoding.
            disable_tqdm: part of lm-eval's protocol; progress is told to ``done``.

        Raises:
            InputError: sampling, beams or another setting that would change the answer.
        """
        found: dict[_Prompt, list[int]] = {}
        answers: list[Completion | None] = [None] * len(requests)
        for number, request in enumerate(requests):
            text, settings = request.args
            until, limit = _settings(settings)
            tokens = tuple(self.tok_encode(text)) or (self.prefix_token_id,)
            room = limit if self.context is None else min(limit, self.context - len(tokens))
            if room < 1:
                answers[number] = Completion("", too_long=True)
                self.too_long += 1
                self._done(1)
                continue
            found.setdefault(_Prompt(tokens=tokens, room=room, until=until), []).append(number)

        def run(batch: list[_Prompt], finish: Callable[[int, Completion], None]) -> None:
            stops = [self._stops(prompt.until) for prompt in batch]
            generate(
                self.model,
                [prompt.tokens for prompt in batch],
                [prompt.room for prompt in batch],
                ended=lambda row, tokens: self._ended(tokens, stops[row]),
                finished=lambda row, tokens, cut: finish(
                    row, self._answer(tokens, stops[row], cut_off=cut)
                ),
                say=self._tell,
            )

        counts = [len(numbers) for numbers in found.values()]
        results = self._in_batches(list(found), run, counts)
        for numbers, answer in zip(found.values(), results, strict=True):
            for number in numbers:
                answers[number] = answer
        return [answer for answer in answers if answer is not None]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Score as lm-eval does: see `_loglikelihood_tokens`; ``done`` is told of the progress."""
        results: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return results

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Score whole texts, in nats: in windows of the context, each token once.

        As in lm-eval, a window's tokens are scored after the last token of the window before, those
        of the first after the begin of text; the last window reaches back to be a whole one.
        """
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, cut):
                windows.append((None, *window))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[owner] += value
        return sums

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = True,
        **_: object,
    ) -> list[tuple[float, bool]]:
        """Give ``(log-likelihood in nats, greedy)`` of tokens after their context's tokens.

        Requests with the same context share its forward pass. A context that does not fit together
        with its option is cut on the left, as in lm-eval, and counted in ``too_long``.

        Raises:
            InputError: an option without tokens, or longer than the context by itself.
        """
        found: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
        for number, (text, context, option) in enumerate(requests):
            if not option or len(option) > self._context_for(option):
                raise InputError(
                    f"an option of {len(option):,} tokens cannot be scored by {self._name}: it "
                    f"needs 1 to {self._context_for(option):,}; the request is {_shown(text)}"
                )
            fits = self._context_for(option) + 1 - len(option)
            self.too_long += len(context) > fits
            group = found.setdefault(tuple(context[-fits:]), {})
            group.setdefault(tuple(option), []).append(number)
        questions = [
            _Question(
                tokens=context,
                options=tuple(group),
                room=max(map(len, group)) - 1,
                rows=max(1, sum(len(option) > 1 for option in group)),
            )
            for context, group in found.items()
        ]

        def run(
            batch: list[_Question], finish: Callable[[int, list[tuple[float, bool]]], None]
        ) -> None:
            contexts = [question.tokens for question in batch]
            options = [question.options for question in batch]
            for row, result in enumerate(score(self.model, contexts, options, say=self._tell)):
                finish(row, result)

        counts = [sum(map(len, group.values())) for group in found.values()]
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        scored = self._in_batches(questions, run, counts)
        for group, values in zip(found.values(), scored, strict=True):
            for numbers, value in zip(group.values(), values, strict=True):
                for number in numbers:
                    results[number] = value
        return results

    def _in_batches(
        self,
        works: list[W],
        run: Callable[[list[W], Callable[[int, R], None]], None],
        counts: list[int],
    ) -> list[R]:
        """Collect results of all works, in their order; ``run`` hands in those of its batch by row.

        Raises:
            InputError: a work by itself does not fit the GPU's memory.
        """
        results: dict[int, R] = {}
        queue = arrange(works)
        while queue:
            ready = [works[index] for index in queue[: self.batch_tokens]]
            here = queue[: fitting(ready, self.batch_tokens)]

            def finish(row: int, result: R, here: list[int] = here) -> None:
                results[here[row]] = result
                self._done(counts[here[row]])

            full = False
            try:
                run([works[index] for index in here], finish)
            except torch.OutOfMemoryError as error:
                if len(here) == 1:
                    work = works[here[0]]
                    raise InputError(
                        f"a prompt of {len(work.tokens):,} tokens with {work.room:,} more does not "
                        "fit the GPU's memory even by itself; free some, or use "
                        f"{setting_name('device')} cpu"
                    ) from error
                full = True
            if full:  # after the handler: the error keeps the tensors of its frames alive
                width = max(len(works[index].tokens) + works[index].room for index in here)
                used = width * sum(works[index].rows for index in here)
                self.batch_tokens = max(1, min(self.batch_tokens, used) // 2)
                torch.cuda.empty_cache()
                self._say(
                    f"the GPU's memory is full: batches of {self.batch_tokens:,} tokens from now on"
                )
            queue = [index for index in here if index not in results] + queue[len(here) :]
        return [results[index] for index in range(len(works))]

    def _ended(self, tokens: list[int], stops: _Stops) -> bool:
        """Say whether the last token ends the text or a stop string."""
        if tokens[-1] in stops.tokens:
            return True
        if not stops.strings:
            return False
        tail = self._decode(tokens[-stops.tail :])
        return (
            any(one in tail for one in stops.strings) and self._stop_at(tokens, stops) is not None
        )

    def _answer(self, tokens: list[int], stops: _Stops, *, cut_off: bool) -> Completion:
        if tokens[-1] in stops.tokens:
            tokens = tokens[:-1]
        end = self._stop_at(tokens, stops)
        return Completion(self._decode(tokens)[:end], cut_off=cut_off and end is None)

    def _stop_at(self, tokens: list[int], stops: _Stops) -> int | None:
        text = self._decode(tokens)
        return min((at for one in stops.strings if (at := text.find(one)) >= 0), default=None)

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _prepare_stops(self, until: tuple[str, ...]) -> _Stops:
        """Prepare `_Stops`, a token more than bytes, and some for blanks that a first one loses."""
        added = self.tokenizer.get_added_vocab()
        strings = tuple(one for one in until if one)
        return _Stops(
            strings=strings,
            tokens=self._eos | {added[one] for one in strings if one in added},
            tail=max((len(one.encode()) for one in strings), default=0) + 4,
        )

    def _end_tokens(self) -> frozenset[int]:
        """List end-of-text tokens of the model's generation config and of the tokenizer."""
        given = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        several = given if isinstance(given, list | tuple) else [given]
        return frozenset(
            int(one) for one in (*several, self.tokenizer.eos_token_id) if one is not None
        )

    def _context_for(self, option: Sequence[int]) -> int:
        """Give the context; without one, more than any request has."""
        return 2**62 if self.context is None else self.context

    @property
    def _name(self) -> str:
        name = str(self.tokenizer.name_or_path or "")
        return name or type(self.model).__name__

    def _check_template(self) -> None:
        if not self.tokenizer.chat_template:
            raise InputError(
                f"the tokenizer of {self._name} has no chat template: it is not a chat model, or "
                f"its template is missing; leave out {setting_name('chat_template')}",
                setting="chat_template",
            )

    def _tell(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._say(message)


def _settings(given: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Read the stop strings and the limit of new tokens off a request.

    Raises:
        InputError: a setting that would change the answer in a way that is not done here.
    """
    rest = dict(given)
    until = rest.pop("until", None) or []
    until = (until,) if isinstance(until, str) else tuple(until)
    limits = [limit for name in _LIMITS if (limit := rest.pop(name, None)) is not None]
    limit = int(limits[0]) if limits else NEW_TOKENS
    if limit < 1:
        raise InputError(f"max_gen_toks {limit}: must be at least 1")
    sampled = rest.pop("do_sample", None)
    if sampled or (sampled is None and float(rest.get("temperature") or 0) > 0):
        raise InputError(
            f"the task asks for sampling ({_shown(dict(given))}), but answers are greedy here, so "
            "that they can be compared; set do_sample: false in its generation_kwargs"
        )
    for name, value in rest.items():
        if name not in _HARMLESS or _HARMLESS[name] not in (None, value):
            raise InputError(
                f"the task asks for {name}: {value!r}, which greedy decoding here does not do; "
                "leave it out of its generation_kwargs"
            )
    return until, limit


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
