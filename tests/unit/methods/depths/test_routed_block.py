"""A routed block against the plain one, which sees every token and is told whom to attend to.

The reference never gathers anything: it computes the plain block on the whole sequence under a mask
that leaves out all keys but the chosen ones, and takes its output where a token was chosen.
"""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

VOCABULARY, L, B, H = 64, 12, 3, 32


@pytest.fixture
def build(model_parallel):
    """Tiny models in float64, of which block 2 is routed."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer import TransformerConfig

    from tst_megatron.methods.depths.block import Now
    from tst_megatron.methods.depths.model import route_all
    from tst_megatron.methods.depths.settings import Routing

    def build(sampling: str = "predictor", capacity: float = 0.25, parts: int = 1) -> Any:
        model_parallel_cuda_manual_seed(5, force_reset_rng=True)
        config = TransformerConfig(
            num_layers=3,
            hidden_size=H,
            num_attention_heads=4,
            normalization="RMSNorm",
            hidden_dropout=0.0,
            attention_dropout=0.0,
        )
        model = GPTModel(
            config=config,
            transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
            vocab_size=VOCABULARY,
            max_sequence_length=L,
            position_embedding_type="rope",
        ).double()
        routing = Routing({2: capacity}, sampling, "router", 0.3, 0.9, parts)
        now = Now()
        route_all([model], routing, now, seed=7)
        block = model.decoder.layers[1]
        block.depth_router.double()
        # Larger than it is drawn, so that scores are not all alike.
        with torch.no_grad():
            for parameter in block.depth_router.parameters():
                parameter.mul_(20)
        return model, block, now

    return build


def table(model: Any) -> Tensor:
    return model.rotary_pos_emb(L)


def plain(block: Any) -> Any:
    """The same block with Megatron's own class, and the same parameters."""
    found = copy.copy(block)
    found.__class__ = type(block).__mro__[2]
    return found


def reference(model: Any, block: Any, hidden: Tensor, chosen: Tensor, scores: Tensor) -> Tensor:
    """``[L, b, h]`` where tokens ``[L, b]`` were chosen, with those scores."""
    later = torch.ones(L, L, dtype=torch.bool).triu(1)
    # Who is not chosen sees itself at least: its row is not used.
    hidden_keys = ~chosen.transpose(0, 1).unsqueeze(1) & ~torch.eye(L, dtype=torch.bool)
    mask = (later | hidden_keys).unsqueeze(1)
    out, _ = plain(block)(hidden, attention_mask=mask, rotary_pos_emb=table(model))
    weight = torch.where(chosen, scores, 0.0).unsqueeze(-1)
    return hidden + weight * (out - hidden)


def gradients(block: Any, hidden: Tensor, out: Tensor, grad: Tensor) -> dict[str, Tensor]:
    names = dict(block.named_parameters())
    found = torch.autograd.grad(out, [hidden, *names.values()], grad, allow_unused=True)
    return dict(zip(["input", *names], found, strict=True))


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], but: str = "-") -> None:
    for name, one in theirs.items():
        if name.startswith(but):
            continue
        assert (ours[name] is None) == (one is None), name
        if one is not None:
            assert (ours[name] - one).norm() <= 1e-10 * one.norm() + 1e-12, name


def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (L, B, H)
    hidden = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    return hidden, torch.randn(shape, generator=generator, dtype=torch.float64)


