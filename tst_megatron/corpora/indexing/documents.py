"""Documents that are in memory to an indexed corpus, for small ones."""

from collections.abc import Iterable
from pathlib import Path

import orjson
from rich.console import Console

from tst_megatron.corpora.indexing.build import build
from tst_megatron.corpora.indexing.plan import BuildSettings
from tst_megatron.corpora.manifest import Manifest
from tst_megatron.corpora.reading.options import ReadOptions
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.files import replace_when_whole


def index_documents(
    documents: Iterable[str], tokenizer: Path, prefix: Path, console: Console
) -> Manifest:
    """Index documents in their order, by way of a file of them, ``PREFIX.jsonl``, which stays.

    A call that was cut off is gone on with: the documents must be the same.

    Args:
        documents: none of them empty.
        tokenizer: a SentencePiece model or a ``tokenizer.json``.
        prefix: path of the corpus.
        console: for what there is to say.

    Raises:
        UserError: the corpus cannot be written, or is there already with other documents.
    """
    text = prefix.with_name(f"{prefix.name}.jsonl")
    if not text.exists():
        with replace_when_whole(text) as file:
            for document in documents:
                file.write(orjson.dumps({"text": document}) + b"\n")
    settings = BuildSettings(
        inputs=(str(text),),
        format="jsonl",
        options=ReadOptions(),
        where=None,
        tokenizer=describe(str(tokenizer)),
    )
    return build(settings, prefix, console)
