#!/bin/bash
# gpu_suite.sh BIN OUT [part …] - every GPU figure of docs/performance.md in one go, each with a time limit, on a machine that may have
# nothing but a driver and a cuBLAS somewhere.  BIN holds `qlorad`, and for part `tests` the test programs and gpu-test.sh; results are
# appended to OUT/results.jsonl as they come, messages to OUT/log.  Parts: tests memcheck racecheck quantize train recompute
# offload decode mixed long load profile peft peft8b.  Environment: QL_BENCH_ARCH, QL_TRAIN_BATCHES and QL_RECOMPUTE_BATCHES (micro-batches,
# 1,2,4,8 and 1,4,6), QL_SUITE_TESTS (names of op tests for the sanitizers), QL_SANITIZER_SECONDS for each of them, QL_PYTHON.
set -u
bin=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- tests quantize train recompute decode mixed long load
mkdir -p "$out"
export LD_LIBRARY_PATH=$bin/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if [ -z "${QL_CUBLASLT:-}" ] && ! ldconfig -p | grep -q 'libcublasLt\.so\.1[23]'; then
	QL_CUBLASLT=$(find / -xdev -name 'libcublasLt.so.1[23]' 2>/dev/null | sort | tail -1)
	export QL_CUBLASLT
fi
echo "cuBLAS: ${QL_CUBLASLT:-on the library path}" | tee -a "$out/log"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee -a "$out/log"

# bench SECONDS args…: one line of JSON, or the reason why there is none
bench() {
	local limit=$1 begin=$SECONDS rc line
	shift
	line=$(timeout -k 5 "$limit" "$bin/qlorad" bench "$@" --device cuda --json 2>>"$out/log")
	rc=$?
	[ -n "$line" ] && echo "$line" >>"$out/results.jsonl"
	echo "[$((SECONDS - begin)) s, status $rc] bench $*" | tee -a "$out/log"
	echo "${line:0:1500}"
}

# peft SECONDS ARCH: against transformers and PEFT; needs a Python that has them
peft() {
	local line
	line=$(timeout -k 5 "$1" "${QL_PYTHON:-python3}" "$bin/gpu_peft.py" "$bin/qlorad" --arch "$2" 2>>"$out/log" | tee -a "$out/log")
	echo "$line" | grep '^{' >>"$out/results.jsonl"
	echo "$line"
}

set_of=()
M="--arch ${QL_BENCH_ARCH:-llama-3.1-8b}"
for part in "$@"; do
	case $part in
	tests)
		QL_TEST_SECONDS=60 timeout 200 bash "$bin/gpu-test.sh" "$bin" 2>&1 | tee -a "$out/log"
		;;
	memcheck | racecheck)
		for t in ${QL_SUITE_TESTS:-optim norm pointwise attention paged xent}; do
			[ -x "$bin/test_device_$t" ] && set_of+=("$bin/test_device_$t")
		done
		QL_SANITIZER=$part QL_TEST_SECONDS=${QL_SANITIZER_SECONDS:-100} timeout 420 bash "$bin/gpu-test.sh" "$bin" "${set_of[@]}" 2>&1 | tee -a "$out/log"
		set_of=()
		;;
	profile)
		bench 60 train $M --micro-batch 1,4 --steps 4 --profile
		bench 60 decode $M --batch 1,1,16 --adapters 0,1,8 --tokens 40 --profile
		;;
	peft) peft 170 llama-3.2-1b ;;
	peft8b) peft 290 llama-3.1-8b ;;
	quantize) bench 60 quantize ;;
	train)
		bench 110 train $M --micro-batch "${QL_TRAIN_BATCHES:-1,2,4,8}" --steps 10
		bench 60 train $M --micro-batch 1 --steps 10 --dense off
		;;
	recompute) bench 70 train $M --micro-batch "${QL_RECOMPUTE_BATCHES:-1,4,6}" --steps 8 --recompute on ;;
	offload) bench 70 train $M --micro-batch 1,6 --steps 6 --recompute offload ;;
	decode) bench 90 decode $M --batch 1,1,4,16 --adapters 0,1,4,8 --tokens 200 ;;
	mixed) bench 80 serve-mixed $M --micro-batch 1 --batch 4 --adapters 4 --tokens 200 --prompt 256 --steps 12 ;;
	long) bench 80 train $M --micro-batch 1 --seq 24576 --steps 2 ;;
	load) bench 150 load $M --dir /dev/shm ;;
	*) echo "no part $part" ;;
	esac
done
