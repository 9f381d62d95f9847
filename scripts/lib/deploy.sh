# The examples in deploy/, checked against the schemas of their formats. To be sourced by bash, behind
# python_tools.sh.

# refused WORD FILE COMMAND ...: the command fails for the file when the word in it is spelt wrong. A
# checker that takes everything would be none.
refused() {
  local word=$1 file=$2 wrong
  shift 2
  wrong=$(mktemp --suffix=.yaml)
  sed "s/$word/${word}x/" "$file" >"$wrong"
  if "$@" "$wrong" >/dev/null 2>&1; then
    echo "scripts/test: $1 takes '${word}x' in $file" >&2
    rm -f "$wrong"
    return 1
  fi
  rm -f "$wrong"
}

# What the Dockerfile copies is a package that cargo can build: its ignore file names all that belongs to
# it. cargo looks for the files of every target before it complains of one that is not there.
check_image_context() {
  local context said
  context=$(mktemp -d)
  sed -n 's/^!//p' deploy/docker/Dockerfile.dockerignore | xargs cp --parents -rt "$context"
  said=$(cargo check --locked --offline --bin none --manifest-path "$context/Cargo.toml" 2>&1) || true
  rm -rf "$context"
  if [[ $said != *"no bin target named"* ]]; then
    printf 'scripts/test: with what deploy/docker/Dockerfile.dockerignore leaves:\n%s\n' "$said" >&2
    return 1
  fi
}

check_deploy_files() {
  local bin compose kubernetes
  check_image_context
  bin=$(python_tools checkers)
  compose=("$bin/check-jsonschema" --builtin-schema vendor.compose-spec)
  kubernetes=("$bin/kubernetes-validate" --strict --quiet)
  "${compose[@]}" deploy/docker/compose.yaml
  refused read_only deploy/docker/compose.yaml "${compose[@]}"
  "${kubernetes[@]}" deploy/kubernetes/*.yaml
  refused readinessProbe deploy/kubernetes/sidecar.yaml "${kubernetes[@]}"
}
