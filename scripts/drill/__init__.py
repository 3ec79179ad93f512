"""The drill: faults that machines and people cause, each tried on small runs; every outcome is judged.

A fault is right if the user sees one clear line and exit code 1, or the result of a run without the fault; if something
stored was damaged, a line must name it. `python -m scripts.drill` tries all of them and writes results/drill/.
"""
