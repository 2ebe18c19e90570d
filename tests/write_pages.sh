#!/usr/bin/env bash
# Writes the generated pages again: docs/operations from config.proto and the metrics' registry, docs/models.md from the
# tiny checkpoints (KVASIR_SHARED). Needs the Release build folder that tests/run.sh makes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
/usr/bin/python3 -B tests/configuration_page_test.py --write
cmake --build --preset release --target metrics_page_test models_page_test
KVASIR_WRITE_PAGES=1 build/release/tests/metrics_page_test
KVASIR_WRITE_PAGES=1 build/release/tests/models_page_test
git status --short docs
