#!/usr/bin/env bash
# Includes may only point down: client -> proto <- server -> runtime -> kvcache -> base, and inside runtime
# engine -> {model, sampling, tokenizer}, model -> ops -> kernels. Fails with the offending lines.
set -u
cd "$(dirname "$0")/.."
status=0

# forbid FOLDER PATTERN: no source file in FOLDER may include a header that matches PATTERN.
forbid() {
  local hits
  hits=$(grep -rnE "#include [<\"]($2)" "$1" --include='*.h' --include='*.cc' --include='*.inc')
  if [ -n "$hits" ]; then
    printf '%s must not include %s:\n%s\n' "$1" "$2" "$hits"
    status=1
  fi
}

rpc='grpc|google/|prometheus|kvasir/'
forbid kvcache "$rpc|runtime/|server/|client/"
forbid runtime "$rpc|server/|client/"
forbid server 'client/'
forbid client 'server/|runtime/|kvcache/'
forbid base "$rpc|kvcache/|runtime/|server/|client/"
forbid runtime/kernels 'runtime/(ops|model|sampling|tokenizer|engine)/'
forbid runtime/ops 'runtime/(model|sampling|tokenizer|engine)/'
forbid runtime/sampling 'runtime/(ops|model|engine)/|kvcache/'
forbid runtime/tokenizer 'runtime/(ops|model|sampling|engine)/|kvcache/'
forbid runtime/model 'runtime/(sampling|engine)/'

long=$(find base kvcache runtime server client -name '*.h' -o -name '*.cc' | xargs wc -l | awk '$1 > 600 && $2 != "total"')
if [ -n "$long" ]; then
  printf 'files past 600 lines hold more than one idea:\n%s\n' "$long"
  status=1
fi
[ $status = 0 ] && echo "layering: 1 passed, 0 failed"
exit $status
