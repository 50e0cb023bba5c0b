# A PWM policy from a world model.


rule extract:
    input:
        config="results/{scale}/runs/{suite}/{task}/pwm/{variant}/seed{seed}/config.yaml",
        model=model_of_run("pwm"),
        data="results/{scale}/data/{task}/episodes/meta.json",
    output:
        policy="results/{scale}/runs/{suite}/{task}/pwm/{variant}/seed{seed}/policy/model.safetensors",
        config="results/{scale}/runs/{suite}/{task}/pwm/{variant}/seed{seed}/policy/config.json",
        metrics="results/{scale}/runs/{suite}/{task}/pwm/{variant}/seed{seed}/metrics.csv",
        manifest="results/{scale}/runs/{suite}/{task}/pwm/{variant}/seed{seed}/manifest.json",
    log:
        "results/{scale}/runs/{suite}/{task}/pwm/{variant}/seed{seed}/log.txt",
    benchmark:
        "results/{scale}/benchmarks/extract/{suite}/{task}/{variant}/seed{seed}.tsv"
    priority: 30
    conda:
        "../../environment.yml"
    threads: need("extract", "threads")
    resources:
        mem_mb=need("extract", "mem_mb"),
        runtime=need("extract", "runtime"),
        gpu=need("extract", "gpu"),
    shell:
        "python -m pwm.extract --config {input.config:q} --model $(dirname {input.model:q})"
        " --data $(dirname {input.data:q}) --out $(dirname {output.manifest:q}) > {log:q} 2>&1"
