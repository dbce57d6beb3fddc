"""Table 1 of the paper: orders of time and memory, as exponents."""

from metastep_lab.printed import Printed, mean_of
from metastep_lab.tables import Record


def printed(record: Record) -> list[Printed]:
    """Return the exponents of Table 1 in the horizon T, the window K and N hyperparameters."""
    return [
        Printed(
            "Table 1",
            f"{row['estimator']}, exponent of {row['quantity']} in {row['varied']}",
            row["stated"],
            mean_of(
                "exponents",
                "measured",
                source="table",
                **{name: row[name] for name in ("estimator", "quantity", "varied")},
            ),
        )
        for row in record.rows("exponents", source="table").to_dict("records")
    ]
