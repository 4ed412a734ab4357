"""How fast chatd is, beside whom, and how it grows: `python -m bench`, or `make bench`.

scenarios (what is measured) → harness (each scenario on each server in turn) → servers (start and stop them, with
seed, postgres, processes) and load (the native generator, sampled by machine) → figures, report, plot.
"""
