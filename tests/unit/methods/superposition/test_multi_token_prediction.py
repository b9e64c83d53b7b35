"""Heads that predict further on: their inputs, targets, loss and counts, one by one."""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
import roll_worker
import torch
from reference import EMPTY, expected, filled_weights, scheme_weights

VOCABULARY, L, B, HEADS = 64, 10, 2, 2
SIZES = (1, 3, 4)
SCALING = 0.3


@pytest.fixture
def build(model_parallel):
    """Tiny models with two heads, from one seed: kind is ``gpt`` or ``hybrid``."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_layer_local_spec,
        get_gpt_mtp_block_spec,
    )
    from megatron.core.models.hybrid.hybrid_model import HybridModel
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer import TransformerConfig

    from tst_megatron.superposition import SuperposedGPTModel, SuperposedHybridModel
    from tst_megatron.trainer.cpu.layers import hybrid_stack_spec

    def build(kind="gpt", superposed=True, **kwargs):
        torch.manual_seed(5)
        model_parallel_cuda_manual_seed(5, force_reset_rng=True)
        config = TransformerConfig(
            num_layers=2 if kind == "gpt" else 4,
            hidden_size=32,
            num_attention_heads=4,
            normalization="RMSNorm",
            hidden_dropout=0.0,
            attention_dropout=0.0,
            mtp_num_layers=HEADS,
            mtp_loss_scaling_factor=SCALING,
        )
        common = {
            "config": config,
            "vocab_size": VOCABULARY,
            "max_sequence_length": L,
            "position_embedding_type": "rope",
            **kwargs,
        }
        if kind == "gpt":
            spec = get_gpt_layer_local_spec(normalization="RMSNorm")
            return (SuperposedGPTModel if superposed else GPTModel)(
                transformer_layer_spec=spec,
                mtp_block_spec=get_gpt_mtp_block_spec(config, spec, use_transformer_engine=False),
                **common,
            )
        return (SuperposedHybridModel if superposed else HybridModel)(
            hybrid_stack_spec=hybrid_stack_spec, hybrid_layer_pattern="*-*-/*-/*-", **common
        )

    return build


KINDS = pytest.mark.parametrize("kind", ["gpt", "hybrid"])


@pytest.fixture
def counted(monkeypatch):
    """What Megatron is told of each head for its log: (loss, right, all), in the heads' order."""
    from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper

    seen = []
    monkeypatch.setattr(
        MTPLossLoggingHelper,
        "save_metrics_to_tracker",
        lambda loss, correct, total, *args, **kwargs: seen.append((loss, correct, total)),
    )
    return seen


def record(model, monkeypatch):
    """The labels and logits that the loss is called with, and the ids that are embedded."""
    from megatron.core.models.common.embeddings.language_model_embedding import (
        LanguageModelEmbedding,
    )

    scored, embedded = [], []
    score, embed = model.compute_language_model_loss, LanguageModelEmbedding.forward

    def scoring(labels, logits):
        scored.append((labels.clone(), logits.detach().clone()))
        return score(labels, logits)

    def embedding(self, input_ids, position_ids, *args, **kwargs):
        embedded.append((input_ids.clone(), position_ids.clone()))
        return embed(self, input_ids, position_ids, *args, **kwargs)

    monkeypatch.setattr(model, "compute_language_model_loss", scoring)
    monkeypatch.setattr(LanguageModelEmbedding, "forward", embedding)
    return scored, embedded


def text_of(bag_size, generator):
    """A sample's running text: ``[b, (L + 1)·s]``."""
    return torch.randint(0, VOCABULARY, (B, (L + 1) * bag_size), generator=generator)


def bags_of(text, sample, start, bag_size):
    """The s tokens from a place in the text on, read with plain indexing."""
    return [text[sample, start + j].item() for j in range(bag_size)]


