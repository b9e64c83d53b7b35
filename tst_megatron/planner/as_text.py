"""A plan and a sweep as tables, for a terminal or a log file.

The one idea: a figure stands once, with its unit, in the order in which it is asked for: does it
fit, how long will it take, what will it read.
"""

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table

from tst_megatron.planner.hardware import GB
from tst_megatron.planner.plan import GpuPlan, RunPlan
from tst_megatron.planner.sweep import Swept, Tried
from tst_megatron.runs.stages import ORDINARY

_HOUR = 3600.0
_MOST_LAYOUTS = 20
_PREDICTED = "predicted, not compared with a GPU"


def print_plan(console: Console, name: str | None, plan: RunPlan) -> None:
    """Print a plan.

    Args:
        console: where to.
        name: the recipe's.
        plan: what to print.
    """
    layout = plan.layout
    splits = {
        "TP": layout["tensor"],
        "PP": layout["pipeline"],
        "virtual": layout["virtual_stages"],
        "CP": layout["context"],
        "EP": layout["expert"],
        "ETP": layout["expert_tensor"],
        "DP": layout["data"],
    }
    sizes = " ".join(f"{axis} {size}" for axis, size in splits.items() if size > 1)
    console.print(
        f"{name or 'The run'} on {plan.num_gpus} x {plan.gpu.name}: {sizes or 'one GPU'}; "
        f"{layout['precision']}; micro batch {layout['micro_batch_size']} x "
        f"{layout['micro_batches']} micro batches; recomputation {layout['recomputation']}"
    )
    console.print(_parameters(plan))
    console.print(_memory(plan))
    console.print(_verdict(plan))
    console.print(_recomputation(plan))
    console.print(_schedule(plan))
    console.print(_work(plan))
    console.print(_time(plan))
    if plan.collectives:
        console.print(_collectives(plan))
    console.print(
        f"A checkpoint: {plan.checkpoint_bytes / GB:,.1f} GB, "
        f"{plan.checkpoint_bytes / plan.assumptions.storage:,.0f} s at "
        f"{plan.assumptions.storage / GB:g} GB/s."
    )
    for note in plan.notes:
        console.print(f"Note: {note}.")


def print_sweep(console: Console, name: str | None, swept: Swept) -> None:
    """Print a sweep: the fastest layouts that fit, and why others do not.

    Args:
        console: where to.
        name: the recipe's.
        swept: what to print.
    """
    fitting = [one for one in swept.tried if one.fits]
    others = [one for one in swept.tried if not one.fits]
    console.print(
        f"{name or 'The run'} on {swept.num_gpus} x {swept.gpu.name}: {len(fitting)} layouts fit, "
        f"{len(others)} do not."
    )
    if fitting:
        console.print(_layouts(fitting[:_MOST_LAYOUTS]))
        if len(fitting) > _MOST_LAYOUTS:
            console.print(f"and {len(fitting) - _MOST_LAYOUTS} slower ones: --json has all.")
    if others:
        console.print(_misfits(others[:_MOST_LAYOUTS]))
        if len(others) > _MOST_LAYOUTS:
            console.print(f"and {len(others) - _MOST_LAYOUTS} that need more: --json has all.")


