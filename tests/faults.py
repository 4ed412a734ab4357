"""What breaks RFC 6455, as bytes: tried on the frame reader by itself, and on a whole daemon over real sockets."""

from __future__ import annotations

from typing import Final

from tests.rawclient import BINARY, CLOSE, CONTINUATION, PING, TEXT, close, frame

#: What breaks RFC 6455 (the sections in the ids), and the close code that it leads to.
FAULTS: Final[dict[str, tuple[bytes, int]]] = {
    "5.1 unmasked": (frame(TEXT, b"hello", mask=None), 1002),
    "5.2 first reserved bit": (frame(TEXT, b"hello", reserved=4), 1002),
    "5.2 second reserved bit": (frame(TEXT, b"hello", reserved=2), 1002),
    "5.2 third reserved bit": (frame(TEXT, b"hello", reserved=1), 1002),
    "5.2 reserved bit of a control frame": (frame(PING, b"", reserved=4), 1002),
    **{
        f"5.2 reserved opcode {opcode:#x}": (frame(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)
    },
    "5.2 two length bytes where none would do": (frame(TEXT, b"x" * 125, length_bytes=2), 1002),
    "5.2 eight length bytes where two would do": (frame(TEXT, b"x" * 300, length_bytes=8), 1002),
    "5.2 length of 64 bits": (frame(TEXT, b"x", length_bytes=8, claimed=2**63), 1002),
    "5.4 continuation without a start": (frame(CONTINUATION, b"hello"), 1002),
    "5.4 text within fragments": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "5.4 binary within fragments": (frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"), 1002),
    "5.5 ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "5.5 close of 126 bytes": (close(1000, b"x" * 124), 1002),
    "5.5 fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "5.5 fragmented close": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "5.5.1 close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "5.5.1 close reason that is not UTF-8": (close(1000, b"\xff"), 1007),
    **{
        f"7.4 close code {code}": (close(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "8.1 not UTF-8": (frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80"), 1007),
    "8.1 cut within a character": (frame(TEXT, b"\xe2\x82"), 1007),
    "8.1 not UTF-8 in a later fragment": (
        frame(TEXT, b"ab", fin=False) + frame(CONTINUATION, b"\xff", fin=False),
        1007,
    ),
    "8.1 not UTF-8 before the message is whole": (frame(TEXT, b"\xff", claimed=500), 1007),
    "binary": (frame(BINARY, b"hello"), 1003),
    "binary without content": (frame(BINARY), 1003),
    "fragmented binary": (frame(BINARY, b"he", fin=False), 1003),
}