class Batch:
    """A sample's tensors and, head by head, what each position must be scored by (None: masked).

    Written from the text alone; head 0 is the main one.
    """

    def __init__(self, side, bag_size, generator):
        from tst_megatron.methods.superposition.bags import look_ahead

        self.side, s = side, bag_size
        if side == "output":
            text = torch.randint(0, VOCABULARY, (B, L + 1), generator=generator)
            self.tokens, labels = text[:, :-1], text[:, 1:]
            self.labels = look_ahead(labels, s)
            end = L + 1
            self.target = lambda b, i: [
                text[b, i + 1 + j].item() if i + 1 + j < end else EMPTY for j in range(s)
            ]
            self.input = lambda b, i: text[b, i].item()
        else:
            text = text_of(s, generator)
            bags = text.view(B, L + 1, s)
            self.tokens, self.labels = bags[:, :-1], bags[:, 1:]
            self.target = lambda b, i: bags_of(text, b, (i + 1) * s, s)
            self.input = lambda b, i: bags_of(text, b, i * s, s)
            if side == "input":
                self.labels = bags[:, 1:, 0]
                self.target = lambda b, i: text[b, (i + 1) * s].item()
        self.mask = torch.ones(B, L)

    def run(self, model):
        positions = torch.arange(L).expand(B, L)
        return model(self.tokens, positions, None, labels=self.labels, loss_mask=self.mask)


SIDES = [("both", 1), ("both", 3), ("both", 4), ("input", 4), ("output", 4), ("output", 1)]


@KINDS
@pytest.mark.parametrize(("side", "bag_size"), SIDES)
def test_each_heads_targets_are_those_further_on(
    kind, side, bag_size, build, generator, counted, monkeypatch
):
    model = build(kind)
    scored, _ = record(model, monkeypatch)
    batch = Batch(side, bag_size, generator)
    batch.run(model)

    # The heads are scored before the main one, which is last.
    assert len(scored) == HEADS + 1
    for further, (labels, _) in enumerate([scored[-1], *scored[:-1]]):
        assert labels.shape == batch.labels.shape
        for b in range(B):
            for i in range(L - further):
                assert labels[b, i].tolist() == batch.target(b, i + further), (further, b, i)
            # Past the end: masked, and ids of the vocabulary all the same.
            assert (labels[b, L - further :] == 0).all()
    # What is masked is what lies past the end.
    assert [int(total) for _, _, total in counted] == [B * (L - 1), B * (L - 2)]


@KINDS
@pytest.mark.parametrize(("side", "bag_size"), SIDES)
def test_each_head_reads_the_bag_one_further_on(
    kind, side, bag_size, build, generator, counted, monkeypatch
):
    model = build(kind)
    _, embedded = record(model, monkeypatch)
    batch = Batch(side, bag_size, generator)
    batch.run(model)

    assert len(embedded) == HEADS + 1
    for further, (ids, positions) in enumerate(embedded):
        assert ids.shape == batch.tokens.shape
        for b in range(B):
            for i in range(L - further):
                assert ids[b, i].tolist() == batch.input(b, i + further), (further, b, i)
                assert positions[b, i] == i + further
            assert (ids[b, L - further :] == 0).all()


@KINDS
@torch.no_grad()
def test_no_head_sees_its_target(kind, build, generator, counted, monkeypatch):
    """Head k at position i has read bags 0 … i + k, and predicts bag i + 1 + k."""
    model = build(kind).eval()
    scored, _ = record(model, monkeypatch)
    batch = Batch("both", 3, generator)
    batch.run(model)
    before = [logits for _, logits in scored[:HEADS]]
    for changed in range(L):
        tokens = batch.tokens.clone()
        tokens[0, changed, 1] = (tokens[0, changed, 1] + 17) % VOCABULARY
        scored.clear()
        model(
            tokens,
            torch.arange(L).expand(B, L),
            None,
            labels=batch.labels,
            loss_mask=batch.mask,
        )
        for k, (_, logits) in enumerate(scored[:HEADS], start=1):
            first = max(0, changed - k)
            # [L, b, V]
            assert torch.equal(logits[:first, 0], before[k - 1][:first, 0])
            assert (logits[first : L - k, 0] != before[k - 1][first : L - k, 0]).any(dim=-1).all()
            assert torch.equal(logits[:, 1], before[k - 1][:, 1]), "another sample changed"


