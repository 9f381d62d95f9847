# What the proxy is made of. To be sourced by bash, at the top of the repository.

# of_the_proxy FORMAT OPTION ...: its dependencies, direct ones with --depth 1.
of_the_proxy() {
  local format=$1
  shift
  cargo tree --locked --package spliceway --edges normal --prefix none --format "$format" "$@"
}

# The members of the workspace among them.
members_of_the_proxy() {
  of_the_proxy '{p}' "$@" | sed -n "s|^\(spliceway[^ ]*\) .*($PWD.*|\1|p" | sort -u | paste -sd ' '
}

# The harness measures the proxy and is no part of it. The demo needs its load, and only the demo.
check_dependencies() {
  local found name
  found=$(members_of_the_proxy --no-default-features)
  if [[ $found != 'spliceway spliceway-common' ]]; then
    echo "scripts/test: without the demo, the proxy consists of: $found" >&2
    return 1
  fi
  found=$(members_of_the_proxy)
  if [[ $found != 'spliceway spliceway-common spliceway-load' ]]; then
    echo "scripts/test: with the demo, the proxy consists of: $found" >&2
    return 1
  fi
  # What its manifest names, it uses itself.
  for name in $(of_the_proxy '{lib}' --no-default-features --depth 1 | sort -u); do
    if ! grep -rqE --include='*.rs' --exclude-dir=demo --exclude-dir=top "\b$name(::|!)" src; then
      echo "scripts/test: Cargo.toml names $name, and nothing in src but the demo and the view uses it" >&2
      return 1
    fi
  done
}
