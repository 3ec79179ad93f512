"""Run the main comparison on real images and real pretrained weights, at a size for two CPU cores.

python -m scripts.reproduce.real_run --data <folder with data/ and weights/> [--results results]
    [--views 4] [--skip-full]

dtd10 (ten classes of DTD, through the DTD reader) and caltech101 (through image_folder with its list files), each with
ViT-Tiny and MobileNetV2. The linear probe is trained with three seeds: DLC + FlexRand (with a constant gamma and with a
gamma chosen on validation), DLC top-k and random at the ratios 0.1 and 0.5, and the whole pool. Then ViT-Tiny is
fully fine-tuned on dtd10 at ratio 0.1 with DLC + FlexRand and with random. Finished runs are skipped, so the command
can be given again. The script writes results/tables/real.md and real.csv.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from prunetune.report import collect, tables
from scripts.real_data import ROOT, backbones, check_folder, datasets

RATIOS = "[0.1,0.5]"
METHODS = "[dlc,dlc_g0.25,dlc_topk,random]"


def grids(data: Path, views: int, with_full: bool) -> list[list[str]]:
    """Return the overrides of every grid, the cheapest first."""
    probe = ["finetune=linear_probe", f"finetune.views={views}", "seeds=[0,1,2]", "precision=bf16"]
    jobs = []
    for images in datasets(data).values():
        for backbone in backbones(data).values():
            jobs.append([*images, *backbone, *probe, f"methods={METHODS}", f"ratios={RATIOS}"])
            jobs.append([*images, *backbone, *probe, "methods=[random]", "ratios=[1.0]"])
    if with_full:
        full = ["finetune=full", "finetune.evaluate_every=50", "seeds=[0,1,2]"]
        cells = ["methods=[dlc,random]", "ratios=[0.1]"]
        jobs.append([*datasets(data)["dtd10"], *backbones(data)["vit_tiny"], *full, *cells])
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder of the runs")
    parser.add_argument("--out", type=Path, help="folder for the tables (default: <results>/tables)")
    parser.add_argument(
        "--views", type=int, default=4, help="augmented views of each image (the default recipe has 50)"
    )
    parser.add_argument("--skip-full", action="store_true", help="do not run the full fine-tuning")
    options = parser.parse_args()
    check_folder(options.data)
    for overrides in grids(options.data.resolve(), options.views, not options.skip_full):
        command = [sys.executable, str(ROOT / "run.py"), "--config-name", "grid", f"results_dir={options.results}"]
        print(" ".join(["run.py --config-name grid", *overrides]), flush=True)
        if subprocess.run([*command, *overrides]).returncode:
            sys.exit("error: this grid failed; finished runs are kept, so give the same command again to continue")
    write_tables(options.results, options.out or options.results / "tables")


def write_tables(results_dir: Path, out: Path) -> None:
    """Write the runs of dtd10 and caltech101 as real.md and real.csv."""
    results, skipped = collect.collect_images(results_dir)
    for line in skipped:
        print(line, file=sys.stderr)
    results = results[results["dataset"].isin(["dtd10", "caltech101"])]
    table = tables.summary(results)
    out.mkdir(parents=True, exist_ok=True)
    (out / "real.md").write_text(tables.to_markdown(table, tables.footer(results)))
    tables.to_csv(table, out / "real.csv")
    print(f"wrote {out / 'real.md'} and {out / 'real.csv'}")


if __name__ == "__main__":
    main()
