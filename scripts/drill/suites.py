"""All suites of the drill, in the order of the table."""

from scripts.drill import damage, full_disk, kills, together
from scripts.drill.inputs import archives, checkpoints, image_files, list_files, overrides, score_files

INPUTS = (overrides, list_files, score_files, checkpoints, archives, image_files)
SUITES = (*kills.SUITES, *together.SUITES, *full_disk.SUITES, *damage.SUITES, *(module.SUITE for module in INPUTS))
