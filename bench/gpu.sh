#!/usr/bin/env bash
# What RESULTS.md has from a GPU that is lent for minutes and has no network, each part with a limit of time.
#   bench/gpu.sh pack               here, after pack.sh has filled .gpu: leaves out what only other machines need
#   bench/gpu.sh run OUT PART...    there, after `source .gpu/setup.sh`: a file in OUT for each part
# The parts: quadratic forms tests units accuracy kernels reductions flat step efficiency attention cores pytorch.
set -uo pipefail
cd "$(dirname "$0")/.."
export DENO_NO_PACKAGE_JSON=1 LEVIN_REQUIRE_WEBGPU=1

# Imports that the packed cache is spared.
unused='esbuild|playwright-core|axe-core|fontsource|assemblyscript|webgpu'

pack() {
  local npm=.gpu/deno_dir/npm/registry.npmjs.org
  rm -rf "$npm"/{binaryen,assemblyscript,webgpu,@webgpu,@esbuild,esbuild,playwright-core,bun-types,@types} \
    "$npm"/{undici-types,axe-core,@fontsource-variable} "$npm"/echarts/*/{dist,types,build,i18n,asset,map,theme}
  # Dawn's package is left out; what asks for it gets its binding, which setup.sh has put somewhere.
  local version
  version=$(sed -n 's/^const VERSION = "\(.*\)";/\1/p' src/dawn.ts)
  grep -vE "\"[^\"]*($unused)[^\"]*\": \"npm:" deno.json |
    node -e 'const text = require("fs").readFileSync(0, "utf8").replace(/,(\s*\})/g, "$1");
      const dawn = `"npm:webgpu@${process.argv[1]}": "./.gpu/webgpu.mjs",`;
      console.log(text.replace(/"imports": \{/, `$& ${dawn}`))' "$version" >.gpu/deno.json
  cat >.gpu/webgpu.mjs <<'M'
import { createRequire } from "node:module";
export const { create, globals } = createRequire(import.meta.url)(process.env.DAWN_NODE);
M
  du -sh .gpu
}

# The time a part may take, in seconds, and its command.
part() {
  local tests=(deno test -A --no-check --cached-only --v8-flags=--expose-gc)
  local run=(deno run -A --no-check --cached-only)
  case $1 in
    quadratic) limit 60 "${tests[@]}" tests/quadratic_attention.test.ts --filter webgpu ;;
    forms) limit 200 "${tests[@]}" tests/{lightning_forms,attention,lightning_attention1,flash_attention}.test.ts --filter webgpu ;;
    tests) limit 200 "${tests[@]}" tests/{webgpu,subgroups,budget,optim,host,operations,nn,memory}.test.ts --filter webgpu ;;
    units) units "${tests[@]}" ;;
    accuracy) limit 120 "${run[@]}" bench/accuracy.ts --backend webgpu ;;
    kernels) limit 120 "${run[@]}" bench/profile.ts && limit 40 "${run[@]}" bench/main.ts --backend webgpu --only matmul ;;
    reductions) limit 120 "${run[@]}" bench/reductions.ts ;;
    flat) limit 120 "${run[@]}" bench/flat.ts --backend webgpu ;;
    step) limit 60 "${run[@]}" bench/step.ts ;;
    efficiency) limit 260 "${run[@]}" examples/paper.ts efficiency --budget 230 --lengths 1K,4K,16K,32K,92K --out "$out" ;;
    attention) limit 120 "${run[@]}" examples/paper.ts attention --budget 100 --precision f16 --out "$out" ;;
    pytorch) limit 60 python3 bench/pytorch.py ;;
    cores) limit 200 "${run[@]}" bench/cores.ts --json ;;
    *) echo "no such part: $1" && return 2 ;;
  esac
}

# Tests through Dawn, which offers matrix units; each file by itself, so that what failed is told in time.
units() {
  local failed=0
  for file in cores attention lightning_forms mixed_precision models accuracy; do
    LEVIN_TEST_GPU=dawn limit 200 "$@" "tests/$file.test.ts" --filter webgpu || failed=1
  done
  return $failed
}

limit() {
  timeout --signal=INT --kill-after=5 "$@"
}

case ${1:-} in
  pack) pack ;;
  run)
    out=$2
    cp .gpu/deno.json deno.json
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader >"$out/machine.txt"
    git log -1 --format=%h >>"$out/machine.txt" 2>/dev/null
    for name in "${@:3}"; do
      began=$SECONDS
      part "$name" >"$out/$name.txt" 2>&1
      echo "$name: exit $?, $((SECONDS - began)) s" | tee -a "$out/machine.txt"
    done
    ;;
  *) sed -n '2,5p' "$0" ;;
esac
