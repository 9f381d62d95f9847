# Programs from the Python package index, each list in an environment of its own. To be sourced by bash. A list has all
# that its programs need, so that nothing comes in whose version is not in it.

# python_tools NAME: where the programs of scripts/lib/NAME.txt are; they are installed if that was not done
# with this list of versions.
python_tools() {
  local list=scripts/lib/$1.txt home=target/tools/$1
  if ! cmp -s "$list" "$home/installed.txt"; then
    rm -rf "$home"
    /usr/bin/python3 -m venv "$home" >&2 || return
    "$home/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$list" >&2 || return
    cp "$list" "$home/installed.txt"
  fi
  echo "$home/bin"
}
