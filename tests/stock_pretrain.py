"""Megatron's own training, written from its library alone: what an ordinary run is compared with.

No module of ours but the CPU backend: stock model, stock data sets, a forward step of the few lines
that Megatron's own scripts have for plain text.
"""

import sys
from functools import partial

from tst_megatron.backends import prepare_backend

flags = prepare_backend()

import torch
from megatron.core import mpu
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.enums import ModelType
from megatron.core.utils import get_batch_on_this_tp_rank
from megatron.training import get_args, get_tensorboard_writer, get_tokenizer, pretrain
from megatron.training.argument_utils import (
    gpt_config_from_args,
    hybrid_config_from_args,
    pretrain_cfg_container_from_args,
)
from megatron.training.arguments import parse_and_validate_args
from megatron.training.utils import get_blend_and_blend_per_split

KEYS = ("tokens", "labels", "loss_mask", "position_ids", "attention_mask")


def datasets(num_samples):
    args = get_args()
    blend, _ = get_blend_and_blend_per_split(args)
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        blend=blend,
        split=args.split,
        path_to_cache=args.data_cache_path,
        tokenizer=get_tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=args.create_attention_mask_in_dataloader,
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, num_samples, lambda: True, config).build()


def loss_function(loss_mask, output):
    loss = torch.sum(output.view(-1).float() * loss_mask.view(-1))
    count = loss_mask.sum().to(torch.int)
    return loss, count, {"lm loss": torch.cat([loss.detach().view(1), count.detach().view(1)])}


def forward_step(data_iterator, model):
    args = get_args()
    sample = next(data_iterator)
    batch = get_batch_on_this_tp_rank(
        {key: sample.get(key) for key in KEYS},
        has_cu_seqlens=False,
        is_hybrid_cp=False,
        create_attention_mask_in_dataloader=args.create_attention_mask_in_dataloader,
        broadcast_src_rank=mpu.get_tensor_model_parallel_src_rank(),
        broadcast_group=mpu.get_tensor_model_parallel_group(),
        cp_size=1,
        tp_rank=0,
        micro_batch_size=args.micro_batch_size,
        seq_length=args.seq_length,
        mtp_on_this_rank=False,
    )
    output = model(
        batch["tokens"],
        batch["position_ids"],
        batch["attention_mask"],
        labels=batch["labels"],
        loss_mask=batch["loss_mask"],
    )
    return output, partial(loss_function, batch["loss_mask"])


if __name__ == "__main__":
    sys.argv[1:1] = flags
    datasets.is_distributed = True
    args = parse_and_validate_args(args_defaults={"tokenizer_type": "GPT2BPETokenizer"})
    from_args = (
        gpt_config_from_args if args.hybrid_layer_pattern is None else hybrid_config_from_args
    )
    pretrain(
        pretrain_cfg_container_from_args(args, from_args(args)),
        datasets,
        ModelType.encoder_or_decoder,
        forward_step,
    )
    # What the last evaluation logged would be lost with the writer's thread.
    if (writer := get_tensorboard_writer()) is not None:
        writer.flush()
