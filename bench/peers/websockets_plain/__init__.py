"""The peer written plainly with websockets: server.py is a program, started by bench/servers.py."""
