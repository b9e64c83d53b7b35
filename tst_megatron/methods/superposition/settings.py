"""How a run superposes, as values: which samples, which side of the model, and scored how.

Flags are read into these, and whoever needs no torch imports them from here.
"""

from dataclasses import dataclass

from tst_megatron.methods.superposition.schedule import BagSchedule, Stage

SUPERPOSE = ("both", "input", "output")
BAG_BOUNDARIES = ("any", "document")
BAG_WEIGHTS = ("uniform", "power", "exponential", "first", "mutual-information")
OBJECTIVES = ("mce", "mce-alt")
LOSS_IMPLEMENTATIONS = ("kernel", "compiled", "eager")
AUTO = "auto"
"""The implementation that a device has by default."""
BAG_LOSS = "bag loss"
"""The superposed objective; not comparable with the next-token loss, so never under its name."""


@dataclass(frozen=True)
class BagObjective:
    """What a target bag is scored by: the names of `bag_weights` and of the objective.

    Raises:
        ValueError: a name is unknown, or weights are given for ``mce-alt``.
    """

    weights: str = "uniform"
    objective: str = "mce"

    def __post_init__(self) -> None:
        if self.weights not in BAG_WEIGHTS:
            raise ValueError(
                f"bag weights {self.weights!r} are unknown: use one of {', '.join(BAG_WEIGHTS)}"
            )
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"objective {self.objective!r} is unknown: use one of {', '.join(OBJECTIVES)}"
            )
        if self.objective == "mce-alt" and self.weights != "uniform":
            raise ValueError("objective 'mce-alt' takes no weights: leave them out or use 'mce'")


@dataclass(frozen=True)
class Superposition:
    """How a run superposes: which samples, which side of the model, and scored how.

    Attributes:
        schedule: bag size of every sample.
        superpose: ``both``, or the paper's ablations ``input`` (bags in, one token out) and
            ``output`` (tokens in, a bag out).
        bag_objective: how a target bag is scored.
        bag_boundary: ``any``, or ``document``: no bag holds tokens of two documents.
        loss_implementation: of the loss of bags, the same in every one but for rounding; None for
            the default of the device.
        logits_chunk_size: rows of logits that are there at once; 0 for all of them.
    """

    schedule: BagSchedule
    superpose: str
    bag_objective: BagObjective
    bag_boundary: str = "any"
    loss_implementation: str | None = None
    logits_chunk_size: int = 0

    @property
    def reads_bags(self) -> bool:
        """Whether a superposed position is a bag of the text, so that it consumes s tokens."""
        return self.superpose != "output"

    @property
    def predicts_bags(self) -> bool:
        """Whether a superposed position's target is a bag."""
        return self.superpose != "input"

    @property
    def reads_empty_places(self) -> bool:
        """Whether bags that are read may be filled up with `EMPTY`."""
        return self.reads_bags and self.bag_boundary == "document"

    @property
    def data_schedule(self) -> BagSchedule:
        """The schedule as the data see it: output superposition reads single tokens throughout."""
        if self.reads_bags:
            return self.schedule
        return BagSchedule(tuple(Stage(1, stage.num_samples) for stage in self.schedule.stages))
