"""What a superposed run reads of its text: a part for every bag size.

The one idea: a sample of bags of s is s times as much text, and stages of one bag size are drawn
from the same documents, in turn. Bags that are cut from the running text (boundary ``any``) are to
the text what tokens are; with ``document`` a document takes up whole bags.
"""

from dataclasses import replace

from tst_megatron.corpora.parts import TextPart
from tst_megatron.methods.forms import Forms
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.methods.superposition.settings import Superposition


def text_of_stages(
    schedule: BagSchedule,
    seq_length: int,
    bag_boundary: str = "any",
    forms: Forms | None = None,
) -> list[TextPart]:
    """What the samples of every bag size read, in the order of training.

    Args:
        schedule: bag size of every sample, as the data see it; an open one reads the text of the
            longest stages that it can come to have, and a run that goes on under another length
            shares documents out as the one before it did.
        seq_length: L.
        bag_boundary: whether a bag ends with its document.
        forms: in which form every sample reads its text; a part is of one form then.
    """
    text = schedule.text
    sizes = dict.fromkeys(stage.bag_size for stage in text.stages if stage.num_samples)
    parts = []
    for bag_size in sizes:
        for form in ("",) if forms is None else forms.names:
            laid_out = _samples(text, bag_size, forms, form)
            # No fewer than were laid out: their order is of all of them.
            samples = max(laid_out, _samples(schedule, bag_size, forms, form))
            if samples:
                name = _name(bag_size, text)
                part = text_of_bags(bag_size, samples, seq_length, bag_boundary, name)
                parts.append(replace(_in_form(part, form), laid_out=laid_out))
    return parts


def _samples(schedule: BagSchedule, bag_size: int, forms: Forms | None, form: str) -> int:
    if forms is None:
        return schedule.samples_of_bag_size(bag_size)
    return forms.count(form, schedule.spans(bag_size))


def _in_form(part: TextPart, form: str) -> TextPart:
    if not form:
        return part
    return replace(
        part,
        name=f"{part.name}, {form}",
        in_words=f"{part.in_words} on {form} text",
        form=form,
        facts={**part.facts, "form": form},
    )


def text_of_bags(
    bag_size: int,
    num_samples: int,
    seq_length: int,
    bag_boundary: str = "any",
    name: str | None = None,
) -> TextPart:
    """What so many samples of one bag size read.

    Args:
        bag_size: s.
        num_samples: of them.
        seq_length: L.
        bag_boundary: whether a bag ends with its document.
        name: of the stages in a table; ``bags of s`` if it is None.
    """
    return TextPart(
        name=name or f"bags of {bag_size}",
        in_words=f"the stage with bag size {bag_size}",
        samples=num_samples,
        seq_length=seq_length,
        tokens_a_position=bag_size,
        unit=1 if bag_boundary == "any" else bag_size,
        facts={"bag_size": bag_size},
    )


def held_out_text(superposition: Superposition, num_samples: int, seq_length: int) -> TextPart:
    """What so many samples of validation read at most: those of the largest bags."""
    largest = max(stage.bag_size for stage in superposition.data_schedule.stages)
    return text_of_bags(largest, num_samples, seq_length, superposition.bag_boundary)


def _name(bag_size: int, schedule: BagSchedule) -> str:
    """As a schedule's stages of one bag size share their documents, they share a line."""
    numbers = [
        str(number)
        for number, stage in enumerate(schedule.stages, 1)
        if stage.bag_size == bag_size and stage.num_samples
    ]
    if bag_size == 1 and numbers == [str(len(schedule.stages))]:
        return "ordinary"
    name = f"bags of {bag_size}"
    return name if len(numbers) == 1 else f"{name} (stages {', '.join(numbers)})"
