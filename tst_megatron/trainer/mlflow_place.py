"""Where a run's MLflow is (``--mlflow-experiment``), and whether it can be asked.

The one idea: a place that is misspelt, or away, is told before anything is trained; none that goes
away later ends a run (`mlflow_run`).
"""

import argparse
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tst_megatron.errors import UserError
from tst_megatron.trainer.places import has_scheme

RUN_VARIABLE = "MLFLOW_RUN_ID"
"""Of the environment: the run to go on in."""
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
_RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def check_flags(args: argparse.Namespace) -> None:
    """Check the flags by themselves.

    Raises:
        UserError: they name no experiment, no place, or a password.
    """
    if args.mlflow_experiment is None:
        for flag in ("run_name", "tracking_uri"):
            if getattr(args, f"mlflow_{flag}") is not None:
                raise UserError(
                    f"--mlflow-{flag.replace('_', '-')} is of an experiment: add "
                    "--mlflow-experiment"
                )
        return
    uri = uri_of(args)
    if uri is None:
        raise UserError(
            "--mlflow-experiment needs a place: add --mlflow-tracking-uri, such as "
            "http://server:5000 or sqlite:////folder/mlflow.db, or a --save folder for a file there"
        )
    if urlsplit(uri).password is not None and args.mlflow_tracking_uri is not None:
        raise UserError(
            "--mlflow-tracking-uri has a password, which ledger and checkpoints would keep: give "
            "it in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def uri_of(args: argparse.Namespace) -> str | None:
    """Where runs are tracked: the flag, MLflow's own variable, a file beside the checkpoints.

    None where there is none of them.
    """
    named = args.mlflow_tracking_uri or os.environ.get(_URI_VARIABLE)
    if named or not args.save or has_scheme(args.save):
        return named or None
    return f"sqlite:///{Path(args.save).absolute()}/mlflow.db"


def check_is_there(args: argparse.Namespace) -> None:
    """Check that the place can be asked for the experiment, which is made where it is new.

    Raises:
        UserError: it cannot.
    """
    uri = uri_of(args)
    assert uri is not None, "flags are checked before"
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(_RETRIES_VARIABLE)
    # MLflow's own patience, of minutes, is for runs that are at work.
    os.environ[_RETRIES_VARIABLE] = before or "1"
    try:
        client = client_of(uri)
        experiment_of(client, args.mlflow_experiment)
        if (named := os.environ.get(RUN_VARIABLE)) is not None:
            client.get_run(named)
    except Exception as error:  # Its clients raise what their libraries raise.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"MLflow at {shown(uri)} cannot be asked for the experiment or run: {reason}"
        ) from None
    finally:
        if before is None:
            del os.environ[_RETRIES_VARIABLE]


def shown(uri: str) -> str:
    """Without a user's name and password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri


def client_of(uri: str) -> Any:
    """MLflow's client of a place."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def experiment_of(client: Any, name: str) -> str:
    """The id of an experiment, which is made where it is new."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except Exception:  # As another node has just made it, or for a reason that is told below.
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    return str(found.experiment_id)
