"""How fast chatd is, beside whom, and how it grows: `python -m bench`, or `make bench`.

rows (what is measured) → harness (each row on each server in turn) → servers (start and stop them, with peer_servers,
seed, postgres, redis, processes) and load (the native generator, sampled by machine; beside it k6_load and store_load)
→ figures, goals, report, page, plot, comparison.
"""
