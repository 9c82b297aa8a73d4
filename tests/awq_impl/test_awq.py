from __future__ import annotations

import re
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from awq_impl.clip import search_ranges
from awq_impl.method import AWQ
from awq_impl.salience import activation_salience, tied
from awq_impl.search import RACED_FROM, search_scales, search_shared_scales
from baselines.gptq import GPTQ
from baselines.rtn import RTN
from quantcore.calibration import BlockWalk, StatsStore, calibrate
from quantcore.discovery import discover
from quantcore.gram import InputStats, output_error
from quantcore.grid import quantize, round_to_nearest
from quantcore.method import GroupTask, Method
from quantcore.quantize import QuantizationReport, Snapshot, quantize_model
from quantcore.scheme import QuantScheme
from quantcore.structure import Structure
from tests.conftest import FAMILIES, misnamed_llama, tiny_model

SCHEMES = ["int4-g32", "int3-g16", "int3-channel", "int4-g32-sym"]


def salient_case(seed: int) -> tuple[Tensor, InputStats]:
    """Weights [24, 96] and inputs of which a few channels are large."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(500, 96, generator=generator)
    x[:, torch.randperm(96, generator=generator)[:5]] *= 30
    weight = torch.randn(24, 96, generator=generator)
    return weight, InputStats(gram=x.t() @ x, mean_abs=x.abs().mean(0), tokens=500)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(5))
def test_its_loss_is_never_above_rtn(scheme: str, seed: int) -> None:
    weight, stats = salient_case(seed)
    parsed = QuantScheme.parse(scheme)
    choice = search_scales(weight, stats, parsed)
    rtn = float(output_error(weight - round_to_nearest(weight, parsed), stats.gram))
    assert choice.rtn_loss == pytest.approx(rtn, rel=1e-6)
    assert choice.loss <= rtn
    served = round_to_nearest(weight * choice.scales, parsed) / choice.scales
    assert float(output_error(weight - served, stats.gram)) == pytest.approx(choice.loss, rel=1e-4)


def test_it_wins_clearly_where_channels_are_salient() -> None:
    weight, stats = salient_case(0)
    choice = search_scales(weight, stats, QuantScheme.parse("int4-g32"))
    assert choice.loss < 0.5 * choice.rtn_loss
    assert choice.scales[stats.mean_abs.topk(5).indices].min() > choice.scales.median()


def test_the_identity_wins_where_nothing_helps() -> None:
    """One bit pattern per row that the grid holds exactly: every scaling can only hurt."""
    levels = torch.arange(16.0).repeat(4, 2)
    stats = InputStats(gram=torch.eye(32), mean_abs=torch.rand(32) + 0.1, tokens=1)
    choice = search_scales(levels, stats, QuantScheme.parse("int4-g16"))
    assert torch.equal(choice.scales, torch.ones(32))


def test_dead_channels_ask_for_no_infinite_scale() -> None:
    weight, stats = salient_case(1)
    gram, mean_abs = stats.gram.clone(), stats.mean_abs.clone()
    gram[:40] = gram[:, :40] = mean_abs[:40] = 0
    dead = InputStats(gram=gram, mean_abs=mean_abs, tokens=500)
    scales = search_scales(weight, dead, QuantScheme.parse("int4-g32")).scales
    assert bool(torch.isfinite(scales).all())
    assert float(scales.min()) > 0
    nothing = InputStats(gram=torch.zeros(96, 96), mean_abs=torch.zeros(96), tokens=500)
    choice = search_scales(weight, nothing, QuantScheme.parse("int4-g32"))
    assert torch.equal(choice.scales, torch.ones(96))


def test_nan_statistics_are_an_error() -> None:
    weight, stats = salient_case(2)
    broken = InputStats(gram=stats.gram * torch.nan, mean_abs=stats.mean_abs, tokens=500)
    with pytest.raises(ArithmeticError):
        search_scales(weight, broken, QuantScheme.parse("int4-g32"))


def test_tied_channels_get_one_scale() -> None:
    weight, stats = salient_case(3)
    rows = torch.arange(48).repeat(2)
    scales = search_scales(weight, stats, QuantScheme.parse("int4-g32"), rows=rows).scales
    assert torch.equal(scales[:48], scales[48:])
    assert torch.equal(
        tied(torch.tensor([1.0, 2, 3, 4]), torch.tensor([0, 1, 0, 1])), torch.tensor([2.0, 3, 2, 3])
    )


def test_salience_is_relative() -> None:
    mean_abs = torch.rand(64)
    assert torch.allclose(activation_salience(mean_abs), activation_salience(1000 * mean_abs))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_clipping_never_loses_by_its_own_measure(scheme: str) -> None:
    weight, stats = salient_case(4)
    weight[3, 7] = 12.0  # a range worth cutting
    parsed = QuantScheme.parse(scheme)
    low, high = search_ranges(weight, stats, parsed)
    group = parsed.group_of(96)
    blocks = stats.diagonal_blocks(group)

    def own_loss(served: Tensor) -> Tensor:
        error = (served - weight).view(24, -1, group).transpose(0, 1)
        return ((error @ blocks) * error).sum(-1)

    clipped = own_loss(quantize(weight, parsed, low=low, high=high).dequantize())
    plain = own_loss(quantize(weight, parsed).dequantize())
    assert bool((clipped <= plain * (1 + 1e-4) + 1e-4).all())
    assert float(clipped.sum()) < float(plain.sum())
    assert bool((low >= weight.view(24, -1, group).amin(-1)).all())
    assert bool((high <= weight.view(24, -1, group).amax(-1)).all())


TOKENS = torch.arange(8 * 32).view(8, 32) * 13 % 160


class Calibrated(NamedTuple):
    model: PreTrainedModel
    structure: Structure
    stats: StatsStore


def calibrated(model: PreTrainedModel, **kwargs: list[str]) -> Calibrated:
    structure = discover(model, **kwargs)
    stats = StatsStore()
    calibrate(model, structure, TOKENS, stats, batch_size=4)
    return Calibrated(model, structure, stats)


def quantized(given: Calibrated, method: Method, scheme: str) -> tuple[QuantizationReport, Tensor]:
    """Quantize a tiny model and give its logits; the model is put back."""
    model, structure, stats = given
    walk = None
    if method.calibration == "sequential":
        walk = BlockWalk(model, structure, TOKENS, batch_size=4)
    snapshot = Snapshot(structure)
    report = quantize_model(structure, method, QuantScheme.parse(scheme), stats=stats, walk=walk)
    with torch.no_grad():
        logits = model(TOKENS).logits
    snapshot.restore()
    return report, logits


def run(
    model: PreTrainedModel, method: Method, scheme: str, **kwargs: list[str]
) -> tuple[QuantizationReport, Tensor]:
    """See `quantized`."""
    return quantized(calibrated(model, **kwargs), method, scheme)


METHODS: list[Method] = [RTN(), GPTQ(), GPTQ(sequential=True), AWQ(), AWQ(clip=True)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Calibrated, dict[str, Tensor]]:
    """One calibration serves every method, as in a comparison; and the weights as they were."""
    model = tiny_model(request.param)
    before = {n: p.clone() for n, p in model.named_parameters()}
    return calibrated(model), before


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_family_is_quantized_whole_and_put_back(
    method: Method, family: tuple[Calibrated, dict[str, Tensor]]
) -> None:
    given, before = family
    report, logits = quantized(given, method, "int4-g16")
    assert bool(torch.isfinite(logits).all())
    linears = [f"{b.name}.{n}" for b in given.structure.blocks for g in b.groups for n in g.linears]
    unmeasured = set(linears) - set(report.relative_losses)
    assert all(".experts." in name for name in unmeasured)  # those that no token reached
    assert len(unmeasured) < 0.2 * len(linears)
    assert bool(unmeasured) <= bool(report.notices) or method.calibration == "none"
    assert max(report.relative_losses.values()) < 0.1
    for name, parameter in given.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_eight_bits_change_next_to_nothing(family: tuple[Calibrated, dict[str, Tensor]]) -> None:
    given, _ = family
    with torch.no_grad():
        before = given.model(TOKENS).logits
    for method in METHODS:
        _, after = quantized(given, method, "int8-g16")
        assert float((after - before).norm() / before.norm()) < 0.05, method.name


def test_clip_reuses_the_scales_of_awq() -> None:
    model = tiny_model("llama")
    plain, _ = run(model, AWQ(), "int3-g16")
    clipped, _ = run(model, AWQ(clip=True), "int3-g16")
    for name, loss in clipped.relative_losses.items():
        if "q_proj" in name or "k_proj" in name:
            assert loss == plain.relative_losses[name]
    down = "model.layers.0.mlp.down_proj"
    assert clipped.relative_losses[down] < plain.relative_losses[down]


def test_queries_and_keys_stay_unclipped_whatever_their_names() -> None:
    model = misnamed_llama()
    plain, _ = run(model, AWQ(), "int3-g16")
    clipped, _ = run(model, AWQ(clip=True), "int3-g16")
    same = {
        name.rpartition(".")[-1]
        for name, loss in clipped.relative_losses.items()
        if loss == plain.relative_losses[name]
    }
    assert same == {"wq", "up"}


def test_losses_are_reported_in_unfolded_units() -> None:
    """AWQ's relative loss of a linear is that of its served weights against the original ones."""
    model = tiny_model("llama")
    tokens = torch.arange(8 * 32).view(8, 32) * 13 % 160
    structure = discover(model)
    stats = StatsStore()
    calibrate(model, structure, tokens, stats, batch_size=4)
    first = structure.blocks[0]
    before = {n: first.weight(n).clone() for g in first.groups for n in g.linears}
    norm_before = first.module.input_layernorm.weight.detach().clone()
    report = quantize_model(structure, AWQ(), QuantScheme.parse("int3-g16"), stats=stats)
    carried = norm_before / first.module.input_layernorm.weight.detach()
    gram = stats[0][0].gram
    for name in ("self_attn.q_proj", "self_attn.k_proj"):
        served = first.weight(name) * carried.reciprocal()
        loss = output_error(before[name] - served, gram) / output_error(before[name], gram)
        assert report.relative_losses[f"{first.name}.{name}"] == pytest.approx(
            float(loss), rel=1e-3
        )


