"""The report: what the runs say, as one document, and that document as an HTML page and as a PDF of few pages.

Data in, files out; nothing here knows MLflow, torch or where a run is kept (`distill.report.job` gathers).

    facts.py        what is known of runs, ablations and photographs
    comparing.py    seeds of one recipe as one model; who is compared with whom, and the test
    document.py     the document: sections of passages, tables, charts and galleries
    approach.py     preprocessing, architecture, training: a config in words and tables
    experiments.py  results, comparisons, errors, learning curves
    ablations.py    ablation tables with intervals
    galleries.py    photographs, heatmaps, attention maps
    composing.py    all of it, with the answer on top
    wording.py      numbers and lists as a reader wants them
    html.py         the document as one self-contained page (page.html.j2, page.css, page.js)
    pdf.py          the document as a PDF that keeps to its pages
    paper.py        what its parts look like
    layout.py       where they go
"""
