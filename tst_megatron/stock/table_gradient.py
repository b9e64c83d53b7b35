"""What the gradients of the two tables take on a GPU, beside Megatron's buffer of them.

The one idea: a table's gradient is there whole before Megatron adds it to its buffer. Of the
embedding's, the tokens of a batch are sorted, every row's are added up ten by ten in float32, and
the sums of all rows are there at once (aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu in
torch, which ``F.embedding`` and ``F.embedding_bag`` share). How many sums there are only the GPU
knows, so that torch makes room for as many as there can be. Read in the source, not measured.
"""

import argparse

# NROWS_PER_THREAD: look-ups of a row that one sum holds.
_LOOK_UPS_A_SUM = 10
_FLOAT32 = 4


def table_gradient_bytes(args: argparse.Namespace, tokens_a_position: int) -> int:
    """Bytes of one micro-batch on one rank, for as long as its embedding's backward pass takes.

    The sums ``[n / 10 + min(n, V/tp), h]`` of n = b·L/cp·s look-ups in float32, and the gradient
    ``[V/tp, h]`` in the table's dtype, which Megatron then adds to its buffer.

    Args:
        args: Megatron's validated arguments.
        tokens_a_position: s, of the model's inputs.
    """
    return gradient_bytes(args, positions_of(args) * tokens_a_position, _rows(args))


def gradient_bytes(args: argparse.Namespace, look_ups: int, rows: int) -> int:
    """Likewise, of any table ``[rows, h]`` of which so many rows are looked up."""
    hidden = int(args.hidden_size)
    sums = look_ups // _LOOK_UPS_A_SUM + min(look_ups, rows)
    return hidden * (sums * _FLOAT32 + rows * int(args.params_dtype.itemsize))


def head_gradient_bytes(args: argparse.Namespace) -> int:
    """Bytes of one micro-batch on one rank, while the output layer's weight gets its gradient.

    The gradient ``[V/tp, h]`` in the table's dtype; or, with gradient accumulation fusion, what
    autograd is given in its place, which is as large (megatron/core/tensor_parallel/layers.py,
    ``LinearWithGradAccumulationAndAsyncCommunication``). And `gathered_bytes`.

    Args:
        args: Megatron's validated arguments.
    """
    return _table(args) + gathered_bytes(args)


def gathered_bytes(args: argparse.Namespace) -> int:
    """Bytes of the hidden states ``[L/cp, b, h]`` that sequence parallelism gathers for a head."""
    if not args.sequence_parallel or args.tensor_model_parallel_size == 1:
        return 0
    return positions_of(args) * int(args.hidden_size) * int(args.params_dtype.itemsize)


def positions_of(args: argparse.Namespace) -> int:
    """Of a micro-batch on one rank: b·L/cp."""
    return int(args.micro_batch_size * args.seq_length // args.context_parallel_size)


def _rows(args: argparse.Namespace) -> int:
    return int(args.padded_vocab_size // args.tensor_model_parallel_size)


def _table(args: argparse.Namespace) -> int:
    return _rows(args) * int(args.hidden_size) * int(args.params_dtype.itemsize)
