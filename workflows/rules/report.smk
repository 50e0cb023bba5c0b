# Pages of the report on the runs themselves: what is missing, what it cost, where it comes from. Made last, so that they
# tell of everything else.


def drawn(wildcards):
    """All figures and tables; with `--config partial=true` no figure whose measurement is not there."""
    scale = wildcards.get("scale", SCALE)
    sources = {stem: f"results/{scale}/gradients/{stem}.csv" for stem in MEASURED}
    absent = [stem for stem, source in sources.items() if PARTIAL and not Path(source).exists()]
    figures = expand("figures/{scale}/{stem}.{ending}", scale=scale, stem=FIGURES, ending=["pdf", "png"])
    tables = expand("results/{scale}/tables/{stem}.md", scale=scale, stem=TABLES)
    return [file for file in figures if Path(file).stem not in absent] + tables


rule report_pages:
    input:
        drawn=drawn,
        film_strips=film_strips,
        manifests=run_files("manifest.json"),
        script=code("workflows/report_pages.py"),
        shared=[code("workflows/pages.py"), code("workflows/readme.py")],
    output:
        missing=report(
            "results/{scale}/report/missing.html",
            caption="../report/missing.rst",
            category=CATEGORY["provenance"],
            labels={"page": "what is missing"},
        ),
        costs=report(
            "results/{scale}/report/costs.html",
            caption="../report/costs.rst",
            category=CATEGORY["costs"],
            labels={"page": "by rule"},
        ),
        provenance=report(
            "results/{scale}/report/provenance.html",
            caption="../report/provenance.rst",
            category=CATEGORY["provenance"],
            labels={"page": "where it comes from"},
        ),
        table="results/{scale}/report/provenance.csv",
    log:
        "results/{scale}/logs/report_pages.log",
    conda:
        "../../environment.yml"
    shell:
        "python -m workflows.report_pages --results $(dirname $(dirname {output.missing:q}))"
        " --figures figures/{wildcards.scale} > {log:q} 2>&1"
