#!/bin/sh
# Installs the real parts that the tests of sites run with, from Debian: Docker's daemon, Podman, Charliecloud,
# Apptainer (in Debian it is in sid alone: it goes into a directory of its own, with its own C library), a registry.
#
#   tests/sites/setup.sh [directory]      default: target/sites
#
# What cannot be had is left out; the tests that need it say so. Shifter is in no distribution: `shifter` beside this
# file stands in for it.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
dir=${1:-$here/../../target/sites}
mkdir -p "$dir"
dir=$(CDPATH='' cd -- "$dir" && pwd)

# What a program that was linked here against the system's C library needs besides.
gcc_s() {
	ldconfig -p | sed -n 's/.*libgcc_s\.so\.1 .*=> //p;s/.*libm\.so\.6 .*=> //p' | tr '\n' ' '
}

say() { printf '%s\n' "setup: $*" >&2; }

if ! command -v apt-get >/dev/null; then
	say "SKIPPED: this machine has no apt-get; install docker, podman, charliecloud, apptainer and busybox (static) by hand"
	exit 77
fi

packages="docker.io podman crun charliecloud buildah busybox-static docker-registry openssh-client openssh-server patchelf
debootstrap slurm-wlm munge squashfs-tools squashfuse iproute2 uidmap jq apache2-utils binutils curl openssl make shellcheck"
missing=
for package in $packages; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok' || missing="$missing $package"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" -ne 0 ]; then
		say "SKIPPED: as root: apt-get install --no-install-recommends$missing"
		exit 77
	fi
	# shellcheck disable=SC2086 # a list of words
	apt-get install -y --no-install-recommends $missing >"$dir/apt.log" 2>&1 || say "not all could be installed; see $dir/apt.log"
fi

# An image of our own: no registry is asked. Busybox, the files that engines want to mount over, and mount points.
root=$dir/busybox
if [ ! -e "$root/bin/busybox" ]; then
	busybox=$(command -v busybox)
	mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/proc" "$root/dev" "$root/sys" "$root/data" "$root/scratch" \
		"$root/root" "$root/home" "$root/mnt" "$root/var/tmp" "$root/usr/bin"
	for applet in $("$busybox" --list); do ln -sf busybox "$root/bin/$applet"; done
	rm -f "$root/bin/busybox"
	cp "$busybox" "$root/bin/busybox"
	printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\n' >"$root/etc/group"
	: >"$root/etc/hosts"
	: >"$root/etc/resolv.conf"
fi

# The base of the image of vk-cmd: the same, with ssh and bash and their libraries from this machine.
base=$dir/base
if [ ! -e "$base/etc/nsswitch.conf" ]; then
	rm -rf "$base"
	cp -a "$root" "$base"
	mkdir -p "$base/usr/lib" "$base/lib64" "$base/run"
	chmod 1777 "$base/tmp"
	for program in "$(command -v ssh)" "$(command -v ssh-keygen)" "$(command -v bash)"; do
		rm -f "$base/bin/${program##*/}"
		cp "$program" "$base/usr/bin/"
		ln -s "../usr/bin/${program##*/}" "$base/bin/${program##*/}"
		for library in $(ldd "$program" | grep -o '/[^ ]*') $(gcc_s); do
			[ -e "$base$library" ] || [ -z "$library" ] || install -D "$library" "$base$library"
		done
	done
	printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$base/etc/nsswitch.conf"
fi

# A base as it comes from a distribution: without ssh, which its own package manager fetches.
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
if [ ! -e "$dir/debian/etc/debian_version" ] && [ "$(id -u)" -eq 0 ] && command -v debootstrap >/dev/null; then
	rm -rf "$dir/debian.new" "$dir/debian"
	if debootstrap --variant=minbase bookworm "$dir/debian.new" ${mirror:+"$mirror"} >"$dir/debian.log" 2>&1; then
		rm -f "$dir"/debian.new/var/cache/apt/archives/*.deb
		mv "$dir/debian.new" "$dir/debian"
	else
		say "no base of Debian; see $dir/debian.log"
	fi
fi

# Whom the tests of Table 2 are: an ordinary user with a home.
if [ "$(id -u)" -eq 0 ] && ! id vk-sites >/dev/null 2>&1; then
	useradd --create-home --shell /bin/bash vk-sites || say "no user vk-sites"
fi

get_apptainer() {
	from=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
	[ -n "$from" ] || from=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' /etc/apt/sources.list | head -n 1)
	[ -n "$from" ] || return 1
	apt=$dir/apt
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/state" "$apt/debs" "$apt/tree"
	: >"$apt/status"
	printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s sid main\n' "$from" >"$apt/sources.list"
	set -- -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State=$apt/state" \
		-o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache" \
		-o APT::Sandbox::User=root
	apt-get "$@" update >"$dir/apt-sid.log" 2>&1 || return 1
	(cd "$apt/debs" && apt-get "$@" download apptainer libc6 libseccomp2 libsqlite3-0) >>"$dir/apt-sid.log" 2>&1 || return 1
	for deb in "$apt"/debs/*.deb; do dpkg-deb -x "$deb" "$apt/tree"; done
	lib=usr/lib/$(uname -m)-linux-gnu
	new=$dir/apptainer.new
	rm -rf "$new"
	mkdir -p "$new/bin" "$new/lib/$(uname -m)-linux-gnu" "$new/glibc" "$new/etc" "$new/var/lib/apptainer/mnt/session"
	cp "$apt/tree/usr/bin/apptainer" "$new/bin/"
	cp -r "$apt/tree/$lib/apptainer" "$new/lib/$(uname -m)-linux-gnu/"
	cp -r "$apt/tree/etc/apptainer" "$new/etc/apptainer"
	loader=$(basename "$(find "$apt/tree/$lib" -name 'ld-linux*' | head -n 1)")
	for library in libc.so.6 "$loader" libm.so.6 libresolv.so.2 libseccomp.so.2 libsqlite3.so.0; do
		cp -L "$apt/tree/$lib/$library" "$new/glibc/"
	done
	ln -s ../etc "$new/lib/etc"
	ln -s ../var "$new/lib/var"
	for program in "$new/bin/apptainer" "$new/lib/$(uname -m)-linux-gnu/apptainer/bin/starter"; do
		patchelf --set-interpreter "$dir/apptainer/glibc/$loader" --force-rpath --set-rpath "$dir/apptainer/glibc" "$program" || return 1
	done
	rm -rf "$dir/apptainer" "$apt"
	mv "$new" "$dir/apptainer"
}

# Where its package would have put it. The program that was moved looks beside itself, and now and then, for reasons of
# its own, here.
[ "$(id -u)" -ne 0 ] || mkdir -p /var/lib/apptainer/mnt/session

if ! command -v apptainer >/dev/null && [ ! -x "$dir/apptainer/bin/apptainer" ]; then
	get_apptainer || say "apptainer could not be had; see $dir/apt-sid.log"
fi
# Images in SIF are mounted by FUSE.
[ "$(id -u)" -ne 0 ] || [ ! -e /dev/fuse ] || chmod 666 /dev/fuse

for program in dockerd podman ch-run docker-registry; do
	say "$program: $(command -v "$program" || echo none)"
done
if [ -x "$dir/apptainer/bin/apptainer" ]; then
	say "apptainer: $dir/apptainer/bin/apptainer"
else
	say "apptainer: $(command -v apptainer || echo none)"
fi
say "ready in $dir"
