"""Forms of a corpus that do not belong together are refused in one sentence."""

import argparse
import json
from pathlib import Path

import pytest
from corpora import random_documents, write_corpus

from tst_megatron.corpora.commands import index_build
from tst_megatron.corpora.commands.compressor_flags import put_folder
from tst_megatron.corpora.forms import LengthsInForms, check_forms, compressed_prefix
from tst_megatron.corpora.index_file import index_path, read_index
from tst_megatron.corpora.manifest import manifest_path
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.corpora.tokenizers.proxy import proxy_files
from tst_megatron.errors import UserError


def lengths(prefix: Path) -> LengthsInForms:
    return LengthsInForms(str(prefix), read_index(prefix).lengths)


def test_a_form_that_is_not_there_is_named(tmp_path) -> None:
    prefix = write_corpus(tmp_path / "c", random_documents(5))
    with pytest.raises(
        UserError, match=r"no compressed form: there is no file .*c\.compressed\.idx"
    ):
        lengths(prefix)


def test_another_number_of_documents_is_refused(tmp_path) -> None:
    prefix = write_corpus(tmp_path / "c", random_documents(5))
    write_corpus(compressed_prefix(prefix), random_documents(4))
    with pytest.raises(UserError, match=r"has 5 documents and its compressed form .* has 4"):
        lengths(prefix)


def test_corpora_that_are_not_here_are_refused() -> None:
    with pytest.raises(UserError, match="in object storage"):
        check_forms("s3://bucket/c")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["tokenizer"].update(sha256="0"), "different tokenizers"),
        (lambda m: m.update(text_bytes=1), "different bytes of text"),
        (lambda m: m["inputs"][0].update(sha256="0"), "different inputs"),
    ],
)
def test_forms_of_other_text_or_vocabularies_are_refused(two_forms, change, said) -> None:
    path = manifest_path(compressed_prefix(two_forms))
    whole = path.read_text()
    told = json.loads(whole)
    change(told)
    path.write_text(json.dumps(told))
    try:
        with pytest.raises(UserError, match=said):
            lengths(two_forms)
    finally:
        path.write_text(whole)


def test_forms_that_belong_together_are_counted(two_forms) -> None:
    found = lengths(two_forms)
    assert (found["paired"] == found[""] + found["compressed"] - 1).all()
    assert set(found) == {"", "compressed", "paired"}
    assert len(found) == 3


def test_files_at_the_place_of_a_form_are_seen_before_any_is_built(tmp_path) -> None:
    (tmp_path / "c.compressed.idx").touch()
    with pytest.raises(UserError, match=r"c\.compressed\.idx is there already"):
        built_in_two_forms(tmp_path)
    assert not (tmp_path / "c.bin").exists()
    assert not (tmp_path / "c.partial").exists()


def test_of_two_forms_one_that_is_there_is_gone_on_from(two_forms) -> None:
    for path in two_forms.parent.glob("c.compressed.*"):
        path.rename(path.with_name(f"kept.{path.name}"))
    written = index_path(two_forms).stat().st_mtime_ns
    assert built_in_two_forms(two_forms.parent, makes=False) == two_forms
    assert index_path(two_forms).stat().st_mtime_ns == written
    check_forms(str(two_forms))


@pytest.fixture(scope="module")
def two_forms(tmp_path_factory) -> Path:
    """A corpus of a proxy, built by the command."""
    return built_in_two_forms(tmp_path_factory.mktemp("forms"))


def built_in_two_forms(folder: Path, makes: bool = True) -> Path:
    if makes:
        (folder / "t.jsonl").write_text('{"text": "one"}\n{"text": "another one"}\n')
        put_folder(folder / "proxy", proxy_files(describe("bytes")))
    parser = argparse.ArgumentParser()
    index_build.add_arguments(parser)
    words = [str(folder / "t.jsonl"), f"--tokenizer={folder / 'proxy'}", f"--output={folder / 'c'}"]
    index_build.main(parser.parse_args(words))
    return folder / "c"
