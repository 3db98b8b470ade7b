"""report.html: what a run gave, as one page with inline SVG and nothing fetched."""
def write_report(directory, results):
    pass