def of_router(block: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and logits, written out."""
    router = block.depth_router
    scores = (hidden * router.weight).sum(-1)
    if router.down is None:
        return scores, scores
    units = hidden.detach() @ router.down.t()
    return scores, (F.silu(units) * router.up).sum(-1)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_highest_scores_are_worked_on(build, generator, parts: int) -> None:
    model, block, now = build(parts=parts)
    block.eval()
    now.ranks_in_validation = True
    hidden, grad = draw(generator)
    out, _ = block(hidden_states=hidden, attention_mask=None, rotary_pos_emb=table(model))
    scores, _ = of_router(block, hidden)
    chosen = torch.zeros(L, B, dtype=torch.bool)
    for part in range(parts):
        rows = slice(part * L // parts, (part + 1) * L // parts)
        best = scores[rows].argsort(dim=0, descending=True)[: L // 4 // parts]
        chosen[rows] = torch.zeros_like(chosen[rows]).scatter(0, best, True)
    expected = reference(model, block, hidden, chosen, scores)
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-12)
    assert_close(gradients(block, hidden, out, grad), gradients(block, hidden, expected, grad))


@pytest.mark.parametrize("sampling", ["predictor", "auxiliary", "threshold"])
def test_all_that_the_rule_lets_in_are_worked_on(build, generator, sampling: str) -> None:
    model, block, _ = build(sampling)
    block.eval()
    block.depth_router.average_in(torch.tensor(0.3))
    hidden, grad = draw(generator)
    out, _ = block(hidden_states=hidden, attention_mask=None, rotary_pos_emb=table(model))
    scores, logits = of_router(block, hidden)
    chosen = scores >= 0.3 if sampling == "threshold" else logits > 0
    # Sequences of a batch have other numbers of them, so that places fill up.
    assert 0 < chosen.sum() < chosen.numel()
    expected = reference(model, block, hidden, chosen, scores)
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-12)
    assert_close(gradients(block, hidden, out, grad), gradients(block, hidden, expected, grad))


@pytest.mark.parametrize("by_rule", [False, True])
def test_a_mask_of_the_data_holds_among_chosen_tokens(build, generator, by_rule: bool) -> None:
    """Documents apart, as --reset-attention-mask has it."""
    model, block, now = build()
    block.eval()
    now.ranks_in_validation = not by_rule
    hidden, _ = draw(generator)
    begins = torch.tensor([0, 5, 9])
    document = torch.bucketize(torch.arange(L), begins[1:], right=True)
    apart = document.unsqueeze(0) != document.unsqueeze(1)
    mask = (apart | torch.ones(L, L, dtype=torch.bool).triu(1)).view(1, 1, L, L)
    out, _ = block(hidden_states=hidden, attention_mask=mask, rotary_pos_emb=table(model))
    scores, logits = of_router(block, hidden)
    chosen = logits > 0
    if not by_rule:
        best = scores.argsort(dim=0, descending=True)[: L // 4]
        chosen = torch.zeros(L, B, dtype=torch.bool).scatter(0, best, True)
    for column in range(B):
        for first, last in ((0, 5), (5, 9), (9, L)):
            alone = torch.zeros_like(chosen)
            alone[first:last] = chosen[first:last]
            expected = reference(model, block, hidden, alone, scores)
            assert torch.allclose(
                out[first:last, column], expected[first:last, column], rtol=1e-12, atol=1e-12
            )


def test_in_training_the_rules_loss_is_added(build, generator, monkeypatch) -> None:
    from tst_megatron.methods.depths import auxiliary_loss

    monkeypatch.setattr(auxiliary_loss, "get_num_microbatches", lambda: 5)
    for sampling in ("predictor", "auxiliary"):
        model, block, _ = build(sampling)
        block.train()
        hidden, grad = draw(generator)
        out, _ = block(hidden_states=hidden, attention_mask=None, rotary_pos_emb=table(model))
        scores, logits = of_router(block, hidden)
        best = scores.argsort(dim=0, descending=True)[: L // 4]
        chosen = torch.zeros(L, B, dtype=torch.bool).scatter(0, best, True)
        expected = reference(model, block, hidden, chosen, scores)
        loss = F.binary_cross_entropy_with_logits(logits, chosen.double())
        names = dict(block.named_parameters())
        both = (expected * grad).sum() + 0.3 / 5 * loss
        theirs = torch.autograd.grad(both, [hidden, *names.values()], allow_unused=True)
        ours = gradients(block, hidden, out, grad)
        assert_close(ours, dict(zip(["input", *names], theirs, strict=True)))


def test_with_a_score_of_one_and_every_token_it_is_the_plain_block(build, generator) -> None:
    model, block, now = build(capacity=1.0)
    block.eval()
    now.ranks_in_validation = True
    hidden, grad = draw(generator)
    block.depth_router.scores = lambda x: (torch.ones(x.shape[:-1], dtype=x.dtype), x)
    out, _ = block(hidden_states=hidden, attention_mask=None, rotary_pos_emb=table(model))
    expected, _ = plain(block)(hidden, attention_mask=None, rotary_pos_emb=table(model))
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-12)
    theirs = gradients(block, hidden, expected, grad)
    assert_close(gradients(block, hidden, out, grad), theirs, but="depth_router")


def test_a_router_in_16_bits_reads_a_residual_stream_in_32() -> None:
    """--fp32-residual-connection."""
    from tst_megatron.methods.depths.router import DepthRouter, Rule

    router = DepthRouter(H, Rule(), 0.02, seed=3, block=2, like=torch.zeros(1)).bfloat16()
    hidden = torch.randn(L, B, H, requires_grad=True)
    scores, _ = router.scores(hidden)
    assert scores.dtype == torch.float32
    (router.logits(hidden, scores).sum() + scores.sum()).backward()
    assert hidden.grad.dtype == torch.float32
    assert router.down.grad.dtype == torch.bfloat16


def test_a_threshold_is_an_average_and_stays_exact() -> None:
    from tst_megatron.methods.depths.router import DepthRouter, Rule

    rule = Rule("threshold", decay=0.75)
    router = DepthRouter(H, rule, 0.02, seed=3, block=2, like=torch.zeros(1)).bfloat16()
    assert router.weight.dtype == torch.bfloat16
    scores = [0.3, 0.1, 0.7, 0.2]
    for number, score in enumerate(scores, 1):
        assert router.has_threshold == (number > 4)
        router.average_in(torch.tensor(score))
        weights = [0.75 ** (number - 1 - at) for at in range(number)]
        average = sum(w * s for w, s in zip(weights, scores, strict=False)) / sum(weights)
        at = torch.tensor([average - 1e-6, average + 1e-6])
        assert router.passes(at, at).tolist() == [False, True]
    assert router.has_threshold
    again = DepthRouter(H, rule, 0.02, seed=4, block=2, like=torch.zeros(1)).bfloat16()
    again.load_state_dict(router.state_dict())
    assert again.threshold.dtype == torch.float32
    assert torch.equal(again.threshold, router.threshold)


@pytest.mark.parametrize("sampling", ["predictor", "auxiliary", "threshold"])
def test_the_rule_never_looks_ahead_and_the_highest_scores_do(build, generator, sampling) -> None:
    model, block, now = build(sampling)
    model.eval()
    block.depth_router.average_in(torch.tensor(0.0))
    tokens = torch.randint(0, VOCABULARY, (16, L), generator=generator)
    positions = torch.arange(L).expand_as(tokens)

    def moved(at: int) -> Tensor:
        """How far any output before a token moves when that is another."""
        other = tokens.clone()
        other[:, at] = (other[:, at] + 1) % VOCABULARY
        with torch.no_grad():
            before, after = (model(one, positions, None)[:, :at] for one in (tokens, other))
        return (before - after).abs().max()

    assert max(moved(at) for at in range(1, L)) < 1e-12
    now.ranks_in_validation = True
    assert max(moved(at) for at in range(1, L)) > 1e-6
