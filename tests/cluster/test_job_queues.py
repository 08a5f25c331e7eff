"""What a cluster is asked for, and the job scripts that would be submitted; no batch system is needed."""

from __future__ import annotations

import asyncio
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import types

import dask
import held_runs
import pytest

from opticam_dask import cli
from opticam_dask.cluster import cluster_settings, connections, job_queues, job_scripts
from opticam_dask.cluster.cluster_settings import SYSTEMS, ClusterSettings, resolve


def _profiles(**profiles):
    return dask.config.set({"opticam_dask.clusters": profiles})


# ---------------------------------------------------------------- settings


def test_resolve__local_unless_said_otherwise():
    assert resolve() == ClusterSettings("local")
    with dask.config.set({"opticam_dask.cluster": "none"}):
        assert resolve() == ClusterSettings("none")
        assert resolve("local") == ClusterSettings("local")


def test_resolve__what_is_given_goes_before_the_profile():
    long = {"cluster": "slurm", "n-workers": 40, "walltime": "08:00:00", "queue": "long", "job-extra": "--exclusive"}
    with _profiles(long=long):
        found = resolve("long", queue="short", walltime=None)
    expected = {"n_workers": 40, "walltime": "08:00:00", "queue": "short", "job_extra": ("--exclusive",)}
    assert found == ClusterSettings("slurm", **expected)


def test_resolve__a_number_given_replaces_adapt_of_the_profile_and_the_other_way_round():
    with _profiles(slurm={"adapt": "1:9"}, pbs={"n_workers": 3}):
        assert resolve("slurm").adapt == (1, 9)
        assert resolve("slurm").most_workers == 9
        assert resolve("slurm", n_workers=4).adapt is None
        assert resolve("pbs", adapt="0:4").n_workers is None


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("local", {"walltime": "1:00"}, "walltime has a meaning for a batch system only"),
        ("tcp://127.0.0.1:1", {"adapt": "1:2"}, "adapt has a meaning for a batch system only"),
        ("slurm", {"adapt": "2"}, "adapt must be MIN:MAX"),
        ("slurm", {"adapt": "3:2"}, "adapt must be MIN:MAX"),
        ("slurm", {"adapt": "0:0"}, "adapt must be MIN:MAX"),
        ("slurm", {"adapt": "1:2", "n_workers": 2}, "not both"),
        ("slurm", {"memory": "much"}, "memory must be a size such as 4GiB, got 'much'"),
        ("slurm", {"n_workers": -1}, "n-workers must be a whole number of at least 1"),
        ("wrong", {}, "has wall-time, which is unknown: it may have account, adapt"),
        ("number", {}, "walltime must be text such as '10:00:00', in quotes, got the number 36000"),
        ("text", {}, "must hold settings such as n-workers"),
        ("inside", {}, "inside: walltime must be text such as '10:00:00', in quotes, got the number 86400"),
        ("within", {}, "inside: the job of --inside has n-workers, which is unknown: it may have account, cores"),
        ("listed", {}, r"options must hold settings, got \['interface'\]"),
    ],
)
def test_resolve__refuses_what_it_cannot_understand(name, given, words):
    profiles = {
        "wrong": {"cluster": "slurm", "wall-time": "1"},
        "number": {"cluster": "slurm", "walltime": 36000},
        "text": "slurm",
        "inside": {"cluster": "slurm", "inside": {"walltime": 86400}},
        "within": {"cluster": "slurm", "inside": {"n-workers": 2}},
        "listed": {"cluster": "slurm", "options": ["interface"]},
    }
    with _profiles(**profiles), pytest.raises(ValueError, match=words):
        resolve(name, **given)


