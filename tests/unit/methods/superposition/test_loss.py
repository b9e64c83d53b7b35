import os

import pytest
import torch
from reference import (
    SCHEMES,
    SIZES,
    expected,
    filled_weights,
    loss_and_gradient,
    mce,
    mce_alt,
    scheme_weights,
)

from tst_megatron.methods.superposition.bags import EMPTY, bag_weights, weights_of_filled
from tst_megatron.methods.superposition.loss import multi_hot_cross_entropy

L, B = 5, 3


def draw(generator, vocabulary, bag_size):
    """Logits ``[L, b, V]``, targets ``[L, b, s]`` and the gradient ``[L, b]`` that comes back."""
    return (
        torch.randn(L, B, vocabulary, generator=generator) * 3,
        torch.randint(0, vocabulary, (L, B, bag_size), generator=generator),
        torch.randn(L, B, generator=generator),
    )


def assert_matches(result, reference):
    (loss, gradient), (true_loss, true_gradient) = result, reference
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), true_loss, rtol=3e-6, atol=3e-6)
    torch.testing.assert_close(gradient.double(), true_gradient, rtol=1e-5, atol=3e-6)


# A vocabulary of 4 fills every bag of 6 or 16 with duplicates.
@pytest.mark.parametrize("vocabulary", [4, 61])
@pytest.mark.parametrize("bag_size", SIZES)
@pytest.mark.parametrize("name", SCHEMES)
def test_mce_with_the_weights_of_a_scheme(name, bag_size, vocabulary, generator):
    logits, targets, grad_output = draw(generator, vocabulary, bag_size)

    result = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(z, targets, weights=bag_weights(name, bag_size)),
        logits,
        grad_output,
    )

    weights = scheme_weights(name, bag_size).expand(targets.shape)
    assert_matches(result, expected(logits, targets, weights, grad_output))


@pytest.mark.parametrize("vocabulary", [4, 61])
@pytest.mark.parametrize("bag_size", SIZES)
def test_mce_alt(bag_size, vocabulary, generator):
    logits, targets, grad_output = draw(generator, vocabulary, bag_size)

    result = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(z, targets, objective="mce-alt"), logits, grad_output
    )

    assert_matches(result, expected(logits, targets, None, grad_output))


@pytest.mark.parametrize("bag_size", SIZES)
def test_weights_default_to_equal(bag_size, generator):
    logits, targets, grad_output = draw(generator, 17, bag_size)
    result = loss_and_gradient(lambda z: multi_hot_cross_entropy(z, targets), logits, grad_output)
    weights = torch.full(targets.shape, 1 / bag_size, dtype=torch.float64)
    assert_matches(result, expected(logits, targets, weights, grad_output))


def test_the_gradient_of_mce_is_softmax_minus_weights(generator):
    logits, targets, _ = draw(generator, 17, 1)
    targets = targets * torch.ones(3, dtype=torch.int64)  # one token three times
    _, gradient = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(z, targets), logits, torch.ones(L, B)
    )
    one_hot = torch.nn.functional.one_hot(targets[..., 0], 17)
    torch.testing.assert_close(gradient, logits.softmax(-1) - one_hot, rtol=0, atol=1e-6)


def test_a_duplicate_counts_twice_for_mce_and_once_for_mce_alt():
    logits = torch.tensor([[[1.0, 2.0, 3.0, 0.5]]])
    targets = torch.tensor([[[1, 1, 0]]])
    log_p = logits.double().log_softmax(-1)[0, 0]

    twice = multi_hot_cross_entropy(logits.clone(), targets)
    once = multi_hot_cross_entropy(logits.clone(), targets, objective="mce-alt")

    assert twice.item() == pytest.approx((-(2 * log_p[1] + log_p[0]) / 3).item(), abs=1e-6)
    assert once.item() == pytest.approx(-(log_p[1].exp() + log_p[0].exp()).log().item(), abs=1e-6)


