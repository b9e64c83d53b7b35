"""Chunks made into shards by forked workers, given back in the order of the chunks."""

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as StillWorkingError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from tst_megatron.corpora.indexing.worker import Job, make_shared, start_worker, write_chunk
from tst_megatron.errors import UserError

_SHOWN_EVERY_S = 0.2


def finished_in_order(
    job: Job,
    numbers: Sequence[int],
    num_workers: int,
    on_progress: Callable[[int], None],
) -> Generator[int]:
    """Have the shards of chunks written; yields every number when its shard is whole.

    The first error in the order of the chunks ends it, whichever worker was the first to meet one.

    Args:
        job: what the chunks are made from.
        numbers: of the chunks.
        num_workers: processes.
        on_progress: told the bytes of input read so far.

    Raises:
        UserError: a record is bad, or a worker was killed.
        EncodersDifferError: the fast encoder is not to be trusted with this corpus.
        OSError: a file cannot be read or written.
    """
    if not numbers:
        return
    shared = make_shared()
    # Forked, for the tokenizer is loaded once and shared; the pool starts all of them at the first
    # chunk, before it has a thread of its own.
    pool = ProcessPoolExecutor(
        min(num_workers, len(numbers)),
        get_context("fork"),
        start_worker,
        (job, shared, os.getpid()),
    )
    try:
        futures = [pool.submit(write_chunk, number) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            _wait(future, lambda: on_progress(shared.bytes_read.get_obj().value))
            yield number
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, perhaps because memory ran out: run the same command again, "
            "which goes on, with fewer --workers"
        ) from None
    finally:
        shared.stop.value = 1
        pool.shutdown(cancel_futures=True)


def _wait(future: "Future[None]", on_progress: Callable[[], None]) -> None:
    while True:
        on_progress()
        try:
            return future.result(timeout=_SHOWN_EVERY_S)
        except StillWorkingError:
            if future.done():
                # The work itself ran into a timeout.
                raise
