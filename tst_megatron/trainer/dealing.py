"""Which rank reads which row, when: rows dealt out in rounds of one length.

The one idea: in a round every data-parallel rank reads equally many micro-batches of equal shape,
whatever rows there are, so that all collectives of a layout meet; what is left over is filled up
with rows that nobody asks of. Rows whose inputs are equal are read once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import batched

from tst_megatron.evaluation.answerer import Row


@dataclass(frozen=True)
class Table:
    """Who sits at it.

    Attributes:
        ranks: data-parallel ones.
        batch_size: b, rows of a micro-batch.
        most_batches: micro-batches of a rank in a round, at most.
        group: of which the micro-batches of a round are a multiple, as an interleaved pipeline
            takes them.
        multiple: of which a length is.
        longest: L that the model takes.
    """

    ranks: int
    batch_size: int
    most_batches: int
    group: int
    multiple: int
    longest: int

    def filled(self, length: int) -> int:
        """Positions that a row of a length is filled up to."""
        return min(-(-length // self.multiple) * self.multiple, self.longest)


@dataclass(frozen=True)
class Question:
    """One id that is scored.

    Attributes:
        row: of the micro-batch, from 0.
        position: at whose logits.
        target: the id.
        place: of the row that asked, among all.
    """

    row: int
    position: int
    target: int
    place: int


@dataclass(frozen=True)
class MicroBatch:
    """What one rank reads at once.

    Attributes:
        inputs: ids of rows, b at most; the others are filling.
        questions: of them.
    """

    inputs: tuple[tuple[int, ...], ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Round:
    """What all ranks read in one call of Megatron's schedule.

    Attributes:
        length: L of every row, filled up.
        batches: by rank, equally many each.
    """

    length: int
    batches: tuple[tuple[MicroBatch, ...], ...]


def deal(rows: Sequence[Row], table: Table) -> Iterator[Round]:
    """Deal rows out, the longest first: what does not fit into memory does not fit at once.

    Args:
        rows: of any lengths up to ``longest`` + 1 ids.
        table: who reads them.
    """
    askers: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(rows):
        askers.setdefault(row.inputs, []).append(place)
    longest_first = sorted(askers, key=len, reverse=True)
    a_batch = table.ranks * table.batch_size
    for some in batched(longest_first, a_batch * table.most_batches):
        needed = -(-len(some) // a_batch)
        number = -(-needed // table.group) * table.group
        yield Round(
            table.filled(len(some[0])),
            tuple(
                tuple(
                    _micro_batch(own[at * table.batch_size :][: table.batch_size], rows, askers)
                    for at in range(number)
                )
                for own in (some[rank :: table.ranks] for rank in range(table.ranks))
            ),
        )


def _micro_batch(
    inputs: tuple[tuple[int, ...], ...],
    rows: Sequence[Row],
    askers: dict[tuple[int, ...], list[int]],
) -> MicroBatch:
    questions = tuple(
        Question(number, len(ids) - rows[place].scored + at, target, place)
        for number, ids in enumerate(inputs)
        for place in askers[ids]
        for at, target in enumerate(rows[place].targets)
    )
    return MicroBatch(inputs, questions)
