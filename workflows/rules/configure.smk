# The resolved config.yaml of each run, world model and data set: a changed setting reruns exactly what it touches.
# These run at once on the local machine, so they ask for no resources and are not measured.


rule configure_data:
    output:
        "results/{scale}/data/{task}/config.yaml",
    log:
        "results/{scale}/logs/configure_data/{task}.log",
    conda:
        "../../environment.yml"
    params:
        text=config_text(lambda w: w.task),
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule configure_model:
    output:
        "results/{scale}/models/{suite}/{variant}/{tasks}/seed{seed}/config.yaml",
    log:
        "results/{scale}/logs/configure_model/{suite}/{variant}/{tasks}/seed{seed}.log",
    conda:
        "../../environment.yml"
    params:
        text=config_text(model_id),
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule configure_run:
    output:
        "results/{scale}/runs/{suite}/{task}/{algorithm}/{variant}/seed{seed}/config.yaml",
    log:
        "results/{scale}/logs/configure_run/{suite}/{task}/{algorithm}/{variant}/seed{seed}.log",
    conda:
        "../../environment.yml"
    params:
        text=config_text(run_id),
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"