def test_excluded_linears_keep_their_function() -> None:
    model = tiny_model("llama")
    report, logits = run(model, AWQ(), "int4-g16", exclude=["*.down_proj", "*.v_proj"])
    assert not any("down_proj" in name or "v_proj" in name for name in report.relative_losses)
    with torch.no_grad():
        before = model(torch.arange(8 * 32).view(8, 32) * 13 % 160).logits
    assert float((logits - before).norm() / before.norm()) < 0.5


def test_bfloat16_models() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    for method in METHODS:
        report, logits = run(model, method, "int4-g16")
        assert bool(torch.isfinite(logits).all()), method.name
        assert max(report.relative_losses.values()) < 0.1


def unreachable_expert() -> PreTrainedModel:
    """A mixture in which no router ever chooses expert 2."""
    model = tiny_model("mixtral")
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.gate.weight[2] = 0
            block.mlp.gate.weight[2, 0] = -1e4
            block.post_attention_layernorm.weight.abs_()
        model.model.embed_tokens.weight[:, 0] = 4  # channel 0 is positive at every token
    return model


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: m.name)
def test_an_expert_that_saw_no_token_is_rounded_to_nearest_and_reported(method: Method) -> None:
    model = unreachable_expert()
    report, logits = run(model, method, "int4-g16")
    assert bool(torch.isfinite(logits).all())
    notice = next(text for text in report.notices if "no calibration token" in text)
    assert "model.layers.0" in notice
    named = set(re.findall(r"(?:gate_up|down)_proj\.\d", notice))
    assert (
        {"gate_up_proj.2", "down_proj.2"}
        <= named
        < {f"{kind}_proj.{expert}" for kind in ("gate_up", "down") for expert in range(4)}
    )
    measured = {n.removeprefix("model.layers.0.mlp.experts.") for n in report.relative_losses}
    assert not named & measured


