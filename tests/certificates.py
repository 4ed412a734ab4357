"""Certificates for tests: made by openssl for localhost and 127.0.0.1, and how a client trusts one."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Made(NamedTuple):
    """The files of a certificate and its key."""

    cert: Path
    key: Path

    def trust(self) -> ssl.SSLContext:
        """For clients."""
        return ssl.create_default_context(cafile=str(self.cert))

    def options(self, *tables: str) -> dict[str, str]:
        """For daemons of `tests.daemon`."""
        files = {"CERT": str(self.cert), "KEY": str(self.key)}
        return {f"{table}_TLS_{name}": path for table in tables for name, path in files.items()}


def make_certificate(
    folder: Path, name: str = "certificate", *, passphrase: str = "", signer: Made | None = None
) -> Made:
    """A certificate that signs itself, or that another one has signed, good for two days."""
    made = Made(folder / f"{name}.pem", folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-CA", str(signer.cert), "-CAkey", str(signer.key)] if signer is not None else []
    subprocess.run([*command, "-keyout", str(made.key), "-out", str(made.cert)], check=True, capture_output=True)
    return made
