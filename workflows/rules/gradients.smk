# Measurements of gradients, each by a config of its own: results/<scale>/gradients/{ball_wall,gradient_quality}.csv.
from pwm.config import dump


rule configure_gradients:
    output:
        "results/{scale}/gradients/{measurement}.yaml",
    log:
        "results/{scale}/logs/configure_gradients/{measurement}.log",
    wildcard_constraints:
        measurement="|".join(MEASURED),
    conda:
        "../../environment.yml"
    params:
        text=lambda w: dump(getattr(matrix(w.scale).config.gradients, w.measurement)),
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule ball_wall:
    input:
        config="results/{scale}/gradients/ball_wall.yaml",
    output:
        "results/{scale}/gradients/ball_wall.csv",
    log:
        "results/{scale}/logs/gradients/ball_wall.log",
    benchmark:
        "results/{scale}/benchmarks/ball_wall.tsv"
    conda:
        "../../environment.yml"
    threads: need("ball_wall", "threads")
    resources:
        mem_mb=need("ball_wall", "mem_mb"),
        runtime=need("ball_wall", "runtime"),
        gpu=need("ball_wall", "gpu"),
    shell:
        "python -m pwm.ball_wall --config {input.config:q} --scale {wildcards.scale} --out {output:q} > {log:q} 2>&1"


rule gradients:
    input:
        config="results/{scale}/gradients/gradient_quality.yaml",
    output:
        "results/{scale}/gradients/gradient_quality.csv",
    log:
        "results/{scale}/logs/gradients/gradient_quality.log",
    benchmark:
        "results/{scale}/benchmarks/gradients.tsv"
    conda:
        "../../environment.yml"
    threads: need("gradients", "threads")
    resources:
        mem_mb=need("gradients", "mem_mb"),
        runtime=need("gradients", "runtime"),
        gpu=need("gradients", "gpu"),
    shell:
        "python -m pwm.gradients --config {input.config:q} --scale {wildcards.scale} --out {output:q} > {log:q} 2>&1"
