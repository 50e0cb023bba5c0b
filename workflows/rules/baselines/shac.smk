rule shac:
    input:
        config="results/{scale}/runs/{suite}/{task}/shac/{variant}/seed{seed}/config.yaml",
    output:
        policy="results/{scale}/runs/{suite}/{task}/shac/{variant}/seed{seed}/policy/model.safetensors",
        config="results/{scale}/runs/{suite}/{task}/shac/{variant}/seed{seed}/policy/config.json",
        metrics="results/{scale}/runs/{suite}/{task}/shac/{variant}/seed{seed}/metrics.csv",
        manifest="results/{scale}/runs/{suite}/{task}/shac/{variant}/seed{seed}/manifest.json",
    log:
        "results/{scale}/runs/{suite}/{task}/shac/{variant}/seed{seed}/log.txt",
    benchmark:
        "results/{scale}/benchmarks/shac/{suite}/{task}/{variant}/seed{seed}.tsv"
    conda:
        "../../../environment.yml"
    threads: need("shac", "threads")
    resources:
        mem_mb=need("shac", "mem_mb"),
        runtime=need("shac", "runtime"),
        gpu=need("shac", "gpu"),
    shell:
        "python -m baselines --config {input.config:q} --out $(dirname {output.manifest:q}) > {log:q} 2>&1"