def test_configuration__file_then_environment_then_options(tmp_path):
    """The four layers, through a real configuration file and a real environment."""
    (tmp_path / "any.yaml").write_text(
        textwrap.dedent("""
        jobqueue:
          slurm:
            queue: from-jobqueue
            account: from-jobqueue
            walltime: "01:00:00"
            memory: 7GiB
        opticam_dask:
          clusters:
            mine:
              cluster: slurm
              n-workers: 3
              account: from-profile
              walltime: "02:00:00"
              memory: 8GiB
        """)
    )
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path)}
    environment["DASK_OPTICAM_DASK__CLUSTERS__MINE__WALLTIME"] = "03:00:00"
    environment["DASK_OPTICAM_DASK__CLUSTERS__MINE__MEMORY"] = "9GiB"
    command = [sys.executable, "-m", "opticam_dask.cli", "cluster", "--dry-run", "--cluster", "mine"]
    done = subprocess.run(
        [*command, "--memory", "6GiB"], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    lines = done.stdout.splitlines()
    assert "#SBATCH -p from-jobqueue" in lines
    assert "#SBATCH -A from-profile" in lines
    assert "#SBATCH -t 03:00:00" in lines
    assert "#SBATCH --mem=6G" in lines


@pytest.mark.parametrize(
    ("text", "system", "seconds"),
    [
        ("30", "slurm", 1800),
        ("30:10", "slurm", 1810),
        ("01:30:00", "slurm", 5400),
        ("2-12", "slurm", 216000),
        ("1-00:30", "slurm", 88200),
        ("1:30", "lsf", 5400),
        ("08:00:00", "pbs", 28800),
        ("3600", "sge", 3600),
        ("UNLIMITED", "slurm", None),
    ],
)
def test_walltime_seconds(text, system, seconds):
    assert cluster_settings.walltime_seconds(text, system) == seconds


# ---------------------------------------------------------------- the machine


def test_local_client__as_many_workers_as_this_process_may_use(tmp_path):
    """Affinity, a limit of memory, and the scratch directory of Dask's configuration."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        from opticam_dask.cluster import connections
        with connections.local_client(dashboard=False) as client:
            [worker] = client.scheduler_info(n_workers=-1)["workers"].values()
            print(worker["nthreads"], worker["memory_limit"], worker["local_directory"])
        """)
    )

    def confine():
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        resource.setrlimit(resource.RLIMIT_RSS, (3 * 10**9, 3 * 10**9))

    environment = {**os.environ, "DASK_TEMPORARY_DIRECTORY": str(tmp_path / "scratch")}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, env=environment, preexec_fn=confine
    )
    threads, memory, directory = done.stdout.split()
    assert (threads, memory) == ("1", str(3 * 10**9))
    assert directory.startswith(str(tmp_path / "scratch"))


def test_job_processors__of_the_batch_job_and_not_of_the_node(monkeypatch):
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "PBS_NCPUS", "NCPUS", "LSB_DJOB_NUMPROC", "NSLOTS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"):
        monkeypatch.delenv(name, raising=False)
    assert cluster_settings.job_processors() is None
    assert cluster_settings.job_memory() is None
    monkeypatch.setenv("NSLOTS", "6")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2048")
    assert cluster_settings.job_processors() == 6
    assert cluster_settings.job_memory() == 2 * 2**30
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1024")
    assert cluster_settings.job_memory() == 6 * 2**30


# ---------------------------------------------------------------- job scripts


