"""Whether promises 1 to 5 of the protocol were kept: what clients wrote down, held against what the database holds.

`verification` is `chatd verify`; the torture suite uses the parts. docs/verify.md describes logs, exports and limits.
"""
