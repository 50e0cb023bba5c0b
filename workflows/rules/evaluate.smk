# The final score of a run, by the same evaluator for every algorithm.


rule evaluate:
    input:
        config="results/{scale}/runs/{suite}/{task}/{algorithm}/{variant}/seed{seed}/config.yaml",
        policy="results/{scale}/runs/{suite}/{task}/{algorithm}/{variant}/seed{seed}/policy/model.safetensors",
    output:
        "results/{scale}/runs/{suite}/{task}/{algorithm}/{variant}/seed{seed}/eval.json",
    log:
        "results/{scale}/logs/evaluate/{suite}/{task}/{algorithm}/{variant}/seed{seed}.log",
    benchmark:
        "results/{scale}/benchmarks/evaluate/{suite}/{task}/{algorithm}/{variant}/seed{seed}.tsv"
    group:
        "evaluate"
    conda:
        "../../environment.yml"
    threads: need("evaluate", "threads")
    resources:
        mem_mb=need("evaluate", "mem_mb"),
        runtime=need("evaluate", "runtime"),
        gpu=need("evaluate", "gpu"),
    params:
        episodes=lambda w: matrix(w.scale).config.episodes,
    shell:
        "python -m pwm.evaluate --run $(dirname {input.config:q}) --episodes {params.episodes} > {log:q} 2>&1"
