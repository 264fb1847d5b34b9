#!/usr/bin/env bash
# What the GitHub Action runs: `adapters check` with what its inputs say, one adapter, engine or report per line.
# Inputs come as variables, never as part of a script: an adapter's name cannot become a command.
set -euo pipefail

arguments=()
add() {  # an option, then a value per line
  local option=$1 line
  while IFS= read -r line; do
    line="${line#"${line%%[![:space:]]*}"}"
    line="${line%"${line##*[![:space:]]}"}"
    [ -z "$line" ] || arguments+=("${option:+$option=}$line")
  done <<<"$2"
}

add --for "${INPUT_FOR:-}"
add --base "${INPUT_BASE:-}"
add --fail-on "${INPUT_FAIL_ON:-}"
add --inconclusive "${INPUT_INCONCLUSIVE:-}"
add --baseline "${INPUT_BASELINE:-}"
add --report "${INPUT_REPORT:-github}"
case "${INPUT_LOCKED:-false}" in
  true) arguments+=(--locked) ;;
  false) ;;
  *) echo "locked: expected true or false, found $INPUT_LOCKED" >&2; exit 2 ;;
esac
arguments+=(--)
add "" "${INPUT_ADAPTERS:-}"
exec "${ADAPTERS:-adapters}" check "${arguments[@]}"
