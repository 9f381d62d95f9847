# Whether the simulation finds the defects of tests/planted, each planted by itself in a copy of the tree.
#
# A file there is a patch below three lines: what the defect is, of which kind the seeds are that find it
# (SPLICEWAY_SIM_BACKENDS), and the rules of which one has to be broken. `assertion` is one of the code itself. In
# `missed` are those that are not found yet.

# Seeds within which a defect has to be found.
readonly PLANTED_SEEDS=20000

# Seeds of each kind that have to pass without a defect, or what fails with one would tell nothing.
readonly PLANTED_CLEAN_SEEDS=1000

# A run that takes longer hangs: 20,000 seeds take five minutes on a busy machine.
readonly PLANTED_SECONDS=900

# The lines of docs/design/testing.md between which the table is.
readonly PLANTED_BEGIN='<!-- planted: written by scripts/soak planted -->'
readonly PLANTED_END='<!-- planted: end -->'

# Below target, so that it is no part of the tree; always the same, so that cargo builds what has changed only. Its
# builds have a directory of their own, because cargo takes a build of one copy for one of the other.
readonly PLANTED_COPY=$PWD/target/planted
readonly PLANTED_BUILD=$PWD/target/planted-build

planted() {
  local -a patches=("${@/%/.patch}")
  local patch line failed=0 rows=() log=$PLANTED_COPY.log
  if (($# == 0)); then
    patches=(tests/planted/*.patch)
  else
    patches=("${patches[@]/#/tests/planted/}")
  fi
  planted_copy
  trap planted_remove EXIT
  planted_clean "${patches[@]}" || return 1
  for patch in "${patches[@]}"; do
    if line=$(planted_one "$patch"); then
      rows+=("$line")
      echo "$line"
    else
      failed=1
      echo "$patch: $line (see $log)" >&2
    fi
  done
  if ((failed)); then
    echo "the table was not written: not all defects were found" >&2
    return 1
  fi
  if (($# == 0)); then
    planted_table "${rows[@]}"
  fi
}

# The tree as it is, with what is not committed, except for new files that git does not know.
planted_copy() {
  local commit
  planted_remove
  commit=$(git stash create)
  git worktree add --quiet --detach "$PLANTED_COPY" "${commit:-HEAD}"
}

planted_remove() {
  # One that was interrupted may have left its copy behind.
  rm -rf "$PLANTED_COPY"
  git worktree prune
}

# A line at the head of a patch.
planted_head() {
  sed -n "s/^$2: //p;/^---/q" "$1"
}

# Runs seeds of one kind in the copy. Fails as the simulation does, with what it says in the log.
planted_run() {
  local seeds=$1 count=$2
  (
    cd "$PLANTED_COPY"
    export CARGO_TARGET_DIR=$PLANTED_BUILD SPLICEWAY_SIM_BACKENDS=$seeds SPLICEWAY_SIM_SEEDS=$count
    # Of the crate itself, because it is built once for each defect and runs for seconds.
    profile=profile.test.package.spliceway
    cargo=(cargo --config "$profile.opt-level=0" --config "$profile.debug=false" test --locked --lib)
    "${cargo[@]}" --no-run && timeout "$PLANTED_SECONDS" "${cargo[@]}" -- worker::simulation
  ) >"$PLANTED_COPY.log" 2>&1
}

planted_clean() {
  local seeds
  for seeds in $(for patch in "$@"; do planted_head "$patch" Seeds; done | sort -u); do
    if ! planted_run "$seeds" "$PLANTED_CLEAN_SEEDS"; then
      echo "without a defect, seeds of the kind $seeds fail (see $PLANTED_COPY.log)" >&2
      return 1
    fi
  done
}

# Prints the table's row, or why there is none.
planted_one() {
  local patch=$1 defect seeds rules found rule seed
  defect=$(planted_head "$patch" Defect)
  seeds=$(planted_head "$patch" Seeds)
  rules=$(planted_head "$patch" Rules)
  if [[ -z $defect || -z $seeds || -z $rules ]]; then
    echo "it does not say what it is (Defect, Seeds, Rules)"
    return 1
  fi
  if ! patch -d "$PLANTED_COPY" -p1 --silent --no-backup-if-mismatch -r - <"$patch" >"$PLANTED_COPY.log" 2>&1; then
    git -C "$PLANTED_COPY" checkout --quiet .
    echo "it does not apply"
    return 1
  fi
  planted_run "$seeds" "$PLANTED_SEEDS" || true
  git -C "$PLANTED_COPY" checkout --quiet .
  found=$(grep -m1 -E '^seed [0-9]+: ' "$PLANTED_COPY.log" || true)
  if [[ -z $found ]]; then
    if grep -q '^test result: ok' "$PLANTED_COPY.log"; then
      echo "no rule is broken within $PLANTED_SEEDS seeds"
    else
      echo "it does not build, or hangs"
    fi
    return 1
  fi
  seed=${found#seed }
  seed=${seed%%:*}
  if [[ $found =~ INVARIANT\ ([a-z_]+): ]]; then
    rule=${BASH_REMATCH[1]}
  else
    rule=assertion
  fi
  if [[ ", $rules, " != *", $rule, "* ]]; then
    echo "seed $seed breaks $rule, and not one of: $rules"
    return 1
  fi
  if [[ $rule == assertion ]]; then
    rule='an assertion of the code'
  else
    rule="\`$rule\`"
  fi
  echo "| $defect | \`$seeds\` | $rule | $seed |"
}

# Writes the table between its marks.
planted_table() {
  local table
  table=$(
    echo '| defect | seeds | rule | first seed |'
    echo '|---|---|---|---|'
    printf '%s\n' "$@"
  )
  TABLE=$table awk -v begin="$PLANTED_BEGIN" -v end="$PLANTED_END" '
    $0 == end { inside = 0 }
    !inside { print }
    $0 == begin { inside = 1; print ENVIRON["TABLE"] }
  ' docs/design/testing.md >"$PLANTED_COPY.md"
  mv "$PLANTED_COPY.md" docs/design/testing.md
}