def _table(title: str, columns: Iterable[str]) -> Table:
    """The first column is text, the others figures."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    return table


def _parameters(plan: RunPlan) -> Table:
    table = _table("Parameters", ("", "millions"))
    counted = plan.parameters
    rows = {
        "all": counted.total,
        "active for a position": counted.active,
        **{f"  {kind.replace('_', ' ')}": number for kind, number in counted.by_kind.items()},
    }
    for name, number in rows.items():
        table.add_row(name, f"{number / 1e6:,.1f}")
    return table


_KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "batch", "transient")


def _memory(plan: RunPlan) -> Table:
    table = _table("Memory of a GPU, GB", ("ranks", "parameters", *_KINDS, "total"))
    for stage in plan.gpus:
        table.add_row(
            _ranks(stage),
            f"{stage.built.parameters / 1e6:,.0f} M",
            *(f"{getattr(stage.memory, kind) / GB:.2f}" for kind in _KINDS),
            f"{stage.memory.total / GB:.2f}",
        )
    return table


def _ranks(stage: GpuPlan) -> str:
    ranks = stage.built.ranks
    return f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _verdict(plan: RunPlan) -> str:
    worst = plan.worst
    total, reserve = worst.memory.total / GB, plan.assumptions.reserve
    return (
        f"{'Fits' if plan.fits else 'DOES NOT FIT'}: the fullest is rank {worst.built.ranks[0]} "
        f"(pipeline stage {worst.stage}) with {total:.1f} GB of {plan.available / GB:.1f} GB, "
        f"which is a {plan.gpu.name}'s {plan.gpu.memory / GB:g} GB less {reserve:.0%} in reserve."
    )


def _recomputation(plan: RunPlan) -> Table:
    worst = plan.worst
    table = _table(
        f"Rank {worst.built.ranks[0]} by recomputation, GB", ("", "activations", "total", "fits")
    )
    rest = worst.memory.total - worst.memory.activations
    for name, number in worst.by_recomputation.items():
        table.add_row(
            name,
            f"{number / GB:.2f}",
            f"{(rest + number) / GB:.2f}",
            "yes" if rest + number <= plan.available else "no",
        )
    return table


def _schedule(plan: RunPlan) -> Table:
    table = _table(
        "Schedule",
        (
            "stage",
            "steps",
            "positions a step",
            "data tokens a step",
            "data tokens",
            "PFLOPs a step",
        ),
    )
    for step in plan.steps:
        name = step.stage.name
        table.add_row(
            "ordinary" if name == ORDINARY else name,
            f"{step.steps:,}",
            f"{step.positions:,}",
            f"{step.data_tokens:,}",
            f"{step.stage_data_tokens / 1e9:,.1f} B",
            f"{step.work.total / 1e15:,.2f}",
        )
    table.add_row(
        "all",
        f"{sum(step.steps for step in plan.steps):,}",
        "",
        "",
        f"{plan.data_tokens / 1e9:,.1f} B",
        "",
    )
    return table


def _work(plan: RunPlan) -> Table:
    work = plan.heaviest.work
    table = _table("Operations of a step", ("", "PFLOPs", "share"))
    for kind, number in work.by_kind.items():
        if number:
            table.add_row(
                kind.replace("_", " "), f"{number / 1e15:,.3f}", f"{number / work.total:.1%}"
            )
    again = sum(work.again.values())
    if again:
        table.add_row("recomputed", f"{again / 1e15:,.3f}", f"+{again / work.total:.1%}")
    return table


def _time(plan: RunPlan) -> Table:
    trust, time = plan.assumptions, plan.time
    table = _table("Time", ("", "step, s", "GPU hours", "hours", "utilisation"))
    hours = plan.gpu_hours
    steps = sum(step.steps for step in plan.steps)
    table.add_row(
        f"at a utilisation of {trust.mfu:.0%} (--mfu)",
        f"{hours / plan.num_gpus * _HOUR / steps:.3f}",
        f"{hours:,.0f}",
        f"{hours / plan.num_gpus:,.1f}",
        f"{trust.mfu:.1%}",
    )
    predicted = plan.gpu_hours_at_peak / plan.predicted_mfu
    table.add_row(
        f"products at {trust.efficiency:.0%} of the peak (--efficiency), {_PREDICTED}",
        f"{time.total:.3f}",
        f"{predicted:,.0f}",
        f"{predicted / plan.num_gpus:,.1f}",
        f"{plan.predicted_mfu:.1%}",
    )
    for name, seconds in (
        ("  products", time.products),
        ("  communication that nothing hides", time.communication),
        (f"  pipeline bubble, {plan.bubble:.1%}", time.bubble),
    ):
        table.add_row(name, f"{seconds:.3f}", "", "", "")
    return table


def _collectives(plan: RunPlan) -> Table:
    rank = plan.gpus[plan.collectives_stage].built.ranks[0]
    table = _table(
        f"Collectives of a step on rank {rank}; times {_PREDICTED}",
        ("", "over", "calls", "NVLink, GB", "network, GB", "ms", "hidden behind"),
    )
    for one in plan.collectives:
        nodes = f" on {one.group.nodes} nodes" if one.group.nodes > 1 else ""
        table.add_row(
            f"{one.what} ({one.kind.replace('_', '-')})",
            f"{one.group.name} {one.group.size}{nodes}",
            f"{one.calls:,}",
            f"{one.nvlink_bytes / GB:.3f}",
            f"{one.network_bytes / GB:.3f}",
            f"{one.seconds(plan.gpu) * 1e3:.2f}",
            one.behind,
        )
    return table


def _layouts(fitting: Iterable[Tried]) -> Table:
    table = _table(
        f"Layouts that fit, the fastest first; times {_PREDICTED}",
        ("", "micro batch", "recomputation", "GB", "step, s", "products", "waits", "bubble"),
    )
    for one in fitting:
        assert one.memory is not None
        assert one.time is not None
        table.add_row(
            str(one.layout),
            f"{one.layout.micro_batch_size}",
            one.layout.recomputation,
            f"{one.memory.total / GB:.1f}",
            f"{one.time.total:.3f}",
            f"{one.time.products:.3f}",
            f"{one.time.communication:.3f}",
            f"{one.time.bubble:.3f}",
        )
    return table


def _misfits(others: Iterable[Tried]) -> Table:
    table = Table(
        title="Layouts that do not", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("")
    table.add_column("why")
    for one in others:
        table.add_row(str(one.layout), one.reason)
    return table
