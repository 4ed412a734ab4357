"""How much is too much: rates that refill, whose address counts, and who is let in at the door."""
