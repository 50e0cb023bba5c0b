# One rule per figure script: workflows/figures/<stem>.py draws figures/<scale>/<stem>.{pdf,png,csv,json}, from the CSV files
# of all runs or from those of a measurement of its own.
RUN_TABLES = {name: f"results/{{scale}}/{name}.csv" for name in ("scores", "curves", "expected", "data")}
DRAWN_FROM = dict.fromkeys(FIGURES, RUN_TABLES)
DRAWN_FROM |= {stem: {"measured": f"results/{{scale}}/gradients/{stem}.csv"} for stem in MEASURED}

for stem in FIGURES:

    rule:
        name:
            f"plot_{stem}"
        input:
            **DRAWN_FROM[stem],
            script=code(f"workflows/figures/{stem}.py"),
            shared=SHARED_CODE["figures"],
        output:
            pdf=f"figures/{{scale}}/{stem}.pdf",
            png=report(
                f"figures/{{scale}}/{stem}.png",
                caption=f"../report/{stem}.rst",
                category=CATEGORY["figures"],
                labels={"figure": stem.replace("_", " ")},
            ),
            data=f"figures/{{scale}}/{stem}.csv",
            bundle=f"figures/{{scale}}/{stem}.json",
        log:
            f"results/{{scale}}/logs/plot/{stem}.log",
        benchmark:
            f"results/{{scale}}/benchmarks/plot/{stem}.tsv"
        group:
            "draw"
        conda:
            "../../environment.yml"
        threads: need("plot", "threads")
        resources:
            mem_mb=need("plot", "mem_mb"),
            runtime=need("plot", "runtime"),
            gpu=need("plot", "gpu"),
        params:
            module=f"workflows.figures.{stem}",
            files=options(DRAWN_FROM[stem]),
            out=f"figures/{{scale}}/{stem}",
        shell:
            "python -m {params.module} {params.files:q} --scale {wildcards.scale} --out {params.out:q} > {log:q} 2>&1"
