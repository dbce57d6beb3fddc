"""The examples below the help of each command."""

EXAMPLES = {
    # The backspace tells typer not to fill the lines of this paragraph.
    name: "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
    for name, lines in {
        "metastep": (
            "metastep list",
            "metastep run hypercleaning",
            "metastep report runs/hypercleaning",
            "metastep --install-completion   complete commands with the tab key",
        ),
        "list": ("metastep list", "metastep list --json"),
        "run": (
            "metastep run hypercleaning",
            "metastep run hypercleaning --set windows=1,5 --seed 3 --out runs/short",
            "metastep run hypercleaning --preset paper --data DATA --resume",
        ),
        "check": ("metastep check runs/hypercleaning",),
        "report": (
            "metastep report runs/hypercleaning",
            "metastep report runs/* --out all.html",
        ),
        "clean": (
            "metastep clean customers.csv --label segment",
            "metastep clean photos --label species --model network --out checked",
        ),
        "sweep": ("metastep sweep hypercleaning --grid horizon=50,100 --seeds 0:3",),
        "data": ("metastep data list", "metastep data fetch mnist"),
        "data list": ("metastep data list", "metastep data list --data DATA"),
        "data fetch": (
            "metastep data fetch mnist",
            "metastep data fetch cifar100 --data DATA --from http://mirror.local/sets/",
        ),
        "doctor": ("metastep doctor", "metastep doctor --data DATA"),
    }.items()
}
