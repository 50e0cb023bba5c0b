# What the rules share: the scale's matrix, the expected files, and resources. The logic is in pwm/matrix.py.
import functools
import os
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
# Jobs run the code that lies beside the Snakefile, in whichever folder they work.
sys.path.insert(0, str(ROOT))
os.environ.update(PYTHONPATH=str(ROOT))

from pwm.data.tdmpc2_files import OFFICIAL, download, find_files
from pwm.errors import UserError
from pwm.locks import clear_stale_locks
from pwm.matrix import Matrix, ModelId, RunId, check_command_line
from workflows import scripts

FIGURES, TABLES = scripts("figures"), scripts("tables")
# Figures that are not drawn from runs, but from a measurement of their own.
MEASURED = ("ball_wall", "gradient_quality")


def code(path):
    """A source file of the project, as an input of the cheap rules that run it."""
    return str(ROOT / path)


# Of the report, whose menu is in alphabetical order.
CATEGORY = {
    "claims": "1. Claims",
    "figures": "2. Figures",
    "tables": "3. Tables",
    "costs": "4. Run times and costs",
    "provenance": "5. Provenance",
    "film": "6. Film strips",
}
PUBLISHED = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "results" / "published").glob("*.csv"))
READING = [
    "pwm/progress.py",
    "pwm/statistics.py",
    "workflows/ablations.py",
    "workflows/measured.py",
    "workflows/pages.py",
    "workflows/published.py",
    "workflows/results.py",
    *PUBLISHED,
]
BESIDE = {
    "figures": ("style", *sorted(path.stem for path in (ROOT / "workflows" / "figures").glob("_[!_]*.py"))),
    "tables": ("_rules", "common", "per_task_scores"),
}
SHARED_CODE = {
    kind: [code(path) for path in (*READING, *(f"workflows/{kind}/{name}.py" for name in names))]
    for kind, names in BESIDE.items()
}


def refuse(error):
    """End with one line and exit code 2, before any job."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def or_refused(make, *given):
    """What `make` returns, if it refuses nothing."""
    try:
        return make(*given)
    except UserError as error:
        refuse(error)


@functools.cache
def matrix(scale):
    """The matrix of a scale, checked as a whole."""
    return or_refused(Matrix, scale)


def config_text(key):
    """The resolved config.yaml of the run, world model or data set that the wildcards name."""

    def of_wildcards(wildcards):
        return or_refused(matrix(wildcards.scale).text, key(wildcards))

    return of_wildcards


def run_id(wildcards, algorithm=None):
    """The run that the wildcards name."""
    w = wildcards
    return RunId(w.suite, w.task, algorithm or w.algorithm, w.variant, int(w.seed))


def model_id(wildcards):
    """The world model that the wildcards name."""
    return ModelId(wildcards.suite, wildcards.variant, wildcards.tasks, int(wildcards.seed))


def model_data(wildcards):
    """The data sets a world model is trained on, in the order of its tasks."""
    tasks = matrix(wildcards.scale).tasks_of(model_id(wildcards))
    return [f"results/{wildcards.scale}/data/{task}/episodes/meta.json" for task in tasks]


def model_of_run(algorithm):
    """The world model that a run of this algorithm starts from; none where its settings name none."""

    def of_wildcards(wildcards):
        model = matrix(wildcards.scale).model_of(run_id(wildcards, algorithm))
        return f"results/{wildcards.scale}/models/{model.path}/model.safetensors" if model else []

    return of_wildcards


# What a job that is tried again asks more of: as many times the config's number as it was tried.
GROWING = ("mem_mb", "runtime")


def need(rule, what):
    """Threads, memory (MB), runtime (minutes) or GPUs of a rule's jobs, from the scale's config."""

    def of_job(wildcards, attempt):
        asked = getattr(matrix(wildcards.get("scale", SCALE)).resources(rule), what)
        return attempt * asked if what in GROWING else asked

    return of_job


def options(names):
    """Of a figure or table: `--<name> <file>` for each of its named inputs that there is."""

    return lambda wildcards, input: [part for name in names if input[name] for part in (f"--{name}", str(input[name]))]


try:
    SCALE, PARTIAL, DOWNLOAD = check_command_line(config)
    if workflow.is_main_process:
        ALIVE = clear_stale_locks(Path(".snakemake"))
except UserError as error:
    refuse(error)
matrix(SCALE)


wildcard_constraints:
    scale="[A-Za-z0-9_-]+",
    suite="[a-z0-9]+",
    task="[a-z0-9-]+",
    tasks="[a-z0-9-]+",
    algorithm="[a-z0-9_]+",
    variant="[A-Za-z0-9_.-]+",
    seed="[0-9]+",
