# A world model, of one task or of a suite's; on several GPUs by as many processes, each with its share of every batch.


rule pretrain:
    input:
        config="results/{scale}/models/{suite}/{variant}/{tasks}/seed{seed}/config.yaml",
        data=model_data,
    output:
        weights="results/{scale}/models/{suite}/{variant}/{tasks}/seed{seed}/model.safetensors",
        config="results/{scale}/models/{suite}/{variant}/{tasks}/seed{seed}/config.json",
        metrics="results/{scale}/models/{suite}/{variant}/{tasks}/seed{seed}/metrics.csv",
        manifest="results/{scale}/models/{suite}/{variant}/{tasks}/seed{seed}/manifest.json",
    log:
        "results/{scale}/models/{suite}/{variant}/{tasks}/seed{seed}/log.txt",
    benchmark:
        "results/{scale}/benchmarks/pretrain/{suite}/{variant}/{tasks}/seed{seed}.tsv"
    priority: 40
    conda:
        "../../environment.yml"
    threads: need("pretrain", "threads")
    resources:
        mem_mb=need("pretrain", "mem_mb"),
        runtime=need("pretrain", "runtime"),
        gpu=need("pretrain", "gpu"),
    shell:
        "python $([ {resources.gpu} -lt 2 ] || echo -m torch.distributed.run --standalone --nproc-per-node {resources.gpu})"
        " -m pwm.pretrain --config {input.config:q} --data $(dirname {input.data:q})"
        " --out $(dirname {output.weights:q}) > {log:q} 2>&1"
