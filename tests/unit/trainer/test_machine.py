"""What this machine lacks for a run is one sentence, whatever it is and however much."""

import os
import sys
from argparse import Namespace
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from counted_corpora import parse
from megatron.core.models.common.language_module.language_module import LanguageModule

from tst_megatron.backends import FLAGS
from tst_megatron.errors import UserError
from tst_megatron.trainer import machine


def refusal(*flags: str, on_gpu: bool = False) -> str:
    """The sentence that refuses them."""
    with pytest.raises(UserError) as refused:
        machine.check_machine(parse(*FLAGS, *flags), on_gpu)
    return str(refused.value)


def test_an_ordinary_run_lacks_nothing() -> None:
    machine.check_machine(parse(*FLAGS), on_gpu=False)


def test_one_flag() -> None:
    assert refusal("--fp8-format=hybrid") == (
        "--fp8-format needs a GPU, and there is none here: leave it out"
    )
    assert refusal("--transformer-impl=transformer_engine") == (
        "--transformer-impl transformer_engine needs a GPU, and there is none here: use "
        "--transformer-impl local"
    )


def test_several_flags() -> None:
    assert refusal("--fp8-format=hybrid", "--use-nccl-ub", "--log-energy") == (
        "--fp8-format, --use-nccl-ub and --log-energy need a GPU, and there is none here: leave "
        "them out"
    )
    assert refusal("--fp8-format=hybrid", "--fp8-param-gather", "--profile") == (
        "--fp8-format, --fp8-param-gather and --profile need a GPU, and there is none here: leave "
        "out --fp8-format and --fp8-param-gather and for --profile add --use-pytorch-profiler"
    )


def test_what_a_method_needs_is_in_the_same_sentence() -> None:
    bags = ("--tst-bag-size=4", "--cross-entropy-loss-fusion")
    said = refusal(*bags, "--tst-loss-implementation=kernel", "--fp8-format=hybrid")
    assert "--fp8-format and --tst-loss-implementation kernel need a GPU" in said
    assert "leave them out" in said
    assert "--tst-loss-implementation compiled needs a GPU" in refusal(
        *bags, "--tst-loss-implementation=compiled"
    )
    # The eager loss has one collective less under fusion; Megatron's runs as it is where torch
    # compiles nothing.
    for more in ((), ("--tst-loss-implementation=eager",)):
        machine.check_machine(parse(*FLAGS, *bags, *more), on_gpu=False)


@pytest.mark.parametrize(
    ("flag", "package"),
    [
        ("--wandb-project=mine", "wandb"),
        ("--tensorboard-dir=logs", "tensorboard"),
        ("--one-logger-run-name=mine", "one_logger"),
        ("--run-workload-inspector-server", "workload_inspector"),
        ("--enable-ft-package", "nvidia_resiliency_ext"),
        ("--non-persistent-ckpt-type=local", "nvidia_resiliency_ext"),
        ("--async-save --use-persistent-ckpt-worker", "nvidia_resiliency_ext"),
        ("--optimizer=muon", "emerging_optimizers"),
    ],
)
def test_packages_that_megatron_imports_late(
    flag: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: set[str] = set()
    monkeypatch.setattr(
        machine, "find_spec", lambda name: ModuleSpec(name, None) if name in here else None
    )
    said = refusal(*flag.split())
    assert flag.split()[0].partition("=")[0] in said
    assert "is not installed here" in said
    here.add(package)
    machine.check_machine(parse(*FLAGS, *flag.split()), on_gpu=False)


def test_an_asynchronous_save_of_megatrons_own_needs_a_gpu_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    own = ("--async-save", "--use-persistent-ckpt-worker", "--async-strategy=mcore")
    assert "--async-save with --async-strategy mcore needs a GPU" in refusal(*own)
    machine.check_lacking(parse(*FLAGS, *own), on_gpu=True)


def test_a_gpu_and_a_package_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert refusal("--fp8-format=hybrid", "--wandb-project=mine") == (
        "--fp8-format needs a GPU, and there is none here: leave it out; --wandb-project needs "
        "wandb, which is not installed here: pip install wandb, or leave the flag out"
    )


@pytest.mark.parametrize("backend", machine._ATTENTION)
def test_variables_are_those_that_megatrons_model_sets(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in machine.ATTENTION_VARIABLES:
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    args = parse(*FLAGS, f"--attention-backend={backend}")
    config = Namespace(attention_backend=args.attention_backend, flash_attention_version=None)
    LanguageModule._set_attention_backend(Namespace(config=config))
    assert machine._ATTENTION[backend] == tuple(
        int(os.environ[name]) for name in machine.ATTENTION_VARIABLES
    )
    machine.check_machine(args, on_gpu=False)
    if backend != "flash":
        said = refusal("--attention-backend=flash")
        assert "in the environment contradicts --attention-backend flash: unset it" in said


def test_megatrons_default_needs_transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="Megatron's default, needs Transformer Engine"):
        machine.check_machine(parse(), on_gpu=True)
    machine.check_machine(parse("--transformer-impl=local"), on_gpu=True)


class OfHopper:
    """What Transformer Engine says on an H100."""

    @classmethod
    def is_fp8_available(cls) -> tuple[bool, str]:
        return True, ""

    @classmethod
    def is_nvfp4_available(cls) -> tuple[bool, str]:
        return False, "Device compute capability 10.0 or higher required for NVFP4 execution."


def with_transformer_engine(monkeypatch: pytest.MonkeyPatch, support: type | None) -> None:
    """Installed with this to say of the GPU, or not at all."""
    name = "transformer_engine.pytorch.quantization"
    module = None if support is None else SimpleNamespace(FP8GlobalStateManager=support)
    monkeypatch.setitem(sys.modules, name, module)
    for parent in ("transformer_engine", "transformer_engine.pytorch"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))


def test_fp4_is_checked_as_fp8_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with_transformer_engine(monkeypatch, OfHopper)
    machine.check_quantization(parse("--fp8-format=hybrid"))
    machine.check_quantization(parse("--fp4-format=e2m1", "--fp4-recipe=custom"))
    with pytest.raises(UserError) as refused:
        machine.check_quantization(parse("--fp4-format=e2m1"))
    assert str(refused.value) == (
        "--fp4-recipe nvfp4 does not run on this GPU: Device compute capability 10.0 or higher "
        "required for NVFP4 execution; use another --fp4-recipe, or leave --fp4-format out"
    )


@pytest.mark.parametrize("support", [None, type("Older", (), {})])
@pytest.mark.parametrize("kind", ["fp8", "fp4"])
def test_quantized_products_need_a_transformer_engine_that_has_them(
    kind: str, support: type | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_transformer_engine(monkeypatch, support)
    with pytest.raises(UserError, match=f"--{kind}-recipe .* needs a Transformer Engine that has"):
        machine.check_quantization(
            parse(f"--{kind}-format={'hybrid' if kind == 'fp8' else 'e2m1'}")
        )
    machine.check_quantization(parse())
