#!/usr/bin/env bash
# Makes sure of what the tests need beside Python: PostgreSQL's and Redis's servers, nginx, Chromium, Prometheus's promtool, strace, systemd-nspawn, a C compiler, wscat.
# Installs what is missing where it may (Debian's packages as root, wscat into .cache/ with npm); where it may
# not, it says in one sentence what to install, and the tests that need it fail with a sentence of their own.
set -euo pipefail
cd "$(dirname "$0")/.."

has_postgres() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
has_redis() { command -v redis-server >/dev/null; }
has_nginx() { command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]]; }

missing=()
has_postgres || missing+=(postgresql)
has_redis || missing+=(redis-server)
has_nginx || missing+=(nginx-light)
command -v chromium >/dev/null || missing+=(chromium)
command -v promtool >/dev/null || missing+=(prometheus)
command -v strace >/dev/null || missing+=(strace)
command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
# For `make boot` alone.
[[ ${1:-} != boot ]] || command -v debootstrap >/dev/null || missing+=(debootstrap)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
if ((${#missing[@]})); then
    if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
        echo "Installing ${missing[*]} for the tests …"
        export DEBIAN_FRONTEND=noninteractive
        # Debian starts what it installs, nginx on port 80; the tests start their own.
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
        fi
        apt-get -qq update
        apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "Some tests need ${missing[*]}: install it with your system's packages, or run make test as root on Debian." >&2
    fi
fi

wscat=.cache/node_modules/.bin/wscat
if [[ ! -x $wscat ]]; then
    if command -v npm >/dev/null; then
        mkdir -p .cache
        npm install --silent --no-audit --no-fund --no-save --prefix .cache wscat@6.1.0 >/dev/null
    else
        echo "Some tests use wscat: install Node.js with npm." >&2
    fi
fi