def test_experts_share_the_scales_that_lose_least_over_all_of_them() -> None:
    """One norm feeds every expert: the search sums their losses, each on its own tokens."""
    scheme = QuantScheme.parse("int3-g16")
    parts = [salient_case(seed) for seed in (1, 2, 3)]
    shared = search_shared_scales(parts, scheme)
    total = 0.0
    for weight, stats in parts:
        served = quantize(weight * shared.scales, scheme).dequantize() / shared.scales
        total += float(output_error(weight - served, stats.gram))
    assert shared.loss == pytest.approx(total, rel=1e-3)
    assert shared.loss < shared.rtn_loss
    alone = sum(search_scales(weight, stats, scheme).loss for weight, stats in parts)
    assert shared.loss >= alone * (1 - 1e-4)


@pytest.mark.parametrize("family", ["phi3", "gpt2", "gpt-neox"])
def test_only_the_rows_of_v_are_clipped_in_a_fused_projection(family: str) -> None:
    model = tiny_model(family)
    structure = discover(model)
    group, reader = structure.blocks[0].groups[:2]
    assert reader.absorber is not None
    weight = structure.blocks[0].weight(group.linears[0]).clone()
    weight[:, 0] *= 20  # a range worth cutting in every row
    width = weight.shape[1]
    x = torch.randn(512, width) * torch.linspace(0, 2, width)
    stats = InputStats(gram=x.t() @ x, mean_abs=x.abs().mean(0), tokens=512)
    task = GroupTask(
        group=group,
        weights={group.linears[0]: weight},
        stats=stats,
        scheme=QuantScheme.parse("int3-g32"),
        notice=print,
    )
    served = AWQ(clip=True).round(task)[group.linears[0]].dequantize()
    plain = quantize(weight, task.scheme).dequantize()
    changed = (served != plain).any(1)
    v = torch.zeros(len(weight), dtype=torch.bool)
    v[reader.absorber.rows] = True
    assert not bool(changed[~v].any())
    assert float(changed[v].float().mean()) > 0.9


