"""A server of MLflow's that goes away for a while: no figure is lost, and no step waits.

Skipped where MLflow is not installed; `make test-trackers` has it.
"""

import json
import os
import threading
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

if not os.environ.get("TST_MEGATRON_NEEDS_TRACKERS"):
    pytest.importorskip("mlflow")

from tst_megatron.trainer import mlflow_run

AWAY = 503


class Server(BaseHTTPRequestHandler):
    """As much of MLflow's REST API as a run asks, by its documentation."""

    figures: ClassVar[list[dict[str, Any]]] = []
    parameters: ClassVar[dict[str, str]] = {}
    statuses: ClassVar[list[str]] = []
    refused = 0
    is_away = False

    def do_GET(self) -> None:
        self._send(200, {"experiment": {"experiment_id": "7", "name": "mine"}})

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        here = type(self)
        if here.is_away:
            here.refused += 1
            self._send(AWAY, {})
        elif self.path.endswith("runs/create"):
            info = {"run_id": "r1", "experiment_id": "7", "status": "RUNNING"}
            self._send(200, {"run": {"info": info, "data": {}}})
        elif self.path.endswith("runs/log-batch"):
            here.figures += told.get("metrics", [])
            here.parameters |= {one["key"]: one["value"] for one in told.get("params", [])}
            self._send(200, {})
        else:
            here.statuses.append(told["status"])
            self._send(200, {"run_info": {"run_id": "r1"}})

    def _send(self, code: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def place(monkeypatch) -> Iterator[str]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_run, "_INTERVAL_S", 0.05)
    monkeypatch.setattr(mlflow_run, "listen", lambda tracker: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def wait_for(answer: Any) -> None:
    over = threading.Event()
    for _ in range(600):
        if answer():
            return
        over.wait(0.05)
    raise AssertionError("it did not come")


def test_what_could_not_be_sent_is_sent_later(place: str) -> None:
    args = Namespace(
        **{"mlflow_experiment": "mine", "mlflow_run_name": "a", "mlflow_tracking_uri": place},
        **{"save": None, "iteration": 0, "recipe": None, "train_iters": 2_500, "lr": 1e-3},
    )
    tracker = mlflow_run.MlflowRun(args)
    with tracker.at_work():
        tracker.started([])
        tracker.add_scalar("lm loss", 2.0, 1)
        wait_for(lambda: Server.figures)
        Server.is_away = True
        for step in range(2, 2_501):
            tracker.add_scalar("lm loss [a:b]", 1.0, step)
        wait_for(lambda: Server.refused > 1)
        Server.is_away = False
        tracker._last_step = 2_500
    assert [int(one["step"]) for one in Server.figures] == list(range(1, 2_501))
    assert {one["key"] for one in Server.figures} == {"lm loss", "lm loss _a_b_"}
    assert Server.parameters["lr"] == "0.001"
    assert Server.statuses == ["FINISHED"]
