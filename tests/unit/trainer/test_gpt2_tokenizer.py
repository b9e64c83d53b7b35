"""GPT-2's two files are all of its tokenizer: no hub is asked, and the files are what is read."""

import pytest
from counted_corpora import parse
from launch_flags import END, gpt2_files
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer

from tst_megatron.errors import UserError
from tst_megatron.trainer.checks import check_before_validation
from tst_megatron.trainer.gpt2_tokenizer import read_gpt2_from_its_files

TEXT = "def read(path):\n    return path.read_text()  # naïve"


def test_the_files_are_read_as_their_own_library_reads_them(
    corpus, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    files = gpt2_files(tmp_path, corpus.documents[:20])
    args = parse(
        *("--tokenizer-type=GPT2BPETokenizer", f"--vocab-file={files.vocab}"),
        f"--merge-file={files.merges}",
    )
    read_gpt2_from_its_files()
    tokenizer = build_tokenizer(args)
    assert tokenizer.tokenize(TEXT) == files.tokenizer.encode(TEXT).ids
    assert tokenizer.detokenize(tokenizer.tokenize(TEXT)) == TEXT
    assert tokenizer.vocab_size == files.tokenizer.get_vocab_size()
    assert tokenizer.eod == files.tokenizer.token_to_id(END)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--vocab-file=gone.json",), "--vocab-file gone.json is missing"),
        (
            (),
            "GPT2BPETokenizer, which is Megatron's default, needs a --vocab-file",
        ),
    ],
)
def test_files_that_are_not_here(flags: tuple[str, ...], why: str) -> None:
    args = parse(*flags)
    args.tokenizer_type = None
    with pytest.raises(UserError, match=why):
        check_before_validation(args)


def test_a_tokenizer_without_files_needs_a_size() -> None:
    args = parse()
    args.vocab_size = None
    with pytest.raises(UserError, match="NullTokenizer needs a --vocab-size"):
        check_before_validation(args)
