#!/bin/sh
# Installs the servers the live tests start, by apt, when they are missing and this is root.
# Never fails: where a server stays missing its tests say so, by a skip or, where CI=true, by a failure.
set -u

# program:package, one a line
SERVICES="
redis-server:redis-server
rabbitmq-server:rabbitmq-server
chromium:chromium
nginx:nginx-light
pg_ctlcluster:postgresql
"

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
POLICY=/usr/sbin/policy-rc.d

missing=""
for service in $SERVICES; do
    command -v "${service%%:*}" >/dev/null 2>&1 || missing="$missing ${service##*:}"
done
[ -n "$missing" ] || exit 0

give_up() {
    echo "Not installed, so the live tests that need them cannot run:$missing" >&2
    echo "$1" >&2
    exit 0
}

command -v apt-get >/dev/null 2>&1 || give_up "There is no apt-get here; please install them by your own means."
[ "$(id -u)" -eq 0 ] || give_up "Only root can: sudo apt-get install --no-install-recommends$missing"

# The tests start servers of their own. A package must not start one besides; where a policy exists, it decides.
if [ ! -e "$POLICY" ] && printf '#!/bin/sh\nexit 101\n' 2>/dev/null >"$POLICY"; then
    trap 'rm -f "$POLICY"' EXIT
    trap 'exit 130' INT TERM
    chmod +x "$POLICY"
fi

echo "Installing$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# shellcheck disable=SC2086  # one word a package
if ! { apt-get -o DPkg::Lock::Timeout=120 update &&
    apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    give_up "apt-get failed, see above."
fi
rm -f "$log"
