"""chatd: a chat server daemon for raw WebSocket clients, on Trio."""

__version__ = "0.1.0"
