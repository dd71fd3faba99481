#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What tuning the network that ships brings on sequences 07 and 09, by the number of labelled scans of
# 00 to 06, and without labels. ROOT holds SemanticKITTI's sequences/. 800 steps each: a quarter of an
# hour on a fast core. It goes on where it was ended.
#   sh config/semantickitti/tune.sh ROOT
set -e
root=$1
python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1

score() {
    $python training/evaluate.py --bundle "$1" --data "$root" --sequences 07 09 --json "$2"
}

mkdir -p runs/tune
score lidar_kd/weights/streets.safetensors runs/tune/shipped.json
for scans in 3 10 35; do
    $python training/train.py --cfg config/tune.yaml --out runs/tune/$scans --set name=tuned_$scans \
        --set threads=1 --set data.root="$root" --set data.train=00-06 --set data.train_scans=$scans \
        --set 'data.validation=["07", "09"]'
    score runs/tune/$scans/best.safetensors runs/tune/$scans.json
done
$python training/distill.py --cfg config/tune_unlabelled.yaml --out runs/tune/0 --set threads=1 \
    --set "data.unlabelled=[{kind: semantickitti, root: $root, sequences: 00-06, mounting: auto, intensity: auto}]"
score runs/tune/0/best.safetensors runs/tune/0.json