@pytest.mark.parametrize("vocabulary", [4, 61])
@pytest.mark.parametrize("bag_size", SIZES)
def test_weights_of_every_position_are_used_as_given(bag_size, vocabulary, generator):
    logits, targets, grad_output = draw(generator, vocabulary, bag_size)
    weights = torch.rand(L, B, bag_size, generator=generator) * 2
    weights[torch.rand(weights.shape, generator=generator) < 0.3] = 0.0
    weights[0, 0] = 0.0

    result = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(z, targets, weights=weights), logits, grad_output
    )

    # Σ_j w_j · (logsumexp(z) − z[y_j]), written out.
    def loss_of(z):
        picked = z.gather(-1, targets)
        return (weights.double() * (z.logsumexp(-1, keepdim=True) - picked)).sum(-1)

    assert_matches(result, loss_and_gradient(loss_of, logits.double(), grad_output.double()))
    assert result[0][0, 0] == 0.0
    assert (result[1][0, 0] == 0.0).all()


@pytest.mark.parametrize("bag_size", SIZES)
@pytest.mark.parametrize("name", [None, *SCHEMES, "mce-alt"])
def test_empty_places_have_no_weight(name, bag_size, generator):
    logits, targets, grad_output = draw(generator, 7, bag_size)
    targets[torch.rand(targets.shape, generator=generator) < 0.4] = EMPTY
    targets[1, 2] = EMPTY
    targets[0, 0] = 3

    def loss_of(z):
        if name == "mce-alt":
            return multi_hot_cross_entropy(z, targets, objective="mce-alt")
        weights = None
        if name is not None:
            weights = weights_of_filled(bag_weights(name, bag_size), targets)
        return multi_hot_cross_entropy(z, targets, weights=weights)

    loss, gradient = loss_and_gradient(loss_of, logits, grad_output)

    weights = None
    if name != "mce-alt":
        weights = filled_weights(scheme_weights(name or "uniform", bag_size), targets)
    assert_matches((loss, gradient), expected(logits, targets, weights, grad_output))
    assert loss[1, 2] == 0.0
    assert (gradient[1, 2] == 0.0).all()


@pytest.mark.parametrize("objective", ["mce", "mce-alt"])
def test_empty_targets_are_not_the_token_that_stands_in_for_them(objective):
    # The look-up of an empty place reads token 0: its logit and gradient must not show.
    logits = torch.tensor([[[50.0, 1.0, 2.0]]])
    loss, gradient = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(
            z, torch.tensor([[[EMPTY, 1, EMPTY]]]), objective=objective
        ),
        logits,
        torch.ones(1, 1),
    )
    assert loss.item() == pytest.approx(49.0)
    assert gradient[0, 0].tolist() == pytest.approx([1.0, -1.0, 0.0])


