"""``--ngram-rows`` and ``--ngram-orders``: what is wrong with them, a plan's tables, words."""

import argparse
from argparse import Namespace
from typing import Any

import pytest
from planned import DENSE, built

from tst_megatron.errors import UserError
from tst_megatron.methods.ngrams.flags import orders_of
from tst_megatron.methods.ngrams.method import METHOD
from tst_megatron.methods.ngrams.run import NgramRun
from tst_megatron.methods.story import Told
from tst_megatron.methods.terms import Together
from tst_megatron.planner.counts import whole_model, with_added

# As Megatron's parser leaves what nobody has given.
MEGATRONS: dict[str, Any] = {
    "mtp_num_layers": None,
    "pipeline_model_parallel_size": 1,
    "context_parallel_size": 1,
    "tensor_model_parallel_size": 1,
    "hybrid_context_parallel": False,
    "sft": False,
    "tensor_parallel_num_weight_shards": None,
    "use_torch_fsdp2": False,
    "use_megatron_fsdp": False,
    "init_model_with_meta_device": False,
    "use_mup": False,
    "seq_length": 64,
    "hidden_size": 16,
    "rank": 1,
    "load": "small",
    "pretrained_checkpoint": None,
}


def parsed(*words: str, **megatrons: Any) -> Namespace:
    parser = argparse.ArgumentParser()
    METHOD.add_arguments(parser)
    return Namespace(**(MEGATRONS | megatrons | vars(parser.parse_args(words))))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--ngram-rows=0",), "--ngram-rows 0 are none"),
        (("--ngram-orders=2,3",), "--ngram-orders without --ngram-rows"),
        (("--ngram-rows=9", "--ngram-orders=1-3"), "1-3 names no n-grams: write lengths from 2 to"),
        (("--ngram-rows=9", "--ngram-orders=3,,5"), "nothing names no n-grams"),
        (("--ngram-rows=9", "--ngram-orders=5-3"), "5-3 names no n-grams"),
        (("--ngram-rows=9", "--ngram-orders=3-5,4"), "names 4 twice"),
        (("--ngram-rows=9", "--ngram-orders=65"), "65 names no n-grams"),
    ],
)
def test_a_slip_is_one_sentence(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        METHOD.check(parsed(*words))


def test_lengths_come_in_order() -> None:
    assert orders_of(parsed("--ngram-rows=9", "--ngram-orders=7,2-4")) == (2, 3, 4, 7)
    assert orders_of(parsed("--ngram-rows=9")) == (3, 4, 5, 6, 7, 8)
    assert not METHOD.is_on(parsed())


@pytest.mark.parametrize(
    ("megatrons", "says"),
    [
        ({"mtp_num_layers": 1, "pipeline_model_parallel_size": 2}, "--mtp-num-layers with"),
        ({"hybrid_context_parallel": True}, "no longer in the order of the text"),
        ({"sft": True}, "--sft does not go with --ngram-rows"),
        ({"use_mup": True}, "--use-mup does not go with --ngram-rows"),
        ({"tensor_parallel_num_weight_shards": 2}, "split over tensor-parallel ranks alone"),
        ({"use_megatron_fsdp": True}, "--use-megatron-fsdp does not go with"),
    ],
)
def test_what_it_cannot_go_with_is_one_sentence(megatrons: dict[str, Any], says: str) -> None:
    METHOD.check_beside(parsed(**megatrons))
    METHOD.check_beside(parsed("--ngram-rows=9", mtp_num_layers=1))
    with pytest.raises(UserError, match=says):
        METHOD.check_beside(parsed("--ngram-rows=9", **megatrons))


@pytest.mark.parametrize(
    ("megatrons", "says"),
    [
        ({"tensor_model_parallel_size": 4}, "are 54 rows, which do not divide by"),
    ],
)
def test_ranks_need_their_share(megatrons: dict[str, Any], says: str) -> None:
    given = parsed("--ngram-rows=9", **megatrons)
    with pytest.raises(UserError, match=says):
        NgramRun(given).check(given)


def test_a_checkpoints_model_says_what_it_needs() -> None:
    given = parsed("--ngram-rows=9", "--ngram-orders=2-3")
    run = NgramRun(given)
    assert run.saved() == {"ngram_rows": 9, "ngram_orders": "2,3"}
    run.check_weights(given, run.saved())
    with pytest.raises(UserError, match=r"in small has no tables of n-grams, as it was trained"):
        run.check_weights(given, None)
    with pytest.raises(UserError, match=r"give --ngram-rows 8 --ngram-orders 2,3"):
        run.check_weights(given, {"ngram_rows": 8, "ngram_orders": "2,3"})
    assert "give --ngram-rows 9 --ngram-orders 2,3" in METHOD.why_not_without(run.saved())
    # Of a version before it said what ends a document.
    assert "does not say which id ends" in METHOD.why_not_exported(run.saved(), given)
    given.tokenizer_end = None
    assert METHOD.why_not_exported(run.saved(), given) is None


def test_a_plan_has_the_tables() -> None:
    with built((*DENSE, "--ngram-rows=100", "--ngram-orders=3-5")) as (args, stages):
        terms = Together([METHOD.terms()])
        before, after = (
            whole_model(one, args) for one in (stages, with_added(args, stages, terms))
        )
        tables = 300 * args.hidden_size
        assert after.total - before.total == tables
        assert after.embedding - before.embedding == tables
        assert after.active == before.active
        (stage,) = NgramRun(args).stages
        # As many sums as there are rows, of more look-ups than that, and the gradient itself.
        look_ups = args.micro_batch_size * args.seq_length * 3
        sums = look_ups // 10 + min(look_ups, 300)
        gradient = args.hidden_size * (4 * sums + 300 * args.params_dtype.itemsize)
        assert terms.embedding_bytes(args, stage, 0) == gradient
        assert terms.embedding_bytes(args, stage, gradient + 1) == gradient + 1


def test_a_comparison_tells_which_there_are() -> None:
    story = METHOD.story()
    told = Told((), {"ngram_rows": 4096, "ngram_orders": "3,4"}, {})
    assert story.words(told) == "n-grams of 3,4 tokens in 4,096 rows each"
    assert story.stage({"ngram_rows": 0}) is None
    assert story.stage({"ngram_rows": 4}).name == "n-grams"
    assert not "num_layers".startswith(story.may_differ)
