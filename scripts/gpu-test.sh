#!/bin/sh
# gpu-test.sh DIR [program …] - runs the op tests of DIR (a build's tests/unit/device, or a folder the programs were copied to) on the
# GPU and prints one line each.  Environment: QL_SANITIZER=memcheck|racecheck runs them under compute-sanitizer (a refused
# allocation is part of a test and not reported; racecheck reports that lie wholly inside cuBLAS's kernels, nvjet…, are named but do
# not fail), QL_TEST_SECONDS limits each (default 120).  Exit status 1 when any failed.
set -u
dir=$1
shift
[ $# -gt 0 ] || set -- "$dir"/test_*
failed=0
for t in "$@"; do
	[ -x "$t" ] || continue
	case ${QL_SANITIZER:-} in
	'') run="" ;;
	memcheck) run="compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 --print-limit 5" ;;
	*) run="compute-sanitizer --tool $QL_SANITIZER --error-exitcode 9 --print-limit 5" ;;
	esac
	start=$(date +%s)
	# shellcheck disable=SC2086
	QL_TEST_DEVICE=cuda timeout "${QL_TEST_SECONDS:-120}" $run "$t" >"/tmp/gpu-test.$$" 2>&1
	rc=$?
	if [ $rc -eq 9 ] && [ "${QL_SANITIZER:-}" = racecheck ] && grep -q 'PASSED' "/tmp/gpu-test.$$" && ! grep -q 'FAILED' "/tmp/gpu-test.$$" &&
		! grep 'access at' "/tmp/gpu-test.$$" | grep -qv 'nvjet'; then
		echo "note  $(basename "$t"): racecheck reports inside cuBLAS's own kernels"
		rc=0
	fi
	if [ $rc -eq 0 ]; then
		echo "ok    $(basename "$t") ($(($(date +%s) - start)) s)"
	else
		failed=1
		echo "FAIL  $(basename "$t") (status $rc)"
		tail -n "${QL_TEST_LINES:-25}" "/tmp/gpu-test.$$"
	fi
done
rm -f "/tmp/gpu-test.$$"
exit $failed