@pytest.mark.parametrize("objective", ["mce", "mce-alt"])
@pytest.mark.parametrize("bag_size", SIZES)
def test_bfloat16_logits(objective, bag_size, generator):
    logits, targets, grad_output = draw(generator, 61, bag_size)
    logits = logits.bfloat16()
    before = logits.clone()

    leaf = logits.requires_grad_()
    loss = multi_hot_cross_entropy(leaf, targets, objective=objective)
    loss.backward(grad_output)

    weights = None if objective == "mce-alt" else scheme_weights("uniform", bag_size)
    true_loss, true_gradient = expected(
        before, targets, weights if weights is None else weights.expand(targets.shape), grad_output
    )
    assert loss.dtype == torch.float32
    assert leaf.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss.double(), true_loss, rtol=3e-6, atol=3e-6)
    # One rounding to bfloat16.
    torch.testing.assert_close(leaf.grad.double(), true_gradient, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("objective", ["mce", "mce-alt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["[L, b]", "[L, b, 1]"])
def test_one_target_has_megatrons_loss(shape, dtype, objective, model_parallel, generator):
    # To the last bit only in the model, which gives single targets to Megatron's own function.
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    logits, targets, grad_output = draw(generator, 301, 1)
    logits = logits.to(dtype)
    bags = targets if shape == "[L, b, 1]" else targets[..., 0]

    stock = loss_and_gradient(
        lambda z: vocab_parallel_cross_entropy(z, targets[..., 0].contiguous()),
        logits,
        grad_output,
    )
    ours = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(z, bags, objective=objective), logits, grad_output
    )

    assert ours[0].shape == stock[0].shape == (L, B)
    # The least that torch takes float32 and bfloat16 numbers to be apart.
    torch.testing.assert_close(ours[0], stock[0])
    torch.testing.assert_close(ours[1], stock[1])


@pytest.fixture(params=[1, 2**10, 2**20], ids="block-{}".format)
def block(request, monkeypatch):
    """Numbers in a block: a row each, a few rows, all rows."""
    from tst_megatron.methods.superposition import logit_passes

    monkeypatch.setattr(logit_passes, "_BLOCK_ON_CPU", request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("objective", ["mce", "mce-alt"])
def test_the_result_does_not_depend_on_the_blocks(objective, dtype, block, generator):
    logits, targets, grad_output = draw(generator, 301, 6)
    logits = logits.to(dtype)
    loss, gradient = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(z, targets, objective=objective), logits, grad_output
    )
    weights = None
    if objective == "mce":
        weights = scheme_weights("uniform", 6).expand(targets.shape)
    true_loss, true_gradient = expected(logits, targets, weights, grad_output)
    torch.testing.assert_close(loss.double(), true_loss, rtol=3e-6, atol=3e-6)
    rtol = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(gradient.double(), true_gradient, rtol=rtol, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("objective", ["mce", "mce-alt"])
def test_the_gradient_is_the_memory_of_the_logits(objective, dtype, generator):
    drawn, targets, grad_output = draw(generator, 61, 6)
    # Not a leaf, as behind an output layer.
    logits = drawn.to(dtype).requires_grad_() * 1.0
    before = logits.detach().clone()
    seen = []
    logits.register_hook(seen.append)

    loss = multi_hot_cross_entropy(logits, targets, objective=objective)

    assert torch.equal(logits.detach(), before), "the forward pass wrote to the logits"
    loss.backward(grad_output, retain_graph=True)
    assert [gradient.data_ptr() for gradient in seen] == [logits.data_ptr()]
    assert seen[0].dtype == dtype
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward(grad_output)


def test_nothing_of_the_logits_size_is_allocated(generator):
    logits = torch.randn(512, 1, 8192, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(0, 8192, (512, 1, 4), generator=generator)
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.grad(multi_hot_cross_entropy(logits, targets).sum(), logits)
    made = [
        event.nbytes()
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.nbytes() > 0
    ]
    # A block in float32 is 1 MiB, the logits are 8 MiB.
    assert made
    assert max(made) <= 2**20


def test_logits_that_are_not_contiguous(generator):
    logits, targets, grad_output = draw(generator, 61, 6)
    strided = logits.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    first, second = (
        loss_and_gradient(lambda z: multi_hot_cross_entropy(z * 1.0, targets), z, grad_output)
        for z in (logits, strided)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", SCHEMES)
def test_the_weights_of_a_scheme_go_to_the_filled_places(name, generator):
    logits, targets, _ = draw(generator, 7, 6)
    targets[torch.rand(targets.shape, generator=generator) < 0.4] = EMPTY
    weights = bag_weights(name, 6)
    torch.testing.assert_close(
        multi_hot_cross_entropy(logits, targets, weights),
        multi_hot_cross_entropy(logits, targets, weights_of_filled(weights, targets)),
    )


@pytest.mark.parametrize("objective", ["mce", "mce-alt"])
def test_nothing_is_read_back_from_a_gpu(objective):
    # Tensors without data on a device that is not there: .item() or a data-dependent shape raises.
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        # Not torch.empty or torch.zeros, whose "cuda" the CPU backend answers.
        logits = torch.full((64, 2, 4096), 0.0, device="cuda", dtype=torch.bfloat16)
        targets = torch.full((64, 2, 6), 1, device="cuda")
        loss = multi_hot_cross_entropy(logits, targets, objective=objective)
        assert loss.device.type == "cuda"
        assert loss.shape == (64, 2)


@pytest.mark.parametrize("bag_size", SIZES)
@pytest.mark.parametrize("objective", ["mce", "mce-alt"])
def test_extreme_logits(objective, bag_size, generator):
    _, targets, grad_output = draw(generator, 9, bag_size)
    # Integers, so that float32 holds them exactly.
    logits = torch.randint(-3, 4, (L, B, 9), generator=generator).float()
    logits += 1e4 * torch.randint(-1, 2, (L, B, 9), generator=generator)

    loss, gradient = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(z, targets, objective=objective), logits, grad_output
    )

    weights = None
    if objective == "mce":
        weights = scheme_weights("uniform", bag_size).expand(targets.shape)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    true_loss, true_gradient = expected(logits, targets, weights, grad_output)
    torch.testing.assert_close(loss.double(), true_loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), true_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unlikely", [-200.0, -2e3, -1e4])
def test_the_pull_of_an_unlikely_bag_is_exact(unlikely):
    logits = torch.zeros(1, 1, 8)
    logits[..., 1], logits[..., 2], logits[..., 3] = unlikely, unlikely - 1, unlikely - 3
    _, gradient = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(z, torch.tensor([[[1, 2, 3]]]), objective="mce-alt"),
        logits,
        torch.ones(1, 1),
    )
    pull = -torch.tensor([0.0, -1.0, -3.0], dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(gradient[0, 0, 1:4].double(), pull, rtol=1e-6, atol=1e-7)


def test_mce_alt_does_not_underflow():
    # Every target has a probability of exp(−200) or less, which float32 does not hold.
    logits = torch.zeros(1, 1, 8)
    logits[..., 1], logits[..., 2], logits[..., 3] = -200.0, -201.0, -203.0
    targets = torch.tensor([[[1, 2, 3, 3]]])
    assert logits.softmax(-1)[0, 0, 1:4].sum() == 0.0, "the naive sum no longer underflows"

    loss, gradient = loss_and_gradient(
        lambda z: multi_hot_cross_entropy(z, targets, objective="mce-alt"),
        logits,
        torch.ones(1, 1),
    )

    true_loss, true_gradient = expected(logits, targets, None, torch.ones(1, 1))
    torch.testing.assert_close(loss.double(), true_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), true_gradient, rtol=0, atol=1e-5)
    # The bag's pull is shared out by probability and sums to −1.
    assert gradient[0, 0, 1:4].sum().item() == pytest.approx(-1.0, abs=1e-5)
    assert gradient[0, 0, 1] / gradient[0, 0, 2] == pytest.approx(2.718281828, rel=1e-5)


def test_mce_alt_is_below_mce(generator):
    # Jensen: −log of a sum is at most the mean of −log, for distinct tokens.
    logits, _, _ = draw(generator, 61, 1)
    targets = torch.stack([torch.randperm(61, generator=generator)[:6] for _ in range(L * B)]).view(
        L, B, 6
    )
    alt = multi_hot_cross_entropy(logits.clone(), targets, objective="mce-alt")
    assert (alt <= multi_hot_cross_entropy(logits.clone(), targets) + 1e-6).all()


def test_the_order_inside_a_bag_is_free_with_equal_weights(generator):
    logits, targets, grad_output = draw(generator, 61, 6)
    order = torch.randperm(6, generator=generator)
    for objective in ("mce", "mce-alt"):
        first, second = (
            loss_and_gradient(
                lambda z, t=t, o=objective: multi_hot_cross_entropy(z, t, objective=o),
                logits,
                grad_output,
            )
            for t in (targets, targets[..., order])
        )
        torch.testing.assert_close(first[0], second[0])
        torch.testing.assert_close(first[1], second[1])


def test_a_group_of_one_changes_nothing(model_parallel, generator):
    logits, targets, _ = draw(generator, 61, 6)
    given = multi_hot_cross_entropy(logits.clone(), targets, tp_group=model_parallel)
    found = multi_hot_cross_entropy(logits.clone(), targets)
    assert torch.equal(given, found)


def test_gradients_reach_only_the_logits(generator):
    logits, targets, grad_output = draw(generator, 17, 3)
    weights = bag_weights("power", 3).requires_grad_()
    logits.requires_grad_()
    multi_hot_cross_entropy(logits, targets, weights=weights).backward(grad_output)
    assert weights.grad is None


def test_the_reference_agrees_with_torch(generator):
    # Guards the guard: for one target both objectives are torch's cross-entropy.
    logits, targets, _ = draw(generator, 17, 1)
    torchs = torch.nn.functional.cross_entropy(
        logits.double().flatten(0, 1), targets.flatten(), reduction="none"
    ).view(L, B)
    torch.testing.assert_close(mce(logits, targets, torch.ones(L, B, 1)), torchs)
    torch.testing.assert_close(mce_alt(logits, targets), torchs)


class TestErrors:
    logits = torch.zeros(L, B, 7)
    targets = torch.zeros(L, B, 3, dtype=torch.int64)

    @pytest.mark.parametrize("shape", [(L, B + 1, 3), (B, L, 3), (L, B, 3, 1), (L + 1, B), (L,)])
    def test_targets_that_do_not_fit(self, shape):
        with pytest.raises(ValueError, match=r"targets \[.*\] do not fit logits \[5, 3, 7\]"):
            multi_hot_cross_entropy(self.logits, torch.zeros(shape, dtype=torch.int64))

    def test_an_unknown_objective(self):
        with pytest.raises(ValueError, match="'mse' is unknown: use one of mce, mce-alt"):
            multi_hot_cross_entropy(self.logits, self.targets, objective="mse")

    def test_weights_for_mce_alt(self):
        with pytest.raises(ValueError, match="'mce-alt' takes no weights"):
            multi_hot_cross_entropy(
                self.logits, self.targets, weights=torch.ones(3), objective="mce-alt"
            )

    @pytest.mark.parametrize("shape", [(2,), (1,), (4,), (L, B, 4), (L, B, 1)])
    def test_weights_of_another_bag_size(self, shape):
        with pytest.raises(ValueError, match=r"weights \[.*\] do not fit targets \[5, 3, 3\]"):
            multi_hot_cross_entropy(self.logits, self.targets, weights=torch.ones(shape))

    @pytest.mark.parametrize("shape", [(B, 3), (L, B + 1, 3), (L + 1, B, 3), (2, L, B, 3), ()])
    def test_weights_of_other_positions(self, shape):
        with pytest.raises(ValueError, match="weights"):
            multi_hot_cross_entropy(self.logits, self.targets, weights=torch.ones(shape))

    @pytest.mark.parametrize("in_configuration", [True, False])
    def test_no_compiler(self, in_configuration):
        # The CPU backend has switched it off in the environment, which torch reads elsewhere.
        assert os.environ["TORCHDYNAMO_DISABLE"] == "1"
        with (
            torch._dynamo.config.patch(disable=in_configuration),
            pytest.raises(RuntimeError, match=r"TORCHDYNAMO_DISABLE.*--tst-loss-implementation"),
        ):
            multi_hot_cross_entropy(self.logits, self.targets, implementation="compiled")

    def test_a_kernel_without_a_gpu(self):
        with pytest.raises(RuntimeError, match=r"needs a GPU, and the logits are on cpu: use"):
            multi_hot_cross_entropy(self.logits, self.targets, implementation="kernel")

    def test_an_unknown_implementation(self):
        with pytest.raises(ValueError, match="'fast' is unknown: use one of kernel, compiled, ea"):
            multi_hot_cross_entropy(self.logits, self.targets, implementation="fast")

    def test_logits_are_untouched(self):
        logits = torch.randn(L, B, 7)
        before = logits.clone()
        with pytest.raises(ValueError, match="unknown"):
            multi_hot_cross_entropy(logits, self.targets, objective="mse")
        assert torch.equal(logits, before)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU's device, which has not been asked for before; and which implementations run on it."""
    from tst_megatron.methods.superposition import logit_passes

    logit_passes.default_on.cache_clear()
    tried = []

    def runs(name, does):
        def run(rows):
            tried.append(name)
            if not does:
                raise OSError(f"no {name} here\nand more lines")

        monkeypatch.setattr(logit_passes, f"_run_{name}", run)

    yield torch.device("cuda", 0), runs, tried
    logit_passes.default_on.cache_clear()


@pytest.mark.parametrize(
    ("which", "chosen"),
    [
        ({"kernel"}, "kernel"),
        ({"kernel", "compiled"}, "kernel"),
        ({"compiled"}, "compiled"),
        (set(), "eager"),
    ],
)
def test_a_gpu_takes_the_first_that_runs_and_says_once_that_it_is_another(
    which, chosen, gpu, caplog
):
    from tst_megatron.methods.superposition.logit_passes import default_on

    device, runs, tried = gpu
    for name in ("kernel", "compiled"):
        runs(name, name in which)

    assert [default_on(device) for _ in range(3)] == [chosen] * 3

    assert tried == (["kernel"] if chosen == "kernel" else ["kernel", "compiled"])
    said = [record.getMessage() for record in caplog.records]
    if chosen == "kernel":
        assert said == []
        return
    (line,) = said
    assert line.startswith(f"The loss of bags is {chosen} on cuda:0")
    assert "kernel: OSError: no kernel here" in line
    assert ("compiled: OSError: no compiled here" in line) == (chosen == "eager")
    assert "\n" not in line


def test_what_is_lacking_shows_as_it_is_tried(gpu, caplog):
    # The CPU backend makes tensors of "cuda" on the CPU, and has switched torch's compiler off.
    from tst_megatron.methods.superposition.logit_passes import default_on

    assert default_on(gpu[0]) == "eager"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "kernel: RuntimeError: the loss's kernel needs a GPU" in line
    assert "compiled: RuntimeError: torch.compile is switched off" in line


def test_a_cpu_is_eager_without_a_word(gpu, caplog):
    from tst_megatron.methods.superposition.logit_passes import default_on

    assert default_on(torch.device("cpu")) == "eager"
    assert gpu[2] == []
    assert caplog.records == []


def test_one_rank_says_it(gpu, model_parallel, monkeypatch, caplog):
    from tst_megatron.methods.superposition.logit_passes import default_on

    device, runs, _ = gpu
    for name in ("kernel", "compiled"):
        runs(name, False)
    # The last pipeline stage, which has the loss, ends with the last rank.
    for rank in range(3):
        default_on.cache_clear()
        monkeypatch.setattr(torch.distributed, "get_rank", lambda *args, rank=rank: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda *args: 3)
        default_on(device)
        assert len(caplog.records) == (rank == 2)


def test_a_target_without_weight_may_have_no_probability_at_all():
    logits = torch.randn(2, 2, 6)
    logits[..., 4] = float("-inf")
    targets = torch.tensor([1, 4]).expand(2, 2, 2)
    weights = torch.tensor([1.0, 0.0])
    true = torch.nn.functional.cross_entropy(
        logits.flatten(end_dim=1), targets[..., 0].flatten(), reduction="none"
    )
    loss = multi_hot_cross_entropy(logits.clone(), targets, weights)
    torch.testing.assert_close(loss.flatten(), true)