def reference_loss(logits, batch, further, weights):
    """Float64 loss of one head, the mean over its positions, and its gradient ``[L, b, V]``."""
    targets = torch.tensor(
        [[batch.target(b, i + further) for b in range(B)] for i in range(L - further)]
    )
    of_place = filled_weights(weights, targets)
    count = sum(bool(batch.mask[b, i + further]) for b in range(B) for i in range(L - further))
    grad_output = batch.mask[:, further:].t() / count
    loss, gradient = expected(logits[: L - further], targets, of_place, grad_output)
    padded = torch.zeros(logits.shape, dtype=torch.float64)
    padded[: L - further] = gradient
    return (loss * grad_output).sum(), padded


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "text-ends"])
@pytest.mark.parametrize("scheme", ["uniform", "power"])
@pytest.mark.parametrize(("side", "bag_size"), [("both", 3), ("output", 4)])
@KINDS
def test_loss_and_gradient_are_those_of_each_heads_logits(
    kind, side, bag_size, scheme, masked, build, generator, counted, monkeypatch
):
    from tst_megatron.superposition import BagObjective

    model = build(kind, bag_objective=BagObjective(scheme))
    scored, _ = record(model, monkeypatch)
    leaves = []

    def leaf_of(module, inputs, output):
        # Not the hidden states' gradient but the logits' own.
        output[0].retain_grad()
        leaves.append(output[0])
        return output[0].clone(), output[1]

    model.output_layer.register_forward_hook(leaf_of)
    batch = Batch(side, bag_size, generator)
    if masked:
        end = L - 3
        batch.mask[1, end:] = 0.0
        batch.labels = batch.labels.clone()
        batch.labels[1, end:] = EMPTY
        batch.labels[1, end - 1, -1] = EMPTY
        target = batch.target
        batch.target = lambda b, i: (
            target(b, i)
            if b == 0 or i < end - 1
            else [*target(b, i)[:-1], EMPTY]
            if i == end - 1
            else [EMPTY] * bag_size
        )
    # The main head adds nothing: what is left at the heads' logits is their own.
    batch.run(model).backward(torch.zeros(B, L))

    weights = scheme_weights(scheme, bag_size)
    for k in range(1, HEADS + 1):
        true_loss, true_gradient = reference_loss(scored[k - 1][1], batch, k, weights)
        torch.testing.assert_close(counted[k - 1][0].double(), true_loss, rtol=3e-6, atol=3e-6)
        torch.testing.assert_close(
            leaves[k - 1].grad.double(), true_gradient * SCALING / HEADS, rtol=1e-5, atol=1e-8
        )
    assert (leaves[HEADS].grad == 0.0).all()


@KINDS
@pytest.mark.parametrize(("side", "bag_size"), [("both", 3), ("input", 4)])
def test_heads_train_on_logits_in_chunks(kind, side, bag_size, build, generator, counted):
    batch = Batch(side, bag_size, generator)
    batch.mask = (torch.rand(B, L, generator=generator) < 0.8).float()
    grad_output = torch.randn(B, L, generator=generator)
    results = []
    for chunk_size in (0, 7):
        model = build(kind, logits_chunk_size=chunk_size)
        counted.clear()
        loss = batch.run(model)
        loss.backward(grad_output)
        counts = [(correct, total) for _, correct, total in counted]
        of_heads = torch.stack([of_head for of_head, _, _ in counted])
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((loss.detach(), of_heads.detach(), counts, gradients))
    whole, ours = results
    torch.testing.assert_close(ours[:2], whole[:2])
    assert ours[2] == whole[2]
    for name, gradient in ours[3].items():
        torch.testing.assert_close(gradient, whole[3][name], rtol=1e-4, atol=1e-5, msg=name)


