"""Servers that do the same work written otherwise, each in a folder with a README: what it does, what it leaves out."""
