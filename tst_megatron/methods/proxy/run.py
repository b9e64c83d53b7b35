"""Text in two forms in one run: its part at every place where a run can be changed."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tst_megatron.corpora.forms import AS_INDEXED, check_forms
from tst_megatron.corpora.parts import TextPart
from tst_megatron.corpora.sources import sources_of_split
from tst_megatron.errors import UserError
from tst_megatron.methods.forms import Forms
from tst_megatron.methods.method import Run
from tst_megatron.methods.proxy.flags import stages_of_steps
from tst_megatron.methods.proxy.schedule import RateStage, forms_of
from tst_megatron.methods.proxy.story import stage_name
from tst_megatron.runs.stages import Stage
from tst_megatron.stock.batch_sizes import train_steps

COMPRESSED_SHARE, PAIRED_SHARE = "compressed_share", "paired_share"
"""Facts of a stage."""


class ProxyRun(Run):
    """A run that reads text in two forms.

    Args:
        args: checked flags; those of Megatron that say how long the run is, and for what is asked
            for in training all of them.
    """

    name = "proxy"

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._rates = stages_of_steps(args)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One for every rate."""
        return self.stages_of(train_steps(self._args))

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """Likewise; their loss is of the next token, of whichever form."""
        return tuple(self._in_words(stage) for stage in self._rates(train_iters))

    def _in_words(self, stage: RateStage) -> Stage:
        facts = {
            COMPRESSED_SHARE: float(stage.rate),
            PAIRED_SHARE: float(stage.paired_share),
        }
        is_ordinary = not any(facts.values())
        return Stage(
            stage_name(facts), stage.samples, method="" if is_ordinary else self.name, facts=facts
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """As they are given, and as a checkpoint remembers them."""
        args = self._args
        return {"schedule": args.proxy_schedule, "pairs": args.proxy_pairs, **self.saved()}

    def saved(self) -> dict[str, Any]:
        """What the order of the text follows from."""
        stages = self._rates(train_steps(self._args))
        return {
            "stages": [[float(s.rate), float(s.paired_share), s.samples] for s in stages],
            "ratio": float(stages[0].ratio),
        }

    def check(self, args: argparse.Namespace) -> None:
        """Check that every corpus is there in both forms."""
        for source in sources_of_split(args, "train"):
            check_forms(source.prefix)

    def resume(self, args: argparse.Namespace, before: Any, step: int) -> None:
        """A run goes on in the forms that it was started with: its documents are shared out."""
        if before != self.saved() and not args.allow_schedule_change:
            raise UserError(
                f"the checkpoint in {args.load} was trained under the rates of compression "
                f"{json.dumps(before)} (each a rate, a share of pairs, samples) and this run has "
                f"{json.dumps(self.saved())}: use the same flags and length, or add "
                "--allow-schedule-change to share its documents out again and read some twice"
            )

    @property
    def reads_text_once(self) -> bool:
        """A document that is read in one form is not read in the other."""
        return True

    def text(self, train_iters: int, seq_length: int) -> Sequence[TextPart]:
        """A part for every form."""
        forms = self.forms_of(train_iters)
        spans = [(0, forms.num_samples)]
        return [_part(form, forms.count(form, spans), seq_length) for form in forms.names]

    @property
    def has_forms(self) -> bool:
        """Always."""
        return True

    def forms_of(self, train_iters: int) -> Forms:
        """By the rates of the stages."""
        return forms_of(self._rates(train_iters))

    @property
    def makes_training_data(self) -> bool:
        """Where no other method does."""
        return True

    def training_data(self, config: Any, is_built_on_rank: Callable[[], bool]) -> Any:
        """Megatron's data sets of the forms, dealt out."""
        from tst_megatron.methods.proxy.data import build

        steps = train_steps(self._args)
        parts = self.text(steps, config.sequence_length)
        return build(self.forms_of(steps), parts, config, is_built_on_rank)


def _part(form: str, samples: int, seq_length: int) -> TextPart:
    name = "raw bytes" if form == AS_INDEXED else f"{form} text"
    return TextPart(
        name=name,
        in_words=f"what is read as {name}",
        samples=samples,
        seq_length=seq_length,
        form=form,
        facts={"form": form or "raw"},
    )