@pytest.mark.parametrize(
    ("system", "directives"),
    [
        ("slurm", ["#SBATCH -p Q", "#SBATCH -A A", "#SBATCH --cpus-per-task=2", "#SBATCH --mem=8G"]),
        ("pbs", ["#PBS -q Q", "#PBS -A A", "#PBS -l select=1:ncpus=2:mem=8192MB"]),
        ("lsf", ["#BSUB -q Q", '#BSUB -P "A"', "#BSUB -n 2"]),
        ("sge", ["#$ -q Q", "#$ -P A"]),
        ("oar", ["#OAR -q Q", "#OAR --project A"]),
    ],
)
def test_cluster__dry_run_prints_the_job_script(capsys, tmp_path, monkeypatch, system, directives):
    monkeypatch.chdir(tmp_path)
    given = ["--workers", "4", "--cores", "2", "--queue", "Q", "--account", "A", "--walltime", "01:00:00"]
    assert cli.main(["cluster", "--dry-run", "--cluster", system, *given, "--job-extra=-x 1", "--job-extra=-y"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in directives:
        assert line in lines
    prefix = next(line for line in lines if line.startswith("#") and not line.startswith("#!")).split()[0]
    assert f"{prefix} -x 1" in lines
    assert f"{prefix} -y" in lines
    upkeep = ("WORKER__PROFILE__CYCLE=60s", "WORKER__MEMORY__MONITOR_INTERVAL=200ms", "ADMIN__TICK__INTERVAL=500ms")
    own = [f"export DASK_DISTRIBUTED__{setting}" for setting in upkeep]
    for line in (f"cd {tmp_path}", "export OMP_NUM_THREADS=1", "export MALLOC_ARENA_MAX=1", *own):
        assert line in lines
    assert "--nthreads 1 --memory-limit 3328MiB --nworkers 2" in lines[-1]
    # an hour and two margins of three minutes; LSF has no seconds, and two numbers are hours and minutes there
    assert lines[-1].endswith("--lifetime 3240s --lifetime-stagger 180s")
    assert not list(tmp_path.iterdir())


def test_job_script__options_of_the_cluster_are_not_of_its_jobs(tmp_path):
    options = {"scheduler-options": {"port": 8700}, "shared-temp-directory": str(tmp_path), "python": "/own/python"}
    with _profiles(slurm={"n-workers": 1, "options": options}):
        settings = resolve("slurm")
        assert "/own/python -m" in job_scripts.job_script(settings, tmp_path / "logs")
        queue = job_queues.JobQueue(settings, log_directory=tmp_path / "logs")
    assert queue._of_cluster == {
        "scheduler_options": {"dashboard_address": ":0", "port": 8700},
        "shared_temp_directory": str(tmp_path),
    }
    with pytest.raises(ValueError, match="scheduler-options must hold settings such as interface and port, got 8700"):
        job_scripts.cluster_arguments(ClusterSettings("slurm", options={"scheduler-options": 8700}))


def test_job_script__a_lifetime_of_the_user_wins(tmp_path):
    settings = ClusterSettings("slurm", walltime="01:00:00", options={"worker-extra-args": ["--lifetime=30m"]})
    assert job_scripts.job_script(settings, tmp_path).count("--lifetime") == 1


def test_job_script__blanks_in_the_name_of_the_output_directory(tmp_path):
    logs = tmp_path / "my night" / "jobs"
    lines = job_scripts.job_script(ClusterSettings("slurm", job_extra=("-o x y",)), logs).splitlines()
    assert f'#SBATCH -o "{logs}/opticam-dask-%J.out"' in lines
    assert f'#SBATCH -e "{logs}/opticam-dask-%J.err"' in lines
    assert "#SBATCH -o x y" in lines


# ---------------------------------------------------------------- a batch system that is played


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Commands of a SLURM that accepts the first job, which fails, and no other; the script that was submitted."""
    script = tmp_path / "submitted"
    commands = {
        "sbatch": f'[ ! -e {script} ] || {{ echo "sbatch: error: limit reached" >&2; exit 1; }}\n'
        f'for file; do :; done; cp "$file" {script}; echo 1',
        "squeue": "echo '1|FAILED|None'",
        "scancel": "true",
    }
    for name, text in commands.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(file.parent), prepend=os.pathsep)
    return script


def test_submit_inside__reads_what_differs_and_keeps_settings_of_the_user(sbatch, tmp_path):
    own = "export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=true"
    inside = {"job-extra": "--exclusive", "walltime": "24:00:00"}
    with _profiles(slurm={"n-workers": 4, "options": {"job-script-prologue": [own]}, "inside": inside}):
        job_scripts.submit_inside(resolve("slurm"), ["true"], tmp_path / "logs")
    lines = sbatch.read_text().splitlines()
    assert "#SBATCH --exclusive" in lines
    assert "#SBATCH -t 24:00:00" in lines
    assert own in lines
    assert not any("DASK_DISTRIBUTED__WORKER__MEMORY" in line for line in lines)


def test_job_queue__a_job_that_is_refused_in_mid_run_does_not_spoil_the_end(sbatch, tmp_path):
    told = []
    with (
        dask.config.set({"opticam_dask.look-every": 0.1}),
        connections.connect("slurm", n_workers=1, log_directory=tmp_path / "logs", tell=told.append) as place,
    ):
        held_runs.until(lambda: sum("SLURM refused a job: sbatch: error: limit reached" in line for line in told) > 1)
        assert place.jobs is not None


class _PlayedCluster:
    def __init__(self, **workers):
        self.workers, self.worker_spec, self.asked = workers, dict.fromkeys(workers), []

    def adapt(self, **how):
        self.asked.append(how)

    def scale(self, jobs):
        self.asked.append(jobs)


@pytest.mark.parametrize("cores", [1, 2])
def test_job_queue__adapts_by_whole_jobs(tmp_path, cores):
    queue = job_queues.JobQueue(resolve("slurm", adapt="1:4", cores=cores), log_directory=tmp_path)
    queue._cluster = _PlayedCluster()
    queue._submit()
    [how] = queue._cluster.asked
    if cores == 1:
        assert how["worker_key"] is None
    else:
        key = pickle.loads(pickle.dumps(how["worker_key"]))
        assert key(types.SimpleNamespace(name="SLURMCluster-3-1")) == "SLURMCluster-3"


@pytest.mark.parametrize(("system", "states"), [("slurm", {"7": ("RUNNING", "None")}), ("pbs", None)])
def test_job_queue__a_job_that_goes_on_without_workers_is_replaced(tmp_path, system, states):
    class Job:
        job_id, error, status = "7", None, None

        async def close(self):
            closed.append(self.job_id)

    told, closed = [], []
    queue = job_queues.JobQueue(resolve(system, n_workers=1), told.append, tmp_path)
    queue._cluster = _PlayedCluster(one=Job(), new=Job())
    queue._seen, queue._not_before = {"one"}, 0.0
    for now in (100.0, 130.0):  # a nanny may start its worker again
        asyncio.run(queue._replace(dict(queue._cluster.workers), states, now))
        assert closed == []
    asyncio.run(queue._replace(dict(queue._cluster.workers), states, 161.0))
    assert closed == ["7"]
    assert set(queue._cluster.workers) == {"new"}  # which has had no worker so far
    assert told == ["1 job ended (7 without workers); what was under way there runs again."]
    # nor does Dask replace jobs, under the names they had
    timeout = job_queues._scheduler_settings()["distributed.deploy.lost-worker-timeout"]
    assert dask.utils.parse_timedelta(timeout) > 30 * 86400


def test_cluster__dry_run_of_htcondor(capsys):
    given = ["cluster", "--dry-run", "--cluster", "htcondor", "--workers", "1"]
    assert cli.main([*given, "--job-extra", "accounting_group = astro"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "accounting_group = astro" in lines
    assert cli.main([*given, "--queue", "Q"]) == 2
    assert "HTCondor has no queue" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cluster", "--dry-run"], "'local' submits no jobs"),
        (["cluster", "--cluster", "slurm"], "slurm needs a number of workers: --workers N, or --adapt MIN:MAX"),
        (["cluster", "--cluster", "none"], "nothing to keep open"),
        (["reduce", "DATA", "--out", "OUT", "--inside"], "--inside needs a batch system"),
    ],
)
def test_cluster__wrong_usage_is_one_line(capsys, arguments, words):
    assert cli.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_cluster__without_dask_jobqueue(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    assert cli.main(["cluster", "--dry-run", "--cluster", "slurm", "--workers", "1"]) == 1
    assert "pip install 'opticam-dask[hpc]'" in capsys.readouterr().err


def test_cluster__no_such_batch_system_on_this_machine(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["cluster", "--cluster", "oar", "--workers", "1"]) == 1
    assert "the command oarsub is not there" in capsys.readouterr().err


def test_import__leaves_ctrl_c_as_it_was():
    program = "import signal; from opticam_dask.cluster import job_scripts; job_scripts.jobqueue_package(); "
    program += "import dask_jobqueue; "
    program += "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", program], check=True)
    before = signal.getsignal(signal.SIGINT)
    job_scripts.jobqueue_package()
    assert signal.getsignal(signal.SIGINT) is before


# ---------------------------------------------------------------- connect


def test_connect__opens_when_it_is_first_used_and_closes_in_the_end():
    told = []
    place = connections.connect("local", n_workers=1, tell=told.append)
    assert told == []
    client = place.client
    assert told == [f"Dashboard: {client.dashboard_link}"]
    # what is given back by connect is used as it is, and stays open
    with connections.connect(place) as same:
        assert same.client is client
    assert client.status == "running"
    place.close()
    assert client.status == "closed"


def test_cluster__is_kept_until_ctrl_c_for_others_to_use():
    command = [sys.executable, "-m", "opticam_dask.cli", "cluster", "--cluster", "local", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = next(line for line in process.stdout if line.startswith("Scheduler:"))
        with connections.connect(line.split()[1]) as place:
            place.client.wait_for_workers(1, timeout=120)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert "Traceback" not in process.stderr.read()


def test_systems__are_those_of_dask_jobqueue():
    import dask_jobqueue

    for title in SYSTEMS.values():
        assert hasattr(dask_jobqueue, f"{title}Cluster")
