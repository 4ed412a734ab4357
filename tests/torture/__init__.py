"""Daemons that are killed under load, clients that write down what they were promised, and a checker that compares."""
