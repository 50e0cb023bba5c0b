# Tidy CSV files of all runs: what figures and tables are made from. Its inputs are complete unless partial results
# were asked for, so the stage itself may always leave out what is missing.


rule collate:
    input:
        evaluations=run_files("eval.json"),
        curves=run_files("metrics.csv"),
        manifests=run_files("manifest.json"),
        data=data_files,
        script=collating,
    output:
        scores="results/{scale}/scores.csv",
        curves="results/{scale}/curves.csv",
        expected="results/{scale}/expected.csv",
        data="results/{scale}/data.csv",
        provenance="results/{scale}/provenance.csv",
        checksums="results/{scale}/checksums.json",
    log:
        "results/{scale}/logs/collate.log",
    benchmark:
        "results/{scale}/benchmarks/collate.tsv"
    conda:
        "../../environment.yml"
    threads: need("collate", "threads")
    resources:
        mem_mb=need("collate", "mem_mb"),
        runtime=need("collate", "runtime"),
        gpu=need("collate", "gpu"),
    shell:
        "python -m pwm.scores --scale {wildcards.scale} --partial --out $(dirname {output.scores:q}) > {log:q} 2>&1"
