"""The scripts of launch/: what they start, in which order, and what they end with.

They run in a scratch project whose Python is a recording fake, so nothing is installed and nothing trains here.
"""

import os
import re
import time

import pytest

from tests.cli.scratch import ROOT, Project, executable

SCRIPTS = ("setup", "test", "quickstart", "local", "multi_node")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_header_of_the_script_and_starts_nothing(bare: Project, script: str) -> None:
    done = bare.run(f"launch/{script}.sh", "--help")
    assert (done.returncode, done.stderr, bare.started()) == (0, "", [])
    assert f"bash launch/{script}.sh" in done.stdout
    assert "set -euo" not in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("#")]


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("setup", ["gpu"], "setup: unknown argument 'gpu'"),
        ("setup", ["--torch"], "setup: --torch: want a version such as 2.13, got nothing"),
        ("quickstart", ["--fast"], "quickstart: unknown argument '--fast'"),
        ("quickstart", ["sasrec_beauty"], "quickstart: want KEY=VALUE, got 'sasrec_beauty'"),
        ("quickstart", ["--config-dir"], "quickstart: --config-dir: want a folder, got nothing"),
        ("local", [], "local: want a COMMAND, got nothing"),
        ("local", ["-n", "0", "train"], "local: -n: want a number of processes, got '0'"),
        ("local", ["-n"], "local: -n: want a number of processes, got ''"),
        ("local", ["--numa", "all"], "local: --numa: want node, socket, exclusive or core-complex, got 'all'"),
        ("local", ["--nodes", "2"], "local: unknown argument '--nodes'"),
        (
            "local",
            ["prepare"],
            "local: want train, evaluate, export or explore, got 'prepare'; other commands are one process",
        ),
        ("local", ["export"], "local: export is not there yet"),
        ("multi_node", [], "multi_node: want a COMMAND, got nothing"),
        ("multi_node", ["plan"], "multi_node: want train or evaluate, got 'plan'; other commands are one process"),
        ("multi_node", ["train"], "multi_node: HOSTS: want a number of hosts or SMALLEST:LARGEST, got ''"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_starts(
    bare: Project, script: str, arguments: list[str], said: str
) -> None:
    done = bare.run(f"launch/{script}.sh", *arguments)
    assert (done.returncode, done.stdout, bare.started()) == (2, "", [])
    assert done.stderr.startswith(said)


# setup.sh


def test_setup_makes_a_venv_and_marks_it_complete(bare: Project) -> None:
    done = bare.run("launch/setup.sh")
    assert done.returncode == 0, done.stderr
    installs = [line for line in bare.started("-m pip") if " install " in line]
    pip = "-m pip --disable-pip-version-check --quiet install"
    assert installs == [
        f"{pip} torch==2.13.0 tensordict torchmetrics==1.0.3 tqdm pyre-extensions iopath",
        f"{pip} --no-deps fbgemm-gpu-cpu==1.8.0 torchrec==1.8.0",
        f"{pip} -e .[dev]",
    ]
    assert (bare.root / ".venv" / "complete").read_text().startswith("cpu 2.13 ")


def test_setup_without_what_tests_need_stays_so_until_tests_run(bare: Project) -> None:
    installs = "-m pip --disable-pip-version-check --quiet install -e "
    assert bare.run("launch/setup.sh", "cpu", "--no-dev").returncode == 0
    assert bare.started(installs) == [f"{installs}."]
    assert (bare.run("launch/setup.sh").returncode, bare.started()) == (0, [])
    assert bare.run("launch/test.sh").returncode == 0
    assert bare.started(installs) == [f"{installs}.[dev]"]


def test_a_second_setup_does_nothing_at_once(project: Project) -> None:
    began = time.monotonic()
    done = project.run("launch/setup.sh")
    assert (done.returncode, done.stdout, done.stderr, project.started()) == (0, "", "", [])
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("step", ["torch==", "--no-deps", "-e .[dev]", "versions.check()", "import fbgemm_gpu"])
def test_a_setup_that_failed_is_not_complete_and_the_next_one_goes_on(bare: Project, step: str) -> None:
    assert bare.run("launch/setup.sh", FAKE_FAILS=step).returncode == 1
    assert not (bare.root / ".venv" / "complete").exists()
    assert bare.run("launch/setup.sh").returncode == 0
    # the .venv itself was whole and is kept
    assert bare.started("-m venv") == []


def test_setup_takes_the_cuda_build_where_there_is_a_gpu_unless_told_otherwise(bare: Project) -> None:
    executable(bare.elsewhere / "bin" / "nvidia-smi", "#!/usr/bin/env bash\necho 'GPU 0: NVIDIA H100'\n")
    assert bare.run("launch/setup.sh").returncode == 0
    assert [line for line in bare.started() if "fbgemm-gpu==1.8.0" in line]
    assert bare.run("launch/setup.sh", "cpu").returncode == 0
    assert [line for line in bare.started() if "fbgemm-gpu-cpu==1.8.0" in line]


def test_what_an_earlier_setup_chose_stays_chosen(bare: Project) -> None:
    assert bare.run("launch/setup.sh", "cpu", "--torch", "2.11").returncode == 0
    assert [line for line in bare.started() if "fbgemm-gpu-cpu==1.6.0 torchrec==1.6.1" in line]
    assert bare.run("launch/test.sh").returncode == 0
    assert not [line for line in bare.started() if "pip" in line]
    # and after a change of the requirements
    with (bare.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert bare.run("launch/setup.sh").returncode == 0
    assert [line for line in bare.started() if "fbgemm-gpu-cpu==1.6.0 torchrec==1.6.1" in line]


def test_the_other_build_of_fbgemm_goes_before_one_is_installed(bare: Project) -> None:
    assert bare.run("launch/setup.sh", "cpu", FAKE_SHOWN="fbgemm-gpu").returncode == 0
    steps = [line for line in bare.started() if "uninstall" in line or "--no-deps" in line]
    assert steps[0].endswith("uninstall -y fbgemm-gpu fbgemm-gpu-cpu")
    assert len(steps) == 2


def test_a_cpu_build_of_torch_goes_before_the_cuda_one_is_installed(bare: Project) -> None:
    assert bare.run("launch/setup.sh", "cuda", FAKE_SHOWN="torch").returncode == 0
    steps = [line for line in bare.started() if line.endswith("uninstall -y torch") or "torch==" in line]
    assert len(steps) == 2
    assert "torch==2.13.0" in steps[1]


def test_setup_says_when_the_index_has_no_cuda_build(bare: Project) -> None:
    done = bare.run("launch/setup.sh", "cuda", FAKE_FAILS="torch.version.cuda")
    assert done.returncode == 1
    assert "want a CUDA build of torch, got a CPU build" in done.stderr


def test_a_wrong_torch_leaves_a_complete_venv_complete(project: Project) -> None:
    done = project.run("launch/setup.sh", "--torch", "2.12")
    assert done.returncode == 2
    assert done.stderr == "--torch: no triple with torch '2.12'; there are: 2.13, 2.11\n"
    assert project.run("launch/setup.sh").returncode == 0
    assert project.started() == []


# test.sh


def test_test_runs_the_cheapest_first_and_ends_with_the_line_of_pytest(project: Project) -> None:
    done = project.run("launch/test.sh")
    assert done.returncode == 0, done.stderr
    *cheap, tests = project.started()
    assert cheap == ["-m ruff check .", "-m ruff format --check .", "-m mypy"]
    assert re.fullmatch("-m pytest --numprocesses [1-6] --dist loadfile --no-loadscope-reorder", tests)
    assert done.stdout.splitlines()[-2:] == ["threads 1", "== 3 passed in 0.1s =="]


def test_test_with_arguments_is_pytest_alone(project: Project) -> None:
    assert project.run("launch/test.sh", "tests/unit", "-k", "one or two").returncode == 0
    assert project.started() == ["-m pytest tests/unit -k one or two"]


@pytest.mark.parametrize(("fails", "steps"), [("ruff check", 1), ("ruff format", 2), ("mypy", 3), ("pytest", 4)])
def test_test_ends_with_the_code_of_the_first_check_that_failed(project: Project, fails: str, steps: int) -> None:
    assert project.run("launch/test.sh", FAKE_FAILS=fails, FAKE_CODE="5").returncode == 5
    assert len(project.started()) == steps


def test_ci_runs_the_test_command(project: Project) -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    done = project.run(".ci/run", FAKE_FAILS="-m pytest", FAKE_CODE="3")
    assert done.returncode == 3
    assert project.started()[-1].startswith("-m pytest --numprocesses ")
    assert done.stdout.splitlines()[-1] == "== 3 passed in 0.1s =="


# quickstart.sh


def run_folder(project: Project) -> str:
    (train,) = project.started("-m sharded_emb.train")
    return next(word.removeprefix("run=") for word in train.split() if word.startswith("run="))


def test_quickstart_prepares_trains_evaluates_and_names_the_run(project: Project) -> None:
    done = project.run("launch/quickstart.sh")
    assert done.returncode == 0, done.stderr
    run = run_folder(project)
    assert project.started() == [
        "-m sharded_emb.prepare experiment=quickstart data=data/quickstart",
        f"-m sharded_emb.train experiment=quickstart data=data/quickstart run={run}",
        f"-m sharded_emb.evaluate run={run} baselines=true",
    ]
    assert run.startswith("runs/quickstart-20")
    assert done.stdout.splitlines()[-1] == f"quickstart: the run is in {run}"


def test_a_second_quickstart_reuses_the_data_and_says_what_that_leaves_without_effect(project: Project) -> None:
    project.run("launch/quickstart.sh")
    done = project.run("launch/quickstart.sh", "dataset.users=9", "run=runs/mine")
    assert project.started("-m sharded_emb.prepare") == []
    assert "the dataset folder data/quickstart is there and is reused as it is" in done.stdout
    assert "dataset.users=9 changes nothing in it; prepare it again with overwrite=true" in done.stdout
    assert run_folder(project) == "runs/mine"


@pytest.mark.parametrize("true", ["true", "True", "1"])
def test_quickstart_prepares_again_when_told_to(project: Project, true: str) -> None:
    project.run("launch/quickstart.sh")
    project.run("launch/quickstart.sh", "dataset.users=9", f"overwrite={true}", "run=runs/mine")
    assert project.started()[:2] == [
        f"-m sharded_emb.prepare experiment=quickstart data=data/quickstart dataset.users=9 overwrite={true}",
        "-m sharded_emb.train experiment=quickstart data=data/quickstart dataset.users=9 run=runs/mine",
    ]


@pytest.mark.parametrize("false", ["false", "False", "0", "no"])
def test_quickstart_reuses_the_data_when_told_not_to_overwrite(project: Project, false: str) -> None:
    project.run("launch/quickstart.sh")
    project.run("launch/quickstart.sh", f"overwrite={false}")
    assert project.started("-m sharded_emb.prepare") == []


def test_quickstart_gives_each_command_what_it_knows(project: Project) -> None:
    given = ["experiment=sasrec_ml100k", "dataset.raw=logs/a b", "epochs=3", "device=cpu", "--config-dir", "my"]
    given.append("--config-dir=our")
    project.run("launch/quickstart.sh", *given, "overwrite=false", "resume=true", "run=runs/mine")
    options, keys = "--config-dir my --config-dir=our", "dataset.raw=logs/a b epochs=3 device=cpu"
    both = f"{options} experiment=sasrec_ml100k data=data/sasrec_ml100k {keys}"
    assert project.started() == [
        f"-m sharded_emb.prepare {both} overwrite=false",
        f"-m sharded_emb.train {both} run=runs/mine resume=true",
        "-m sharded_emb.evaluate run=runs/mine baselines=true device=cpu",
    ]


@pytest.mark.parametrize(("command", "code"), [("prepare", 2), ("train", 143), ("evaluate", 1)])
def test_quickstart_stops_with_the_code_of_the_command_that_failed(project: Project, command: str, code: int) -> None:
    done = project.run("launch/quickstart.sh", FAKE_FAILS=f"sharded_emb.{command}", FAKE_CODE=str(code))
    assert done.returncode == code
    assert project.started()[-1].startswith(f"-m sharded_emb.{command}")
    assert "the run is in" not in done.stdout


# local.sh


def test_local_starts_torchrun_with_two_ranks_where_there_is_no_gpu(project: Project) -> None:
    assert project.run("launch/local.sh", "train", "experiment=x", "data=data/x").returncode == 0
    assert project.started() == [
        "-m torch.distributed.run --standalone --nproc-per-node 2 -m sharded_emb.train experiment=x data=data/x"
    ]


def test_local_starts_one_rank_for_each_gpu(bare: Project) -> None:
    assert bare.run("launch/setup.sh", "cuda").returncode == 0
    assert bare.run("launch/local.sh", "train").returncode == 0
    assert bare.started("-m torch") == ["-m torch.distributed.run --standalone --nproc-per-node 8 -m sharded_emb.train"]


def test_local_takes_a_number_of_ranks_and_passes_the_exit_code_on(project: Project) -> None:
    done = project.run("launch/local.sh", "-n", "4", "evaluate", "run=runs/a b", FAKE_FAILS="evaluate", FAKE_CODE="7")
    assert done.returncode == 7
    assert project.started() == [
        "-m torch.distributed.run --standalone --nproc-per-node 4 -m sharded_emb.evaluate run=runs/a b"
    ]


def test_local_leaves_the_threads_to_the_key_of_the_config(project: Project) -> None:
    assert "threads_per_rank=N" in project.run("launch/local.sh", "--help").stdout
    executable(project.root / ".venv" / "bin" / "python", '#!/usr/bin/env bash\necho "threads $OMP_NUM_THREADS"\n')
    assert project.run("launch/local.sh", "-n", "2", "train").stdout == "threads 1\n"
    assert project.run("launch/local.sh", "-n", "2", "train", OMP_NUM_THREADS="5").stdout == "threads 5\n"


def test_ranks_are_bound_to_the_cpus_of_their_gpus_where_that_is_asked_for(bare: Project) -> None:
    assert bare.run("launch/setup.sh", "cuda").returncode == 0
    executable(bare.root / "bin" / "numactl", "#!/usr/bin/env bash\n")
    path = {"PATH": f"{bare.root / 'bin'}:{os.environ['PATH']}"}
    assert bare.run("launch/local.sh", "--numa", "node", "train", **path).returncode == 0
    assert "--nproc-per-node 8 --numa-binding node -m sharded_emb.train" in bare.started("-m torch")[0]
    assert bare.run("launch/multi_node.sh", "train", "run=a", **HOSTS, NUMA="exclusive", **path).returncode == 0
    assert "--numa-binding exclusive --rdzv-backend c10d" in bare.started("-m torch")[0]


def test_there_is_nothing_to_bind_ranks_by_without_gpus(project: Project) -> None:
    for done in (
        project.run("launch/local.sh", "--numa", "node", "train"),
        project.run("launch/multi_node.sh", "train", "run=a", **HOSTS, NUMA="node"),
    ):
        assert done.returncode == 2
        assert "want GPUs to bind ranks by, got the CPU build" in done.stderr
    assert project.started("-m torch") == []


# multi_node.sh

HOSTS = {"HOSTS": "1:2", "RENDEZVOUS": "127.0.0.1:29400", "RANKS": "2"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HOSTS": "3:2"}, "HOSTS: want SMALLEST:LARGEST, got '3:2'"),
        ({"HOSTS": "0"}, "HOSTS: want a number of hosts or SMALLEST:LARGEST, got '0'"),
        ({"RENDEZVOUS": "host-0"}, "RENDEZVOUS: want HOST:PORT, got 'host-0'"),
        ({"RENDEZVOUS": "host-0:65536"}, "RENDEZVOUS: want a port from 1 to 65535, got 'host-0:65536'"),
        ({"RENDEZVOUS": "host-0:0"}, "RENDEZVOUS: want a port from 1 to 65535, got 'host-0:0'"),
        ({"RANKS": "two"}, "RANKS: want a number of processes, got 'two'"),
        ({"NUMA": "yes"}, "NUMA: want node, socket, exclusive or core-complex, got 'yes'"),
        ({"RESTARTS": "-1"}, "RESTARTS: want a number, got '-1'"),
        ({"LAST_CALL": "0"}, "LAST_CALL: want seconds, 1 or more, got '0'"),
    ],
)
def test_a_wrong_variable_is_named_before_anything_starts(bare: Project, variables: dict[str, str], said: str) -> None:
    done = bare.run("launch/multi_node.sh", "train", "run=/shared/a", **{**HOSTS, **variables})
    assert (done.returncode, done.stdout, bare.started()) == (2, "", [])
    assert done.stderr.startswith(f"multi_node: {said}\n")


def test_a_run_on_several_hosts_needs_a_folder_that_they_share(bare: Project) -> None:
    done = bare.run("launch/multi_node.sh", "train", "experiment=x", **HOSTS)
    assert done.returncode == 2
    assert done.stderr.startswith("multi_node: train: want run=FOLDER on a file system that all hosts share, got none")


def test_every_host_starts_the_same_torchrun_and_one_of_them_holds_the_meeting(project: Project) -> None:
    assert project.run("launch/multi_node.sh", "train", "run=/shared/a b", "epochs=3", **HOSTS).returncode == 0
    torchrun = (
        "-m torch.distributed.run --nnodes 1:2 --nproc-per-node 2 --max-restarts 3 --rdzv-backend c10d "
        "--rdzv-endpoint {at} --rdzv-id {job} --rdzv-conf is_host={host},last_call_timeout=30 -m sharded_emb.{words}"
    )
    words = "train run=/shared/a b epochs=3 resume=true"
    assert project.started("-m torch") == [
        torchrun.format(at="127.0.0.1:29400", job="sharded_emb", host=1, words=words)
    ]
    elsewhere = {**HOSTS, "RENDEZVOUS": "host-0:29400", "JOB": "mine"}
    project.run("launch/multi_node.sh", "evaluate", "run=a", **elsewhere, FAKE_FAILS="socket().bind")
    assert project.started("-m torch") == [
        torchrun.format(at="host-0:29400", job="mine", host=0, words="evaluate run=a")
    ]


def test_an_interface_that_is_not_there_is_refused(project: Project) -> None:
    given = {**HOSTS, "INTERFACE": "eth9", "FAKE_FAILS": "fcntl.ioctl"}
    done = project.run("launch/multi_node.sh", "evaluate", "run=a", **given)
    assert (done.returncode, project.started("-m torch")) == (2, [])
    assert "INTERFACE: want a network interface of this host with an address, got 'eth9'" in done.stderr
