#!/bin/sh
# docker/base-image.sh SUITE [IMAGE]: make IMAGE (mpool-base:SUITE) from Debian's packages, for where no registry is.
#
# What debian:SUITE-slim is: the essential packages and apt, up to date, without documentation. The mirror is the one of
# this machine's apt. The same packages give the same layer, byte for byte: its times are those of Debian's archive.
# As root.
set -eu

fail() {
    echo "base-image.sh: $*" >&2
    exit 1
}

if [ "${1-}" != --inside ]; then
    [ $# -ge 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
    [ "$(id -u)" -eq 0 ] || fail "debootstrap needs root"
    command -v /usr/sbin/debootstrap >/dev/null || fail "no debootstrap: apt-get install debootstrap"
    work=$(mktemp -d /var/tmp/mpool-base-XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # What is mounted in there goes with the namespace: nothing mounted can be met by the removal.
    unshare --mount --propagation private sh "$0" --inside "$work" "$1" "${2:-mpool-base:$1}"
    exit
fi
work=$2 suite=$3 image=$4
root=$work/root

archive() {
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' "Label: $1" | head -n 1
}
# What a mirror is for is in its lists, which may have been deleted.
[ -n "$(archive Debian)" ] || apt-get -qq update
mirror=$(archive Debian)
[ -n "$mirror" ] || fail "this machine's apt has no Debian mirror"
security=$(archive Debian-Security)

mkdir -m 755 "$root"
/usr/sbin/debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$work/log" 2>&1 ||
    fail "debootstrap $suite: $(grep -E '^[EW]:' "$work/log" | tail -n 1)"

echo "deb $mirror $suite main" >"$root/etc/apt/sources.list"
if [ "$suite" != sid ]; then
    echo "deb $mirror $suite-updates main" >>"$root/etc/apt/sources.list"
    [ -z "$security" ] || echo "deb $security $suite-security main" >>"$root/etc/apt/sources.list"
fi
# A mirror that is frozen at a day, or behind a proxy, is so for the image's apt too.
apt-config dump | grep -iE '^Acquire::(Check-|.*proxy)' >"$root/etc/apt/apt.conf.d/30mirror" || true
cat >"$root/etc/apt/apt.conf.d/90small" <<'CONF'
Acquire::Languages "none";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
CONF
cat >"$root/etc/dpkg/dpkg.cfg.d/small" <<'CONF'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/lintian/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
CONF
# Nothing is started in a container by a package's installation.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

cp /etc/resolv.conf "$root/etc/resolv.conf"
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$root" sh -c '
    set -e
    apt-get -qq update
    apt-get -qq -y dist-upgrade >/dev/null
    apt-get -qq clean
' >"$work/log" 2>&1 || fail "updating $suite: $(grep -E '^[EW]:' "$work/log" | tail -n 1)"

# The day of the archive, before it is forgotten.
released=$(sed -n 's/^Date: //p' "$root"/var/lib/apt/lists/*_InRelease | while read -r day; do date -d "$day" +%s; done |
    sort -n | tail -n 1)

rm -rf "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/var/cache/* "$root"/tmp/* "$root"/var/tmp/* \
    "$root"/debootstrap "$root"/etc/resolv.conf "$root"/etc/hostname "$root"/etc/machine-id \
    "$root"/usr/share/info/* "$root"/usr/share/lintian/* "$root"/usr/share/locale/* "$root"/usr/share/man/* \
    "$root"/var/lib/dpkg/*-old
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type l -delete
find "$root/usr/share/doc" -mindepth 1 -type d -empty -delete
mkdir -p "$root/var/cache/apt/archives/partial" "$root/var/lib/apt/lists/partial" "$root/var/log/apt"

# Devices are Docker's business.
tar --create --directory "$root" --numeric-owner --sort=name --mtime="@$released" --clamp-mtime \
    --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./run/*' . |
    docker import --change 'CMD ["bash"]' --message "Debian $suite" - "$image" >/dev/null
echo "$image made from $mirror"
