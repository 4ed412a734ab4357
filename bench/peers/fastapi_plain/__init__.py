"""The peer written plainly with FastAPI: server.py is a program, started by bench/servers.py."""
