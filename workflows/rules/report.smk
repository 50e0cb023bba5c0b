# Pages of the report on the runs themselves: what is missing, what it cost, where it comes from. Made last, so that they
# tell of everything else.


rule report_pages:
    input:
        drawn=drawn,
        film_strips=film_strips,
        collated=[f"results/{{scale}}/{name}.csv" for name in ("scores", "expected", "provenance")],
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
    log:
        "results/{scale}/logs/report_pages.log",
    conda:
        "../../environment.yml"
    shell:
        "python -m workflows.report_pages --results $(dirname $(dirname {output.missing:q}))"
        " --figures figures/{wildcards.scale} > {log:q} 2>&1"
