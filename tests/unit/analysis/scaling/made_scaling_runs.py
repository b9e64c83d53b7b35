"""Tables of runs made from a known law, with levels by seed."""

from pathlib import Path

import numpy as np

E, A, ALPHA, B, BETA, WORTH = 1.0, 60.0, 0.33, 300.0, 0.36, 2.0
METHOD = "bags of 4 for 30 %"
SIZES = (51_360, 156_000, 525_000, 2_070_000)
LENGTHS = (1.8e6, 7.2e6, 28.7e6)
FLOPS = 5.7


def loss_of(n: float, d: float, worth: float = 1.0) -> float:
    return float(E + A * n**-ALPHA + B * (worth * d) ** -BETA)


def table(
    path: Path,
    level: float = 0.0,
    noise: float = 0.0,
    sizes: tuple[int, ...] = SIZES,
    seeds: int = 3,
) -> Path:
    """Written with a row a run; relative scatter of `level` by seed and `noise` by run."""
    rng = np.random.default_rng(7)
    levels = rng.normal(0, level, seeds)
    rows = ["name,params,tokens,loss,setting,seed,flops,learning_rate"]
    for n in sizes:
        for d in LENGTHS:
            for setting, worth in (("", 1.0), (METHOD, WORTH)):
                for seed in range(seeds):
                    loss = float(loss_of(n, d, worth) * np.exp(levels[seed] + rng.normal(0, noise)))
                    name = f"{n}-{d:g}-{worth:g}-{seed}"
                    rate = f"{3e-3 * (5e4 / n) ** 0.5:.3g}"
                    rows.append(f"{name},{n},{d},{loss!r},{setting},{seed},{FLOPS * n * d},{rate}")
    path.write_text("\n".join(rows) + "\n")
    return path
