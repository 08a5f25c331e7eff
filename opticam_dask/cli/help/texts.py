"""Texts that ``--help`` shows beside the options: commands grouped by purpose, and examples of each."""

from __future__ import annotations

#: Commands by what they are for, in the order of a night.
GROUPS: dict[str, tuple[str, ...]] = {
    "First steps": ("demo", "sample", "generate", "check", "instrument"),
    "Reduce": ("reduce", "watch", "sky"),
    "Results": ("lightcurve", "export", "plot", "report", "browse"),
    "Curate": ("mark", "unmark", "marks"),
    "Fits and archives": ("magnitudes", "fit-transit", "fit-eclipse", "fit-sinusoid", "submit"),
    "Look after a reduction": ("status", "verify", "migrate", "relocate", "remove"),
    "Clusters": ("cluster", "plan", "work", "finish"),
    "Shell": ("completion",),
}

#: Command lines that work as they stand but for the names of directories, by command.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("demo", "demo /tmp/demo --n-images 50 --cluster none"),
    "sample": ("sample", "sample hat-p-32 --directory /data/samples"),
    "generate": ("generate /tmp/frames --frames 20 --seed 7", "generate /tmp/flats --flats"),
    "check": ("check DATA", "check DATA --problems 0", "check DATA --json | jq .set_aside"),
    "instrument": ("instrument guess DATA --to my_camera.json", "instrument check my_camera.json DATA"),
    "reduce": (
        "reduce DATA --out OUT",
        "reduce DATA --out OUT --photometer aperture optimal --radius 4 6",
        "reduce DATA --out OUT --biases BIAS --darks DARK --flats FLAT --remove-cosmic-rays",
        "reduce DATA --out OUT --cluster slurm --workers 64 --walltime 02:00:00",
    ),
    "watch": ("watch TONIGHT --out OUT --target 3 --comparisons 1 2",),
    "sky": ("sky OUT --sky-catalog stars.csv", "sky OUT --wcs solved.fits --key 1:g"),
    "plan": ("plan DATA --out OUT --slurm | bash", "plan --out OUT"),
    "work": ("work OUT --pass 1 --blocks 0:64", "work OUT --pass 1 --job 3"),
    "finish": ("finish OUT --pass 1",),
    "status": ("status OUT", "status OUT --provenance", "status OUT --json | jq .cameras[].catalog"),
    "verify": ("verify OUT", "verify OUT --repair", "verify OUT --against OTHER"),
    "migrate": ("migrate OUT",),
    "relocate": ("relocate OUT /archive/2024",),
    "remove": ("remove OUT 2024-01-02",),
    "lightcurve": (
        "lightcurve OUT --target 3 --comparisons 1 2",
        "lightcurve OUT --target 3 --comparisons auto --without 5 9 --key 1:g --json",
        "lightcurve OUT --target 03:30:00 +20:00:00 --comparisons auto",
    ),
    "fit-transit": (
        "fit-transit OUT --target 32 --period 2.1500082 --a-over-rs 6.05 0.03 --inclination 88.9 0.4",
        "fit-transit OUT --target 3 --period 2.15 --key 1:g --comparisons 1 2",
    ),
    "fit-eclipse": ("fit-eclipse OUT --target 3",),
    "fit-sinusoid": ("fit-sinusoid OUT --target 3 --comparisons 1 2",),
    "mark": (
        "mark OUT cloud --key 1:g --times 2024-01-01T22:10 2024-01-01T22:25 --why cirrus",
        "mark OUT junk --key 1:g --frames 240101g200000012o.fits --sources 3 --why satellite",
        "mark OUT transform --key 1:g --frames 240101g200000040o.fits --pairs 3 101.2 88.0 5 40.1 160.7",
        "mark OUT junk --key 1:g --sources 7 --why 'variable, not to be a comparison'",
    ),
    "unmark": ("unmark OUT 2",),
    "marks": ("marks OUT", "marks OUT --undone --json"),
    "magnitudes": ("magnitudes OUT --target 3", "magnitudes OUT --target 3 --key 1:g --band g --colour g r"),
    "submit": (
        "submit OUT --format aavso-exoplanet --name hat_p_32 --observer observer.toml --star HAT-P-32",
        "submit OUT --format etd",
    ),
    "export": (
        "export OUT --format csv",
        "export OUT --format fits --key 1:g --sources 1 2 3",
        "export OUT --format fits --stack",
    ),
    "plot": ("plot OUT", "plot OUT noise rms --label optimal"),
    "report": ("report OUT --n-sources 40",),
    "browse": ("browse OUT --key 1:g",),
    "cluster": ("cluster --cluster slurm --workers 8 --dry-run",),
    "completion": (
        "completion bash > ~/.local/share/bash-completion/completions/opticam-dask",
        "completion zsh > ~/.zfunc/_opticam-dask",
        "completion fish > ~/.config/fish/completions/opticam-dask.fish",
    ),
}


def commands_by_group(sentences: dict[str, str]) -> str:
    """Commands with a sentence on each, under the name of their group.

    Parameters
    ----------
    sentences : dict of str
        Sentence on each command.
    """
    width = max(map(len, sentences)) + 2
    lines = []
    for title, names in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<{width}}{sentences[name]}" for name in names), ""]
    return "\n".join([*lines, "opticam-dask COMMAND --help tells the options of a command, with examples."])


def examples_of(command: str) -> str:
    """Examples of a command, a line each."""
    return "\n".join(["examples:", *(f"  opticam-dask {example}" for example in EXAMPLES.get(command, ()))])
