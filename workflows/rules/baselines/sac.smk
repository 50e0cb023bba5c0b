rule sac:
    input:
        config="results/{scale}/runs/{suite}/{task}/sac/{variant}/seed{seed}/config.yaml",
    output:
        policy="results/{scale}/runs/{suite}/{task}/sac/{variant}/seed{seed}/policy/model.safetensors",
        config="results/{scale}/runs/{suite}/{task}/sac/{variant}/seed{seed}/policy/config.json",
        metrics="results/{scale}/runs/{suite}/{task}/sac/{variant}/seed{seed}/metrics.csv",
        manifest="results/{scale}/runs/{suite}/{task}/sac/{variant}/seed{seed}/manifest.json",
    log:
        "results/{scale}/runs/{suite}/{task}/sac/{variant}/seed{seed}/log.txt",
    benchmark:
        "results/{scale}/benchmarks/sac/{suite}/{task}/{variant}/seed{seed}.tsv"
    conda:
        "../../../environment.yml"
    threads: need("sac", "threads")
    resources:
        mem_mb=need("sac", "mem_mb"),
        runtime=need("sac", "runtime"),
        gpu=need("sac", "gpu"),
    shell:
        "python -m baselines --config {input.config:q} --out $(dirname {output.manifest:q}) > {log:q} 2>&1"
