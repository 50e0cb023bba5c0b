# The files that a scale's matrix asks for; with `--config partial=true` those of them that are there.


def run_files(name):
    """That file of every run of the scale; with `--config partial=true` only where it exists."""

    def of_scale(wildcards):
        scale = wildcards.get("scale", SCALE)
        files = [f"results/{scale}/runs/{run.path}/{name}" for run in matrix(scale).runs()]
        return [file for file in files if Path(file).exists()] if PARTIAL else files

    return of_scale


def collating(wildcards):
    """The code that collates; none where there are no runs, but collated files, as in a clone: those stay as they are."""
    folder = Path("results", wildcards.scale)
    return [] if (folder / "scores.csv").exists() and not (folder / "runs").exists() else code("pwm/scores.py")


def film_strips(wildcards):
    """Film strips of the locomotion suite: of every algorithm's first run on each task."""
    scale = wildcards.get("scale", SCALE)
    runs = [run for run in matrix(scale).runs() if (run.suite, run.variant, run.seed) == ("locomotion", "default", 0)]
    folders = [f"results/{scale}/runs/{run.path}" for run in runs]
    present = [folder for folder in folders if not PARTIAL or Path(folder, "policy/model.safetensors").exists()]
    return [f"{folder}/film_strip.png" for folder in present]


def data_files(wildcards):
    """The description of every data set of the scale; with `--config partial=true` only where it exists."""
    names = matrix(wildcards.scale).data_sets()
    files = [f"results/{wildcards.scale}/data/{task}/episodes/meta.json" for task in names]
    return [file for file in files if Path(file).exists()] if PARTIAL else files


def measurement(stem):
    """The file of a measurement; with `--config partial=true` only where it exists."""

    def of_scale(wildcards):
        file = f"results/{wildcards.get('scale', SCALE)}/gradients/{stem}.csv"
        return [] if PARTIAL and not Path(file).exists() else file

    return of_scale


def drawn(wildcards):
    """All figures and tables; with `--config partial=true` none of a measurement that is not there."""
    scale = wildcards.get("scale", SCALE)
    stems = [stem for stem in FIGURES if stem not in MEASURED or measurement(stem)(wildcards)]
    figures = expand("figures/{scale}/{stem}.{ending}", scale=scale, stem=stems, ending=["pdf", "png"])
    return figures + expand("results/{scale}/tables/{stem}.md", scale=scale, stem=TABLES)
