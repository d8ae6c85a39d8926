#!/bin/sh
# scripts/train_default.sh [DATA [OUTPUT]]: train a model like the default one, vidtok-2; docs/models/vidtok-2.md says on
# what data and how long. DATA is the folder with the training clips and pictures. Can be stopped and started again.
# The prior of its ids is trained after it, on token files: docs/training.md, "Training a prior".
set -eu
cd "$(dirname "$0")/.."
data=${1:-../shared/data/train}
output=${2:-runs/vidtok-2}
exec vidtok train configs/vidtok-2.toml "data.folders=['$data']" "data.cache=$output/cache" --output "$output" --resume
