#!/bin/sh
# scripts/results.sh DATA [OUTPUT]: measure what docs/results.md shows, on the videos in the folder DATA, and write that
# page. Rows of JSON go to files in OUTPUT; scripts/results.py makes the page of them. Can be stopped and started again;
# rows of codecs may come from an earlier OUTPUT. PYTHON: the interpreter.
set -eu
cd "$(dirname "$0")/.."
data=${1:?"give a folder with videos"}
output=${2:-runs/results}
python=${PYTHON:-python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$output"
rows() {
    name=$1
    shift
    "$python" -m vidtok eval "$data" --resize 256 --frames 49 --output "$output/$name.jsonl" --resume "$@"
}

metrics=psnr,psnr:y,ssim,ms_ssim,xpsnr
qualities="--quality 1 --quality 2 --quality 3 --quality 4"

# Rate and distortion: two clips at a time, a core each
rows codecs --workers 2 --metric $metrics --no-model \
    --codec x264:crf=18,28,38,48:preset=medium \
    --codec x265:crf=18,28,38,48:preset=medium \
    --codec svtav1:crf=20,34,47,60:preset=8
rows model --workers 2 --metric $metrics $qualities

# The same ids in the other entropy modes: above is auto, which takes prior where the model has one
for mode in lzma adaptive; do
    rows "mode-$mode" --workers 2 --metric psnr $qualities --entropy $mode
done

# Speed: one clip at a time, from file to file
rows speed --metric psnr --quality 1 --codec x264:crf=36:preset=medium --codec x265:crf=36:preset=medium \
    --codec svtav1:crf=42:preset=8

"$python" scripts/results.py "$output"
