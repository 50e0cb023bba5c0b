# TD-MPC2's official episodes, sharded by task: one job per official set for all who train on it.


def official_files(folder, name, shards):
    """Before any job, where shards are missing: have the files downloaded if that was asked for, or refuse."""

    def nothing_to_wait_for(_wildcards):
        if workflow.dryrun or all(map(os.path.exists, shards)):
            return []
        try:
            if DOWNLOAD:
                download(folder, name)
            find_files(folder, name)
        except UserError as error:
            refuse(error)
        return []

    return nothing_to_wait_for


for name in OFFICIAL:
    tasks = matrix(SCALE).imports().get(name, [])
    shards = expand("results/{scale}/data/{task}/episodes/meta.json", scale=SCALE, task=tasks)

    rule:
        name:
            f"import_{name}"
        input:
            configs=expand("results/{scale}/data/{task}/config.yaml", scale=SCALE, task=tasks),
            files=official_files(Path(matrix(SCALE).config.tdmpc2_data), name, shards),
        output:
            shards,
        log:
            f"results/{SCALE}/logs/import/{name}.log",
        benchmark:
            f"results/{SCALE}/benchmarks/import/{name}.tsv"
        priority: 50
        conda:
            "../../environment.yml"
        threads: need("import", "threads")
        resources:
            mem_mb=need("import", "mem_mb"),
            runtime=need("import", "runtime"),
            gpu=need("import", "gpu"),
        params:
            suite=name,
            files=matrix(SCALE).config.tdmpc2_data,
            out=f"results/{SCALE}/data",
            tasks=tasks,
        shell:
            "python -m pwm.data.tdmpc2_format import --suite {params.suite} --files {params.files:q}"
            " --out {params.out:q} --tasks {params.tasks} > {log:q} 2>&1"


# What a scale imports is not collected.
ruleorder: import_mt30 > collect
ruleorder: import_mt80 > collect
