"""Bytes on the wire: WebSocket frames, HTTP messages, what waits to be sent. No Trio and no chat in here."""
