"""What the jobs of ``tst-megatron compressor`` share: documents of bytes, folders made whole."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from tst_megatron.corpora.commands.input_flags import read_options
from tst_megatron.corpora.reading.chunks import read_documents
from tst_megatron.corpora.reading.inputs import InputFile, find_inputs
from tst_megatron.errors import UserError
from tst_megatron.files import folder_when_whole, write_whole


def byte_documents(args: argparse.Namespace, console: Console) -> Iterator[bytes]:
    """The documents of the inputs, as bytes; a plain text file is taken as it is.

    Args:
        args: with what `input_flags.add_input_arguments` adds.
        console: is told what is left out.

    Raises:
        UserError: an input or a record is wrong.
    """
    inputs = find_inputs(args.inputs, args.format)
    for left_out in inputs.left_out:
        console.print(left_out.in_words, highlight=False, markup=False, soft_wrap=True)
    options = read_options(args, "text")
    for file in inputs.files:
        if _is_plain(file) and args.text_documents == "file" and args.where is None:
            yield _content(file, args.max_document_bytes)
        else:
            documents = read_documents([file], options, skips=args.on_error == "skip")
            yield from (document.encode() for document in documents)


def _is_plain(file: InputFile) -> bool:
    return file.format == "text" and file.compression is None


def _content(file: InputFile, most: int) -> bytes:
    if file.size > most:
        raise UserError(
            f"{file.path} has {file.size:,} bytes, above --max-document-bytes {most:,}: raise it, "
            "or cut the file"
        )
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise UserError(f"{file.path} cannot be read: {error.strerror}") from None


def check_is_free(output: Path) -> None:
    """Check that a folder may be made.

    Raises:
        UserError: something has that name.
    """
    if output.exists():
        raise UserError(f"--output {output} is there already: name another folder, or move it away")


def put_folder(output: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with folder_when_whole(output) as folder:
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_whole(folder / name, content)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror or error}") from None
