"""What is refused before anything opens a file, and which rank looks at the corpora."""

from pathlib import Path

import pytest
from counted_corpora import parse, write_corpus

from tst_megatron.errors import UserError
from tst_megatron.methods.registry import run_of
from tst_megatron.trainer.checks import _check_budget, check_before_validation


def test_one_rank_of_a_node_looks_at_the_corpora(monkeypatch, tmp_path: Path) -> None:
    args = parse("--data-path", str(tmp_path / "gone"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    check_before_validation(args)
    # The first of every node, as what is there on one may be missing on another.
    monkeypatch.setenv("RANK", "8")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="gone is missing"):
        check_before_validation(args)


@pytest.mark.parametrize("path", ["s3://bucket/run", "msc://bucket/run"])
@pytest.mark.parametrize("flag", ["--save", "--load"])
def test_object_storage_is_no_folder_here(flag: str, path: str) -> None:
    with pytest.raises(UserError, match=f"{flag} {path} would be a folder .* with --enable-msc"):
        check_before_validation(parse(f"{flag}={path}"))


@pytest.mark.parametrize("path", ["gs://bucket/run", "abfss://c@a.example/run", "file:///run"])
@pytest.mark.parametrize(
    "flag", ["--save", "--load", "--pretrained-checkpoint", "--data-cache-path", "--wandb-save-dir"]
)
def test_a_scheme_that_nothing_reads_is_no_folder_either(
    monkeypatch, tmp_path: Path, flag: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{flag} {path} would be a folder of that name"):
        check_before_validation(parse(f"{flag}={path}", "--save-interval=1"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--data-cache-path", "--wandb-save-dir", "--ledger"])
def test_what_only_folders_hold_is_not_in_object_storage(flag: str) -> None:
    with pytest.raises(UserError, match=f"{flag} s3://bucket/run would be a folder"):
        check_before_validation(parse(f"{flag}=s3://bucket/run"))


def test_tensorboard_writes_where_fsspec_can(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("msc://bucket/run", "nosuch://bucket/run"):
        with pytest.raises(UserError, match=f"cannot write to --tensorboard-dir {path}: .* folder"):
            check_before_validation(parse(f"--tensorboard-dir={path}"))
    check_before_validation(parse("--tensorboard-dir=memory://run"))
    assert not list(tmp_path.iterdir())


def test_text_where_megatron_does_not_read() -> None:
    with pytest.raises(UserError, match=r"the corpus gs://a/text is where Megatron does not read"):
        check_before_validation(parse("--data-path", "gs://a/text"))


def test_remote_text_needs_a_place_for_its_index() -> None:
    with pytest.raises(UserError, match=r"s3://a/text is .* add --object-storage-cache-path"):
        check_before_validation(parse("--data-path", "s3://a/text"))


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        (("--wandb-project=mine",), "add --wandb-save-dir"),
        (("--profile", "--use-pytorch-profiler"), "beside --tensorboard-dir"),
    ],
)
def test_what_writes_without_a_place(flags: tuple[str, ...], missing: str) -> None:
    with pytest.raises(UserError, match=missing):
        check_before_validation(parse(*flags))


def test_a_token_has_no_more_experts_than_there_are() -> None:
    with pytest.raises(UserError, match="--moe-router-topk 3 is more than the 2 of --num-experts"):
        check_before_validation(parse("--num-experts=2", "--moe-router-topk=3"))
    # Without experts nothing reads it.
    check_before_validation(parse("--moe-router-topk=3"))


def test_a_ledger_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match=f"--ledger {tmp_path} is a folder: name a file in it"):
        check_before_validation(parse("--ledger", str(tmp_path)))


@pytest.mark.parametrize("kind", ["--seed=1", "--sft", "--tst-bag-size=4"])
def test_every_run_has_its_split_read_whole(monkeypatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    args = parse("--data-path", "a", "--split=90,,10", kind)
    with pytest.raises(UserError, match="--split '90,,10' is not three shares"):
        check_before_validation(args)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "there is no training data: add --data-path"),
        ("--valid-data-path {corpus}", "there is no training data"),
        ("--data-path {corpus} --split=0,1,0", "the training split of .* has no tokens"),
        ("--data-path 1 {corpus} --split=1,9", "the training split of .* has no tokens"),
    ],
)
def test_an_ordinary_run_needs_some_text(tmp_path: Path, flags: str, says: str) -> None:
    """Megatron fails over none as it trains, or counts its epochs for ever."""
    corpus = write_corpus(tmp_path / "c", [50] * 4)
    args = parse(*flags.replace("{corpus}", corpus).split())
    with pytest.raises(UserError, match=says):
        _check_budget(args, run_of(args), saved=None)
    args = parse("--data-path", corpus, "--split=1,1")
    _check_budget(args, run_of(args), saved=None)
    evaluates_alone = parse("--valid-data-path", corpus, "--train-iters=0")
    _check_budget(evaluates_alone, run_of(evaluates_alone), saved=None)


def test_a_checkpoints_tokenizer_needs_no_flags() -> None:
    """``--use-checkpoint-args`` takes it from there, whatever the flags say."""
    flags = ("--use-checkpoint-args", "--mock-data", "--tokenizer-type=TikTokenizer")
    check_before_validation(parse(*flags))
    with pytest.raises(UserError, match="needs a --tokenizer-model"):
        check_before_validation(parse(*flags, "--no-use-tokenizer-model-from-checkpoint-args"))
