#!/usr/bin/env bash
# What no test on a CPU can prove: run this once on a machine with a GPU, better two. Without one, the steps that need it
# are skipped by name and the others run by gloo.
#
#   benchmarks/gpu_first_hour.sh [--smoke] [--list] [STEP ...]
#
# Every step says what it must show, then PASS, FAIL or SKIP and why. The exit status is 1 if a step failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
limit_s=900
smoke=()
steps=()

for argument in "$@"; do
    case $argument in
        --smoke) smoke=(--smoke) ;;
        --list) exec "$python" "$here/gpu_first_hour.py" --list ;;
        -*) echo "usage: $0 [--smoke] [--list] [STEP ...]" >&2; exit 2 ;;
        *) steps+=("$argument") ;;
    esac
done
if [ ${#steps[@]} = 0 ]; then
    names=$("$python" "$here/gpu_first_hour.py" --list) || exit 2
    mapfile -t steps < <(cut -d ' ' -f 1 <<<"$names")
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
for step in "${steps[@]}"; do
    mkdir -p "$work/$step"
    printf '\n== %s\n' "$step"
    timeout -k 30 "$limit_s" "$python" "$here/gpu_first_hour.py" "${smoke[@]}" --work "$work/$step" "$step"
    status=$?
    # A step leaves its verdict as its last act: one that has left none was killed, or died.
    if [ ! -s "$work/$step/verdict" ]; then
        [ "$status" = 124 ] && reason="took longer than $limit_s s" || reason="ended with status $status and no verdict"
        printf 'FAIL %s\n' "$reason" | tee "$work/$step/verdict"
    fi
    grep -q '^FAIL' "$work/$step/verdict" && failed=1
done

printf '\n'
for step in "${steps[@]}"; do
    printf '%-12s %s\n' "$step" "$(cat "$work/$step/verdict")"
done
exit "$failed"
