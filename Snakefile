# The replication as one DAG: collect → pretrain → extract / baselines → evaluate → collate → plot, tabulate.
#   snakemake --cores N                          everything at the demo scale
#   snakemake --cores N --config scale=laptop    another scale (workflows/config/<scale>.yaml)
#   snakemake --cores N figures/demo/mt30_per_task.pdf   one figure
from snakemake.utils import min_version

min_version("9.18")


report: "workflows/report/workflow.rst"


include: "workflows/rules/common.smk"
include: "workflows/rules/expected.smk"
include: "workflows/rules/configure.smk"
include: "workflows/rules/collect.smk"
include: "workflows/rules/import.smk"
include: "workflows/rules/pretrain.smk"
include: "workflows/rules/extract.smk"


for file in sorted((ROOT / "workflows" / "rules" / "baselines").glob("*.smk")):

    include: file


include: "workflows/rules/evaluate.smk"
include: "workflows/rules/collate.smk"
include: "workflows/rules/gradients.smk"
include: "workflows/rules/plot.smk"
include: "workflows/rules/tabulate.smk"
include: "workflows/rules/film.smk"
include: "workflows/rules/report.smk"


localrules:
    all,
    configure_data,
    configure_gradients,
    configure_model,
    configure_paper,
    configure_run,
    configure_scale,
    report_pages,


rule all:
    default_target: True
    input:
        run_files("eval.json"),
        f"results/{SCALE}/scores.csv",
        drawn,
        film_strips,
        f"results/{SCALE}/report/missing.html",
