# One rule per table script: workflows/tables/<stem>.py writes results/<scale>/tables/<stem>.{csv,md,tex,html}.

for stem in TABLES:

    rule:
        name:
            f"tabulate_{stem}"
        input:
            scores="results/{scale}/scores.csv",
            curves="results/{scale}/curves.csv",
            expected="results/{scale}/expected.csv",
            data="results/{scale}/data.csv",
            script=code(f"workflows/tables/{stem}.py"),
            shared=SHARED_CODE["tables"],
        output:
            csv=f"results/{{scale}}/tables/{stem}.csv",
            page=report(
                f"results/{{scale}}/tables/{stem}.html",
                caption=f"../report/{stem}.rst",
                category=CATEGORY["tables"],
                labels={"table": stem.replace("_", " ")},
            ),
            markdown=f"results/{{scale}}/tables/{stem}.md",
            latex=f"results/{{scale}}/tables/{stem}.tex",
        log:
            f"results/{{scale}}/logs/tabulate/{stem}.log",
        benchmark:
            f"results/{{scale}}/benchmarks/tabulate/{stem}.tsv"
        conda:
            "../../environment.yml"
        threads: need("tabulate", "threads")
        resources:
            mem_mb=need("tabulate", "mem_mb"),
            runtime=need("tabulate", "runtime"),
            gpu=need("tabulate", "gpu"),
        params:
            module=f"workflows.tables.{stem}",
            out=f"results/{{scale}}/tables/{stem}",
        shell:
            "python -m {params.module} --scores {input.scores:q} --curves {input.curves:q}"
            " --expected {input.expected:q} --data {input.data:q} --scale {wildcards.scale} --out {params.out:q} > {log:q} 2>&1"
