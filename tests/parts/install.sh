#!/bin/sh
# Installs the real parts that the tests drive. Where it cannot (no Debian, not root) it says so, and the tests that need a
# missing part are skipped with the reason; with CI=true that is a failure instead.
set -eu
needed="gnupg debootstrap docker.io containerd runc podman crun conmon rpm zstd docker-registry skopeo umoci jq openssl softhsm2 opensc curl nginx-light iproute2 strace util-linux busybox-static e2fsprogs"
# a browser, what reads PDFs, and what WeasyPrint makes them with
needed="$needed chromium fonts-dejavu-core poppler-utils libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"
command -v npm >/dev/null || needed="$needed nodejs npm" # of whatever source, where there is one
missing=""
for package in $needed; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "parts: not installed (needs root on Debian):$missing" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# No service may start by itself: the tests start their own, on ports of their own.
policy=/usr/sbin/policy-rc.d
[ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; trap 'rm -f "$policy"' EXIT; }
apt-get install -y -qq --no-install-recommends $missing >/dev/null
