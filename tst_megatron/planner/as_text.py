"""A plan and a sweep as tables, for a terminal or a log file.

The one idea: a figure stands once, with its unit, in the order in which it is asked for: does it
fit, how long will it take, what will it read.
"""

from collections.abc import Iterable

from rich.console import Console

from tst_megatron.planner.hardware import GB
from tst_megatron.planner.plan import GpuPlan, RunPlan
from tst_megatron.planner.sweep import Swept, Tried
from tst_megatron.planner.traffic import Collective
from tst_megatron.report.table import Table, print_table
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
    console.print()
    print_table(console, _parameters(plan))
    print_table(console, _memory(plan))
    console.print(verdict(plan))
    console.print()
    for table in (_recomputation(plan), _schedule(plan), _work(plan), _time(plan)):
        print_table(console, table)
    if len(plan.balance.shares) > 1:
        shares = ", ".join(f"{share:.1%}" for share in plan.balance.shares)
        console.print(f"Of a step's work the pipeline stages do {shares}.")
        console.print()
    if plan.collectives:
        print_table(console, _collectives(plan))
    console.print(
        f"A checkpoint: {plan.checkpoint_bytes / GB:,.1f} GB, "
        f"{plan.checkpoint_bytes / plan.assumptions.storage:,.0f} s at "
        f"{plan.assumptions.storage / GB:g} GB/s."
    )
    for note in plan.notes:
        console.print(f"Note: {note}.")


def does_not_fit(plan: RunPlan) -> str:
    """What is said of a run that does not, without a full stop."""
    worst = plan.worst
    return (
        f"the run does not fit: rank {worst.built.ranks[0]} needs {worst.memory.total / GB:.1f} GB "
        f"of the {plan.available / GB:.1f} GB that are planned of a {plan.gpu.name}: see the "
        "layouts that fit with tst-megatron plan --sweep"
    )


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
    console.print()
    if fitting:
        print_table(console, _layouts(fitting[:_MOST_LAYOUTS]))
        if len(fitting) > _MOST_LAYOUTS:
            console.print(f"and {len(fitting) - _MOST_LAYOUTS} slower ones: --json has all.")
    if others:
        print_table(console, _misfits(others[:_MOST_LAYOUTS]))
        if len(others) > _MOST_LAYOUTS:
            console.print(f"and {len(others) - _MOST_LAYOUTS} that need more: --json has all.")


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """The first column is text, the others figures."""
    return Table(title, tuple(columns), tuple(map(tuple, rows)))


def _parameters(plan: RunPlan) -> Table:
    counted = plan.parameters
    numbers = {
        "all": counted.total,
        "active for a position": counted.active,
        **{f"  {kind.replace('_', ' ')}": number for kind, number in counted.by_kind.items()},
    }
    rows = ((name, f"{number / 1e6:,.1f}") for name, number in numbers.items())
    return _table("Parameters", ("", "millions"), rows)


_KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "batch", "transient")


def _memory(plan: RunPlan) -> Table:
    rows = (
        (
            _ranks(one),
            f"{one.built.parameters / 1e6:,.0f} M",
            *(f"{getattr(one.memory, kind) / GB:.2f}" for kind in _KINDS),
            f"{one.memory.total / GB:.2f}",
        )
        for one in plan.gpus
    )
    return _table("Memory of a GPU, GB", ("ranks", "parameters", *_KINDS, "total"), rows)


def _ranks(stage: GpuPlan) -> str:
    ranks = stage.built.ranks
    return f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def verdict(plan: RunPlan) -> str:
    """Whether the run fits, and which GPU is the fullest: a sentence."""
    worst = plan.worst
    total, reserve = worst.memory.total / GB, plan.assumptions.reserve
    return (
        f"{'Fits' if plan.fits else 'DOES NOT FIT'}: the fullest is rank {worst.built.ranks[0]} "
        f"(pipeline stage {worst.stage}) with {total:.1f} GB of {plan.available / GB:.1f} GB, "
        f"which is a {plan.gpu.name}'s {plan.gpu.memory / GB:g} GB less {reserve:.0%} in reserve."
    )


def _recomputation(plan: RunPlan) -> Table:
    worst = plan.worst
    rest = worst.memory.total - worst.memory.activations
    rows = (
        (
            name,
            f"{number / GB:.2f}",
            f"{(rest + number) / GB:.2f}",
            "yes" if rest + number <= plan.available else "no",
        )
        for name, number in worst.by_recomputation.items()
    )
    title = f"Rank {worst.built.ranks[0]} by recomputation, GB"
    return _table(title, ("", "activations", "total", "fits"), rows)


