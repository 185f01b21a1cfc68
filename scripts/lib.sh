# lib.sh - shared by the scripts: where things are, and how to talk.  Source it; it changes to the repository's root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
CACHE=${QL_CACHE:-$ROOT/.cache}
export ROOT CACHE
say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# Two jobs at most, so that a small machine stays usable; QL_JOBS overrides.
JOBS=${QL_JOBS:-$(n=$(nproc); echo $((n < 2 ? 1 : n)))}
