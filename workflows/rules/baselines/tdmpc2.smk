from baselines.tdmpc2 import runs_together


rule tdmpc2:
    input:
        config="results/{scale}/runs/{suite}/{task}/tdmpc2/{variant}/seed{seed}/config.yaml",
        model=model_of_run("tdmpc2"),
    output:
        policy="results/{scale}/runs/{suite}/{task}/tdmpc2/{variant}/seed{seed}/policy/model.safetensors",
        config="results/{scale}/runs/{suite}/{task}/tdmpc2/{variant}/seed{seed}/policy/config.json",
        metrics="results/{scale}/runs/{suite}/{task}/tdmpc2/{variant}/seed{seed}/metrics.csv",
        manifest="results/{scale}/runs/{suite}/{task}/tdmpc2/{variant}/seed{seed}/manifest.json",
    log:
        "results/{scale}/runs/{suite}/{task}/tdmpc2/{variant}/seed{seed}/log.txt",
    benchmark:
        "results/{scale}/benchmarks/tdmpc2/{suite}/{task}/{variant}/seed{seed}.tsv"
    conda:
        "../../../environment.yml"
    threads: need("tdmpc2", "threads")
    resources:
        mem_mb=need("tdmpc2", "mem_mb"),
        runtime=need("tdmpc2", "runtime"),
        gpu=need("tdmpc2", "gpu"),
    params:
        model=lambda w, input: ["--model", str(Path(input.model).parent)] if input.model else [],
    shell:
        "python -m baselines --config {input.config:q} {params.model:q} --out $(dirname {output.manifest:q})"
        " > {log:q} 2>&1"


if TOGETHER := [f"results/{SCALE}/runs/{run.path}" for run in or_refused(runs_together, matrix(SCALE))]:

    ruleorder: tdmpc2_together > tdmpc2

    rule tdmpc2_together:
        input:
            config=[f"{run}/config.yaml" for run in TOGETHER],
        output:
            policy=[f"{run}/policy/model.safetensors" for run in TOGETHER],
            config=[f"{run}/policy/config.json" for run in TOGETHER],
            metrics=[f"{run}/metrics.csv" for run in TOGETHER],
            manifest=[f"{run}/manifest.json" for run in TOGETHER],
        log:
            f"results/{SCALE}/logs/tdmpc2_together.log",
        benchmark:
            f"results/{SCALE}/benchmarks/tdmpc2_together.tsv"
        conda:
            "../../../environment.yml"
        threads: need("tdmpc2", "threads")
        resources:
            mem_mb=need("tdmpc2", "mem_mb"),
            runtime=need("tdmpc2", "runtime"),
            gpu=need("tdmpc2", "gpu"),
        shell:
            "python -m baselines --config {input.config:q} --out $(dirname {output.manifest:q}) > {log:q} 2>&1"
