"""What torch takes on a GPU for the gradient of an embedding's table, beside Megatron's buffer.

The one idea: the tokens of a batch are sorted, every row's are added up ten by ten in float32, and
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
    positions = args.micro_batch_size * args.seq_length // args.context_parallel_size
    look_ups = int(positions * tokens_a_position)
    rows = int(args.padded_vocab_size // args.tensor_model_parallel_size)
    sums = look_ups // _LOOK_UPS_A_SUM + min(look_ups, rows)
    table = rows * int(args.params_dtype.itemsize)
    return int(args.hidden_size) * (sums * _FLOAT32 + table)
