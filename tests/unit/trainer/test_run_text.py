"""Text of questions has the ids that the exported model's tokenizer makes."""

from pathlib import Path

import pytest
import tiny_models
from megatron.core.tokenizers import MegatronTokenizer
from rich.console import Console
from tokenizers.processors import TemplateProcessing

from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.evaluation.huggingface_model import HuggingFaceModel
from tst_megatron.evaluation.progress import RowProgress
from tst_megatron.huggingface.tokenizer_files import tokenizer_files
from tst_megatron.trainer.run_text import RunText


@pytest.fixture(params=[tiny_models.END, "<begin>"])
def begin(request: pytest.FixtureRequest) -> str:
    """What the tokenizer puts before a text: what ends a document, or a mark of its own."""
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, begin: str) -> Path:
    made = tiny_models.tokenizer()
    made.add_special_tokens({"additional_special_tokens": [begin]})
    marks = [(begin, made.convert_tokens_to_ids(begin))]
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=marks
    )
    made.bos_token = begin
    made.save_pretrained(tmp_path)
    tiny_models.model(len(made)).save_pretrained(tmp_path)
    return tmp_path


def test_ids_are_those_that_evaluate_makes(folder: Path, begin: str) -> None:
    own = RunText(
        MegatronTokenizer.from_pretrained(
            tokenizer_path=str(folder), metadata_path={"library": "huggingface"}
        )
    )
    start = tokenizer_files(describe(str(folder))).document_start
    with RowProgress(Console(quiet=True)) as progress:
        theirs = HuggingFaceModel(folder, "m", "cpu", "auto", 1, None, start, progress)
    assert own.document_start == theirs.document_start
    for text in ("", "a text", f"{begin}begun", " 中文"):
        for adds in (False, True, False):
            assert own.ids(text, adds) == theirs.encode(text, adds)
    assert own.ids("a", True) == [own.document_start, *own.ids("a", False)]
