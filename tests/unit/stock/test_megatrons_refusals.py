"""What Megatron's validation raises becomes one sentence; what is no refusal stays what it is."""

import pytest
from counted_corpora import parse
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.training.arguments import validate_args

from tst_megatron.errors import UserError
from tst_megatron.stock.refusals import refusals_as_sentences


def validate(*flags: str) -> None:
    usual = ("--num-layers=2", "--hidden-size=32", "--num-attention-heads=4")
    args = parse(*usual, "--max-position-embeddings=8", "--micro-batch-size=1", "--lr=1", *flags)
    args.world_size = 1
    with refusals_as_sentences():
        validate_args(args)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--lr-decay-samples=3",),
            "expected iteration-based learning rate decay",
        ),
        # An assertion without a message, and one that asks a list that is not there.
        (("--bf16", "--fp16"), "assert not args.bf16"),
        (("--attention-backend=local",), "--attention-backend local is only supported with --spec"),
    ],
)
def test_flags(flags: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match="Megatron refuses these flags: ") as refused:
        validate(*flags)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tokenizer(tmp_path) -> None:
    broken = tmp_path / "broken.model"
    broken.write_text("no tokenizer")
    args = parse("--tokenizer-type=SentencePieceTokenizer", f"--tokenizer-model={broken}")
    with pytest.raises(UserError, match="the tokenizer cannot be read"), refusals_as_sentences():
        build_tokenizer(args)


def test_a_service_that_does_not_start() -> None:
    unknown = type("UsageError", (Exception,), {"__module__": "wandb.errors.errors"})
    sentence = r"^--wandb-project does not start \(no key\): log in, set WANDB_MODE=offline"
    with pytest.raises(UserError, match=sentence), refusals_as_sentences():
        raise unknown("no\nkey")


def test_faults_stay_faults() -> None:
    with pytest.raises(KeyError), refusals_as_sentences():
        raise KeyError("ours")
    with pytest.raises(UserError, match="as it is"), refusals_as_sentences():
        raise UserError("as it is")