@KINDS
@pytest.mark.parametrize("with_mask", [True, False], ids=["mask", "no-mask"])
def test_bags_of_one_train_as_in_the_stock_model(
    kind, with_mask, build, generator, counted, monkeypatch
):
    text = text_of(1, generator)
    tokens, labels = text[:, :-1].clone(), text[:, 1:]
    tokens[:, ::2] = 7
    mask = (torch.rand(B, L, generator=generator) < 0.8).float() if with_mask else None
    grad_output = torch.randn(B, L, generator=generator)
    positions = torch.arange(L).expand(B, L)
    results = []
    for superposed, shape in ((False, (B, L)), (True, (B, L)), (True, (B, L, 1))):
        model = build(kind, superposed=superposed)
        counted.clear()
        loss = model(
            tokens.view(shape), positions, None, labels=labels.reshape(shape), loss_mask=mask
        )
        loss.backward(grad_output)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((loss.detach(), gradients, [torch.stack(c).detach() for c in counted]))
    stock = results[0]
    assert any("mtp" in name and gradient.any() for name, gradient in stock[1].items())
    for ours in results[1:]:
        assert torch.equal(ours[0], stock[0])
        assert ours[1].keys() == stock[1].keys()
        for name, gradient in ours[1].items():
            assert torch.equal(gradient, stock[1][name]), name
        assert all(torch.equal(a, b) for a, b in zip(ours[2], stock[2], strict=True))


@KINDS
def test_without_a_mask_the_filled_positions_count(kind, build, generator, counted):
    model = build(kind)
    batch = Batch("both", 3, generator)
    batch.labels = batch.labels.clone()
    batch.labels[1, 4:] = EMPTY
    batch.mask[1, 4:] = 0.0
    batch.run(model)
    given = [torch.stack(c) for c in counted]
    counted.clear()
    batch.mask = None
    batch.run(model)
    assert all(torch.equal(torch.stack(c), g) for c, g in zip(counted, given, strict=True))
    assert [int(total) for _, _, total in counted] == [9 + 3, 8 + 2]


@KINDS
def test_bags_without_labels_give_logits(kind, build, generator, counted):
    model = build(kind)
    batch = Batch("both", 3, generator)
    logits = model(batch.tokens, torch.arange(L).expand(B, L), None)
    assert logits.shape == (B, L, VOCABULARY)
    # Megatron takes the labels from the inputs, whose last bag has none.
    assert [int(total) for _, _, total in counted] == [B * (L - 2), B * (L - 3)]


@pytest.mark.parametrize("bag_size", SIZES)
def test_a_prediction_is_right_when_its_token_is_in_the_bag(bag_size, build, generator):
    from megatron.core.transformer import multi_token_prediction as megatron_mtp

    model = build()
    logits = torch.randn(L, B, VOCABULARY, generator=generator)
    # A small vocabulary in the bags: repeats, and predictions that are among them.
    labels = torch.randint(0, 4, (B, L, bag_size), generator=generator)
    logits[..., :4] += 3.0
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = EMPTY
    mask = (torch.rand(B, L, generator=generator) < 0.8).float()
    # One that is right and one that is wrong, whatever was drawn.
    labels[0, 0, 0], labels[1, 1], mask[0, 0], mask[1, 1] = logits[0, 0].argmax(), EMPTY, 1.0, 1.0
    kept = labels.clone()

    correct, total = megatron_mtp._compute_mtp_acceptance_counts(
        logits, labels, mask, model.output_layer, None, None
    )

    right = sum(
        int(logits[i, b].argmax()) in labels[b, i].tolist()
        for b in range(B)
        for i in range(L)
        if mask[b, i]
    )
    assert 0 < right < int(mask.sum())
    assert (int(correct), int(total)) == (right, int(mask.sum()))
    assert torch.equal(labels, kept)


