# One rule per figure script: workflows/figures/<stem>.py draws figures/<scale>/<stem>.{pdf,png,csv}.

for stem in FIGURES:

    rule:
        name:
            f"plot_{stem}"
        input:
            scores="results/{scale}/scores.csv",
            curves="results/{scale}/curves.csv",
            expected="results/{scale}/expected.csv",
            data="results/{scale}/data.csv",
            script=code(f"workflows/figures/{stem}.py"),
            shared=SHARED_CODE["figures"],
        output:
            pdf=f"figures/{{scale}}/{stem}.pdf",
            png=report(
                f"figures/{{scale}}/{stem}.png",
                caption=f"../report/{stem}.rst",
                category="Figures",
                labels={"figure": stem.replace("_", " "), "scale": "{scale}"},
            ),
            data=f"figures/{{scale}}/{stem}.csv",
        log:
            f"results/{{scale}}/logs/plot/{stem}.log",
        benchmark:
            f"results/{{scale}}/benchmarks/plot/{stem}.tsv"
        conda:
            "../../environment.yml"
        threads: need("plot", "threads")
        resources:
            mem_mb=need("plot", "mem_mb"),
            runtime=need("plot", "runtime"),
            gpu=need("plot", "gpu"),
        params:
            module=f"workflows.figures.{stem}",
            out=f"figures/{{scale}}/{stem}",
        shell:
            "python -m {params.module} --scores {input.scores:q} --curves {input.curves:q}"
            " --expected {input.expected:q} --data {input.data:q} --scale {wildcards.scale} --out {params.out:q} > {log:q} 2>&1"
