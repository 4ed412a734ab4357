"""Files that mean harm, each under the name of what it tries: none may be kept as it is, none may hurt the daemon."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from tests.pictures import jpeg, moving, picture, png


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *, rows: bytes | None = None, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header says this, with these pixels compressed."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(1000) if rows is None else rows, 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _gif(width: int, height: int, *, frames: int = 1) -> bytes:
    """A GIF whose pictures are as large as it says, each with hardly a byte of pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def _webp(width: int, height: int) -> bytes:
    """A lossless WebP header of this size, with nothing behind it."""
    bits = (width - 1) | (height - 1) << 14
    data = b"\x2f" + struct.pack("<I", bits) + bytes(20)
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_bomb(width: int, height: int) -> bytes:
    """A whole lossless WebP of one colour: each of its five codes has one symbol, so that no pixel takes a bit."""
    # From the lowest: size, no alpha, version 0, no transform, no cache, no further codes; five codes of the symbol 0.
    bits = (width - 1) | (height - 1) << 14 | 0x11111 << 35
    body = b"WEBPVP8L" + struct.pack("<I", 9) + b"\x2f" + struct.pack("<Q", bits) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _jpeg(width: int, height: int) -> bytes:
    """A real JPEG whose frame header lies about its size."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _zip(*, size: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(size))
    return packed.getvalue()


_SCRIPT = b"<script>alert(document.domain)</script>"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'

#: What has to be refused: (name of the case, name of the file, content).
REFUSED: list[tuple[str, str, bytes]] = [
    ("empty", "photo.jpg", b""),
    ("one null byte", "photo.jpg", b"\0"),
    ("null bytes", "photo.png", bytes(5000)),
    ("random bytes", "photo.webp", bytes(range(256)) * 20),
    ("text with a null byte", "notes.txt", b"hello\0world"),
    ("text that is not UTF-8", "notes.txt", "grüße".encode("latin-1")),
    ("text in UTF-16", "notes.txt", "hello".encode("utf-16")),
    ("text cut in a character", "notes.txt", "grüße".encode()[:3]),
    ("text with a character cut far behind", "notes.txt", b"a" * 70_000 + b"\xc3"),
    ("text with an escape far behind", "notes.md", b"a" * 200_000 + b"\x07"),
    ("html as text", "notes.txt", b"<html>" + _SCRIPT),
    ("html in capitals", "notes.txt", b"  \r\n<HTML>" + _SCRIPT),
    ("doctype", "notes.txt", b"<!DOCTYPE html>" + _SCRIPT),
    ("doctype behind a byte order mark", "notes.txt", b"\xef\xbb\xbf<!doctype html>" + _SCRIPT),
    ("script", "notes.md", _SCRIPT),
    ("xhtml", "notes.txt", b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>'),
    ("html as jpeg", "photo.jpg", b"<html>" + _SCRIPT),
    ("html as gif", "photo.gif", b"<body onload=alert(1)>"),
    ("svg", "photo.svg", _SVG),
    ("svg as png", "photo.png", _SVG),
    ("svg with a declaration", "photo.jpg", b'<?xml version="1.0"?>' + _SVG),
    ("svg that includes a file", "photo.svg", b'<svg><image href="file:///etc/passwd"/></svg>'),
    ("program", "photo.jpg", b"\x7fELF\x02\x01\x01" + bytes(200)),
    ("windows program", "photo.png", b"MZ\x90\x00" + bytes(200)),
    ("java class", "photo.png", b"\xca\xfe\xba\xbe\x00\x00\x00\x34" + bytes(50)),
    ("tiff", "photo.tiff", picture().tiffsave_buffer()),
    ("tiff as jpeg", "photo.jpg", picture().tiffsave_buffer()),
    ("bmp", "photo.bmp", b"BM" + struct.pack("<IHHIIiiHH", 58, 0, 0, 54, 40, 1, 1, 1, 24) + bytes(28)),
    ("ico", "favicon.ico", b"\0\0\1\0\1\0\1\1\0\0\1\0\x18\0" + bytes(60)),
    ("postscript", "photo.jpg", b"%!PS-Adobe-3.0\n(%stdin%) (r) file\n" + bytes(10)),
    ("imagemagick script", "photo.jpg", b"push graphic-context\nviewbox 0 0 1 1\nfill 'url(https://x/\"|ls)'\0"),
    ("rar", "a.zip", b"Rar!\x1a\x07\x00" + bytes(100)),
    ("gzip", "a.zip", b"\x1f\x8b\x08\0" + bytes(100)),
    ("seven zip", "a.zip", b"7z\xbc\xaf\x27\x1c" + bytes(100)),
    ("video", "photo.webp", b"\0\0\0\x18ftypmp42" + bytes(100)),
    ("sound in riff", "photo.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(100)),
    ("pdf without an end", "a.pdf", b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n"),
    ("pdf cut off", "a.pdf", b"%PDF-1.4\n%%EOF" + b"x" * 5000),
    ("pdf behind html", "a.pdf", b"<html>%PDF-1.4\n%%EOF"),
    ("zip cut off", "a.zip", _zip(size=10_000)[:-10]),
    ("zip with something behind it", "a.zip", _zip(size=10_000) + _SCRIPT),
    ("zip whose comment lies", "a.zip", _zip(size=10)[:-2] + b"\xff\xff"),
    ("only the head of a zip", "a.zip", b"PK\x03\x04" + bytes(30)),
    ("jpeg cut off", "photo.jpg", jpeg(400, 300)[:-1000]),
    ("only the head of a jpeg", "photo.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(10)),
    ("jpeg head before html", "photo.jpg", b"\xff\xd8\xff\xe0" + _SCRIPT),
    ("jpeg of 50000 x 50000", "photo.jpg", _jpeg(50_000, 50_000)),
    ("jpeg of 65535 x 65535", "photo.jpg", _jpeg(65_535, 65_535)),
    ("jpeg of no width", "photo.jpg", _jpeg(0, 10)),
    ("png cut off", "photo.png", png(400, 300)[:-200]),
    ("only the head of a png", "photo.png", b"\x89PNG\r\n\x1a\n"),
    ("png of 50000 x 50000", "photo.png", _png(50_000, 50_000)),
    ("png that is a decompression bomb", "photo.png", _png(50_000, 50_000, rows=bytes(30_000_000))),
    ("png of 2147483647 x 1", "photo.png", _png(2**31 - 1, 1)),
    ("png of no width", "photo.png", _png(0, 1)),
    ("png with fewer pixels than it says", "photo.png", _png(400, 400, rows=bytes(100))),
    ("png with a bad checksum", "photo.png", png()[:-20] + b"\0" * 8 + png()[-12:]),
    ("png of a colour that is none", "photo.png", _png(10, 10, colour=5)),
    ("png of a depth that is none", "photo.png", _png(10, 10, depth=3)),
    ("png of 16 bits and 40000 x 40000", "photo.png", _png(40_000, 40_000, depth=16)),
    ("gif of 65535 x 65535", "photo.gif", _gif(65_535, 65_535)),
    ("gif of many large pictures", "photo.gif", _gif(5000, 5000, frames=200)),
    ("gif of very many pictures", "photo.gif", _gif(10, 10, frames=5000)),
    ("only the head of a gif", "photo.gif", b"GIF89a"),
    ("gif with a script as its colours", "photo.gif", b"GIF89a=1;alert(1)//" + bytes(20)),
    ("webp of 16384 x 16384", "photo.webp", _webp(16_384, 16_384)),
    ("webp of 30 bytes that is 16383 x 16383", "photo.webp", _webp_bomb(16_383, 16_383)),
    ("webp cut off", "photo.webp", picture(400, 300).webpsave_buffer()[:-200]),
    ("only the head of a webp", "photo.webp", b"RIFF\x10\0\0\0WEBPVP8 "),
    ("moving webp cut off", "photo.webp", moving(200, 200).webpsave_buffer()[:-300]),
]

#: What may be kept, but made harmless: nothing of `_SCRIPT` is in what is served.
CLEANED: list[tuple[str, str, bytes]] = [
    ("jpeg with a script behind it", "photo.jpg", jpeg() + _SCRIPT),
    ("jpeg with a script in a comment", "photo.jpg", jpeg()[:2] + b"\xff\xfe" + struct.pack(">H", len(_SCRIPT) + 2)
     + _SCRIPT + jpeg()[2:]),
    ("png with a script behind it", "photo.png", png() + _SCRIPT),
    ("png with a script in a text chunk", "photo.png", png()[:33] + _chunk(b"tEXt", b"a\0" + _SCRIPT) + png()[33:]),
    ("gif with a script behind it", "photo.gif", moving().gifsave_buffer() + _SCRIPT),
    ("webp with a script behind it", "photo.webp", picture().webpsave_buffer() + _SCRIPT),
    ("jpeg with a zip behind it", "photo.jpg", jpeg() + _zip(size=10).replace(b"zeros", b"<scri")),
    ("webp of one colour in 30 bytes", "photo.webp", _webp_bomb(2500, 300)),
    ("png called html", "photo.html", png()),
    ("gif called svg", "photo.svg", moving().gifsave_buffer()),
    ("jpeg called with a path", "../../../etc/passwd", jpeg()),
    ("jpeg called with a null byte", "photo.jpg\0.html", jpeg()),
]  # fmt: skip

#: What is kept as it is, for nobody here unpacks or runs it: it is saved, never shown.
SAVED: list[tuple[str, str, bytes]] = [
    ("zip bomb", "a.zip", _zip(size=9_000_000)),
    ("zip in a zip called jpg", "photo.jpg", _zip(size=100)),
    ("text with a script far behind", "notes.txt", b"hello " * 2000 + _SCRIPT),
    ("text called html", "page.html", b"hello " + _SCRIPT),
    ("markdown with a script", "notes.md", b"# title\n\n" + _SCRIPT),
]
