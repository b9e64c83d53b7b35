"""What routed blocks change in a plan: operations, and the weights of routers."""

import argparse
from collections.abc import Mapping, Sequence

from tst_megatron.methods.depths import flags
from tst_megatron.methods.depths.settings import CAPACITY, LEAST, Routing, ranks_of
from tst_megatron.methods.depths.sizes import parameters_of, units_of
from tst_megatron.methods.terms import Kept, Terms
from tst_megatron.runs.stages import Fact, Stage

KIND = "depth router"
_OF_PAIRS = "attention_scores"
_FLOAT32 = 4


class DepthTerms(Terms):
    """By the share of the tokens that a block takes."""

    def layer_weights(self, args: argparse.Namespace, layer: int) -> Mapping[str, int]:
        """A router's, and its predictor's."""
        if not _is_routed(args, layer):
            return {}
        return {KIND: _numbers(args)}

    def layer_work(
        self,
        args: argparse.Namespace,
        stage: Stage,
        layer: int,
        ordinary: Mapping[str, int],
    ) -> Mapping[str, int]:
        """A routed block's own on its share of the tokens, the router's on all of them."""
        if not _is_routed(args, layer):
            return ordinary
        share = _share(args, stage, layer)
        found = {}
        for kind, work in ordinary.items():
            if kind == KIND:
                found[kind] = work
            else:
                found[kind] = round(work * (share**2 if kind == _OF_PAIRS else share))
        return found

    def layer_keeps(
        self, args: argparse.Namespace, stage: Stage, layer: int, ordinary: Kept
    ) -> Kept:
        """Of a routed block what its tokens need; beside it all tokens' input, which the router's
        gradient needs, its scores and hidden units, and what the block changed, in float32."""
        if not _is_routed(args, layer):
            return ordinary
        split = args.tensor_model_parallel_size if args.sequence_parallel else 1
        positions = args.micro_batch_size * args.seq_length // args.context_parallel_size // split
        hidden, item = int(args.hidden_size), int(args.params_dtype.itemsize)
        share = _share(args, stage, layer)
        beside = positions * (hidden * item + _FLOAT32)
        beside += round(share * positions) * hidden * _FLOAT32
        if Routing.of(args).has_predictor:
            beside += 2 * positions * (units_of(hidden) * item + _FLOAT32)
        return Kept(ordinary.share * share, ordinary.beside + beside)

    def notes(self, args: argparse.Namespace, stages: Sequence[Stage]) -> Sequence[str]:
        """What the plan does not count."""
        if not flags.is_on(args):
            return ()
        return (
            "routed blocks are counted on their share of the tokens, which a threshold lets in on "
            "average alone; gathers and scatters of their tokens are not counted",
        )

    @property
    def facts(self) -> Mapping[str, Fact]:
        """All tokens in all blocks."""
        return {CAPACITY: 1.0, LEAST: 0.0}


def _is_routed(args: argparse.Namespace, layer: int) -> bool:
    return flags.is_on(args) and layer + 1 in flags.routed(args)


def _share(args: argparse.Namespace, stage: Stage, layer: int) -> float:
    """Of the tokens of a sequence, in a routed block."""
    routing, length = Routing.of(args), int(args.seq_length)
    capacity = max(routing.blocks[layer + 1], float(stage.facts.get(LEAST) or 0.0))
    return routing.tokens(capacity, length, ranks_of(args)) / length


def _numbers(args: argparse.Namespace) -> int:
    return sum(parameters_of(int(args.hidden_size), Routing.of(args).has_predictor).values())
