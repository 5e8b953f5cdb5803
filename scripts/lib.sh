# shellcheck shell=bash
# Output functions for the scripts. Sourced, not run. Bash 3.2, since macOS has no other.

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' reset=$'\e[0m'
else
  bold='' dim='' red='' green='' reset=''
fi

# step NAME TEXT… announces the next thing a script does.
step() { printf '%s%-6s%s %s\n' "$bold" "$1" "$reset" "${*:2}"; }

# good NAME TEXT… and bad NAME TEXT… report the outcome.
good() { printf '%s%-6s%s %s\n' "$green" "$1" "$reset" "${*:2}"; }
bad() { printf '%s%-6s%s %s\n' "$red" "$1" "$reset" "${*:2}" >&2; }

# more TEXT… continues the line before it.
more() { printf '       %s%s%s\n' "$dim" "$*" "$reset"; }

# die TEXT… ends the script with one line on standard error.
die() {
  bad "stop" "$@"
  exit 1
}
