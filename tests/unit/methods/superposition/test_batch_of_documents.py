"""Masks and positions of bags that end with documents: Megatron's, of each bag's last token."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.gpt_dataset import _get_ltor_masks_and_position_ids
from torch import Tensor

from tst_megatron.methods.superposition import batch as batch_code
from tst_megatron.methods.superposition.bags import EMPTY
from tst_megatron.methods.superposition.batch import Documents, bag_batch

EOD = 3


@st.composite
def samples(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Bags ``[b, L + 1, s]`` of documents that end with the token or do not, and boundaries."""
    batch_size, length, bag_size = draw(st.tuples(*[st.integers(1, n) for n in (3, 9, 4)]))
    rows, boundaries = [], []
    for _ in range(batch_size):
        row: list[list[int]] = []
        begins = []
        while len(row) < length + 1:
            begins.append(len(row))
            for _ in range(draw(st.integers(0, 3))):
                row.append([draw(st.integers(0, 2)) for _ in range(bag_size)])
            filled = draw(st.integers(1, bag_size))
            last = draw(st.sampled_from((EOD, 1)))
            row.append([2] * (filled - 1) + [last] + [EMPTY] * (bag_size - filled))
        if draw(st.booleans()):
            padding = draw(st.integers(0, length))
            row[length + 1 - padding : length + 1] = [[EMPTY] * bag_size] * padding
        rows.append(row[: length + 1])
        begins = [begin for begin in begins if begin < length]
        boundaries.append(begins + [length] * (length + 1 - len(begins)))
    return torch.tensor(rows), torch.tensor(boundaries, dtype=torch.int32)


def args_of(mask: bool, attention: bool, positions: bool, loss: bool) -> SimpleNamespace:
    return SimpleNamespace(
        create_attention_mask_in_dataloader=mask,
        reset_attention_mask=attention,
        reset_position_ids=positions,
        eod_mask_loss=loss,
    )


def last_of(bag: list[int]) -> int:
    """The last token of a bag, one place after the other."""
    last = EMPTY
    for token in bag:
        last = token if token != EMPTY else last
    return last


@given(samples(), st.tuples(*[st.booleans()] * 4), st.booleans())
def test_flags_mean_what_they_mean_to_megatron(sample, flags, predicts_bags: bool) -> None:
    bags, _ = sample
    args = args_of(*flags)
    batch = bag_batch(args, bags, predicts_bags, Documents(EOD if any(flags[1:]) else None))
    for i, row in enumerate(bags.tolist()):
        # Megatron's own function, of a token a bag.
        mask, loss_mask, position_ids = _get_ltor_masks_and_position_ids(
            torch.tensor([last_of(bag) for bag in row[:-1]]),
            EOD,
            args.reset_position_ids,
            args.reset_attention_mask,
            args.eod_mask_loss,
            args.create_attention_mask_in_dataloader,
        )
        loss_mask[[last_of(bag) == EMPTY for bag in row[1:]]] = 0.0
        assert torch.equal(batch.position_ids[i], position_ids)
        assert torch.equal(batch.loss_mask[i], loss_mask)
        if args.create_attention_mask_in_dataloader:
            assert torch.equal(batch.attention_mask[i], mask)
        else:
            assert batch.attention_mask is None
        if bags.shape[-1] > 1:
            assert batch.tokens[i].tolist() == row[:-1]
        if predicts_bags:
            assert batch.labels[i].tolist() == row[1:]
        else:
            assert batch.labels[i].tolist() == [max(0, bag[0]) for bag in row[1:]]


@given(samples())
def test_positions_of_packed_documents_begin_anew(sample) -> None:
    bags, boundaries = sample
    args = args_of(False, False, False, False)
    batch = bag_batch(args, bags, True, Documents(None, boundaries))
    length = bags.shape[1] - 1
    for row, positions in zip(boundaries.tolist(), batch.position_ids.tolist(), strict=True):
        begins = [begin for begin in row if begin < length]
        wanted = [i - max(begin for begin in begins if begin <= i) for i in range(length)]
        assert positions == wanted


@given(st.integers(1, 6), st.data())
def test_output_superposition_ends_its_bags_with_the_document(bag_size: int, data) -> None:
    text = st.lists(st.integers(0, EOD), min_size=9, max_size=9)
    labels = torch.tensor(data.draw(st.lists(text, min_size=1, max_size=3)))
    tokens = torch.cat([torch.full_like(labels[:, :1], 1), labels[:, :-1]], dim=1)
    masks_loss = data.draw(st.booleans())
    loss_mask = torch.ones(labels.shape)
    if masks_loss:
        loss_mask[tokens == EOD] = 0.0
    # Megatron's padding is token 0, masked.
    padding = data.draw(st.integers(0, 4))
    loss_mask[:, 9 - padding :] = 0.0
    labels[:, 9 - padding :] = 0
    batch = {"labels": labels.clone(), "loss_mask": loss_mask.clone()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_code, "get_tokenizer", lambda: SimpleNamespace(eod=EOD))
        batch_code.predict_bags(batch, bag_size, "document")
    assert torch.equal(batch["loss_mask"], loss_mask)
    for row, bags, mask in zip(
        labels.tolist(), batch["labels"].tolist(), loss_mask.tolist(), strict=True
    ):
        for i, bag in enumerate(bags):
            if not mask[i]:
                continue
            wanted = []
            for token in row[i : min(i + bag_size, 9 - padding)]:
                wanted.append(token)
                if token == EOD:
                    break
            assert bag == wanted + [EMPTY] * (bag_size - len(wanted))
