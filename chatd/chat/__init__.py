"""What chat means: the rules behind every message and every path. No Trio, no SQL and no sockets in here."""
