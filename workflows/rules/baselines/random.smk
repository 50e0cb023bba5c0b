rule random:
    input:
        config="results/{scale}/runs/{suite}/{task}/random/{variant}/seed{seed}/config.yaml",
    output:
        policy="results/{scale}/runs/{suite}/{task}/random/{variant}/seed{seed}/policy/model.safetensors",
        config="results/{scale}/runs/{suite}/{task}/random/{variant}/seed{seed}/policy/config.json",
        metrics="results/{scale}/runs/{suite}/{task}/random/{variant}/seed{seed}/metrics.csv",
        manifest="results/{scale}/runs/{suite}/{task}/random/{variant}/seed{seed}/manifest.json",
    log:
        "results/{scale}/runs/{suite}/{task}/random/{variant}/seed{seed}/log.txt",
    benchmark:
        "results/{scale}/benchmarks/random/{suite}/{task}/{variant}/seed{seed}.tsv"
    group:
        "random"
    conda:
        "../../../environment.yml"
    threads: need("random", "threads")
    resources:
        mem_mb=need("random", "mem_mb"),
        runtime=need("random", "runtime"),
        gpu=need("random", "gpu"),
    shell:
        "python -m baselines --config {input.config:q} --out $(dirname {output.manifest:q}) > {log:q} 2>&1"
