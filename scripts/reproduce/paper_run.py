"""Make the paper's tables and figures on real images, at a size that two CPU cores can train.

python -m scripts.reproduce.paper_run --data <folder with data/ and weights/> [--results results]
    [--parts main transfer ...] [--without grand]

The cells come from the presets of configs/sweep, with other data sets and backbones in the place of the paper's:
main       dtd10 and caltech101, each with ViT-Tiny and MobileNetV2, linear probe, dynamics from a linear-probe proxy
transfer   MobileNetV2 scores and ViT-Tiny is probed, and the reverse
ablations  path size, masking, sampler and gamma on dtd10 with ViT-Tiny, linear probe, dynamics from its proxy
full_proxy the sampler ablation and the time table on dtd10 with ViT-Tiny and the fully fine-tuned proxy; hours
full       the sampler and gamma ablations at ratio 0.1 under full fine-tuning of ViT-Tiny on dtd10, three gammas; hours

GraNd of all parameters takes most of the time of `main`; --without leaves methods out. Finished runs are skipped, so
the command can be given again. Then: `make tables figures RESULTS=<results>`.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from scripts.real_data import ROOT, backbones, check_folder, datasets

PARTS = ("main", "transfer", "ablations", "full_proxy", "full")
ABLATIONS = ("ablation_path", "ablation_masking", "ablation_sampler", "ablation_gamma")
OF_FULL_PROXY = ("ablation_sampler", "time")
# precision=bf16 also trains the full proxy in bf16, which halves the time on a CPU; auto would train it in fp32.
SHARED = ["wandb=disabled", "precision=bf16", "finetune.evaluate_every=50", "seeds=[0,1,2]"]
PROBE = ["finetune=linear_probe", "finetune.views=4"]
NINE = "ratios=[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9]"
FULL_GAMMAS = ("g0.1", "g0.5", "g0.9")  # 3 of the 19 gammas of the sweep, to save time.


def cells_of(preset: str) -> list[str]:
    """Return the entries of a preset's `methods`, some of which have overrides."""
    content = OmegaConf.load(ROOT / "configs" / "sweep" / f"{preset}.yaml")
    return list(OmegaConf.create(content.hydra.sweeper.params.methods))


def grids(data: Path, parts: Sequence[str], without: Sequence[str]) -> Iterator[list[str]]:
    """Yield the overrides of every grid. without: methods that are left out."""

    def methods(preset: str) -> list[str]:
        return [cell for cell in cells_of(preset) if cell.split()[0] not in without]

    images, networks = datasets(data), backbones(data)
    dtd10, vit_tiny = images["dtd10"], networks["vit_tiny"]
    if "main" in parts:
        for dataset in images.values():
            for network in networks.values():
                yield [*dataset, *network, *PROBE, "proxy=linear_probe", NINE, _listed(methods("main"))]
    if "transfer" in parts:
        for tuned, scoring in (("vit_tiny", "mobilenetv2"), ("mobilenetv2", "vit_tiny")):
            for dataset in images.values():
                cell = " ".join(["dlc", *_as_scoring(networks[scoring])])
                yield [*dataset, *networks[tuned], *PROBE, NINE, _listed([cell])]
    if "ablations" in parts:
        for preset in ABLATIONS:
            yield [*dtd10, *vit_tiny, *PROBE, "proxy=linear_probe", NINE, _listed(methods(preset))]
    if "full_proxy" in parts:
        for preset in OF_FULL_PROXY:
            yield [*dtd10, *vit_tiny, *PROBE, NINE, _listed(methods(preset))]
    if "full" in parts:
        kept = [cell for cell in methods("ablation_gamma") if cell.endswith(tuple(f"tag={tag}" for tag in FULL_GAMMAS))]
        for cells in (methods("ablation_sampler"), kept):
            yield [*dtd10, *vit_tiny, "finetune=full", "ratios=[0.1]", _listed(cells)]


def _as_scoring(network: list[str]) -> list[str]:
    """Return the overrides of a backbone as those of the scoring backbone."""
    chosen = [word.replace("backbone.", "scoring_backbone.", 1) for word in network if word.startswith("backbone.")]
    return ["backbone@scoring_backbone=timm", *chosen]


def _listed(cells: list[str]) -> str:
    quoted = ",".join(f'"{cell}"' for cell in cells)
    return f"methods=[{quoted}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder of the runs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--without", nargs="+", default=[], metavar="METHOD", help="methods to leave out")
    options = parser.parse_args()
    check_folder(options.data)
    failed = False
    for overrides in grids(options.data.resolve(), options.parts, options.without):
        command = [sys.executable, str(ROOT / "run.py"), "--config-name", "grid", f"results_dir={options.results}"]
        print(" ".join(["run.py --config-name grid", *SHARED, *overrides]), flush=True)
        failed |= subprocess.run([*command, *SHARED, *overrides], check=False).returncode != 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
