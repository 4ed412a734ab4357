#!/usr/bin/env bash
# Makes the secrets that compose.yaml mounts, in the folder secrets/ beside this file; what is there stays as it is.
# The folder is closed to others. The files in it are not: in its container each is read by another user.
set -euo pipefail
cd "$(dirname "$0")"

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
# keep NAME: what comes in becomes the secret NAME, unless there is one
keep() { if [[ -e secrets/$1 ]]; then cat >/dev/null; else cat >"secrets/$1"; echo "Made deploy/secrets/$1."; fi; }

mkdir -p -m 700 secrets
umask 022
random 48 | keep auth_secret
random 24 | keep database_password
keep chatd.toml <<TOML
[database]
url = "postgresql://chatd:$(cat secrets/database_password)@postgres/chatd"
TOML
