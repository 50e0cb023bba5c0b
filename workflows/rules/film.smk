# A film strip of a run's policy.


rule film_strip:
    input:
        config="results/{scale}/runs/{suite}/{task}/{algorithm}/{variant}/seed{seed}/config.yaml",
        policy="results/{scale}/runs/{suite}/{task}/{algorithm}/{variant}/seed{seed}/policy/model.safetensors",
        script=code("workflows/film_strip.py"),
    output:
        report(
            "results/{scale}/runs/{suite}/{task}/{algorithm}/{variant}/seed{seed}/film_strip.png",
            caption="../report/film_strip.rst",
            category=CATEGORY["film"],
            labels={"task": "{task}", "algorithm": "{algorithm}", "variant": "{variant}", "seed": "{seed}"},
        ),
    log:
        "results/{scale}/logs/film_strip/{suite}/{task}/{algorithm}/{variant}/seed{seed}.log",
    benchmark:
        "results/{scale}/benchmarks/film_strip/{suite}/{task}/{algorithm}/{variant}/seed{seed}.tsv"
    group:
        "film_strip"
    conda:
        "../../environment.yml"
    threads: need("film_strip", "threads")
    resources:
        mem_mb=need("film_strip", "mem_mb"),
        runtime=need("film_strip", "runtime"),
        gpu=need("film_strip", "gpu"),
    shell:
        "python -m workflows.film_strip --run $(dirname {input.config:q}) --out {output:q} > {log:q} 2>&1"
