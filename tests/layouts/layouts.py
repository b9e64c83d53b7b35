"""Layouts of up to 1,024 ranks, and which of their ranks to build.

The one idea: what a rank builds is decided by its pipeline, tensor, expert and expert-tensor
coordinates; ranks that differ in the data- or context-parallel coordinate alone are equal. Along
the tensor and expert axes only the start of a shard differs, never its shape. So of every layout
are built: each pipeline stage at the start of those axes, and the first and last stage in their
middle and at their end. That the stages between split as the ends do is taken from their having the
same kinds of layers; every rank of 1,024 would take minutes a layout.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How many ranks there are, and how the model is split over them.

    Attributes:
        num_ranks: the world size.
        tp: tensor-parallel size; likewise pipeline, expert, expert-tensor and context parallelism.
        chunks: virtual stages of a pipeline stage.
        flags: further flags of Megatron's.
        name: what the flags do, for test ids.
    """

    num_ranks: int
    tp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1
    cp: int = 1
    chunks: int = 1
    flags: tuple[str, ...] = ()
    name: str = ""

    def __str__(self) -> str:
        sizes = {axis: getattr(self, axis) for axis in ("tp", "pp", "chunks", "ep", "etp", "cp")}
        parts = [f"{axis}{size}" for axis, size in sizes.items() if size > 1]
        return "-".join([f"{self.num_ranks}ranks", *parts, *filter(None, [self.name])])

    @property
    def all_flags(self) -> tuple[str, ...]:
        """Megatron's flags of this layout, without the virtual stages."""
        return (
            f"--tensor-model-parallel-size={self.tp}",
            f"--pipeline-model-parallel-size={self.pp}",
            f"--expert-model-parallel-size={self.ep}",
            f"--expert-tensor-parallel-size={self.etp}",
            f"--context-parallel-size={self.cp}",
            *self.flags,
        )


@dataclass(frozen=True)
class Rank:
    """A rank and the coordinates that decide what it builds.

    The numbering is Megatron's ``tp-cp-ep-dp-pp`` (megatron/core/parallel_state.py), worked out
    here once more so that a test can compare.
    """

    rank: int
    tp: int
    pp: int
    ep: int
    etp: int

    @classmethod
    def of(cls, layout: Layout, rank: int) -> "Rank":
        pp, within_stage = divmod(rank, layout.num_ranks // layout.pp)
        ep = within_stage // layout.etp % layout.ep
        return cls(rank, within_stage % layout.tp, pp, ep, within_stage % layout.etp)


def first_of_stage(layout: Layout, stage: int) -> Rank:
    """The rank at the start of every axis but the pipeline's."""
    return Rank.of(layout, stage * layout.num_ranks // layout.pp)


def others_of_stage(layout: Layout, stage: int) -> list[Rank]:
    """Ranks in the middle and at the end of the tensor and expert axes; none without such axes."""
    first = first_of_stage(layout, stage).rank
    # The ranks of a stage run through both axes at once, and begin anew after the longer.
    distinct = max(layout.tp, layout.ep * layout.etp)
    return [Rank.of(layout, first + i) for i in sorted({distinct // 2, distinct - 1} - {0})]


_INTERLEAVED = "--num-virtual-stages-per-pipeline-rank"

DENSE_LAYOUTS = (
    Layout(1),
    Layout(64),
    Layout(64, tp=2),
    Layout(64, tp=8),
    Layout(64, pp=4),
    Layout(64, pp=4, chunks=3, flags=(f"{_INTERLEAVED}=3",)),
    Layout(256, tp=2, pp=2, cp=4),
    Layout(
        256,
        tp=2,
        pp=4,
        chunks=2,
        flags=("--pipeline-model-parallel-layout=Et*3|(t*5|)*6t*3L",),
        name="uneven",
    ),
    Layout(
        512,
        tp=4,
        pp=4,
        flags=(
            "--decoder-first-pipeline-num-layers=8",
            "--decoder-last-pipeline-num-layers=8",
        ),
        name="short-ends",
    ),
    Layout(1024, tp=4, pp=4, chunks=3, flags=(f"{_INTERLEAVED}=3",)),
    Layout(1024, tp=8, pp=2, cp=8),
    Layout(1024, tp=4, pp=4, cp=4),
)

MOE_LAYOUTS = (
    Layout(64, ep=8),
    Layout(64, ep=64),
    Layout(64, tp=2, ep=8),
    Layout(128, tp=2, ep=16, etp=2),
    Layout(128, pp=4, ep=16, cp=2),
    Layout(256, tp=4, pp=2, ep=8, etp=2),
    Layout(512, pp=4, ep=32, chunks=2, flags=(f"{_INTERLEAVED}=2",)),
    Layout(1024, pp=8, ep=128),
    Layout(1024, tp=4, pp=4, ep=64),
    Layout(1024, tp=2, pp=8, ep=32, cp=2, chunks=2, flags=(f"{_INTERLEAVED}=2",)),
)
