#!/bin/sh
# Makes the content of the image: image-root.sh PROGRAM DIRECTORY
#
# The program, and the libraries that the dynamic linker finds for it, at the paths where it looks for
# them. The C library of Debian 12 has its lookups of files and DNS built in, so it loads nothing else
# later. The tests run the program in such a root.
set -eu
program=$1
root=$2

install -D -m 755 "$program" "$root/usr/bin/spliceway"
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
  install -D -m 755 "$(readlink -f "$library")" "$root$library"
done
# Where the control socket goes, the shared sockets, and the configuration. A runtime mounts over them.
mkdir -p "$root/run/spliceway" "$root/sock" "$root/etc/spliceway" "$root/tmp"
