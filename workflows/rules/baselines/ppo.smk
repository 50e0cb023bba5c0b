rule ppo:
    input:
        config="results/{scale}/runs/{suite}/{task}/ppo/{variant}/seed{seed}/config.yaml",
    output:
        policy="results/{scale}/runs/{suite}/{task}/ppo/{variant}/seed{seed}/policy/model.safetensors",
        config="results/{scale}/runs/{suite}/{task}/ppo/{variant}/seed{seed}/policy/config.json",
        metrics="results/{scale}/runs/{suite}/{task}/ppo/{variant}/seed{seed}/metrics.csv",
        manifest="results/{scale}/runs/{suite}/{task}/ppo/{variant}/seed{seed}/manifest.json",
    log:
        "results/{scale}/runs/{suite}/{task}/ppo/{variant}/seed{seed}/log.txt",
    benchmark:
        "results/{scale}/benchmarks/ppo/{suite}/{task}/{variant}/seed{seed}.tsv"
    conda:
        "../../../environment.yml"
    threads: need("ppo", "threads")
    resources:
        mem_mb=need("ppo", "mem_mb"),
        runtime=need("ppo", "runtime"),
        gpu=need("ppo", "gpu"),
    shell:
        "python -m baselines --config {input.config:q} --out $(dirname {output.manifest:q}) > {log:q} 2>&1"
