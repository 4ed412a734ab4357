"""The bytes of files: where they arrive, what they are, how images are made safe, where they are kept and removed.

Knows nothing of HTTP and of who may see what; `chatd.chat.files` has the rules.
"""
