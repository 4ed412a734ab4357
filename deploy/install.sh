#!/usr/bin/env bash
# Puts chatd on a Debian machine with systemd, or brings it up to date: `make install`, or this script, as root.
#
#   /opt/chatd                 the program in a virtual environment, installed from what is locked, with hashes
#   /etc/systemd/system        chatd.service, chatd.socket, chatd-http.socket, chatd@.service
#   /etc/chatd                 chatd.toml (yours from the first time on) and auth_secret (made once)
#   /usr/local/bin/chatd       the command line, run as the daemon is run
#
# It starts nothing. DESTDIR=/somewhere puts it all below a folder; PYTHON=/usr/bin/python3.12 takes another Python.
set -euo pipefail
cd "$(dirname "$0")/.."

root=${DESTDIR:-}
# Not one of a home folder or of pyenv, which the service could not read.
python=${PYTHON:-/usr/bin/python3}
fail() { echo "install: $1" >&2; exit 1; }

[[ $EUID -eq 0 ]] || fail "run it as root: sudo deploy/install.sh"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than Python 3.11; give PYTHON=…"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "install Debian's python3-venv first: apt-get install python3-venv"

# A new environment beside the old one: the daemon that runs keeps its files until it is restarted.
new=$root/opt/chatd.new
rm -rf "$new"
mkdir -p "$root/opt"
umask 022
"$python" -m venv "$new"
# pyvips comes as source only, all of it Python; nothing else is built here.
"$new/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
    --no-binary pyvips \
    --requirement deploy/requirements.lock
packages=$("$new/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Where the wheel has them too (pyproject.toml, tool.hatch.build.targets.wheel).
rm -rf "$packages/chatd"
cp -R chatd "$packages/chatd"
cp -R sql "$packages/chatd/_sql"
find "$packages/chatd" -name __pycache__ -prune -exec rm -rf {} +
mkdir -p "$new/share"
cp -R docs chatd.toml "$new/share/"
"$new/bin/python" -m pip uninstall --quiet --yes setuptools pip >/dev/null 2>&1 || true
cat >"$new/bin/chatd" <<'PROGRAM'
#!/opt/chatd/bin/python
import sys

from chatd.__main__ import main

sys.exit(main())
PROGRAM
chmod 755 "$new/bin/chatd"
"$new/bin/python" -m compileall -q "$packages"
rm -rf "$root/opt/chatd.old"
if [[ -e $root/opt/chatd ]]; then mv "$root/opt/chatd" "$root/opt/chatd.old"; fi
mv "$new" "$root/opt/chatd"

install -d -m 755 "$root/etc/chatd" "$root/etc/systemd/system" "$root/usr/local/bin"
install -m 644 deploy/chatd.service deploy/chatd@.service deploy/chatd.socket deploy/chatd-http.socket \
    "$root/etc/systemd/system/"
if [[ ! -e $root/etc/chatd/auth_secret ]]; then
    (umask 077; "$python" -c 'import secrets; print(secrets.token_urlsafe(48))' >"$root/etc/chatd/auth_secret")
fi
if [[ ! -e $root/etc/chatd/chatd.toml ]]; then
    cat >"$root/etc/chatd/chatd.toml" <<'TOML'
# What differs from the defaults; /opt/chatd/share/chatd.toml says what there is. Everybody may read this file: secrets
# belong elsewhere (docs/deployment.md). `systemctl reload chatd` reads limits, features, [typing], origins and the log
# level again.
TOML
fi
install -m 755 deploy/chatd-command.sh "$root/usr/local/bin/chatd"

if [[ -z $root && -d /run/systemd/system ]]; then
    systemctl daemon-reload
    echo "Installed. Start it, now and at each boot: systemctl enable --now chatd.socket chatd-http.socket chatd"
    echo "If it runs already: systemctl restart chatd (no connection is refused)"
else
    echo "Installed below ${root:-/}."
fi
