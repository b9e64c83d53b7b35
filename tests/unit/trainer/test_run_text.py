"""Text of questions has the ids that the exported model's tokenizer makes."""

from pathlib import Path

import pytest
import tiny_models
from megatron.core.tokenizers import MegatronTokenizer
from rich.console import Console
from tokenizers.processors import TemplateProcessing

from tst_megatron.evaluation.huggingface_model import HuggingFaceModel
from tst_megatron.evaluation.progress import RowProgress
from tst_megatron.trainer.run_text import RunText

BEGIN = tiny_models.END


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a tokenizer that puts its end of a document before a text."""
    made = tiny_models.tokenizer()
    marks = [(BEGIN, made.eos_token_id)]
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=marks
    )
    made.bos_token = BEGIN
    made.save_pretrained(tmp_path)
    tiny_models.model(len(made)).save_pretrained(tmp_path)
    return tmp_path


def test_ids_are_those_that_evaluate_makes(folder: Path) -> None:
    own = RunText(
        MegatronTokenizer.from_pretrained(
            tokenizer_path=str(folder), metadata_path={"library": "huggingface"}
        )
    )
    with RowProgress(Console(quiet=True)) as progress:
        theirs = HuggingFaceModel(folder, "m", "cpu", "auto", 1, None, None, progress)
    assert own.document_start == theirs.document_start
    for text in ("", "a text", f"{BEGIN}begun", " 中文"):
        for adds in (False, True, False):
            assert own.ids(text, adds) == theirs.encode(text, adds)
    assert own.ids("a", True) == [own.document_start, *own.ids("a", False)]
