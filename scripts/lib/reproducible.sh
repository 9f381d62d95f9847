# Builds that do not depend on where and when they are made. To be sourced by bash, at the top of the repository.

# cargo_homes: where cargo has the sources of crates, with links on the way and without: compilers are told both.
cargo_homes() {
  printf '%s\n' "${CARGO_HOME:-$HOME/.cargo}"
  realpath -- "${CARGO_HOME:-$HOME/.cargo}"
}

# path_flags: flags for rustc, a line each, that replace the paths of this machine in what it builds: those of the
# sources, of the registry's crates and of the standard library, where its sources are installed. The last one that
# fits a path counts.
path_flags() {
  local sysroot home directory
  sysroot=$(rustc --print sysroot)
  printf -- '--remap-path-prefix=%s=%s\n' "$PWD" /usr/src/spliceway "$(pwd -P)" /usr/src/spliceway \
    "$sysroot" /rust \
    "$sysroot/lib/rustlib/src/rust" "/rustc/$(rustc -vV | sed -n 's/^commit-hash: //p')"
  while read -r home; do
    printf -- '--remap-path-prefix=%s=/cargo\n' "$home"
    # A registry's directory has the name of wherever its crates came from, which may be a mirror.
    for directory in "$home"/registry/src/*/; do
      printf -- '--remap-path-prefix=%s=/cargo/registry\n' "${directory%/}"
    done
  done < <(cargo_homes)
}

# reproducibly COMMAND ...: runs cargo, or what runs it, so that the result has no path and no time of this machine in
# it. Flags in RUSTFLAGS count, those in configuration files of cargo's do not.
reproducibly() {
  local flags
  # What is not there yet has no directory.
  cargo fetch --locked --quiet --target "$(rustc -vV | sed -n 's/^host: //p')" || return
  mapfile -t flags < <(path_flags)
  # Words in RUSTFLAGS are separated by spaces, as cargo has it.
  # shellcheck disable=SC2206
  flags+=(${RUSTFLAGS:-})
  (
    IFS=$'\x1f'
    export CARGO_ENCODED_RUSTFLAGS="${flags[*]}" CARGO_INCREMENTAL=0
    unset IFS
    "$@"
  )
}

# paths_left FILE ...: names the files that have a path of this machine in them, and fails if there is one.
paths_left() {
  local file path left=0 paths
  mapfile -t paths < <(cargo_homes; printf '%s\n' "$PWD" "$(pwd -P)" "$(rustc --print sysroot)")
  for file in "$@"; do
    for path in "${paths[@]}"; do
      if grep --text --quiet --fixed-strings -- "$path/" "$file"; then
        echo "$0: $file has the path $path in it" >&2
        left=1
      fi
    done
  done
  return "$left"
}

# check_reproducible: makes the packages twice, in copies of the tree that have nothing in common but the sources, and
# compares them, and the programs that they were made of.
check_reproducible() {
  local root place
  root=$(mktemp -d)
  unset CARGO_TARGET_DIR
  install_cargo_deb
  for place in "$root/first" "$root/at another/place"; do
    mkdir -p "$place/target"
    git ls-files -z | xargs -0 cp --parents -t "$place"
    # What makes packages takes half a minute to build, and is no part of them.
    cp -r target/tools "$place/target/"
  done
  (cd "$root/first" && scripts/package --output made) >&2
  ln -s "${CARGO_HOME:-$HOME/.cargo}" "$root/cargo"
  (
    export CARGO_HOME=$root/cargo TZ=Asia/Tokyo LC_ALL=C
    umask 077
    cd "$root/at another/place" && scripts/package --output made
  ) >&2
  (cd "$root/first" && sha256sum made/* target/dist/spliceway{,-bench}) | tee "$root/sums"
  if ! (cd "$root/at another/place" && sha256sum --check --quiet "$root/sums"); then
    echo "$0: the second build is not the same: compare $root/first and $root/at another/place" >&2
    return 1
  fi
  rm -rf "$root"
}
