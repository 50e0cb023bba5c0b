# Episodes of a task, made once and shared by all who train on it.


rule collect:
    input:
        config="results/{scale}/data/{task}/config.yaml",
    output:
        "results/{scale}/data/{task}/episodes/meta.json",
    log:
        "results/{scale}/data/{task}/log.txt",
    benchmark:
        "results/{scale}/benchmarks/collect/{task}.tsv"
    priority: 50
    conda:
        "../../environment.yml"
    threads: need("collect", "threads")
    resources:
        mem_mb=need("collect", "mem_mb"),
        runtime=need("collect", "runtime"),
        gpu=need("collect", "gpu"),
    shell:
        "python -m pwm.collect --config {input.config:q} --out $(dirname {output:q}) > {log:q} 2>&1"
