"""The peer written plainly with trio-websocket and triopg: server.py is a program, started by bench/servers.py."""
