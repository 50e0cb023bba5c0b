# One rule per table script: workflows/tables/<stem>.py writes results/<scale>/tables/<stem>.{csv,md,tex,html}, from the CSV
# files of all runs; the claims from those of the measurements besides, the hyper-parameters from the settings.
TABULATED_FROM = dict.fromkeys(TABLES, RUN_TABLES)
TABULATED_FROM["claims"] = RUN_TABLES | {name: measurement(name) for name in MEASURED}
TABULATED_FROM["hyperparameters"] = {
    "settings": "results/{scale}/settings.csv",
    "paper": "results/{scale}/paper_settings.csv",
}

for stem in TABLES:

    rule:
        name:
            f"tabulate_{stem}"
        input:
            **TABULATED_FROM[stem],
            script=code(f"workflows/tables/{stem}.py"),
            shared=SHARED_CODE["tables"],
        output:
            csv=f"results/{{scale}}/tables/{stem}.csv",
            page=report(
                f"results/{{scale}}/tables/{stem}.html",
                caption=f"../report/{stem}.rst",
                category=CATEGORY["claims" if stem == "claims" else "tables"],
                labels={"table": stem.replace("_", " ")},
            ),
            markdown=f"results/{{scale}}/tables/{stem}.md",
            latex=f"results/{{scale}}/tables/{stem}.tex",
        log:
            f"results/{{scale}}/logs/tabulate/{stem}.log",
        benchmark:
            f"results/{{scale}}/benchmarks/tabulate/{stem}.tsv"
        group:
            "draw"
        conda:
            "../../environment.yml"
        threads: need("tabulate", "threads")
        resources:
            mem_mb=need("tabulate", "mem_mb"),
            runtime=need("tabulate", "runtime"),
            gpu=need("tabulate", "gpu"),
        params:
            module=f"workflows.tables.{stem}",
            files=options(TABULATED_FROM[stem]),
            out=f"results/{{scale}}/tables/{stem}",
        shell:
            "python -m {params.module} {params.files:q} --scale {wildcards.scale} --out {params.out:q} > {log:q} 2>&1"
