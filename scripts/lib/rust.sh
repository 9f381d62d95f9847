# Whether Rust is there and new enough. To be sourced by bash, at the top of the repository.

# require_rust: one line and failure if it is not. The version is the one in Cargo.toml.
require_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  if ! command -v cargo >/dev/null; then
    echo "$0: Rust $wanted or newer is needed and there is no cargo (see https://rustup.rs)" >&2
    return 1
  fi
  found=$(rustc --version | sed -n 's/^rustc \([0-9.]*\).*/\1/p')
  if [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) != "$wanted" ]]; then
    echo "$0: Rust $wanted or newer is needed, and this is ${found:-unknown} (run: rustup update stable)" >&2
    return 1
  fi
}
