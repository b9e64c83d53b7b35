"""Load a checkpoint into the model that the flags ask for, and write its logits of fixed tokens.

``torchrun logits_worker.py OUT FLAGS…``: with --tst- flags our class, without them Megatron's own.
"""

import sys

from tst_megatron.backends import prepare_backend

machine_flags = prepare_backend()

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.utils import unwrap_model
from megatron.training import training as trainer
from megatron.training.checkpointing import load_checkpoint

from tst_megatron.trainer import pretrain


def main() -> None:
    out, *flags = sys.argv[1:]
    args, superposition = pretrain._parse([*machine_flags, *flags], on_gpu=False, is_checked=False)
    trainer.initialize_megatron()
    config = pretrain.model_config(args, superposition)
    groups = ProcessGroupCollection.use_mpu_process_groups()
    builder = config.get_builder_cls()(config)
    wrapped = builder.build_distributed_models(pg_collection=groups, wrap_with_ddp=False)
    args.no_load_optim = args.no_load_rng = True
    iteration, _ = load_checkpoint(wrapped, None, None)
    (model,) = unwrap_model(wrapped)
    model.eval()
    tokens = torch.arange(2 * args.seq_length).view(2, -1) * 7 % args.padded_vocab_size
    positions = torch.arange(args.seq_length).expand(2, -1)
    with torch.no_grad():
        logits = model(tokens, positions, None)
    torch.save({"class": type(model).__name__, "logits": logits, "iteration": iteration}, out)


if __name__ == "__main__":
    main()
