# A program without its debug information, which is put apart where debuggers look for it. To be sourced by bash.

# split_symbols PROGRAM STRIPPED ROOT: copies the program without lines, but with the names of functions, which
# backtraces show; what is left out goes below ROOT, by the build id that both have (gdb, "Separate Debug Files").
split_symbols() {
  local program=$1 stripped=$2 root=$3 id file
  id=$(readelf --notes "$program" | sed -n 's|.*Build ID: ||p')
  if [[ -z $id ]]; then
    echo "$0: $program has no build id, by which its symbols would be found (link with --build-id)" >&2
    return 1
  fi
  file=$root/usr/lib/debug/.build-id/${id:0:2}/${id:2}.debug
  mkdir -p "${stripped%/*}" "${file%/*}"
  # What std can read, which finds them as well.
  objcopy --only-keep-debug --compress-debug-sections=zlib "$program" "$file"
  chmod 644 "$file"
  objcopy --strip-debug --add-gnu-debuglink="$file" "$program" "$stripped"
}

# symbols_package DEB ROOT OUTPUT: makes the package of what is below ROOT, for the one that is DEB, and prints where.
symbols_package() {
  local deb=$1 root=$2 output=$3 name version architecture
  name=$(dpkg-deb --field "$deb" Package)
  version=$(dpkg-deb --field "$deb" Version)
  architecture=$(dpkg-deb --field "$deb" Architecture)
  mkdir -p "$root/DEBIAN"
  cat >"$root/DEBIAN/control" <<EOF
Package: $name-dbgsym
Version: $version
Architecture: $architecture
Maintainer: $(dpkg-deb --field "$deb" Maintainer)
Section: debug
Priority: optional
Depends: $name (= $version)
Description: debug symbols for $name
 Lines and inlined functions of its programs: for backtraces, gdb, perf and
 addr2line.
EOF
  # The directories, whatever the umask is.
  chmod -R u=rwX,go=rX "$root"
  local package=$output/${name}-dbgsym_${version}_${architecture}.deb
  # What is compressed already becomes hardly smaller by xz, and takes long.
  dpkg-deb -Zgzip --root-owner-group --build "$root" "$package" >/dev/null
  printf '%s\n' "$package"
}