@pytest.mark.parametrize("method", [RTN(), GPTQ(), AWQ(clip=True)], ids=lambda m: m.name)
def test_block_by_block_equals_statistics_kept_for_all(method: Method) -> None:
    """`quantize` keeps one block's statistics at a time; `compare` keeps them all."""
    model = tiny_model("mixtral")
    kept, logits = run(model, method, "int4-g16")
    structure = discover(model)
    tokens = torch.arange(8 * 32).view(8, 32) * 13 % 160
    walk = BlockWalk(model, structure, tokens, batch_size=4)
    streamed = quantize_model(structure, method, QuantScheme.parse("int4-g16"), walk=walk)
    assert streamed.relative_losses == kept.relative_losses
    assert streamed.calibrate_s > 0
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, logits)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scheme", ["int4-g32", "int3-channel"])
def test_a_race_finds_what_scoring_everybody_finds(
    seed: int, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(600, 96, generator=generator) * torch.logspace(-1, 1, 96)
    weight = torch.randn(RACED_FROM + 37, 96, generator=generator) * torch.logspace(0.5, -0.5, 96)
    stats = InputStats(gram=x.t() @ x, mean_abs=x.abs().mean(0), tokens=600)
    parsed = QuantScheme.parse(scheme)
    raced = search_scales(weight, stats, parsed)
    monkeypatch.setattr("awq_impl.search.RACED_FROM", 10**6)
    scored = search_scales(weight, stats, parsed)
    assert raced.loss <= 1.01 * scored.loss
    assert raced.rtn_loss == pytest.approx(scored.rtn_loss, rel=1e-5)
    served = round_to_nearest(weight * raced.scales, parsed) / raced.scales
    assert float(output_error(weight - served, stats.gram)) == pytest.approx(raced.loss, rel=1e-4)
