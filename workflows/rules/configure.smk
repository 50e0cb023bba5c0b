# The resolved config.yaml of each run, world model and data set: a changed setting reruns exactly what it touches.
# And all of a scale's settings as a table, with the paper's beside it: a file of the scale's own, so that scales can be
# at work side by side in one checkout.
# These run at once on the local machine, so they ask for no resources and are not measured.


rule configure_scale:
    input:
        config=code("workflows/config/{scale}.yaml"),
        code=[code("pwm/config.py"), code("pwm/matrix.py"), code("pwm/settings.py")],
        baselines=sorted(map(str, (ROOT / "baselines").glob("*.py"))),
    output:
        "results/{scale}/settings.csv",
    log:
        "results/{scale}/logs/configure_scale.log",
    conda:
        "../../environment.yml"
    shell:
        "python -m pwm.settings --scale {wildcards.scale} --out {output:q} > {log:q} 2>&1"


rule configure_paper:
    input:
        config=code("workflows/config/paper.yaml"),
        code=[code("pwm/config.py"), code("pwm/matrix.py"), code("pwm/settings.py")],
        baselines=sorted(map(str, (ROOT / "baselines").glob("*.py"))),
    output:
        "results/{scale}/paper_settings.csv",
    log:
        "results/{scale}/logs/configure_paper.log",
    conda:
        "../../environment.yml"
    shell:
        "python -m pwm.settings --scale paper --out {output:q} > {log:q} 2>&1"


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
