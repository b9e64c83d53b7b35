"""A run's figures in MLflow (``--mlflow-experiment``), on the last rank, where TensorBoard's are.

The one idea: no step waits for a server, and none that is away ends a run. Figures go to a thread,
which sends them some at a time and keeps those that could not be sent.
"""

import argparse
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import batched
from pathlib import Path
from typing import Any

from tst_megatron.files import write_whole
from tst_megatron.methods.events import Listener, Progress, Scalar
from tst_megatron.trainer.mlflow_place import client_of, experiment_of, shown, uri_of
from tst_megatron.trainer.places import has_scheme
from tst_megatron.trainer.trackers import listen

logger = logging.getLogger(__name__)

_KEPT = "mlflow.json"
"""In ``--save``: which run it is, so that a resumed one goes on in it."""
type _Figure = tuple[str, float, int, int]
"""Name, value, milliseconds since the epoch, step: as ``mlflow.entities.Metric`` takes them."""

_INTERVAL_S = 5.0
_AT_ONCE = 1_000  # Metrics of a request, by MLflow's REST API; of parameters a tenth.
_PARAMETERS_AT_ONCE, _LONGEST_VALUE = 100, 500
_MOST_UNSENT = 200_000
_LAST_S = 60.0
"""For what is unsent when the run ends."""


class MlflowRun(Listener):
    """Gives MLflow what TensorBoard gets, until the run ends.

    Args:
        args: Megatron's validated arguments, with an experiment.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._unsent: queue.SimpleQueue[_Figure] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()
        self._status = "FINISHED"
        self._last_step = 0

    def add_scalar(self, name: str, value: Any, step: int) -> None:
        """As `trackers.Tracker`."""
        self._unsent.put((_allowed(name), float(value), int(time.time() * 1000), step))

    def started(self, model: list[Any]) -> None:
        """Listen."""
        listen(self)
        self._last_step = int(self._args.iteration)
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
        self._thread.start()

    def stepped(self, progress: Progress, scalar: Scalar) -> None:
        """Remember how far it is."""
        self._last_step = progress.step

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While the run trains: how it ends is told, and what is unsent is sent."""
        try:
            yield
        except SystemExit as stop:
            self._status = "FAILED" if stop.code else "FINISHED"
            raise
        except KeyboardInterrupt:
            self._status = "KILLED"
            raise
        except BaseException:
            self._status = "FAILED"
            raise
        finally:
            self._close()

    def _close(self) -> None:
        if self._thread is None:
            return
        is_short = self._args.train_iters is None or self._last_step < self._args.train_iters
        if self._status == "FINISHED" and is_short:
            # Cut off on purpose, with a checkpoint: MLflow has no other word for it.
            self._status = "KILLED"
        self._is_over.set()
        self._thread.join(_LAST_S)
        if self._thread.is_alive():
            logger.warning("MLflow did not take the last figures in %.0f s", _LAST_S)

    def _send(self) -> None:
        """The thread."""
        while (opened := _answer(self._opened, "the run")) is None:
            if self._is_over.wait(_INTERVAL_S):
                return
        client, run_id, is_new = opened
        if is_new:
            _answer(partial(_send_parameters, client, run_id, self._args), "the run's flags")
        waiting: list[_Figure] = []
        is_last = False
        while not is_last:
            is_last = self._is_over.wait(_INTERVAL_S)
            waiting += self._taken()
            while waiting:
                some = waiting[:_AT_ONCE]
                if _answer(partial(_send_figures, client, run_id, some), "figures") is None:
                    break
                waiting = waiting[_AT_ONCE:]
            if len(waiting) > _MOST_UNSENT:
                logger.warning("MLflow is away: %d figures are dropped", len(waiting))
                waiting = []
        _answer(partial(client.set_terminated, run_id, self._status), "the run's end")

    def _taken(self) -> Iterator[_Figure]:
        """What has come since it was asked last."""
        with suppress(queue.Empty):
            while True:
                yield self._unsent.get_nowait()

    def _opened(self) -> tuple[Any, str, bool]:
        """A client, and the id of the run that this one goes on in, or of a new one."""
        args, uri = self._args, uri_of(self._args)
        assert uri is not None, "flags are checked before"
        client = client_of(uri)
        kept = Path(args.save) / _KEPT if args.save and not has_scheme(args.save) else None
        experiment = experiment_of(client, args.mlflow_experiment)
        before = os.environ.get("MLFLOW_RUN_ID")
        if before is None and args.iteration and kept is not None:
            before = _read(kept, uri, experiment)
        if before is not None:
            client.update_run(before, status="RUNNING")
            return client, before, False
        tags = {"mlflow.source.name": "tst-megatron"}
        if args.recipe is not None:
            tags["recipe"] = str(args.recipe["name"])
        run = client.create_run(experiment, run_name=args.mlflow_run_name, tags=tags)
        run_id = str(run.info.run_id)
        if kept is not None:
            told = {"tracking_uri": shown(uri), "experiment_id": experiment, "run_id": run_id}
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, json.dumps(told, indent=2) + "\n")
        return client, run_id, True


def _read(kept: Path, uri: str, experiment: str) -> str | None:
    """The run that a checkpoint's folder is of; None where it is tracked elsewhere now."""
    try:
        told = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict):
        return None
    is_there = (told.get("tracking_uri"), told.get("experiment_id")) == (shown(uri), experiment)
    return str(told["run_id"]) if is_there and told.get("run_id") else None


def _send_figures(client: Any, run_id: str, figures: Sequence[_Figure]) -> bool:
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(*one) for one in figures])
    return True


def _send_parameters(client: Any, run_id: str, args: argparse.Namespace) -> None:
    from mlflow.entities import Param

    found = [
        Param(_allowed(name), str(value)[:_LONGEST_VALUE])
        for name, value in sorted(vars(args).items())
        if value is not None
    ]
    for some in batched(found, _PARAMETERS_AT_ONCE):
        client.log_batch(run_id, params=list(some))


def _answer[Answer](ask: Callable[[], Answer], what: str) -> Answer | None:
    """What MLflow answers; None where it does not, of which the log tells."""
    try:
        return ask()
    except Exception as error:  # Its clients raise what their libraries raise.
        logger.warning("MLflow did not take %s: %s", what, " ".join(str(error).split())[:200])
        return None


def _allowed(name: str) -> str:
    """A name with the characters that MLflow takes."""
    return "".join(one if one.isalnum() or one in "_-. /" else "_" for one in name)
