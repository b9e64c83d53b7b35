"""The logits of an exported folder's model as transformers computes them, in float32.

``python -m tst_megatron.huggingface.transformers_logits FOLDER TOKENS.npy LOGITS.npy``

In a process of its own: nothing of Megatron is imported in it.
"""

import sys
from pathlib import Path


def _main(folder: str, tokens: str, logits: str) -> None:
    import numpy as np
    import torch

    from tst_megatron.huggingface.folder import load_model

    model = load_model(Path(folder), torch.float32)
    ids = torch.from_numpy(np.load(tokens))
    with torch.no_grad():
        rows = [model(one[None]).logits[0].float() for one in ids]
    with Path(logits).open("wb") as file:
        np.save(file, torch.stack(rows).numpy())


if __name__ == "__main__":
    _main(*sys.argv[1:])
