import pytest
import torch
from reference import expected, filled_weights, scheme_weights

VOCABULARY, L, B = 64, 10, 2


@pytest.fixture
def build(model_parallel):
    """Tiny models from one seed: kind is ``gpt`` or ``hybrid``."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.hybrid.hybrid_model import HybridModel
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer import TransformerConfig

    from tst_megatron.superposition import SuperposedGPTModel, SuperposedHybridModel
    from tst_megatron.trainer.cpu.layers import hybrid_stack_spec

    def build(
        kind="gpt",
        superposed=True,
        normalization="RMSNorm",
        tied=False,
        pre_process=True,
        dropout=0.0,
        **kwargs,
    ):
        torch.manual_seed(5)
        model_parallel_cuda_manual_seed(5, force_reset_rng=True)
        config = TransformerConfig(
            num_layers=2 if kind == "gpt" else 4,
            hidden_size=32,
            num_attention_heads=4,
            normalization=normalization,
            hidden_dropout=dropout,
            attention_dropout=dropout,
        )
        common = {
            "config": config,
            "vocab_size": VOCABULARY,
            "max_sequence_length": L,
            "position_embedding_type": "rope",
            "share_embeddings_and_output_weights": tied,
            "pre_process": pre_process,
            **kwargs,
        }
        if kind == "gpt":
            return (SuperposedGPTModel if superposed else GPTModel)(
                transformer_layer_spec=get_gpt_layer_local_spec(normalization=normalization),
                **common,
            )
        return (SuperposedHybridModel if superposed else HybridModel)(
            hybrid_stack_spec=hybrid_stack_spec, hybrid_layer_pattern="*-*-", **common
        )

    return build


def draw(generator, bag_size=None):
    """Input and labels ``[b, L]``, or ``[b, L, s]``."""
    shape = (B, L) if bag_size is None else (B, L, bag_size)
    return tuple(torch.randint(0, VOCABULARY, shape, generator=generator) for _ in range(2))


def forward(model, tokens, labels=None):
    positions = torch.arange(L).expand(B, L)
    return model(tokens, positions, None, labels=labels)


def loss_and_gradients(model, tokens, labels, grad_output):
    model.zero_grad(set_to_none=True)
    loss = forward(model, tokens, labels)
    loss.backward(grad_output)
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, theirs[name]), name


KINDS = [
    pytest.param({"kind": "gpt"}, id="gpt"),
    pytest.param({"kind": "gpt", "normalization": "LayerNorm"}, id="gpt-layer-norm"),
    pytest.param({"kind": "gpt", "tied": True}, id="gpt-tied"),
    pytest.param({"kind": "hybrid"}, id="hybrid"),
    pytest.param({"kind": "hybrid", "tied": True}, id="hybrid-tied"),
]


@pytest.fixture(params=KINDS)
def options(request):
    return request.param


def superposed_by(way, build, options, bag_objective=None):
    """The superposed model, made by its class or from a stock model."""
    from tst_megatron.superposition import BagObjective, superpose

    bag_objective = bag_objective or BagObjective()
    if way == "class":
        return build(**options, bag_objective=bag_objective)
    return superpose(build(**options, superposed=False), bag_objective)


WAYS = ("class", "superpose")


@pytest.mark.parametrize("way", WAYS)
def test_it_has_the_stock_parameters(way, build, options):
    ours = superposed_by(way, build, options)
    stock = build(**options, superposed=False)

    assert_equal(ours.state_dict(), stock.state_dict())
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in stock.named_modules()]
    assert_equal(dict(ours.named_parameters()), dict(stock.named_parameters()))
    stock.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(stock.state_dict(), strict=True)


def seen_by_megatron_fsdp(model):
    """Of every parameter, how Megatron-FSDP takes it to be split over tensor-parallel ranks."""
    from megatron.core.distributed.fsdp.mcore_fsdp_adapter import FullyShardedDataParallel

    # Wrapping takes a GPU; what its constructor asks of every module needs nothing of it.
    fsdp = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    fsdp._annotate_tensor_parallelism(model)
    return {name: getattr(p, "_tensor_parallel_mode", None) for name, p in model.named_parameters()}


@pytest.mark.parametrize("way", WAYS)
def test_megatron_fsdp_splits_it_as_the_stock_one(way, build, options):
    ours = seen_by_megatron_fsdp(superposed_by(way, build, options))
    assert ours == seen_by_megatron_fsdp(build(**options, superposed=False))
    assert ours["embedding.word_embeddings.weight"] == "column"


def test_megatron_fsdp_still_does_not_know_the_table(build, monkeypatch):
    """Else its class need not say how it is split."""
    from tst_megatron.methods.superposition.embedding import SuperposedVocabParallelEmbedding

    monkeypatch.delattr(SuperposedVocabParallelEmbedding, "tensor_model_parallel")
    assert seen_by_megatron_fsdp(build())["embedding.word_embeddings.weight"] is None


@pytest.mark.parametrize("way", WAYS)
def test_its_checkpoint_is_the_stock_one(way, build, options):
    ours = superposed_by(way, build, options).sharded_state_dict()
    stock = build(**options, superposed=False).sharded_state_dict()
    assert ours.keys() == stock.keys()
    compared = 0
    for name, tensor in ours.items():
        if hasattr(tensor, "global_shape"):
            assert tensor.key == stock[name].key
            assert tensor.global_shape == stock[name].global_shape
            if tensor.data is not None:
                assert torch.equal(tensor.data, stock[name].data), name
                compared += 1
    assert compared > 10


@pytest.mark.parametrize("bags", [False, True], ids=["tokens", "bags-of-one"])
@pytest.mark.parametrize("way", WAYS)
def test_single_tokens_train_as_in_the_stock_model(way, bags, build, options, generator):
    tokens, labels = draw(generator)
    # One that stands often: its gradients must be added in the stock order.
    tokens[:, ::2] = 7
    grad_output = torch.randn(B, L, generator=generator)
    stock = build(**options, superposed=False)
    stock_logits = forward(stock, tokens)
    stock_loss, stock_gradients = loss_and_gradients(stock, tokens, labels, grad_output)

    ours = superposed_by(way, build, options)
    if bags:
        tokens, labels = tokens.unsqueeze(-1), labels.unsqueeze(-1)
    logits = forward(ours, tokens)
    loss, gradients = loss_and_gradients(ours, tokens, labels, grad_output)

    assert logits.shape == (B, L, VOCABULARY)
    assert torch.equal(logits, stock_logits)
    assert loss.shape == (B, L)
    assert loss.is_contiguous()
    assert torch.equal(loss, stock_loss)
    assert_equal(gradients, stock_gradients)


@pytest.mark.parametrize("kind", ["gpt", "hybrid"])
def test_dropout_draws_the_stock_random_numbers(kind, build, generator):
    tokens, labels = draw(generator)
    losses = []
    for superposed, shape in ((False, (B, L)), (True, (B, L)), (True, (B, L, 1))):
        model = build(kind, superposed=superposed, dropout=0.2)
        torch.manual_seed(11)
        losses.append(forward(model, tokens.view(shape), labels.view(shape)))
    assert not torch.equal(losses[0], forward(model.eval(), tokens, labels)), "no dropout"
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


OBJECTIVES = [
    ("uniform", "mce"),
    ("power", "mce"),
    ("exponential", "mce"),
    ("first", "mce"),
    ("mutual-information", "mce"),
    ("uniform", "mce-alt"),
]


@pytest.mark.parametrize("empty", [False, True], ids=["full", "empty-places"])
@pytest.mark.parametrize(("weights", "objective"), OBJECTIVES)
@pytest.mark.parametrize("kind", ["gpt", "hybrid"])
def test_the_loss_of_bags_is_that_of_its_own_logits(
    kind, weights, objective, empty, build, generator
):
    from tst_megatron.superposition import EMPTY, BagObjective

    model = build(kind, bag_objective=BagObjective(weights, objective))
    bags, labels = draw(generator, 3)
    if empty:
        labels[torch.rand(labels.shape, generator=generator) < 0.4] = EMPTY
        labels[0, 0] = EMPTY
    grad_output = torch.randn(B, L, generator=generator)

    logits = forward(model, bags)
    loss, gradients = loss_and_gradients(model, bags, labels, grad_output)

    bag_weights = None
    if objective == "mce":
        bag_weights = filled_weights(scheme_weights(weights, 3), labels)
    true_loss, true_gradient = expected(logits, labels, bag_weights, grad_output)
    assert loss.shape == (B, L)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), true_loss, rtol=3e-6, atol=3e-6)
    if empty:
        assert loss[0, 0] == 0.0

    # The same gradient at the logits gives the same gradient at every parameter.
    model.zero_grad(set_to_none=True)
    forward(model, bags).backward(true_gradient.float())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("way", WAYS)
def test_logits_in_chunks_train_as_whole_ones(way, build, options, generator, monkeypatch):
    from tst_megatron.superposition import superpose

    whole = build(**options)
    # As many rows as there are: the same products, and so the same bits.
    if way == "class":
        ours = build(**options, logits_chunk_size=B * L)
    else:
        ours = superpose(build(**options, superposed=False), logits_chunk_size=B * L)
    assert_equal(ours.state_dict(), whole.state_dict())
    score, scored = ours.compute_language_model_loss, []

    def scoring(labels, logits):
        scored.append(type(logits).__name__)
        return score(labels, logits)

    monkeypatch.setattr(ours, "compute_language_model_loss", scoring)
    bags, labels = draw(generator, 3)
    grad_output = torch.randn(B, L, generator=generator)
    loss, gradients = loss_and_gradients(ours, bags, labels, grad_output)
    true_loss, true_gradients = loss_and_gradients(whole, bags, labels, grad_output)
    assert torch.equal(loss, true_loss)
    assert_equal(gradients, true_gradients)

    # Single targets are ours, too, whose loss adds up in another order than the stock one.
    labels = labels[..., 0]
    loss, gradients = loss_and_gradients(ours, bags, labels, grad_output)
    true_loss, true_gradients = loss_and_gradients(whole, bags, labels, grad_output)
    torch.testing.assert_close(loss, true_loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, true_gradients[name], rtol=1e-4, atol=1e-5, msg=name)
    assert scored == ["LogitsInChunks"] * 2
    # Where nobody scores them they are logits, after a forward pass where somebody did.
    assert not ours.output_layer.is_scored
    assert torch.equal(forward(ours, bags), forward(whole, bags))


def test_what_cannot_be_left_in_chunks_is_named(build):
    from tst_megatron.superposition import superpose

    model = build(superposed=False)
    model.config.use_mup = True
    with pytest.raises(ValueError, match="MuP scales them"):
        superpose(model, logits_chunk_size=4)
    model = build(superposed=False)
    model.output_layer = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="Linear cannot be left in chunks"):
        superpose(model, logits_chunk_size=4)


def test_an_empty_bag_of_one_is_masked_as_in_the_stock_loss(build, generator):
    # GPTDataset's label of a place without a token is 0.
    bags, labels = draw(generator, 1)
    labels[0, 3] = -1
    ours = forward(build(), bags, labels)
    stock = forward(build(superposed=False), bags.squeeze(-1), labels.squeeze(-1).clamp(min=0))
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_is_to_be_compiled_is_not_run_otherwise(way, build, generator):
    from tst_megatron.superposition import superpose

    how = {"loss_implementation": "compiled"}
    model = build(**how) if way == "class" else superpose(build(superposed=False), **how)
    bags, labels = draw(generator, 3)
    # The CPU backend has switched the compiler off.
    with pytest.raises(RuntimeError, match="cannot be compiled"):
        forward(model, bags, labels)


def test_the_bag_size_may_change_from_call_to_call(build, generator):
    from tst_megatron.superposition import BagObjective

    model = build(bag_objective=BagObjective("power"))
    for bag_size in (3, 2, 3, None, 1, 6):
        bags, labels = draw(generator, bag_size)
        logits, loss = forward(model, bags), forward(model, bags, labels)
        targets = labels if bag_size else labels.unsqueeze(-1)
        weights = scheme_weights("power", targets.shape[-1]).expand(targets.shape)
        true_loss, _ = expected(logits.detach(), targets, weights, torch.ones(B, L))
        torch.testing.assert_close(loss.double(), true_loss, rtol=3e-6, atol=3e-6)


def test_the_input_is_the_mean_of_the_embeddings(build, generator):
    model = build()
    bags, _ = draw(generator, 3)
    table = model.embedding.word_embeddings.weight
    seen = model.embedding(bags, torch.arange(L).expand(B, L))
    torch.testing.assert_close(seen, table[bags].mean(dim=2).transpose(0, 1))


def test_single_tokens_may_predict_bags(build, generator):
    # Output superposition alone.
    from tst_megatron.methods.superposition.bags import look_ahead

    model = build()
    tokens, labels = draw(generator)
    targets = look_ahead(labels, 4)
    loss = forward(model, tokens, targets)
    weights = filled_weights(scheme_weights("uniform", 4), targets)
    true_loss, _ = expected(forward(model, tokens).detach(), targets, weights, torch.ones(B, L))
    torch.testing.assert_close(loss.double(), true_loss, rtol=3e-6, atol=3e-6)


def test_bags_may_predict_single_tokens(build, generator):
    # Input superposition alone: the stock loss.
    model = build()
    (bags, _), (_, labels) = draw(generator, 3), draw(generator)
    loss = forward(model, bags, labels)
    true_loss, _ = expected(
        forward(model, bags).detach(), labels.unsqueeze(-1), torch.ones(B, L, 1), torch.ones(B, L)
    )
    torch.testing.assert_close(loss.double(), true_loss, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("kind", ["gpt", "hybrid"])
@torch.no_grad()
def test_no_token_is_seen_by_an_earlier_position(kind, build, generator):
    bag_size = 3
    model = build(kind).eval()
    bags, _ = draw(generator, bag_size)
    before = forward(model, bags)
    for position in range(L):
        for place in range(bag_size):
            perturbed = bags.clone()
            perturbed[0, position, place] = (bags[0, position, place] + 17) % VOCABULARY
            after = forward(model, perturbed)
            assert torch.equal(after[0, :position], before[0, :position])
            assert torch.equal(after[1], before[1]), "another sample changed"
            changed = (after[0, position:] != before[0, position:]).any(dim=-1)
            assert changed.all(), "a later position does not see the token"


@torch.no_grad()
def test_a_target_is_not_an_input(build, generator):
    model = build().eval()
    bags, labels = draw(generator, 3)
    before = forward(model, bags, labels)
    perturbed = labels.clone()
    perturbed[0, 4, 1] = (labels[0, 4, 1] + 17) % VOCABULARY
    changed = forward(model, bags, perturbed) != before
    assert changed.nonzero().tolist() == [[0, 4]]


def test_superpose_keeps_the_object(build):
    from tst_megatron.superposition import SuperposedGPTModel, superpose

    stock = build(superposed=False)
    pointers = [p.data_ptr() for p in stock.parameters()]
    model = superpose(stock)
    assert model is stock
    assert type(model) is SuperposedGPTModel
    assert [p.data_ptr() for p in model.parameters()] == pointers


def test_superpose_of_a_hybrid(build):
    from tst_megatron.superposition import SuperposedHybridModel, superpose

    assert type(superpose(build("hybrid", superposed=False))) is SuperposedHybridModel


def test_superpose_of_a_stage_without_an_embedding(build):
    from tst_megatron.superposition import superpose

    model = superpose(build(superposed=False, pre_process=False))
    assert not hasattr(model, "embedding")


@pytest.mark.parametrize("kind", ["gpt", "hybrid"])
def test_superpose_takes_stock_models_only(kind, build):
    from tst_megatron.superposition import superpose

    with pytest.raises(TypeError, match="Linear cannot be superposed"):
        superpose(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"Superposed.*Model cannot be superposed"):
        superpose(build(kind))
    stock = build(kind, superposed=False)
    stock.__class__ = type("Mine", (type(stock),), {})
    with pytest.raises(TypeError, match="Mine cannot be superposed"):
        superpose(stock)


@pytest.mark.parametrize(
    ("weights", "objective", "named"),
    [("powerlaw", "mce", "'powerlaw'"), ("uniform", "mse", "'mse'")],
)
def test_a_bad_objective_is_named(weights, objective, named, build, generator):
    from tst_megatron.superposition import BagObjective

    bags, labels = draw(generator, 3)
    with pytest.raises(ValueError, match=f"{named} (is|are) unknown"):
        forward(build(bag_objective=BagObjective(weights, objective)), bags, labels)
