# cargo-deb, which makes Debian packages. To be sourced by bash.

# Pinned, and built without optimisation: half a minute on two idle cores, and a package takes a few
# seconds either way.
cargo_deb_version=3.7.0
cargo_deb_home=target/tools/cargo-deb-$cargo_deb_version
cargo_deb=$cargo_deb_home/bin/cargo-deb

install_cargo_deb() {
  if [[ -x $cargo_deb ]]; then
    return
  fi
  echo "installing cargo-deb $cargo_deb_version into $cargo_deb_home" >&2
  cargo install cargo-deb --version "$cargo_deb_version" --locked --debug --quiet \
    --root "$cargo_deb_home" --target-dir target/tools/build >&2
  rm -rf target/tools/build
}
