"""From text files to an indexed corpus.

The steps the text takes:

1. the inputs are found and cut into chunks, which depend on the files alone;
2. an encoder is chosen: the fastest one, if it gives the reference's ids for a sample of this text;
3. forked workers turn a chunk each into a shard of ids (`workers`);
4. the shards are joined in the order of the inputs, as they come (`output`).

The one idea: a chunk's shard is a function of the chunk and of the settings, so the number of
workers, and where an earlier build was killed, cannot be seen in what comes out.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from rich.console import Console

from tst_megatron.corpora.byte_progress import ByteProgress
from tst_megatron.corpora.index_file import bin_path, dtype_of_vocabulary, index_path
from tst_megatron.corpora.indexing.output import (
    Appending,
    CorpusOutput,
    check_free,
    corpus_output,
)
from tst_megatron.corpora.indexing.partial import partial_folder, remove_leftovers
from tst_megatron.corpora.indexing.plan import (
    BuildSettings,
    check_same,
    encoder_in_words,
    make_plan,
    read_plan,
    write_plan,
)
from tst_megatron.corpora.indexing.shards import ShardSummary, read_shard
from tst_megatron.corpora.indexing.workers import EncodersDifferError, Job, finished_in_order
from tst_megatron.corpora.manifest import (
    FileRecord,
    InputRecord,
    LeftOutRecord,
    Manifest,
    SkippedRecord,
    TokenizerRecord,
    manifest_path,
    read_manifest,
    tokenizer_folder,
)
from tst_megatron.corpora.reading.batches import BrokenFile
from tst_megatron.corpora.reading.chunks import Chunk, cut, read_span
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.inputs import InputFile, Inputs, find_inputs
from tst_megatron.corpora.tokenizers.proof import Chosen, choose_encoder
from tst_megatron.errors import UserError

# Small enough to share a small corpus out, large enough that a terabyte has some thousand shards.
_CHUNKS = 64
_SMALLEST_CHUNK = 4 << 20
_LARGEST_CHUNK = 64 << 20
# Joined shards are kept until so much of the corpus is on the disk.
_SYNC_BYTES = 256 << 20
# An encoder is proven on documents from places all over the corpus.
_SAMPLED_CHUNKS = 8
_SAMPLED_SPANS = 100
_SAMPLED_CHARACTERS = 32_768

_PACKAGES = ("tst-megatron", "numpy", "pyarrow", "orjson", "zstandard")


def build(settings: BuildSettings, prefix: Path, console: Console) -> Manifest:
    """Index a corpus, going on from what an earlier call has done.

    Raises:
        UserError: an input, a record or a setting is wrong; another process builds the same; the
            disk is full; or a corpus of that name is there with other inputs or settings.
    """
    inputs = find_inputs(settings.inputs, settings.format)
    for left_out in inputs.left_out:
        console.print(left_out.in_words, highlight=False, markup=False, soft_wrap=True)
    files = inputs.files
    built = _built_before(settings, files, prefix)
    if built is not None:
        remove_leftovers(prefix)
        console.print(f"{prefix} is there already, of the same inputs and settings.")
        return built
    if not partial_folder(prefix).exists():
        check_free(prefix)
    chunk_bytes = settings.chunk_bytes or _chunk_bytes(files)
    chunks = list(cut(files, settings.options, chunk_bytes))
    with corpus_output(prefix) as output:
        if not output.has_shards():
            # Such as a plan whose flags were wrong, or a merge that was killed: no start for this.
            output.clear()
        begun = read_plan(output.folder)
        sample = _sample(files, chunks, settings.options, output.folder)
        chosen = choose_encoder(settings.tokenizer, sample)
        if settings.uses_reference:
            chosen = replace(chosen, encoder=chosen.reference, fell_back="as asked for")
        elif begun is not None and begun.encoder == encoder_in_words(chosen.reference):
            # It may have fallen back when most of the corpus was read.
            chosen = replace(chosen, encoder=chosen.reference, fell_back=begun.fell_back)
        try:
            return _Build(settings, inputs, chunk_bytes, chunks, chosen, console).run(output)
        except EncodersDifferError as difference:
            output.clear()
            chosen = replace(chosen, encoder=chosen.reference, fell_back=str(difference))
            return _Build(settings, inputs, chunk_bytes, chunks, chosen, console).run(output)


def check_place(settings: BuildSettings, prefix: Path) -> None:
    """Check that a corpus can be built, or gone on with, or is there already, as `build` has it.

    Raises:
        UserError: something else is there, or an input is wrong.
    """
    files = find_inputs(settings.inputs, settings.format).files
    if not partial_folder(prefix).exists() and _built_before(settings, files, prefix) is None:
        check_free(prefix)


def _chunk_bytes(files: list[InputFile]) -> int:
    total = sum(file.size for file in files)
    return min(max(total // _CHUNKS, _SMALLEST_CHUNK), _LARGEST_CHUNK)


def _sample(
    files: list[InputFile], chunks: list[Chunk], options: ReadOptions, scratch: Path
) -> list[Any]:
    """Some documents from places all over the corpus, cut short where they are long."""
    sampled: list[Any] = []
    for chunk in chunks[:: max(1, len(chunks) // _SAMPLED_CHUNKS)]:
        room = _SAMPLED_CHARACTERS
        # Small files are a span each.
        for span in chunk.spans[:_SAMPLED_SPANS]:
            try:
                batch = next(read_span(files, span, options, scratch), None)
            except BrokenFile:
                continue
            for document in batch.documents if batch else []:
                if room > 0:
                    sampled.append(document[:room])
                    room -= len(sampled[-1])
            if room <= 0:
                break
    return sampled


def _built_before(settings: BuildSettings, files: list[InputFile], prefix: Path) -> Manifest | None:
    """The manifest of the same corpus, if all of it is there.

    Inputs go by name and size, and are older than the manifest.
    """
    built = read_manifest(prefix)
    if built is None or built.settings != _settings_of_manifest(settings):
        return None
    written = manifest_path(prefix).stat().st_mtime_ns
    before = [(one.path, one.size, True) for one in built.inputs]
    now = [(str(file.path), file.size, file.mtime_ns <= written) for file in files]
    return built if before == now and _has_files(built, prefix) else None


def _has_files(built: Manifest, prefix: Path) -> bool:
    recorded = ((bin_path(prefix), built.bin), (index_path(prefix), built.idx))
    return all(path.is_file() and path.stat().st_size == of.size for path, of in recorded) and (
        built.tokenizer.folder is None or tokenizer_folder(prefix).is_dir()
    )


def _settings_of_manifest(settings: BuildSettings) -> dict[str, Any]:
    return {**settings.of_documents(), "on_error": "skip" if settings.skips else "fail"}


class _Build:
    """One go at a corpus, with one encoder."""

    def __init__(
        self,
        settings: BuildSettings,
        inputs: Inputs,
        chunk_bytes: int,
        chunks: list[Chunk],
        chosen: Chosen,
        console: Console,
    ) -> None:
        self._settings = settings
        self._files = inputs.files
        self._left_out = inputs.left_out
        self._chunks = chunks
        self._chosen = chosen
        self._console = console
        self._dtype = dtype_of_vocabulary(settings.tokenizer.vocab_size)
        self._plan = make_plan(settings, inputs.files, chunk_bytes, chosen)

    def run(self, output: CorpusOutput) -> Manifest:
        begun = read_plan(output.folder)
        if begun is None:
            write_plan(output.folder, self._plan)
        else:
            check_same(begun, self._plan, output.folder)
        self._say_encoder()
        with output.appending(self._dtype) as appending:
            whole = self._join(output, appending)
            tokens = appending.record()
        self._check_inputs_are_as_they_were()
        if self._settings.tokenizer.files:
            self._settings.tokenizer.copy_to(output.tokenizer_folder)
        return output.finish(
            self._dtype, tokens, lambda bin, idx: self._manifest(output, whole, bin, idx)
        )

    def _say_encoder(self) -> None:
        if self._chosen.fell_back is not None:
            reference = encoder_in_words(self._chosen.reference)
            self._console.print(
                f"The ids are written by {reference}, the slower way: {self._chosen.fell_back}.",
                highlight=False,
                soft_wrap=True,
            )

    def _join(self, output: CorpusOutput, appending: Appending) -> ShardSummary:
        """Append the shards of all chunks, writing those that are not there."""
        note = output.journal()
        num_joined = note.get("shards", 0)
        whole = ShardSummary.from_json(note["summary"]) if note else ShardSummary()
        if whole.has_bad and not self._settings.skips:
            raise UserError(
                f"{output.folder} holds an unfinished build in which records were skipped: add "
                f"--on-error skip, or delete {output.folder} to begin anew"
            )
        job = self._job(output)
        numbers = range(num_joined, len(self._chunks))
        todo = [number for number in numbers if not self._is_there(job, number)]
        with (
            self._progress(len(todo)) as on_progress,
            closing(
                finished_in_order(job, todo, self._settings.num_workers, on_progress)
            ) as finished,
        ):
            joined: list[Path] = []
            unsynced = 0
            is_missing = set(todo)
            for number in numbers:
                if number in is_missing:
                    next(finished)
                shard = read_shard(job.shard(number), self._dtype.itemsize)
                with shard.path.open("rb", buffering=0) as file:
                    appending.tokens_of(file, shard.token_bytes)
                appending.lengths(shard.lengths)
                whole.add(shard.summary)
                joined.append(shard.path)
                unsynced += shard.token_bytes
                if unsynced >= _SYNC_BYTES or number == numbers[-1]:
                    appending.sync({"shards": number + 1, "summary": whole.as_json()})
                    for path in joined:
                        path.unlink()
                    joined, unsynced = [], 0
        if not whole.documents:
            output.clear()  # Nothing in it is worth going on from.
            raise UserError(self._no_documents(whole))
        return whole

    def _no_documents(self, whole: ShardSummary) -> str:
        first = next(iter(self._skipped_records(whole)), None)
        which = "" if first is None else f" ({first.path}, record {first.record:,}: {first.reason})"
        return (
            f"the inputs hold no documents: {sum(whole.skipped.values()):,} records were skipped"
            f"{which} and {whole.filtered:,} filtered out"
        )

    def _skipped_records(self, whole: ShardSummary) -> list[SkippedRecord]:
        return [
            SkippedRecord(str(self._files[one.input].path), one.record, one.reason)
            for one in whole.skipped_records
        ]

    def _job(self, output: CorpusOutput) -> Job:
        tokenizer = self._settings.tokenizer
        is_reference = self._chosen.encoder is self._chosen.reference
        return Job(
            files=self._files,
            options=self._settings.options,
            chunks=self._chunks,
            encoder=self._chosen.encoder,
            reference=None if is_reference else self._chosen.reference,
            vocab_size=tokenizer.vocab_size,
            eod=tokenizer.eod if self._settings.append_eod else None,
            dtype=self._dtype,
            folder=output.folder,
            skips=self._settings.skips,
        )

    def _is_there(self, job: Job, number: int) -> bool:
        """Whether an earlier call has finished the shard, under rules that hold now."""
        path = job.shard(number)
        if not path.exists():
            return False
        return self._settings.skips or not read_shard(path, self._dtype.itemsize).summary.has_bad

    @contextmanager
    def _progress(self, num_todo: int) -> Iterator[Callable[[int], None]]:
        total = sum(file.size for file in self._files)
        before = total - total * num_todo // max(1, len(self._chunks))
        with ByteProgress(self._console, "Indexing", total) as progress:
            yield lambda read: progress.update(min(total, before + read))

    def _check_inputs_are_as_they_were(self) -> None:
        for file in self._files:
            now = file.path.stat()
            if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
                raise UserError(f"{file.path} was changed while it was read: index it again")

    def _manifest(
        self, output: CorpusOutput, whole: ShardSummary, bin: FileRecord, idx: FileRecord
    ) -> Manifest:
        tokenizer = self._settings.tokenizer
        has_files = output.tokenizer_folder.exists()
        return Manifest(
            inputs=[
                InputRecord(
                    path=str(file.path),
                    size=file.size,
                    sha256=whole.sha256_of_input[str(i)],
                    documents=whole.documents_of_input.get(str(i), 0),
                )
                for i, file in enumerate(self._files)
            ],
            left_out=[LeftOutRecord(one.spec, one.kinds) for one in self._left_out],
            settings=_settings_of_manifest(self._settings),
            tokenizer=TokenizerRecord(
                kind=tokenizer.kind,
                folder=tokenizer_folder(output.prefix).name if has_files else None,
                sha256=tokenizer.sha256,
                vocab_size=tokenizer.vocab_size,
                eod=tokenizer.eod,
                megatron_flags=list(tokenizer.megatron_flags),
                encoder=self._plan.encoder,
                checked_documents=self._chosen.checked_documents + whole.checked_documents,
                fell_back=self._chosen.fell_back,
            ),
            dtype=self._dtype.name,
            documents=whole.documents,
            tokens=whole.tokens,
            text_bytes=whole.text_bytes,
            longest_document=whole.longest_document,
            filtered=whole.filtered,
            skipped=whole.skipped,
            skipped_records=self._skipped_records(whole),
            versions=_versions(self._chosen),
            bin=bin,
            idx=idx,
        )


def _versions(chosen: Chosen) -> dict[str, str]:
    """Of the packages that had a hand in it; what runs from a plain folder has no version."""
    found = {"python": python_version(), chosen.encoder.name: chosen.encoder.version}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