@pytest.fixture(scope="module")
def rolled(tmp_path_factory):
    """What both ranks of a context-parallel group have after each roll."""
    folder = tmp_path_factory.mktemp("roll")
    torch.multiprocessing.spawn(roll_worker.run, args=(str(folder),), nprocs=roll_worker.CP)
    return [torch.load(folder / f"{rank}.pt") for rank in range(roll_worker.CP)]


@pytest.mark.parametrize("bag_size", roll_worker.SIZES)
def test_a_split_sequence_rolls_as_the_whole_one(bag_size, rolled):
    whole = roll_worker.ids(bag_size)
    moved = torch.zeros_like(whole)
    for times in range(1, roll_worker.TIMES + 1):
        moved.zero_()
        moved[:, :-times] = whole[:, times:]
        for rank, of_rank in enumerate(rolled):
            mine, mine_sum = of_rank[bag_size][times - 1]
            assert torch.equal(mine, roll_worker.split(moved, rank)), (times, rank)
            assert mine_sum == mine.sum()


def test_stock_models_are_untouched(build):
    """What has two dimensions is rolled by Megatron's own function, as it was."""
    from megatron.core.transformer import multi_token_prediction as megatron_mtp

    build()
    mask = torch.rand(B, L)
    moved, total = megatron_mtp.roll_tensor(mask, shifts=-1, dims=-1)
    assert torch.equal(moved[:, :-1], mask[:, 1:])
    assert (moved[:, -1] == 0).all()
    assert total == moved.sum()
    assert megatron_mtp.roll_tensor(None) == (None, None)


def test_wrapping_twice_changes_nothing(build):
    from megatron.core.transformer import multi_token_prediction as megatron_mtp

    build()
    before = megatron_mtp.roll_tensor
    build()
    assert megatron_mtp.roll_tensor is before


def test_another_megatron_is_refused(monkeypatch):
    from tst_megatron.methods.superposition import multi_token_prediction as ours

    monkeypatch.setitem(ours._ORIGINALS, "roll_tensor", lambda tensor, by: None)
    with pytest.raises(RuntimeError, match=r"roll_tensor takes \('tensor', 'by'\)"):
        ours.let_heads_predict_bags()


def calls_in(function, name):
    """The calls of a name in a function, as written."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return [
        [ast.unparse(argument) for argument in node.args]
        + [f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


def test_megatron_still_calls_what_is_wrapped():
    from megatron.core.transformer import multi_token_prediction as megatron_mtp

    rolls = calls_in(megatron_mtp.process_mtp_loss, "roll_tensor")
    assert sorted(call[0] for call in rolls) == [
        "input_ids",
        "loss_mask",
        "loss_mask",
        "mtp_labels",
    ]
    of_inputs = calls_in(megatron_mtp.MultiTokenPredictionLayer._get_embeddings, "roll_tensor")
    assert [call[0] for call in of_inputs] == ["input_ids", "position_ids", "padding_mask"]
    for call in rolls + of_inputs:
        assert call[1:3] == ["shifts=-1", "dims=-1"], call
    counts = calls_in(megatron_mtp.process_mtp_loss, "_compute_mtp_acceptance_counts")
    assert [call[:3] for call in counts] == [["mtp_logits", "mtp_labels", "loss_mask"]]


def test_nobody_else_rolls():
    """Another module that imports the names would not see the wrappers."""
    import megatron.core

    root = Path(next(iter(megatron.core.__path__))).parent
    users = {
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if any(n in file.read_text() for n in ("roll_tensor", "_compute_mtp_acceptance_counts"))
    }
    assert users == {"core/transformer/multi_token_prediction.py"}
