"""The report: runs in MLflow, as one HTML page and as a PDF of at most four pages.

job.py         gathers runs, ablations and images from the store, and writes both files
facts.py       what is known of them, as plain values
compare.py     seeds of one recipe as one model; which model is compared with which
pictures.py    images of the validation set, and what each model makes of them
document.py    figures and tables; both files from the template
page.html.j2   the document: all of its words, and the order of its parts
page.css       its looks, on a screen and on paper
"""
