"""The table of docs/theory/hessian-overlap.md, from runs of `hessian-overlap`.

`python benchmarks/overlap_table.py RUN...` prints a row for each layer of each network: m, where
the mean overlap over pairs of networks is largest (least and most of single pairs), whether that is
within 10 % of m, how high it is there and at m, what Theorem C.7.1 predicts for m (with the
standard deviation over pairs), how many eigenvalues satisfy its condition, where the Kronecker
products have their peak, and the share of the Hessian's trace that was kept.
"""

import argparse
from pathlib import Path

from metastep_lab.catalog import listing
from metastep_lab.experiment import load
from metastep_lab.runs.running import read_record
from metastep_lab.wu2022.hessian_overlap.claims import NEAR
from metastep_lab.wu2022.hessian_overlap.reading import peaks

HEAD = (
    "| network | layer | m | peak at k | within 10 % | height | at m | predicted at m | "
    "condition up to | peak of products | trace kept |\n|" + "---|" * 11
)
ROW = (
    "| `{model}` | {layer} | {outputs} | {place} ({least:g} to {most:g}) | {verdict} | "
    "{height:.3f} | {at_outputs:.3f} | {alignment:.3f}±{spread:.3f} | {reach:g} | {product} | "
    "{kept:.2f} |"
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    experiment = load(listing("hessian-overlap"))
    print(HEAD)
    for run in parser.parse_args().runs:
        record = read_record(run, experiment)
        rows = peaks(record)
        near = rows.eval(NEAR)
        for row, found in zip(rows.to_dict("records"), near, strict=True):
            verdict = "output layer" if row["last"] else "yes" if found else "no"
            print(ROW.format(**row, verdict=verdict))


if __name__ == "__main__":
    main()
