# Debian packages, for scripts that need other people's programs. To be sourced by bash.
# Each need is two words: a file, and the package that brings it.

# missing_packages FILE PACKAGE ...: the packages whose files are not there.
missing_packages() {
  while (($# > 0)); do
    [[ -e $1 ]] || echo "$2"
    shift 2
  done
}

# The programs are started by those who use them, with configurations of their own: the packages
# must not. policy-rc.d is how Debian asks the administrator; an existing one is the administrator's
# answer.
without_starting_services() {
  local policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  "$@"
}

# install_packages PACKAGE ...: fails, and says what to run, without the rights to do it.
install_packages() {
  if ((EUID != 0)); then
    echo "$0: programs are missing that only root can install. Run:" >&2
    echo "  sudo apt-get update && sudo apt-get install --no-install-recommends $*" >&2
    return 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  # In a subshell, so that the trap runs when this is over.
  (
    apt-get update -q &&
      without_starting_services apt-get install -qy --no-install-recommends "$@"
  )
}
