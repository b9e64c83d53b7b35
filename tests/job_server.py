"""Start torchrun jobs from a process that has imported Megatron once.

Most of a small job is importing Megatron, in every rank. This server imports it and waits; every
job is a fork of it that runs torchrun's own agent (``torch.distributed.launcher``), whose workers
are forks in turn. Rendezvous, process groups, environment and exit codes are torchrun's.

Used by ``trainer.py``; ``python job_server.py SOCKET`` serves until its standard input closes.
"""

import os
import runpy
import signal
import sys
import traceback
from multiprocessing.connection import Connection, Listener
from typing import Any


def work(program: tuple[str, ...], flags: tuple[str, ...]) -> None:
    """One rank: what ``python [-m] program flags`` does."""
    if program[0] == "-m":
        sys.argv = [program[1], *program[2:], *flags]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*program, *flags]
        runpy.run_path(program[0], run_name="__main__")


def launch(program: tuple[str, ...], flags: tuple[str, ...], num_ranks: int) -> int:
    """The job's exit code: 0, or that of the rank that failed first."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        start_method="fork",
        monitor_interval=0.1,
        max_restarts=0,
    )
    try:
        elastic_launch(config, work)(program, flags)
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    return 0


def _serve_one(connection: Connection) -> None:
    """In a fork: do the job that the connection describes, and answer with its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    connection.send(os.getpid())
    job: dict[str, Any] = connection.recv()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(job["environment"])
    # A new interpreter would have read it.
    added = job["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder for folder in added if folder and folder not in sys.path]
    os.chdir(job["folder"])
    code = 1
    try:
        if job["torchrun"]:
            code = launch(job["program"], job["flags"], job["num_ranks"])
        else:
            work(job["program"], job["flags"])
            code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(code)
        os._exit(0)


def _import_everything() -> None:
    from tst_megatron.backends import prepare_backend

    prepare_backend()
    # With transformers: a run imports it to make its tokenizer, which is half of a small run.
    import megatron.core.tokenizers.text
    import megatron.training.training  # noqa: F401
    import sentencepiece  # noqa: F401

    import tst_megatron.cli
    import tst_megatron.methods.superposition.model
    import tst_megatron.trainer.hooks
    import tst_megatron.trainer.pretrain  # noqa: F401


def main(socket: str) -> None:
    """Serve jobs until the client that holds our standard input is gone."""
    _import_everything()
    # Only now: a client may connect as soon as the socket exists.
    listener = Listener(socket, family="AF_UNIX", backlog=16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Ended forks are nobody's to wait for.
    server = os.getpid()
    if os.fork() == 0:
        sys.stdin.read()
        # Unless it is gone, and somebody else is our parent.
        if os.getppid() == server:
            os.kill(server, signal.SIGKILL)
        os._exit(0)
    while True:
        connection = listener.accept()
        if os.fork() == 0:
            _serve_one(connection)
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
