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
from http import HTTPStatus
from itertools import batched
from pathlib import Path
from typing import Any

from tst_megatron.files import write_whole
from tst_megatron.methods.events import Listener, Progress, Scalar
from tst_megatron.trainer.mlflow_place import RUN_VARIABLE, client_of, experiment_of, shown, uri_of
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
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
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
        # The thread's own.
        self._client: Any = None
        self._run_id: str | None = None
        self._parameters: list[list[tuple[str, str]]] = []
        self._waiting: list[_Figure] = []
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
        """The thread: until all is sent that can be."""
        while not self._is_over.wait(_INTERVAL_S):
            self._send_some()
        while not self._send_some() and threading.main_thread().is_alive():
            time.sleep(_INTERVAL_S)
        if self._client is not None:
            ended = partial(self._client.set_terminated, self._run_id, self._status)
            _answer(ended, "the run's end")

    def _send_some(self) -> bool:
        """Send what there is, flags first; whether nothing is left."""
        self._waiting.extend(self._taken())
        if (lost := len(self._waiting) - _MOST_UNSENT) > 0:
            logger.warning("MLflow is away: the oldest %d figures are dropped", lost)
            self._waiting = self._waiting[lost:]
        if self._client is None and _answer(self._open, "the run") is None:
            return False
        while self._parameters:
            if not self._sent(self._parameters[0], "some of the run's flags", params=True):
                return False
            del self._parameters[0]
        while self._waiting:
            if not self._sent(self._waiting[:_AT_ONCE], "figures"):
                return False
            del self._waiting[:_AT_ONCE]
        return True

    def _sent(self, some: Sequence[tuple[Any, ...]], what: str, params: bool = False) -> bool:
        """Whether a batch is done with: taken, or refused as it is, so that it would be again."""
        from mlflow.entities import Metric, Param

        name, kind = ("params", Param) if params else ("metrics", Metric)
        try:
            self._client.log_batch(self._run_id, **{name: [kind(*one) for one in some]})
        except Exception as error:  # Its clients raise what their libraries raise.
            _tell(error, what)
            return _is_refusal(error)
        return True

    def _taken(self) -> Iterator[_Figure]:
        """What has come since it was asked last."""
        with suppress(queue.Empty):
            while True:
                yield self._unsent.get_nowait()

    def _open(self) -> bool:
        """Open the run that this one goes on in, or a new one."""
        args, uri = self._args, uri_of(self._args)
        assert uri is not None, "flags are checked before"
        client = client_of(uri)
        kept = Path(args.save) / _KEPT if args.save and not has_scheme(args.save) else None
        experiment = experiment_of(client, args.mlflow_experiment)
        if self._run_id is None:
            before = os.environ.get(RUN_VARIABLE)
            if before is None and args.iteration and kept is not None:
                before = _read(kept, uri, experiment)
            if before is not None and _goes_on(client, before):
                self._run_id = before
        if self._run_id is None:
            tags = {"mlflow.source.name": "tst-megatron"}
            if args.recipe is not None:
                tags["recipe"] = str(args.recipe["name"])
            run = client.create_run(experiment, run_name=args.mlflow_run_name, tags=tags)
            self._run_id = str(run.info.run_id)
            self._parameters = list(map(list, batched(_flags(args), _PARAMETERS_AT_ONCE)))
            if kept is not None:
                _keep(kept, shown(uri), experiment, self._run_id)
        self._client = client
        return True


def _goes_on(client: Any, run_id: str) -> bool:
    """Whether a run is still there, and open again; where somebody has deleted it, it stays so."""
    try:
        is_there = client.get_run(run_id).info.lifecycle_stage == "active"
    except Exception as error:  # Its clients raise what their libraries raise.
        if not _is_refusal(error):
            raise  # It is away, and is asked again.
        is_there = False
    if not is_there:
        logger.warning("MLflow's run %s is gone, so a new one begins", run_id)
        return False
    client.update_run(run_id, status="RUNNING")
    return True


def _keep(kept: Path, uri: str, experiment: str, run_id: str) -> None:
    """Write down which run it is; without that a resumed one is another there, and no less."""
    told = {"tracking_uri": uri, "experiment_id": experiment, "run_id": run_id}
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(told, indent=2) + "\n")
    except OSError as error:
        logger.warning("%s cannot be written: %s", kept, error.strerror or error)


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


def _flags(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for name, value in sorted(vars(args).items()):
        if value is not None:
            yield _allowed(name), str(value)[:_LONGEST_VALUE]


def _answer[Answer](ask: Callable[[], Answer], what: str) -> Answer | None:
    """What MLflow answers; None where it does not, of which the log tells."""
    try:
        return ask()
    except Exception as error:  # Its clients raise what their libraries raise.
        _tell(error, what)
        return None


def _tell(error: Exception, what: str) -> None:
    logger.warning("MLflow did not take %s: %s", what, " ".join(str(error).split())[:200])


def _is_refusal(error: Exception) -> bool:
    """Whether a request is wrong, so that the same one would be refused again."""
    status = getattr(error, "get_http_status_code", lambda: 0)()
    return HTTPStatus(400) <= status < HTTPStatus(500) and status not in _LATER


def _allowed(name: str) -> str:
    """A name with the characters that MLflow takes."""
    return "".join(one if one.isalnum() or one in "_-. /" else "_" for one in name)