_SCHEDULE = (
    "stage",
    "steps",
    "positions a step",
    "data tokens a step",
    "data tokens",
    "PFLOPs a step",
)


def _schedule(plan: RunPlan) -> Table:
    rows = [
        (
            "ordinary" if step.stage.name == ORDINARY else step.stage.name,
            f"{step.steps:,}",
            f"{step.positions:,}",
            f"{step.data_tokens:,}",
            f"{step.stage_data_tokens / 1e9:,.1f} B",
            f"{step.work.total / 1e15:,.2f}",
        )
        for step in plan.steps
    ]
    steps = sum(step.steps for step in plan.steps)
    everything = ("all", f"{steps:,}", "", "", f"{plan.data_tokens / 1e9:,.1f} B", "")
    return _table("Schedule", _SCHEDULE, [*rows, everything])


def _work(plan: RunPlan) -> Table:
    work = plan.heaviest.work
    rows = [
        (kind.replace("_", " "), f"{number / 1e15:,.3f}", f"{number / work.total:.1%}")
        for kind, number in work.by_kind.items()
        if number
    ]
    if again := sum(work.again.values()):
        rows.append(("recomputed", f"{again / 1e15:,.3f}", f"+{again / work.total:.1%}"))
    return _table("Operations of a step", ("", "PFLOPs", "share"), rows)


def _time(plan: RunPlan) -> Table:
    trust, time, hours = plan.assumptions, plan.time, plan.gpu_hours
    steps = sum(step.steps for step in plan.steps)
    predicted = plan.gpu_hours_at_peak / plan.predicted_mfu
    rows = [
        (
            f"at a utilisation of {trust.mfu:.0%} (--mfu)",
            f"{hours / plan.num_gpus * _HOUR / steps:.3f}",
            f"{hours:,.0f}",
            f"{hours / plan.num_gpus:,.1f}",
            f"{trust.mfu:.1%}",
        ),
        (
            f"products at {trust.efficiency:.0%} of the peak (--efficiency), {_PREDICTED}",
            f"{time.total:.3f}",
            f"{predicted:,.0f}",
            f"{predicted / plan.num_gpus:,.1f}",
            f"{plan.predicted_mfu:.1%}",
        ),
        ("  products", f"{time.products:.3f}", "", "", ""),
        ("  communication that nothing hides", f"{time.communication:.3f}", "", "", ""),
        (f"  pipeline bubble, {plan.bubble:.1%}", f"{time.bubble:.3f}", "", "", ""),
    ]
    return _table("Time", ("", "step, s", "GPU hours", "hours", "utilisation"), rows)


def _collectives(plan: RunPlan) -> Table:
    rank = plan.gpus[plan.collectives_stage].built.ranks[0]
    return _table(
        f"Collectives of a step on rank {rank}; times {_PREDICTED}",
        ("", "over", "calls", "NVLink, GB", "network, GB", "ms", "hidden behind"),
        (_collective(one, plan) for one in plan.collectives),
    )


def _collective(one: Collective, plan: RunPlan) -> tuple[str, ...]:
    nodes = f" on {one.group.nodes} nodes" if one.group.nodes > 1 else ""
    return (
        f"{one.what} ({one.kind.replace('_', '-')})",
        f"{one.group.name} {one.group.size}{nodes}",
        f"{one.calls:,}",
        f"{one.nvlink_bytes / GB:.3f}",
        f"{one.network_bytes / GB:.3f}",
        f"{one.seconds(plan.gpu) * 1e3:.2f}",
        one.behind,
    )


def _layouts(fitting: Iterable[Tried]) -> Table:
    return _table(
        f"Layouts that fit, the fastest first; times {_PREDICTED}",
        ("", "micro batch", "recomputation", "GB", "step, s", "products", "waits", "bubble"),
        map(_layout, fitting),
    )


def _layout(one: Tried) -> tuple[str, ...]:
    assert one.memory is not None
    assert one.time is not None
    return (
        str(one.layout),
        f"{one.layout.micro_batch_size}",
        one.layout.recomputation,
        f"{one.memory.total / GB:.1f}",
        f"{one.time.total:.3f}",
        f"{one.time.products:.3f}",
        f"{one.time.communication:.3f}",
        f"{one.time.bubble:.3f}",
    )


def _misfits(others: Iterable[Tried]) -> Table:
    rows = ((str(one.layout), one.reason) for one in others)
    return Table.of_words(("", "why"), rows, "Layouts that do not")
