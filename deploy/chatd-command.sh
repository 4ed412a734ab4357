#!/bin/sh
# chatd's command line as the service is run: its user, folder, secret and configuration. Root alone may do so.
#
#   chatd user list
#   chatd backup /var/lib/chatd/monday.db
#
# Put there by deploy/install.sh. Files that it is to read or write have to be in /var/lib/chatd.
case "${1:-}" in
    "" | -h | --help | --version) exec /opt/chatd/bin/chatd "$@" ;;
    serve) echo "chatd: the daemon is systemd's: systemctl start chatd" >&2; exit 1 ;;
esac
if [ "$(id -u)" -ne 0 ]; then
    echo "chatd: run it as root: sudo chatd $*" >&2
    exit 1
fi
# The ports are systemd's own, which holds them: any that is free will do to try the rest.
if [ "$1" = check ]; then ports=0; else ports=; fi
if [ -t 0 ] && [ -t 1 ]; then terminal=--pty; else terminal=--pipe; fi
exec systemd-run --quiet --collect --wait "$terminal" --service-type=exec \
    --property=DynamicUser=yes --property=User=chatd --property=StateDirectory=chatd \
    --property=StateDirectoryMode=0700 --property=WorkingDirectory=/var/lib/chatd --property=UMask=0077 \
    --property=LoadCredential=auth_secret:/etc/chatd/auth_secret \
    --setenv=CHATD_AUTH_SECRET_FILE=auth_secret --setenv=PYTHONDONTWRITEBYTECODE=1 \
    ${ports:+--setenv=CHATD_WEBSOCKET_PORT=0 --setenv=CHATD_HTTP_PORT=0} \
    /bin/sh -c 'CHATD_AUTH_SECRET_FILE=$CREDENTIALS_DIRECTORY/auth_secret exec /opt/chatd/bin/chatd "$@" --config /etc/chatd/chatd.toml' chatd "$@"
